//! Indexer, the last stage of the pipeline: stores sightings with their features and loses none.
//!
//! Order of every batch: its ids into the journal, pictures and patch features into the gallery
//! (durable), points into the store, track spans, flush, and only then the coverage advances. So
//! every point that is found has its picture, reported coverage survives a kill, and every message
//! may be delivered twice. A full disk or an unreachable server stops the stage, and through its
//! bounded queue the stages before it, until the fault is fixed.
//!
//! Sightings that are erased ([`crate::erase`]) are acknowledged and never stored: late messages of a
//! removed camera bring nobody back.
//!
//! Only then are the receipts of the messages completed, so that the sender may forget them.
//! Messages refused because of their data are handed over with their receipts instead.

mod failure;
mod stage;

use std::time::Duration;

use sightline_core::message::Sighting;
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_core::{Delivery, IndexEvent, Receipt, RefusalHandler, TrackEnd};

use crate::coverage::{Coverage, CoverageEvent, CoverageUpdate};
use crate::erase::Journals;
use crate::gallery::Gallery;
use crate::store::VectorStore;
use stage::Stage;

/// How many events are stored together, and how failures are repeated.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexerOptions {
    /// Largest number of events stored together. The indexer never waits to fill a batch: it takes
    /// what arrived while the last batch was written.
    pub batch: usize,
    /// First pause after a failure: doubled up to the last value, with jitter, without a limit of
    /// attempts.
    pub backoff_first: Duration,
    /// Longest pause; see [`IndexerOptions::backoff_first`].
    pub backoff_last: Duration,
}

impl Default for IndexerOptions {
    fn default() -> Self {
        Self { batch: 64, backoff_first: Duration::from_millis(200), backoff_last: Duration::from_secs(30) }
    }
}

/// Reason why the indexer stopped before its queue was empty.
#[derive(Debug, thiserror::Error)]
pub enum IndexerError {
    /// A shutdown was triggered while the store or the gallery kept failing. None of these events
    /// was acknowledged.
    #[error("stopped with {events} events not stored: {reason}")]
    Unsaved {
        /// Number of events taken from the queue or left in it.
        events: usize,
        /// The last failure.
        reason: String,
    },
}

/// The index that is written.
#[derive(Clone, Copy)]
pub struct Sink<'a> {
    /// Vector store of the model whose features the sightings have.
    pub store: &'a dyn VectorStore,
    /// Gallery that is written before the store.
    pub gallery: &'a dyn Gallery,
    /// Coverage that advances after the flush.
    pub coverage: &'a Coverage,
    /// Journals, shared with the erasures of this process.
    pub journals: &'a Journals,
}

/// Stores the events of `input` until it is closed and empty. Blocks: run it on a thread of its
/// own. `shutdown` only ends the retries after failures; a graceful shutdown closes the queue.
/// Events that can never be stored go to `refused`.
///
/// # Errors
/// [`IndexerError::Unsaved`]; the queue is closed then, and the receipts of events that were not
/// stored stay open.
pub fn run<I: Into<Delivery<IndexEvent>>>(
    input: &Queue<I>,
    sink: Sink<'_>,
    refused: &dyn RefusalHandler<IndexEvent>,
    options: &IndexerOptions,
    shutdown: &Shutdown,
) -> Result<(), IndexerError> {
    let stage = Stage::new(sink, refused, options, shutdown);
    loop {
        let Some(first) = input.pop(Duration::from_millis(500)) else {
            if input.is_closed() && input.is_empty() {
                return Ok(());
            }
            continue;
        };
        let mut batch = Batch::default();
        batch.add(first.into());
        while batch.events < options.batch.max(1) {
            match input.pop(Duration::ZERO) {
                Some(event) => batch.add(event.into()),
                None => break,
            }
        }
        let events = batch.events;
        if let Err(reason) = stage.store(batch) {
            input.close();
            return Err(IndexerError::Unsaved { events: events + input.len(), reason });
        }
    }
}

/// Events sorted by kind, each kind in its order of arrival. Spans only ever widen and progress is
/// reported last, so sorting by kind changes nothing.
#[derive(Default)]
struct Batch {
    events: usize,
    sightings: Vec<(Sighting, Receipt)>,
    tracks: Vec<TrackEnd>,
    update: CoverageUpdate,
    /// Receipts of all events except sightings.
    receipts: Vec<Receipt>,
}

impl Batch {
    fn add(&mut self, delivery: Delivery<IndexEvent>) {
        let Delivery { event, receipt } = delivery;
        self.events += 1;
        match event {
            IndexEvent::Sighting(sighting) => return self.sightings.push((*sighting, receipt)),
            IndexEvent::TrackEnd(end) => self.tracks.push(end),
            IndexEvent::Progress(progress) => self.update.events.push(CoverageEvent::Progress(progress)),
            IndexEvent::Report(report) => self.update.events.push(CoverageEvent::Report(report)),
        }
        self.receipts.push(receipt);
    }
}
