//! Erasure: hides the pictures of its scopes, refuses those that arrive later, and deletes what is
//! stored, chunk by chunk, while the indexer goes on beside it.
//!
//! ```text
//! begin: tombstone in memory, then durable --> never shown, refused by the indexer
//! run:   per index, per scope:  ids behind the cursor (1000) --> pictures --> points --> next chunk
//!        of spans of time also:  replaced pictures of the tracks that overlap them
//! end:   nothing is found any more --> flush --> the tombstone is closed: no part of filters any more
//! ```
//!
//! The tombstone is the journal. A chunk deletes its pictures before its points, so that a crash in
//! between leaves points, which the next run finds by the scope again; nobody sees them meanwhile.
//! So an erasure may be killed at any moment, costs no file per chunk, and goes on when the disk is
//! full. Each chunk lists and deletes under the lock that it shares with the indexer
//! ([`Journals`]); ids are listed in ascending order from a cursor, so that no list grows with the
//! number of pictures, and neighbouring ids lie in the same few folders of the gallery.

mod batch;
mod journals;
mod ledger;
mod tombstones;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sightline_core::shutdown::Shutdown;
use sightline_core::{CameraId, SightingId, Timestamp};
use uuid::Uuid;

use crate::files::FileError;
use crate::gallery::{Gallery, GalleryError};
use crate::store::{Deleted, Filter, Payload, Scope, StoreError, VectorStore};

pub use journals::{Journals, Recovered};
pub use ledger::{Tombstone, TombstoneLedger};
pub use tombstones::Tombstones;

/// Pictures deleted in one turn: some tens of milliseconds on a local disk, so that the indexer
/// waits no longer than for a batch of its own.
const CHUNK: usize = 1000;

/// Chunks after which the deleted points are flushed. A crash repeats at most this many.
const FLUSH_EVERY: u64 = 32;

/// Largest number of passes over pictures that arrive during the erasure.
const MAX_ROUNDS: usize = 8;

/// Shortest time from the beginning of an erasure to its last pass, where index workers are other
/// processes: twice the age at which they read the tombstones again.
const SETTLE: Duration = Duration::from_millis(2 * tombstones::REFRESH.as_millis() as u64);

/// Reason why an erasure is unfinished. The next run of it goes on.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// The vector store or the ledger of tombstones failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The gallery failed.
    #[error(transparent)]
    Gallery(#[from] GalleryError),
    /// A journal cannot be read, written or deleted.
    #[error(transparent)]
    File(#[from] FileError),
    /// New pictures kept arriving while the old ones were deleted.
    #[error("pictures that match the deletion keep arriving; stop their camera first")]
    StillArriving,
    /// A shutdown ended the run.
    #[error("the process is stopping; the erasure goes on at the next start")]
    Stopped,
}

/// Counts of what was deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Distinct sightings deleted.
    pub points: u64,
    /// Files deleted from the gallery: pictures and patch features.
    pub files: u64,
    /// Vectors deleted, by model.
    pub by_model: Deleted,
}

/// How far a run has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Fraction of the ids that the run has passed, 0 to 1. Ids are spread evenly, so it is about
    /// the fraction of the pictures.
    pub fraction: f64,
    /// Counts so far.
    pub receipt: Receipt,
}

/// Erases from one index; clones share it.
#[derive(Clone)]
pub struct Eraser {
    store: Arc<dyn VectorStore>,
    gallery: Arc<dyn Gallery>,
    journals: Arc<Journals>,
}

impl Eraser {
    /// Creates the eraser of an index. The indexer of the same process must use the same `journals`.
    pub fn new(store: Arc<dyn VectorStore>, gallery: Arc<dyn Gallery>, journals: Arc<Journals>) -> Self {
        Self { store, gallery, journals }
    }

    /// Returns the journals of the index.
    pub fn journals(&self) -> &Arc<Journals> {
        &self.journals
    }

