//! Folders of the embedded indexes while the index of a new model replaces a former one.
//!
//! A half-built index lies in a folder of its own, `reindex/<model>`. One rename moves it to
//! `vectors/<model>` when it is complete, so that a reader of `vectors` sees a whole index or none.
//! Until then the former model answers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{ReindexError, check_room};
use crate::erase::Journals;
use crate::files::{self, DataLock, FileError};
use crate::gallery::Gallery;
use crate::store::{AllModels, EdgeOptions, EdgeStore, Filter, StoreError, VectorStore, indexed_models};

/// Folder of the indexes that answer, below the data folder.
pub const VECTORS: &str = "vectors";

/// Folder of the incomplete indexes, below the data folder.
pub const UNFINISHED: &str = "reindex";

/// Name prefix of an index that is being deleted. No model id begins with a dot.
const DROPPED: &str = ".dropped-";

/// Opens the index of `model_id` below the data folder `data` for searching. A deletion from it
/// also applies to the indexes of all other models, including half-built ones.
///
/// # Errors
/// The errors of [`EdgeStore::open`] for any of them.
pub fn open_embedded(data: &Path, model_id: &str, width: usize) -> Result<Arc<dyn VectorStore>, StoreError> {
    let options = EdgeOptions::default();
    resume_drop(data)?;
    let answering: Arc<dyn VectorStore> = Arc::new(EdgeStore::open(&data.join(VECTORS), model_id, width, &options)?);
    let mut others = EdgeStore::open_others(&data.join(VECTORS), Some(model_id), &options)?;
    others.extend(EdgeStore::open_others(&data.join(UNFINISHED), None, &options)?);
    if others.is_empty() {
        return Ok(answering);
    }
    let others: Vec<Arc<dyn VectorStore>> = others.into_iter().map(|store| Arc::new(store) as _).collect();
    let all = AllModels::new(answering, others);
    tracing::info!(stores = ?all, "indexes of other models are kept: what is erased is erased from them too");
    Ok(Arc::new(all))
}

/// The open indexes of the former models and of the new one.
#[derive(Debug)]
pub struct Indexes {
    data: PathBuf,
    former: Vec<Arc<EdgeStore>>,
    new: Arc<EdgeStore>,
    unfinished: bool,
}

