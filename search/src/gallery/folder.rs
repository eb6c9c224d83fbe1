//! The gallery in a folder with 4096 sub-folders. Pictures are keyed by sighting and hash, patch
//! features by model too, so that a change of model keeps the pictures and never mixes features.
//!
//! One process may use the folder exclusively, or several may share it, over a network file system
//! as well: files get their final name only when they are whole, and no process touches files that
//! another is writing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sightline_core::{PatchFeatures, SightingId, Timestamp};
use uuid::Uuid;

use super::{
    Gallery, GalleryEntry, GalleryError, format, quarantine_day, quarantine_over, replaced_hour, replaced_over,
};
use crate::files::{self, DataLock, FileError};
use crate::picture::PictureKey;

/// [`Gallery`] in a folder.
#[derive(Debug)]
pub struct FolderGallery {
    jpeg: PathBuf,
    /// Root of the patch features of all models.
    all_patches: PathBuf,
    /// Folder of this model's patch features.
    patches: PathBuf,
    temporary: PathBuf,
    quarantine: PathBuf,
    /// Pictures that others have replaced, by the hour of that.
    replaced: PathBuf,
    _lock: DataLock,
}

impl FolderGallery {
    /// Opens the gallery in `root` exclusively, for the features of `model_id` (a valid folder
    /// name, which the store checks), and creates it when it is missing. Files that a killed
    /// process left half-written are deleted.
    ///
    /// # Errors
    /// When another process uses the folder, or it cannot be written.
    pub fn open(root: &Path, model_id: &str) -> Result<Self, GalleryError> {
        Self::with_lock(root, model_id, DataLock::acquire(root)?, Duration::ZERO)
    }

    /// Opens the gallery for several processes at once. A half-written file may belong to another
    /// process, so it is deleted only when it has not changed for an hour.
    ///
    /// # Errors
    /// When another process has locked the folder exclusively, or it cannot be written.
    pub fn open_shared(root: &Path, model_id: &str) -> Result<Self, GalleryError> {
        Self::with_lock(root, model_id, DataLock::share(root)?, ABANDONED_AFTER)
    }

    fn with_lock(root: &Path, model_id: &str, lock: DataLock, abandoned: Duration) -> Result<Self, GalleryError> {
        let all_patches = root.join("patches");
        let gallery = Self {
            jpeg: root.join("jpeg"),
            patches: all_patches.join(model_id),
            all_patches,
            temporary: root.join("tmp"),
            quarantine: root.join("quarantine"),
            replaced: root.join("replaced"),
            _lock: lock,
        };
        for folder in [&gallery.jpeg, &gallery.patches, &gallery.temporary] {
            files::create_folder(folder)?;
        }
        for unfinished in files::list(&gallery.temporary)? {
            // A file that has vanished meanwhile has got its final name.
            let age = fs::metadata(&unfinished).and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
            if abandoned.is_zero() || age.is_some_and(|age| age > abandoned) {
                files::remove(&unfinished)?;
            }
        }
        Ok(gallery)
    }

    fn write(&self, target: &Path, parts: &[&[u8]]) -> Result<PathBuf, FileError> {
        let folder = target.parent().unwrap_or(target);
        files::create_folder(folder)?;
        files::write_whole(&self.temporary.join(Uuid::new_v4().to_string()), target, parts)?;
        Ok(folder.to_path_buf())
    }

    /// Returns the folders of the pictures and of each model's patch features.
    fn present(&self) -> Result<Vec<PathBuf>, FileError> {
        let mut bases = files::list(&self.all_patches)?;
        bases.push(self.jpeg.clone());
        Ok(bases)
    }

    /// Returns the files of these ids in `bases` whose key is `wanted`, each with its base. Every
    /// sub-folder is read once.
    fn files_of(
        bases: Vec<PathBuf>,
        ids: &[SightingId],
        wanted: impl Fn(PictureKey) -> bool,
    ) -> Result<Vec<(PathBuf, PathBuf)>, FileError> {
        let shards: BTreeSet<String> = ids.iter().map(|id| shard(*id)).collect();
        let mut found = Vec::new();
        for base in bases {
            for shard in &shards {
                let files = files::list(&base.join(shard))?.into_iter();
                found.extend(files.filter(|f| key_of(f).is_some_and(&wanted)).map(|file| (base.clone(), file)));
            }
        }
        Ok(found)
    }

    /// Deletes the files of these ids in `bases` whose key is `gone`, and syncs the sub-folders.
    fn delete_files(
        bases: Vec<PathBuf>,
        ids: &[SightingId],
        gone: impl Fn(PictureKey) -> bool,
    ) -> Result<u64, GalleryError> {
        let (mut count, mut touched) = (0, BTreeSet::new());
        for (_, file) in Self::files_of(bases, ids, gone)? {
            if files::remove(&file)? {
                count += 1;
                touched.extend(file.parent().map(Path::to_path_buf));
            }
        }
        touched.iter().try_for_each(|folder| files::sync_folder(folder))?;
        Ok(count)
    }

