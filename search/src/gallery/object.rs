//! The gallery in object storage (S3 and compatible), with the same keys as the folder: pictures by
//! sighting, patch features by model and sighting. An object is either whole or absent.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use sightline_core::{PatchFeatures, SightingId, Timestamp};

use super::{
    Gallery, GalleryEntry, GalleryError, format, quarantine_day, quarantine_over, replaced_hour, replaced_over,
};
use crate::picture::PictureKey;
use crate::remote::Calls;

/// Number of concurrent requests.
const CONCURRENT_REQUESTS: usize = 16;

/// Objects of a forgotten model that one call deletes.
const DELETE_BATCH: usize = 1000;

/// Time limit of a call including all its requests and retries. Callers that cannot go on without
/// the result retry it.
const TIMEOUT: Duration = Duration::from_secs(60);

/// [`Gallery`] in object storage.
#[derive(Debug)]
pub struct ObjectGallery {
    store: Arc<dyn ObjectStore>,
    jpeg: Path,
    /// Prefix of the patch features of all models.
    all_patches: Path,
    /// Prefix of this model's patch features.
    patches: Path,
    quarantine: Path,
    /// Prefix of the pictures that others have replaced, by the hour of that.
    replaced: Path,
    calls: Calls,
}

impl ObjectGallery {
    /// Creates the gallery below `prefix` of any object store, for the features of `model_id`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str, model_id: &str) -> Result<Self, GalleryError> {
        let root = Path::from(prefix);
        let failed = |e: std::io::Error| GalleryError::Object { key: root.to_string(), problem: e.to_string() };
        let all_patches = root.clone().join("patches");
        Ok(Self {
            calls: Calls::new("gallery").map_err(failed)?,
            store,
            jpeg: root.clone().join("jpeg"),
            patches: all_patches.clone().join(model_id),
            quarantine: root.clone().join("quarantine"),
            replaced: root.clone().join("replaced"),
            all_patches,
        })
    }

    /// Opens the gallery at `s3://bucket/prefix`; endpoint, region and keys come from the usual
    /// `AWS_*` variables.
    ///
    /// # Errors
    /// When the address or a variable is invalid.
    #[cfg(feature = "s3")]
    pub fn s3(url: &str, model_id: &str) -> Result<Self, GalleryError> {
        use object_store::RetryConfig;
        use object_store::aws::AmazonS3Builder;

        let wrong = |problem: String| GalleryError::Url { url: url.to_owned(), problem };
        let rest = url.strip_prefix("s3://").unwrap_or_default();
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(wrong("it names no bucket: use s3://BUCKET/PREFIX".to_owned()));
        }
        // Fails when the program has chosen one already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Callers that cannot go on retry without limit; these retries are for short faults.
        let retry = RetryConfig { max_retries: 2, retry_timeout: TIMEOUT / 2, ..RetryConfig::default() };
        let store = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry).build();
        Self::new(Arc::new(store.map_err(|e| wrong(e.to_string()))?), prefix, model_id)
    }

    fn wait<T: Send + 'static>(
        &self,
        key: &Path,
        call: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<T, GalleryError> {
        let failed = |problem: String| GalleryError::Object { key: key.to_string(), problem };
        self.calls.wait(TIMEOUT, call).map_err(failed)?.map_err(|e| failed(e.to_string()))
    }

    fn write_all(&self, writes: Vec<(Path, PutPayload)>) -> Result<(), GalleryError> {
        let store = Arc::clone(&self.store);
        self.wait(&self.jpeg, async move {
            let write = |(key, payload): (Path, PutPayload)| {
                let store = Arc::clone(&store);
                async move { store.put(&key, payload).await.map(|_| ()) }
            };
            stream::iter(writes).map(write).buffer_unordered(CONCURRENT_REQUESTS).try_collect::<()>().await
        })
    }

    /// Reads an object; `None` when it does not exist.
    fn read(&self, key: Path) -> Result<Option<Bytes>, GalleryError> {
        let (store, asked) = (Arc::clone(&self.store), key.clone());
        self.wait(&key, async move { get(&*store, &asked).await })
    }

    /// Returns the prefixes one level below `root`.
    fn below(&self, root: &Path) -> Result<Vec<Path>, GalleryError> {
        let (store, folder) = (Arc::clone(&self.store), root.clone());
        let listed = self.wait(root, async move { store.list_with_delimiter(Some(&folder)).await })?;
        Ok(listed.common_prefixes)
    }

    /// Returns the prefixes of all models.
    fn models(&self) -> Result<Vec<Path>, GalleryError> {
        self.below(&self.all_patches)
    }

    /// Returns the prefixes of the pictures and of each model's patch features.
    fn present(&self) -> Result<Vec<Path>, GalleryError> {
        let mut bases = self.models()?;
        bases.push(self.jpeg.clone());
        Ok(bases)
    }

    /// Returns the ids of the objects below `folder`.
    fn collect(&self, folder: &Path) -> Result<HashSet<SightingId>, GalleryError> {
        let (store, asked) = (Arc::clone(&self.store), folder.clone());
        let named = self.wait(folder, async move {
            store.list(Some(&asked)).map_ok(|o| o.location).try_collect::<Vec<Path>>().await
        })?;
        let id = |path: &Path| path.filename().and_then(|f| f.split('.').next()).and_then(|stem| stem.parse().ok());
        Ok(named.iter().filter_map(id).collect())
    }
}

