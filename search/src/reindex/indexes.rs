//! Where the embedded indexes lie while one model's takes the place of another's.
//!
//! A half-done index is built in a folder of its own, `reindex/<model>`. It moves to `vectors/<model>` when it is whole: one
//! rename, so that whoever looks for the models that people are indexed by sees a whole index or none. Until then the former
//! model answers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{ReindexError, check_room};
use crate::erase::resume_erasures;
use crate::files::{self, DataLock, FileError};
use crate::gallery::Gallery;
use crate::store::{AllModels, EdgeOptions, EdgeStore, Filter, StoreError, VectorStore, indexed_models};

/// Folder of the indexes that answer, below the data folder.
pub const VECTORS: &str = "vectors";

/// Folder of the indexes that are not whole yet, below the data folder.
pub const UNFINISHED: &str = "reindex";

/// What the name of an index begins with that is being deleted. No model's id begins with a dot.
const DROPPED: &str = ".dropped-";

/// The index of `model_id` below the data folder `data`, to answer from. What is deleted from it is deleted from those of all
/// models, half-done ones included.
///
/// # Errors
/// As [`EdgeStore::open`], of any of them.
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

/// The indexes of former models and that of the new one, open.
#[derive(Debug)]
pub struct Indexes {
    data: PathBuf,
    former: Vec<Arc<EdgeStore>>,
    new: Arc<EdgeStore>,
    unfinished: bool,
}

impl Indexes {
    /// Opens what lies below the data folder `data`, which nobody else may use meanwhile; none when there is no index of
    /// another model than `model_id`. Where the new model has no index with anybody in it, a half-done one is opened or
    /// begun, else the one that answers already.
    ///
    /// # Errors
    /// When an index is in use or damaged, or the disk refuses; [`ReindexError::NoRoom`] when it is nearly full.
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
        // The one used last tells what is known of a sighting.
        let newest = |store: &EdgeStore| -> Result<_, StoreError> {
            Ok(store.newest(&Filter::default(), 1)?.first().map(|r| r.payload.captured_at))
        };
        let mut dated =
            former.drain(..).map(|s| Ok((newest(&s)?, Arc::new(s)))).collect::<Result<Vec<_>, StoreError>>()?;
        dated.sort_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.model_id().cmp(other.model_id())));
        let former = dated.into_iter().map(|(_, store)| store).collect();

        let whole = indexed_models(&vectors)?.iter().any(|model| model == model_id);
        let whole = match whole.then(|| EdgeStore::open(&vectors, model_id, width, options)).transpose()? {
            // A server that was started without the former model leaves an index with nobody in it.
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
                // A start that was killed may have left the folder without an index in it.
                if files::read(&vectors.join(model_id).join("store.json"))?.is_none() {
                    files::remove_folder(&vectors.join(model_id))?;
                }
                (EdgeStore::open(&unfinished, model_id, width, options)?, true)
            }
        };
        Ok(Some(Self { data: data.to_owned(), former, new: Arc::new(new), unfinished }))
    }

    /// The indexes of former models, the one used last first.
    pub fn former(&self) -> Vec<&dyn VectorStore> {
        self.former.iter().map(|store| &**store as &dyn VectorStore).collect()
    }

    /// The index of the new model.
    pub fn new_index(&self) -> &dyn VectorStore {
        &*self.new
    }

    /// Whether the new index is still to take over.
    pub fn unfinished(&self) -> bool {
        self.unfinished
    }

    /// Finishes erasures that were interrupted, in all indexes, so that nobody who was erased is embedded anew.
    ///
    /// # Errors
    /// As [`resume_erasures`].
    pub fn resume_erasures(&self, gallery: &dyn Gallery) -> Result<(), ReindexError> {
        let former = self.former.iter().map(|store| Arc::clone(store) as Arc<dyn VectorStore>).collect();
        let all = AllModels::new(Arc::clone(&self.new) as _, former);
        resume_erasures(&all, gallery, &self.data.join("erasures"))?;
        Ok(())
    }

    /// Has the new index take over. Durable when it returns.
    ///
    /// # Errors
    /// When the disk refuses, or the index is still at work; the former model goes on answering then.
    pub fn finish(self) -> Result<(), ReindexError> {
        let Self { data, former, new, unfinished } = self;
        drop(former);
        new.flush()?;
        if !unfinished {
            return Ok(());
        }
        // Whoever starts next is not to wait for it, and nothing may be under way in a folder that moves.
        new.optimize()?;
        new.flush()?;
        let model_id = new.model_id().to_owned();
        drop(new);
        let (from, to) = (data.join(UNFINISHED).join(&model_id), data.join(VECTORS).join(&model_id));
        drop(DataLock::acquire(&from)?);
        files::rename_folder(&from, &to)?;
        // Nothing may be left in it; what there is belongs to yet another model.
        let _ = std::fs::remove_dir(data.join(UNFINISHED));
        Ok(())
    }
}

/// Deletes the indexes of all models but `model_id`, with their patch features, and gives their ids: nothing can be gone back
/// to. None of them may be open.
///
/// # Errors
/// [`ReindexError::NothingTakesOver`] while `model_id` has no whole index, or when the disk refuses; the next call goes on.
pub fn drop_others(data: &Path, model_id: &str, gallery: &dyn Gallery) -> Result<Vec<String>, ReindexError> {
    let mut dropped = Vec::new();
    if !indexed_models(&data.join(VECTORS))?.iter().any(|model| model == model_id) {
        return Err(ReindexError::NothingTakesOver(model_id.to_owned()));
    }
    for root in [data.join(VECTORS), data.join(UNFINISHED)] {
        for other in indexed_models(&root)?.into_iter().filter(|other| other != model_id) {
            // The index goes last: as long as it is there, this is known to be unfinished.
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

/// Finishes deletions of indexes that were interrupted.
///
/// # Errors
/// When the disk refuses.
pub fn resume_drop(data: &Path) -> Result<(), FileError> {
    for root in [data.join(VECTORS), data.join(UNFINISHED)] {
        set_aside(&root)?.iter().try_for_each(|folder| files::remove_folder(folder))?;
    }
    Ok(())
}

/// Indexes below `root` whose deletion has begun.
fn set_aside(root: &Path) -> Result<Vec<PathBuf>, FileError> {
    let dropped = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(DROPPED));
    Ok(files::list(root)?.into_iter().filter(dropped).collect())
}