impl Indexes {
    /// Opens the indexes below the data folder `data`, which no other process may use meanwhile;
    /// `None` when only `model_id` has an index. If the new model has no index with a sighting in
    /// it, a half-built one is opened or created, otherwise the one that answers already.
    /// # Errors
    /// When an index is in use or damaged, or the disk fails; [`ReindexError::NoRoom`] when it is
    /// nearly full.
    pub fn open(
        data: &Path,
        model_id: &str,
        width: usize,
        options: &EdgeOptions,
    ) -> Result<Option<Self>, ReindexError> {
        let (vectors, unfinished) = (data.join(VECTORS), data.join(UNFINISHED));
        let mut former = EdgeStore::open_others(&vectors, Some(model_id), options)?;
        if former.is_empty() {
            return Ok(None);
        }
        // The index used last supplies the metadata of a sighting.
        let newest = |store: &EdgeStore| -> Result<_, StoreError> {
            Ok(store.newest(&Filter::default(), 1)?.first().map(|r| r.payload.captured_at))
        };
        let mut dated =
            former.drain(..).map(|s| Ok((newest(&s)?, Arc::new(s)))).collect::<Result<Vec<_>, StoreError>>()?;
        dated.sort_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.model_id().cmp(other.model_id())));
        let former = dated.into_iter().map(|(_, store)| store).collect();

        let whole = indexed_models(&vectors)?.iter().any(|model| model == model_id);
        let whole = match whole.then(|| EdgeStore::open(&vectors, model_id, width, options)).transpose()? {
            // A server that was started without the former model leaves an index without sightings.
            Some(empty) if empty.count(&Filter::default())? == 0 => {
                drop(empty);
                files::remove_folder(&vectors.join(model_id))?;
                None
            }
            other => other,
        };
        let (new, unfinished) = match whole {
            Some(answering) => {
                files::remove_folder(&unfinished.join(model_id))?;
                (answering, false)
            }
            None => {
                check_room(data)?;
                // A start that was killed may have left the folder without an index.
                if files::read(&vectors.join(model_id).join("store.json"))?.is_none() {
                    files::remove_folder(&vectors.join(model_id))?;
                }
                (EdgeStore::open(&unfinished, model_id, width, options)?, true)
            }
        };
        Ok(Some(Self { data: data.to_owned(), former, new: Arc::new(new), unfinished }))
    }

    /// Returns the indexes of former models, the one used last first.
    pub fn former(&self) -> Vec<&dyn VectorStore> {
        self.former.iter().map(|store| &**store as &dyn VectorStore).collect()
    }

    /// Returns the index of the new model.
    pub fn new_index(&self) -> &dyn VectorStore {
        &*self.new
    }

    /// Whether the new index has not taken over yet.
    pub fn unfinished(&self) -> bool {
        self.unfinished
    }

    /// Finishes what a crash interrupted, in all indexes, so that no erased sighting is embedded
    /// again.
    ///
    /// # Errors
    /// The errors of [`Journals::recover`].
    pub fn recover(&self, gallery: &dyn Gallery) -> Result<(), ReindexError> {
        let former = self.former.iter().map(|store| Arc::clone(store) as Arc<dyn VectorStore>).collect();
        let all = AllModels::new(Arc::clone(&self.new) as _, former);
        Journals::open(&self.data)?.recover(&self.data, &all, gallery)?;
        Ok(())
    }

    /// Makes the new index take over. Durable when it returns.
    ///
    /// # Errors
    /// When the disk fails, or the index is still building; the former model then keeps answering.
    pub fn finish(self) -> Result<(), ReindexError> {
        let Self { data, former, new, unfinished } = self;
        drop(former);
        new.flush()?;
        if !unfinished {
            return Ok(());
        }
        // The next start must not wait for it, and nothing may be in progress in a folder that
        // moves.
        new.optimize()?;
        new.flush()?;
        let model_id = new.model_id().to_owned();
        drop(new);
        let (from, to) = (data.join(UNFINISHED).join(&model_id), data.join(VECTORS).join(&model_id));
        drop(DataLock::acquire(&from)?);
        files::rename_folder(&from, &to)?;
        // The folder must be empty; what is left belongs to another model.
        let _ = std::fs::remove_dir(data.join(UNFINISHED));
        Ok(())
    }
}

/// Deletes the indexes of all models except `model_id`, with their patch features, and returns
/// their ids; there is no way back. None of them may be open.
///
/// # Errors
/// [`ReindexError::NothingTakesOver`] while `model_id` has no complete index; or when the disk
/// fails, in which case the next call resumes.
pub fn drop_others(data: &Path, model_id: &str, gallery: &dyn Gallery) -> Result<Vec<String>, ReindexError> {
    let mut dropped = Vec::new();
    if !indexed_models(&data.join(VECTORS))?.iter().any(|model| model == model_id) {
        return Err(ReindexError::NothingTakesOver(model_id.to_owned()));
    }
    for root in [data.join(VECTORS), data.join(UNFINISHED)] {
        for other in indexed_models(&root)?.into_iter().filter(|other| other != model_id) {
            // The index is deleted last: as long as it exists, the deletion is known to be
            // unfinished.
            gallery.forget_model(&other)?;
            let folder = root.join(format!("{DROPPED}{other}"));
            files::remove_folder(&folder)?;
            drop(DataLock::acquire(&root.join(&other))?);
            files::rename_folder(&root.join(&other), &folder)?;
            dropped.push(other);
        }
    }
    resume_drop(data)?;
    Ok(dropped)
}

/// Finishes interrupted deletions of indexes.
///
/// # Errors
/// When the disk fails.
pub fn resume_drop(data: &Path) -> Result<(), FileError> {
    for root in [data.join(VECTORS), data.join(UNFINISHED)] {
        dropped_indexes(&root)?.iter().try_for_each(|folder| files::remove_folder(folder))?;
    }
    Ok(())
}

/// Returns the indexes below `root` whose deletion has begun.
fn dropped_indexes(root: &Path) -> Result<Vec<PathBuf>, FileError> {
    let dropped = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(DROPPED));
    Ok(files::list(root)?.into_iter().filter(dropped).collect())
}
