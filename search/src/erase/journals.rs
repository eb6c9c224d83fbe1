//! What an index keeps beside its store and its gallery so that neither a crash nor a late message
//! undoes an erasure or leaves a picture that nobody can find: the journal of the batch that is
//! being stored, the tombstones of what is erased, and the order of indexer and erasures.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use sightline_core::SightingId;

use super::EraseError;
use super::batch::BatchJournal;
use super::ledger::TombstoneLedger;
use super::tombstones::Tombstones;
use crate::files::{self, FileError};
use crate::gallery::Gallery;
use crate::picture::PictureKey;
use crate::store::{Filter, Record, StoreError, VectorStore};

/// Folder of tombstones, below the data folder. Earlier versions kept lists of ids there.
pub(super) const ERASURES: &str = "erasures";

/// File of the batch that is being stored, below the data folder.
const BATCH: &str = "batch.journal";

/// Number of files deleted by [`Journals::recover`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Points of erasures that an earlier version had begun.
    pub points: u64,
    /// Files of such erasures, and of batches that a crash had interrupted.
    pub files: u64,
}

/// Tombstones, batch journal and turns of one index.
#[derive(Debug)]
pub struct Journals {
    tombstones: Tombstones,
    /// `None` where a message whose batch was interrupted is delivered again, or nothing survives.
    batch: Option<BatchJournal>,
    /// Ids of the batch that an earlier process did not finish.
    interrupted: Mutex<Vec<SightingId>>,
    /// Held by whoever changes store and gallery together: the indexer for the writes of a batch,
    /// an erasure for one chunk. The lock is fair, so that they take turns. The number counts the
    /// changes made by erasures.
    turn: tokio::sync::Mutex<u64>,
}

impl Journals {
    /// Opens the journals in the data folder `data` of the one process that writes the index.
    /// Damaged ones are set aside.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn open(data: &Path) -> Result<Self, StoreError> {
        let (batch, interrupted) = BatchJournal::open(&data.join(BATCH))?;
        Ok(Self::of(Tombstones::open(&data.join(ERASURES))?, Some(batch), interrupted))
    }

    /// Opens the journals of an index that several processes share. There is no journal of batches:
    /// the message of an interrupted one is delivered again, to whichever worker, and its pictures
    /// get their points then.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn shared(ledger: Arc<dyn TombstoneLedger>) -> Result<Self, StoreError> {
        Ok(Self::of(Tombstones::shared(ledger)?, None, Vec::new()))
    }

    /// Creates journals that do not survive the process.
    pub fn in_memory() -> Self {
        Self::of(Tombstones::in_memory(), None, Vec::new())
    }

    fn of(tombstones: Tombstones, batch: Option<BatchJournal>, interrupted: Vec<SightingId>) -> Self {
        Self { tombstones, batch, interrupted: Mutex::new(interrupted), turn: tokio::sync::Mutex::default() }
    }

    /// Returns what is erased and must be neither stored nor shown.
    pub fn tombstones(&self) -> &Tombstones {
        &self.tombstones
    }

    /// Waits for the turn to change store and gallery. Blocks: call it on a thread of its own.
    pub(crate) fn turn(&self) -> tokio::sync::MutexGuard<'_, u64> {
        self.turn.blocking_lock()
    }

    /// Records the ids of a batch before its pictures are written; durable when it returns.
    pub(crate) fn begin_batch(&self, ids: &[SightingId]) -> Result<(), FileError> {
        self.batch.as_ref().map_or(Ok(()), |journal| journal.begin(ids))
    }

    /// Records that the batch is durable in the store.
    pub(crate) fn end_batch(&self) {
        if let Some(journal) = &self.batch {
            journal.end();
        }
    }

    /// Deletes the pictures of an interrupted batch that the store does not know, and finishes
    /// erasures that an earlier version had begun (`erasures/*.ids`). Call it at the start, before
    /// anything is indexed; `data` is the data folder.
    ///
    /// # Errors
    /// When store or gallery fails; the next call finds what is left. A damaged journal is no error.
    pub fn recover(
        &self,
        data: &Path,
        store: &dyn VectorStore,
        gallery: &dyn Gallery,
    ) -> Result<Recovered, EraseError> {
        let mut recovered = finish_lists(&data.join(ERASURES), store, gallery)?;
        let mut interrupted = self.interrupted.lock().unwrap_or_else(PoisonError::into_inner);
        if !interrupted.is_empty() {
            let known = store.scroll(&Filter::ids(interrupted.clone()), None, interrupted.len())?;
            interrupted.retain(|id| known.binary_search(id).is_err());
            // Of a slot that has a point, the picture of that point stays.
            let kept: Vec<PictureKey> = store.get(&known)?.iter().map(Record::key).collect();
            let files = gallery.delete(&interrupted)? + gallery.prune(&kept)?;
            tracing::info!(files, "deleted pictures that a crash had left without a point");
            recovered.files += files;
            interrupted.clear();
            self.end_batch();
        }
        Ok(recovered)
    }
}

/// Finishes the erasures of earlier versions. Each was a list of ids, one a line; the readable lines
/// of a damaged list are erased, too, before it is set aside.
fn finish_lists(folder: &Path, store: &dyn VectorStore, gallery: &dyn Gallery) -> Result<Recovered, EraseError> {
    let mut recovered = Recovered::default();
    for path in files::list(folder)? {
        match path.extension().and_then(|e| e.to_str()) {
            // It never got its final name, so nothing had begun.
            Some("new") => drop(files::remove(&path)?),
            Some("ids") => {
                let text = files::read(&path)?.unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let ids: Vec<SightingId> = text.lines().filter_map(|line| line.parse().ok()).collect();
                tracing::info!(pictures = ids.len(), "finishing a deletion that was interrupted");
                for chunk in ids.chunks(super::CHUNK) {
                    recovered.points += store.delete_ids(chunk)?.into_values().sum::<u64>();
                    store.flush()?;
                    recovered.files += gallery.delete(chunk)?;
                }
                match text.lines().find(|line| line.parse::<SightingId>().is_err()) {
                    Some(line) => files::set_aside(&path, &format!("{line:?} is no id"))?,
                    None => drop(files::remove(&path)?),
                }
            }
            _ => {}
        }
    }
    Ok(recovered)
}