    /// Writes all of these files, each of two parts, and syncs their names to the disk.
    fn write_all(&self, writes: &[(PathBuf, [&[u8]; 2])]) -> Result<(), GalleryError> {
        let touched = map_concurrently(writes, |(target, parts)| self.write(target, parts))?;
        let touched: Vec<PathBuf> = touched.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        map_concurrently(&touched, |folder| files::sync_folder(folder))?;
        Ok(())
    }
}

/// Age at which a half-written file of a shared folder counts as abandoned; writing one takes far
/// less than a second.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);

/// Number of concurrent file writes. Each waits for the disk, not for a core, and a file system
/// commits waiting writes together.
const CONCURRENT_WRITES: usize = 8;

/// Runs `work` on every item, several concurrently; returns all results, or the first failure.
fn map_concurrently<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, FileError> + Sync,
) -> Result<Vec<R>, FileError> {
    let chunk = items.len().div_ceil(CONCURRENT_WRITES).max(1);
    let run = |part: &[T]| part.iter().map(&work).collect::<Result<Vec<R>, FileError>>();
    let run = &run;
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = items.chunks(chunk).map(|part| scope.spawn(move || run(part))).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    Ok(results.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// `base/<first three hex digits>/<name of the key>`
fn file_path(base: &Path, key: PictureKey, extension: &str) -> PathBuf {
    base.join(shard(key.id)).join(key.file_name(extension))
}

/// The first three hexadecimal digits of an id.
fn shard(id: SightingId) -> String {
    format!("{:03x}", id.as_u128() >> 116)
}

/// Key of a file, by its name; `None` for any other file.
fn key_of(path: &Path) -> Option<PictureKey> {
    path.file_name().and_then(|n| n.to_str()).and_then(PictureKey::of_file)
}

impl Gallery for FolderGallery {
    fn put(&self, entries: &[GalleryEntry]) -> Result<(), GalleryError> {
        let headers = entries.iter().map(|e| format::header(&e.patches)).collect::<Result<Vec<_>, _>>()?;
        let mut writes: Vec<(PathBuf, [&[u8]; 2])> = Vec::with_capacity(2 * entries.len());
        for (e, header) in entries.iter().zip(&headers) {
            writes.push((file_path(&self.jpeg, e.key, "jpg"), [&e.jpeg, &[]]));
            writes.push((file_path(&self.patches, e.key, "patches"), [header, &e.patches.data]));
        }
        self.write_all(&writes)
    }

    fn put_patches(&self, features: &[(PictureKey, PatchFeatures)]) -> Result<(), GalleryError> {
        let headers = features.iter().map(|(_, p)| format::header(p)).collect::<Result<Vec<_>, _>>()?;
        let mut writes: Vec<(PathBuf, [&[u8]; 2])> = Vec::with_capacity(features.len());
        for ((key, patches), header) in features.iter().zip(&headers) {
            writes.push((file_path(&self.patches, *key, "patches"), [header, &patches.data]));
        }
        self.write_all(&writes)
    }

    fn jpeg(&self, key: PictureKey) -> Result<Option<Bytes>, GalleryError> {
        Ok(files::read(&file_path(&self.jpeg, key, "jpg"))?.map(Bytes::from))
    }

    fn patches(&self, key: PictureKey) -> Result<Option<PatchFeatures>, GalleryError> {
        let path = file_path(&self.patches, key, "patches");
        let Some(file) = files::read(&path)? else { return Ok(None) };
        format::parse(file).map(Some).map_err(|reason| GalleryError::Damaged { path, reason })
    }

    fn prune(&self, kept: &[PictureKey]) -> Result<u64, GalleryError> {
        let kept: HashMap<SightingId, PictureKey> = kept.iter().map(|key| (key.id, *key)).collect();
        let ids: Vec<SightingId> = kept.keys().copied().collect();
        Self::delete_files(self.present()?, &ids, |key| kept.get(&key.id).is_some_and(|kept| *kept != key))
    }

    fn retire(&self, replaced: &[PictureKey], now: Timestamp) -> Result<u64, GalleryError> {
        let hour = self.replaced.join(replaced_hour(now));
        let (mut count, mut touched) = (0, BTreeSet::new());
        for key in replaced {
            let (from, to) = (file_path(&self.jpeg, *key, "jpg"), file_path(&hour, *key, "jpg"));
            let folder = to.parent().unwrap_or(&hour).to_path_buf();
            files::create_folder(&folder)?;
            match fs::rename(&from, &to) {
                Ok(()) => count += 1,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(FileError::new("move", &from)(e).into()),
            }
            touched.extend(from.parent().map(Path::to_path_buf));
            touched.insert(folder);
        }
        touched.iter().try_for_each(|folder| files::sync_folder(folder))?;
        Ok(count)
    }

    fn replaced(&self, key: PictureKey) -> Result<Option<Bytes>, GalleryError> {
        for hour in files::list(&self.replaced)? {
            if let Some(jpeg) = files::read(&file_path(&hour, key, "jpg"))? {
                return Ok(Some(jpeg.into()));
            }
        }
        Ok(None)
    }

    fn delete_replaced(&self, ids: &[SightingId]) -> Result<u64, GalleryError> {
        let gone: HashSet<SightingId> = ids.iter().copied().collect();
        Self::delete_files(files::list(&self.replaced)?, ids, |key| gone.contains(&key.id))
    }

    fn expire_replaced(&self, now: Timestamp) -> Result<u64, GalleryError> {
        remove_over(&self.replaced, |hour| replaced_over(hour, now))
    }

    fn delete(&self, ids: &[SightingId]) -> Result<u64, GalleryError> {
        let gone: HashSet<SightingId> = ids.iter().copied().collect();
        let bases = [self.present()?, files::list(&self.replaced)?].concat();
        Self::delete_files(bases, ids, |key| gone.contains(&key.id))
    }

    fn ids(&self) -> Result<Vec<SightingId>, GalleryError> {
        // A picture whose features only another model has belongs to that model.
        let mut others = HashSet::new();
        let mut own = HashSet::new();
        for model in files::list(&self.all_patches)? {
            collect(&model, if model == self.patches { &mut own } else { &mut others })?;
        }
        let mut pictures = HashSet::new();
        collect(&self.jpeg, &mut pictures)?;
        own.extend(pictures.difference(&others));
        Ok(own.into_iter().collect())
    }

    fn ids_in(&self, shard: u16, before: SystemTime) -> Result<Vec<SightingId>, GalleryError> {
        let (mut ids, mut young) = (BTreeSet::new(), HashSet::new());
        for base in self.present()? {
            for file in files::list(&base.join(format!("{shard:03x}")))? {
                let Some(PictureKey { id, .. }) = key_of(&file) else { continue };
                // A file that has vanished meanwhile was erased or replaced.
                let written = fs::metadata(&file).and_then(|m| m.modified());
                if written.is_ok_and(|at| at < before) {
                    ids.insert(id)
                } else {
                    young.insert(id)
                };
            }
        }
        Ok(ids.into_iter().filter(|id| !young.contains(id)).collect())
    }

    fn quarantine(&self, ids: &[SightingId], now: Timestamp) -> Result<u64, GalleryError> {
        let day = self.quarantine.join(quarantine_day(now));
        let moved: HashSet<SightingId> = ids.iter().copied().collect();
        let (mut count, mut touched) = (0, BTreeSet::new());
        for (base, file) in Self::files_of(self.present()?, ids, |key| moved.contains(&key.id))? {
            let to = match base.strip_prefix(&self.all_patches) {
                Ok(model) => day.join("patches").join(model),
                Err(_) => day.join("jpeg"),
            };
            files::create_folder(&to)?;
            fs::rename(&file, to.join(file.file_name().unwrap_or_default()))
                .map_err(FileError::new("move to quarantine", &file))?;
            touched.extend(file.parent().map(Path::to_path_buf));
            touched.insert(to);
            count += 1;
        }
        touched.iter().try_for_each(|folder| files::sync_folder(folder))?;
        Ok(count)
    }

    fn expire_quarantine(&self, now: Timestamp) -> Result<u64, GalleryError> {
        remove_over(&self.quarantine, |day| quarantine_over(day, now))
    }

    fn forget_model(&self, model_id: &str) -> Result<(), GalleryError> {
        let folder = self.all_patches.join(model_id);
        if folder == self.patches {
            return Err(GalleryError::InUse(model_id.to_owned()));
        }
        Ok(files::remove_folder(&folder)?)
    }
}

/// Removes the folders in `root` whose name is `over`, and returns their number.
fn remove_over(root: &Path, over: impl Fn(&str) -> bool) -> Result<u64, GalleryError> {
    let named = |path: &PathBuf| path.file_name().and_then(|n| n.to_str()).is_some_and(&over);
    let gone: Vec<PathBuf> = files::list(root)?.into_iter().filter(named).collect();
    gone.iter().try_for_each(|folder| files::remove_folder(folder))?;
    Ok(gone.len() as u64)
}

/// Adds the ids of the files two levels below `base`.
fn collect(base: &Path, ids: &mut HashSet<SightingId>) -> Result<(), FileError> {
    for folder in files::list(base)? {
        for file in files::list(&folder)? {
            ids.extend(key_of(&file).map(|key| key.id));
        }
    }
    Ok(())
}