/// Reads an object; `None` when it does not exist.
async fn get(store: &dyn ObjectStore, key: &Path) -> object_store::Result<Option<Bytes>> {
    match store.get(key).await {
        Ok(found) => found.bytes().await.map(Some),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Parses the patch features of an object that was read.
fn parse(key: &Path, file: Option<Bytes>) -> Result<Option<PatchFeatures>, GalleryError> {
    let damaged = |reason| GalleryError::Damaged { path: PathBuf::from(key.as_ref()), reason };
    file.map(|file| format::parse(file.into()).map_err(damaged)).transpose()
}

/// `base/<first three hex digits>/<name of the key>`
fn object_path(base: &Path, key: PictureKey, extension: &str) -> Path {
    base.clone().join(shard(key.id)).join(key.file_name(extension))
}

/// The first three hexadecimal digits of an id.
fn shard(id: SightingId) -> String {
    format!("{:03x}", id.as_u128() >> 116)
}

impl Gallery for ObjectGallery {
    fn put(&self, entries: &[GalleryEntry]) -> Result<(), GalleryError> {
        let mut writes: Vec<(Path, PutPayload)> = Vec::with_capacity(2 * entries.len());
        for e in entries {
            let header = Bytes::copy_from_slice(&format::header(&e.patches)?);
            let file: PutPayload = [header, e.patches.data.clone()].into_iter().collect();
            writes.push((object_path(&self.patches, e.key, "patches"), file));
            writes.push((object_path(&self.jpeg, e.key, "jpg"), PutPayload::from_bytes(e.jpeg.clone())));
        }
        self.write_all(writes)
    }

    fn put_patches(&self, features: &[(PictureKey, PatchFeatures)]) -> Result<(), GalleryError> {
        let write = |(key, patches): &(PictureKey, PatchFeatures)| {
            let header = Bytes::copy_from_slice(&format::header(patches)?);
            Ok((object_path(&self.patches, *key, "patches"), [header, patches.data.clone()].into_iter().collect()))
        };
        self.write_all(features.iter().map(write).collect::<Result<Vec<_>, GalleryError>>()?)
    }

    fn jpeg(&self, key: PictureKey) -> Result<Option<Bytes>, GalleryError> {
        self.read(object_path(&self.jpeg, key, "jpg"))
    }

    fn patches(&self, key: PictureKey) -> Result<Option<PatchFeatures>, GalleryError> {
        let key = object_path(&self.patches, key, "patches");
        parse(&key, self.read(key.clone())?)
    }

    fn patches_of(&self, keys: &[PictureKey]) -> Vec<Result<Option<PatchFeatures>, GalleryError>> {
        let keys: Vec<Path> = keys.iter().map(|key| object_path(&self.patches, *key, "patches")).collect();
        let (store, asked) = (Arc::clone(&self.store), keys.clone());
        let read = self.wait(&self.patches, async move {
            let one = |key: Path| {
                let store = Arc::clone(&store);
                async move { get(&*store, &key).await }
            };
            Ok(stream::iter(asked).map(one).buffered(CONCURRENT_REQUESTS).collect::<Vec<_>>().await)
        });
        let failed = |key: &Path, problem: String| GalleryError::Object { key: key.to_string(), problem };
        match read {
            Ok(files) => {
                let parsed = |(key, file): (&Path, object_store::Result<Option<Bytes>>)| {
                    parse(key, file.map_err(|e| failed(key, e.to_string()))?)
                };
                keys.iter().zip(files).map(parsed).collect()
            }
            Err(e) => keys.iter().map(|key| Err(failed(key, e.to_string()))).collect(),
        }
    }

    fn prune(&self, kept: &[PictureKey]) -> Result<u64, GalleryError> {
        let kept: HashMap<SightingId, PictureKey> = kept.iter().map(|key| (key.id, *key)).collect();
        let ids: Vec<SightingId> = kept.keys().copied().collect();
        self.delete_objects(self.present()?, &ids, |key| kept.get(&key.id).is_some_and(|kept| *kept != key))
    }

    fn retire(&self, replaced: &[PictureKey], now: Timestamp) -> Result<u64, GalleryError> {
        let hour = self.replaced.clone().join(replaced_hour(now));
        let from_to = |key: &PictureKey| (object_path(&self.jpeg, *key, "jpg"), object_path(&hour, *key, "jpg"));
        self.rename_all(&self.replaced, replaced.iter().map(from_to).collect())
    }

    fn replaced(&self, key: PictureKey) -> Result<Option<Bytes>, GalleryError> {
        for hour in self.below(&self.replaced)? {
            if let Some(jpeg) = self.read(object_path(&hour, key, "jpg"))? {
                return Ok(Some(jpeg));
            }
        }
        Ok(None)
    }

    fn delete_replaced(&self, ids: &[SightingId]) -> Result<u64, GalleryError> {
        let gone: HashSet<SightingId> = ids.iter().copied().collect();
        self.delete_objects(self.below(&self.replaced)?, ids, |key| gone.contains(&key.id))
    }

    fn expire_replaced(&self, now: Timestamp) -> Result<u64, GalleryError> {
        self.delete_over(&self.replaced, |hour| replaced_over(hour, now))
    }

    fn delete(&self, ids: &[SightingId]) -> Result<u64, GalleryError> {
        let gone: HashSet<SightingId> = ids.iter().copied().collect();
        let bases = [self.present()?, self.below(&self.replaced)?].concat();
        self.delete_objects(bases, ids, |key| gone.contains(&key.id))
    }

    fn ids(&self) -> Result<Vec<SightingId>, GalleryError> {
        // A picture whose features only another model has belongs to that model.
        let (mut own, mut others) = (HashSet::new(), HashSet::new());
        for model in self.models()? {
            let ids = self.collect(&model)?;
            if model == self.patches { own.extend(ids) } else { others.extend(ids) }
        }
        own.extend(self.collect(&self.jpeg)?.difference(&others));
        Ok(own.into_iter().collect())
    }

    fn ids_in(&self, shard: u16, before: SystemTime) -> Result<Vec<SightingId>, GalleryError> {
        let (mut ids, mut young) = (BTreeSet::new(), HashSet::new());
        for base in self.present()? {
            let (store, asked) = (Arc::clone(&self.store), base.join(format!("{shard:03x}")));
            let found = self.wait(&self.jpeg, async move {
                store.list(Some(&asked)).map_ok(|o| (o.location, o.last_modified)).try_collect::<Vec<_>>().await
            })?;
            for (path, written) in found {
                let stem = path.filename().and_then(|f| f.split('.').next());
                let Some(id) = stem.and_then(|stem| stem.parse::<SightingId>().ok()) else { continue };
                if SystemTime::from(written) < before {
                    ids.insert(id)
                } else {
                    young.insert(id)
                };
            }
        }
        Ok(ids.into_iter().filter(|id| !young.contains(id)).collect())
    }

    fn quarantine(&self, ids: &[SightingId], now: Timestamp) -> Result<u64, GalleryError> {
        let day = self.quarantine.clone().join(quarantine_day(now));
        let moved: HashSet<SightingId> = ids.iter().copied().collect();
        let mut moves: Vec<(Path, Path)> = Vec::new();
        for (base, from) in self.objects_of(self.present()?, ids, |key| moved.contains(&key.id))? {
            let kind = match base.filename().filter(|_| base != self.jpeg) {
                Some(model) => day.clone().join("patches").join(model.to_owned()),
                None => day.clone().join("jpeg"),
            };
            let Some(name) = from.filename().map(str::to_owned) else { continue };
            moves.push((from, kind.join(name)));
        }
        self.rename_all(&self.quarantine, moves)
    }

    fn expire_quarantine(&self, now: Timestamp) -> Result<u64, GalleryError> {
        self.delete_over(&self.quarantine, |day| quarantine_over(day, now))
    }

    fn forget_model(&self, model_id: &str) -> Result<(), GalleryError> {
        let folder = self.all_patches.clone().join(model_id);
        if folder == self.patches {
            return Err(GalleryError::InUse(model_id.to_owned()));
        }
        self.delete_below(&folder)
    }
}

impl ObjectGallery {
    /// Renames objects, and returns the number of those that were there.
    fn rename_all(&self, to: &Path, moves: Vec<(Path, Path)>) -> Result<u64, GalleryError> {
        let store = Arc::clone(&self.store);
        self.wait(to, async move {
            let rename = |(from, to): (Path, Path)| {
                let store = Arc::clone(&store);
                async move {
                    match store.rename(&from, &to).await {
                        Ok(()) => Ok(1),
                        Err(object_store::Error::NotFound { .. }) => Ok(0),
                        Err(e) => Err(e),
                    }
                }
            };
            let counts = stream::iter(moves).map(rename).buffer_unordered(CONCURRENT_REQUESTS);
            counts.try_fold(0u64, |sum, n| async move { Ok(sum + n) }).await
        })
    }

    /// Deletes the prefixes in `root` whose name is `over`, and returns their number.
    fn delete_over(&self, root: &Path, over: impl Fn(&str) -> bool) -> Result<u64, GalleryError> {
        let mut gone = self.below(root)?;
        gone.retain(|prefix| prefix.filename().is_some_and(&over));
        gone.iter().try_for_each(|prefix| self.delete_below(prefix))?;
        Ok(gone.len() as u64)
    }

    /// Returns the objects of these ids below `bases` whose key is `wanted`, each with its base.
    fn objects_of(
        &self,
        bases: Vec<Path>,
        ids: &[SightingId],
        wanted: impl Fn(PictureKey) -> bool,
    ) -> Result<Vec<(Path, Path)>, GalleryError> {
        let shards: BTreeSet<String> = ids.iter().map(|id| shard(*id)).collect();
        let mut found = Vec::new();
        for base in bases {
            let prefixes: Vec<Path> = shards.iter().map(|shard| base.clone().join(shard.as_str())).collect();
            let store = Arc::clone(&self.store);
            let listed = self.wait(&self.jpeg, async move {
                let list = |prefix: Path| {
                    let store = Arc::clone(&store);
                    async move { store.list(Some(&prefix)).map_ok(|o| o.location).try_collect::<Vec<_>>().await }
                };
                stream::iter(prefixes).map(list).buffer_unordered(CONCURRENT_REQUESTS).try_collect::<Vec<_>>().await
            })?;
            let key = |path: &Path| path.filename().and_then(PictureKey::of_file);
            let wanted = listed.into_iter().flatten().filter(|path| key(path).is_some_and(&wanted));
            found.extend(wanted.map(|path| (base.clone(), path)));
        }
        Ok(found)
    }

    /// Deletes the objects of these ids below `bases` whose key is `gone`.
    fn delete_objects(
        &self,
        bases: Vec<Path>,
        ids: &[SightingId],
        gone: impl Fn(PictureKey) -> bool,
    ) -> Result<u64, GalleryError> {
        let keys: Vec<Path> = self.objects_of(bases, ids, gone)?.into_iter().map(|(_, path)| path).collect();
        let store = Arc::clone(&self.store);
        self.wait(&self.jpeg, async move {
            let delete = |key: Path| {
                let store = Arc::clone(&store);
                async move {
                    match store.delete(&key).await {
                        Ok(()) => Ok(1),
                        // Another process has deleted it since.
                        Err(object_store::Error::NotFound { .. }) => Ok(0),
                        Err(e) => Err(e),
                    }
                }
            };
            let counts = stream::iter(keys).map(delete).buffer_unordered(CONCURRENT_REQUESTS);
            counts.try_fold(0u64, |sum, n| async move { Ok(sum + n) }).await
        })
    }

    /// Deletes every object below `folder`.
    fn delete_below(&self, folder: &Path) -> Result<(), GalleryError> {
        // In batches, because each call has its own time limit.
        loop {
            let (store, asked) = (Arc::clone(&self.store), folder.clone());
            let deleted = self.wait(folder, async move {
                let some = store.list(Some(&asked)).map_ok(|o| o.location).take(DELETE_BATCH);
                let delete = |key: Path| {
                    let store = Arc::clone(&store);
                    async move { store.delete(&key).await.map(|()| 1) }
                };
                let counts = some.map_ok(delete).try_buffer_unordered(CONCURRENT_REQUESTS);
                counts.try_fold(0usize, |sum, n| async move { Ok(sum + n) }).await
            })?;
            if deleted < DELETE_BATCH {
                return Ok(());
            }
        }
    }
}