    /// Begins the erasure `id`: from now on nobody is shown pictures of these scopes and the
    /// indexer stores none of them. Durable when it returns; may be repeated.
    ///
    /// # Errors
    /// When the tombstone cannot be written; this process hides the pictures all the same.
    pub fn begin(&self, id: Uuid, scopes: &[Scope]) -> Result<(), StoreError> {
        self.hide_now(id, scopes);
        // In a turn of its own: a batch that was checked before is stored, and the run finds it.
        let mut turn = self.journals.turn();
        *turn += 1;
        self.journals.tombstones().open_erasure(id, scopes)
    }

    /// Hides the pictures of an erasure whose tombstone may not be written yet, without waiting for
    /// anything. [`Eraser::begin`] follows.
    pub fn hide_now(&self, id: Uuid, scopes: &[Scope]) {
        self.journals.tombstones().hide_now(id, scopes);
    }

    /// Begins the erasure if necessary, and deletes everything of `scopes` from this model's index
    /// and those of all others, and from the gallery; durable when it returns. Blocks: run it on a
    /// thread of its own. It may be repeated, and goes on where it was interrupted.
    ///
    /// # Errors
    /// [`EraseError::Stopped`] after a shutdown, or when a part fails.
    pub fn run(
        &self,
        id: Uuid,
        scopes: &[Scope],
        shutdown: &Shutdown,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Receipt, EraseError> {
        self.begin(id, scopes)?;
        let begun = Instant::now();
        let beside = self.store.beside()?;
        let indexes = std::iter::once(&self.store).chain(&beside).map(|store| &**store).collect();
        let mut run = Run { eraser: self, indexes, shutdown, receipt: Receipt::default(), chunks: 0 };
        for _ in 0..MAX_ROUNDS {
            let before = run.receipt.points;
            run.round(scopes, progress)?;
            // A worker that has not read of this erasure may still store a picture.
            let waited = self.settle(begun, shutdown)?;
            if run.receipt.points == before && !waited {
                run.earlier(scopes)?;
                self.journals.tombstones().close(id)?;
                return Ok(run.receipt);
            }
        }
        Err(EraseError::StillArriving)
    }

    /// Waits until every worker that shares the tombstones has read of an erasure that was `begun`
    /// then; returns whether it had to wait.
    fn settle(&self, begun: Instant, shutdown: &Shutdown) -> Result<bool, EraseError> {
        if !self.journals.tombstones().is_shared() || begun.elapsed() >= SETTLE {
            return Ok(false);
        }
        while begun.elapsed() < SETTLE {
            if shutdown.is_triggered() {
                return Err(EraseError::Stopped);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(true)
    }

    /// Returns the tracks of these sightings, each once, and those of the sightings that are not
    /// stored. Erasing a sighting means erasing its track: the other pictures show the same person.
    ///
    /// # Errors
    /// When the store fails.
    pub fn tracks_of(&self, sightings: &[SightingId]) -> Result<(Vec<Scope>, Vec<SightingId>), StoreError> {
        let found = self.store.get(sightings)?;
        let known: BTreeSet<SightingId> = found.iter().map(|r| r.id).collect();
        let tracks: BTreeSet<_> = found.into_iter().map(|r| (r.payload.camera, r.payload.track)).collect();
        let missing = sightings.iter().copied().filter(|id| !known.contains(id)).collect();
        Ok((tracks.into_iter().map(|(camera, track)| Scope::track(camera, track)).collect(), missing))
    }

    /// Takes pictures of a camera again that was erased as a whole: those captured from `from` on,
    /// or without it, of any time. The erasure must be finished.
    ///
    /// # Errors
    /// When the tombstones cannot be written.
    pub fn admit(&self, camera: &CameraId, from: Option<Timestamp>) -> Result<(), StoreError> {
        let _turn = self.journals.turn();
        self.journals.tombstones().admit(camera, from)
    }

    /// Returns the filter without what is being erased; every search applies it.
    #[must_use]
    pub fn hide(&self, filter: Filter) -> Filter {
        self.journals.tombstones().hide(filter)
    }

    /// Whether a stored picture is erased, so that nobody may see it any more.
    pub fn hides(&self, payload: &Payload) -> bool {
        self.journals.tombstones().hides(payload)
    }
}

/// A run of an erasure.
struct Run<'a> {
    eraser: &'a Eraser,
    /// The index that answers, then those of other models.
    indexes: Vec<&'a dyn VectorStore>,
    shutdown: &'a Shutdown,
    receipt: Receipt,
    chunks: u64,
}

impl Run<'_> {
    /// Goes through every scope of every index once.
    fn round(&mut self, scopes: &[Scope], progress: &mut dyn FnMut(Progress)) -> Result<(), EraseError> {
        let parts = (self.indexes.len() * scopes.len()) as f64;
        let before = self.chunks;
        for part in 0..self.indexes.len() {
            for (at, scope) in scopes.iter().enumerate() {
                let (filter, mut after) = (scope.filter(), None);
                while let Some(last) = self.chunk(part, &filter, after)? {
                    after = Some(last);
                    let passed = (part * scopes.len() + at) as f64 + fraction(last);
                    progress(Progress { fraction: passed / parts, receipt: self.receipt.clone() });
                    if self.chunks.is_multiple_of(FLUSH_EVERY) {
                        self.flush()?;
                    }
                }
            }
        }
        if self.chunks > before { self.flush() } else { Ok(()) }
    }

    /// Deletes the replaced pictures of every track that overlaps a span of time to erase: the
    /// stored picture of the slot may have been captured outside of the span, and the one before it
    /// inside.
    fn earlier(&mut self, scopes: &[Scope]) -> Result<(), EraseError> {
        for filter in scopes.iter().filter_map(Scope::earlier_filter) {
            for index in &self.indexes {
                let mut after = None;
                loop {
                    if self.shutdown.is_triggered() {
                        return Err(EraseError::Stopped);
                    }
                    let ids = index.scroll(&filter, after, CHUNK)?;
                    let Some(last) = ids.last() else { break };
                    // In a turn: what the indexer retires meanwhile is deleted there.
                    let _turn = self.eraser.journals.turn();
                    self.receipt.files += self.eraser.gallery.delete_replaced(&ids)?;
                    after = Some(*last);
                }
            }
        }
        Ok(())
    }

    /// Deletes the chunk behind `after` that an index holds, from all indexes, and returns its last
    /// id; `None` when nothing is left there.
    fn chunk(
        &mut self,
        index: usize,
        filter: &Filter,
        after: Option<SightingId>,
    ) -> Result<Option<SightingId>, EraseError> {
        if self.shutdown.is_triggered() {
            return Err(EraseError::Stopped);
        }
        let mut turn = self.eraser.journals.turn();
        let ids = self.indexes[index].scroll(filter, after, CHUNK)?;
        let Some(last) = ids.last() else { return Ok(None) };
        *turn += 1;
        let files = self.eraser.gallery.delete(&ids)?;
        for index in &self.indexes {
            for (model, count) in index.delete_ids(&ids)? {
                *self.receipt.by_model.entry(model).or_default() += count;
            }
        }
        self.receipt.points += ids.len() as u64;
        self.receipt.files += files;
        self.chunks += 1;
        metrics::counter!("sightline_index_erased_chunks_total").increment(1);
        metrics::counter!("sightline_index_erased_points_total").increment(ids.len() as u64);
        Ok(Some(*last))
    }

    fn flush(&self) -> Result<(), EraseError> {
        Ok(self.indexes.iter().try_for_each(|index| index.flush())?)
    }
}

/// Position of an id among all possible ones, 0 to 1.
fn fraction(id: SightingId) -> f64 {
    (id.as_u128() >> 64) as f64 / 2f64.powi(64)
}
