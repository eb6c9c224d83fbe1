//! The last stage of the line: takes sightings with their features and stores them, losing none.
//!
//! Order of every batch: pictures and patch features into the gallery (durable), points into the store, track spans,
//! flush, and only then the coverage moves on. So a point that is found has its picture, what the coverage promises
//! survives a kill, and everything may be delivered twice. A full disk stops the stage, and through its bounded queue
//! the stages before it, until there is room again.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::time::{Duration, Instant};

use rand::Rng;
use sightline_core::message::Sighting;
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_core::{CameraId, IndexEvent, Progress, SightingId, Timestamp, TrackEnd};

use crate::coverage::Coverage;
use crate::gallery::{Exhibit, Gallery, GalleryError};
use crate::store::{Point, StoreError, VectorStore};

/// How the indexer works.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexerOptions {
    /// Events stored together at most. They are never waited for: a batch is what has come in while the last one was
    /// written.
    pub batch: usize,
    /// Pause after a failure: doubled from the first to the last value, with jitter, for ever.
    pub backoff_first: Duration,
    /// See [`IndexerOptions::backoff_first`].
    pub backoff_last: Duration,
}

impl Default for IndexerOptions {
    fn default() -> Self {
        Self { batch: 64, backoff_first: Duration::from_millis(200), backoff_last: Duration::from_secs(30) }
    }
}

/// Why the indexer stopped before its queue was empty.
#[derive(Debug, thiserror::Error)]
pub enum IndexerError {
    /// The stop was ordered while the store or the gallery kept failing. None of these events was acknowledged.
    #[error("stopped with {events} events not stored: {reason}")]
    Unsaved {
        /// Events taken from the queue or left in it.
        events: usize,
        /// The last failure.
        reason: String,
    },
}

/// Stores what comes through `input` until it is closed and empty. Blocks: run it on a thread of its own. `shutdown`
/// only ends the waiting after failures; an orderly stop closes the queue.
///
/// # Errors
/// [`IndexerError::Unsaved`]; the queue is closed then.
pub fn run(
    input: &Queue<IndexEvent>,
    store: &dyn VectorStore,
    gallery: &dyn Gallery,
    coverage: &Coverage,
    options: &IndexerOptions,
    shutdown: &Shutdown,
) -> Result<(), IndexerError> {
    let stage = Stage { store, gallery, coverage, options, shutdown };
    loop {
        let Some(first) = input.pop(Duration::from_millis(500)) else {
            if input.is_closed() && input.is_empty() {
                return Ok(());
            }
            continue;
        };
        let mut events = vec![first];
        while events.len() < options.batch.max(1) {
            match input.pop(Duration::ZERO) {
                Some(event) => events.push(event),
                None => break,
            }
        }
        let count = events.len();
        if let Err(reason) = stage.store(Batch::from(events)) {
            input.close();
            return Err(IndexerError::Unsaved { events: count + input.len(), reason });
        }
    }
}

/// Events sorted by what has to be done, each kind in its order of arrival.
#[derive(Default)]
struct Batch {
    sightings: Vec<Sighting>,
    tracks: Vec<TrackEnd>,
    progress: Vec<Progress>,
}

impl From<Vec<IndexEvent>> for Batch {
    /// Spans only ever widen and progress is reported last, so sorting by kind changes nothing. Of several pictures
    /// for one slot only the last is kept, with the latest end of them all.
    fn from(events: Vec<IndexEvent>) -> Self {
        let mut batch = Self::default();
        let mut slots: HashMap<SightingId, usize> = HashMap::new();
        for event in events {
            match event {
                IndexEvent::Sighting(new) => match slots.get(&new.id()) {
                    Some(&at) => {
                        let last_seen = new.crop.last_seen.max(batch.sightings[at].crop.last_seen);
                        batch.sightings[at] = *new;
                        batch.sightings[at].crop.last_seen = last_seen;
                    }
                    None => {
                        slots.insert(new.id(), batch.sightings.len());
                        batch.sightings.push(*new);
                    }
                },
                IndexEvent::TrackEnd(end) => batch.tracks.push(end),
                IndexEvent::Progress(progress) => batch.progress.push(progress),
                IndexEvent::Report(_) => {}
            }
        }
        batch
    }
}

struct Stage<'a> {
    store: &'a dyn VectorStore,
    gallery: &'a dyn Gallery,
    coverage: &'a Coverage,
    options: &'a IndexerOptions,
    shutdown: &'a Shutdown,
}

/// A failure that may pass, or one that lies in the data.
trait Failure: Display {
    fn is_permanent(&self) -> bool;
}

impl Failure for StoreError {
    fn is_permanent(&self) -> bool {
        StoreError::is_permanent(self)
    }
}

impl Failure for GalleryError {
    fn is_permanent(&self) -> bool {
        GalleryError::is_permanent(self)
    }
}

impl Stage<'_> {
    /// Stores one batch, trying for ever; the error is the last failure when a stop was ordered meanwhile.
    fn store(&self, mut batch: Batch) -> Result<(), String> {
        let start = Instant::now();
        self.put(&mut batch.sightings)?;
        for end in &batch.tracks {
            self.retry("track span", || {
                self.store.end_track(&end.camera, end.track, end.first_seen, end.last_seen, end.ended)
            })?
            .map_err(|e: StoreError| e.to_string())?;
        }
        let flushing = Instant::now();
        if !(batch.sightings.is_empty() && batch.tracks.is_empty()) {
            self.retry("flush", || self.store.flush())?.map_err(|e| e.to_string())?;
        }
        metrics::histogram!("sightline_index_flush_seconds").record(flushing.elapsed().as_secs_f64());
        metrics::histogram!("sightline_index_batch_seconds").record(start.elapsed().as_secs_f64());
        self.acknowledge(&batch);
        Ok(())
    }

    /// Gallery, then store. What is refused for its data is set aside one by one, so that the others are not held up.
    fn put(&self, sightings: &mut Vec<Sighting>) -> Result<(), String> {
        if sightings.is_empty() {
            return Ok(());
        }
        if self.put_all(sightings)?.is_ok() {
            return Ok(());
        }
        let mut kept = Vec::with_capacity(sightings.len());
        for sighting in sightings.drain(..) {
            match self.put_all(std::slice::from_ref(&sighting))? {
                Ok(()) => kept.push(sighting),
                Err(reason) => {
                    let camera = &sighting.crop.camera;
                    tracing::error!(
                        %camera, sighting = %sighting.id(), trace = %sighting.crop.origin.trace, reason,
                        "sighting refused: its data cannot be stored"
                    );
                    metrics::counter!("sightline_index_rejected_sightings_total", "camera" => camera.to_string())
                        .increment(1);
                    self.coverage.rejected(camera);
                }
            }
        }
        *sightings = kept;
        Ok(())
    }

    /// The inner error says why the data is refused.
    fn put_all(&self, sightings: &[Sighting]) -> Result<Result<(), String>, String> {
        let points: Vec<Point> = sightings.iter().map(Point::from).collect();
        if let Err(e) = self.store.check(&points) {
            return Ok(Err(e.to_string()));
        }
        let exhibits: Vec<Exhibit> = sightings
            .iter()
            .map(|s| Exhibit { id: s.id(), jpeg: s.crop.jpeg.clone(), patches: s.patches.clone() })
            .collect();
        if let Err(e) = self.retry("gallery", || self.gallery.put(&exhibits))? {
            return Ok(Err(e.to_string()));
        }
        Ok(self.retry("upsert", || self.store.upsert(&points))?.map_err(|e| e.to_string()))
    }

    fn acknowledge(&self, batch: &Batch) {
        let now = Timestamp::now();
        let mut stored: BTreeMap<&CameraId, u64> = BTreeMap::new();
        for s in &batch.sightings {
            *stored.entry(&s.crop.camera).or_default() += 1;
        }
        for (camera, count) in stored {
            self.coverage.stored(camera, count, now);
            metrics::counter!("sightline_index_sightings_total", "camera" => camera.to_string()).increment(count);
        }
        for p in &batch.progress {
            self.coverage.passed(p);
            metrics::gauge!("sightline_index_lag_seconds", "camera" => p.camera.to_string())
                .set(now.seconds_since(p.analysed_through));
        }
    }

    /// Calls `attempt` until it succeeds or fails for good (the inner result). The outer error is the last failure when
    /// a stop was ordered while it kept failing.
    fn retry<T, E: Failure>(
        &self,
        what: &'static str,
        mut attempt: impl FnMut() -> Result<T, E>,
    ) -> Result<Result<T, E>, String> {
        let mut pause = self.options.backoff_first;
        let mut failed = false;
        loop {
            match attempt() {
                Ok(value) => {
                    if failed {
                        tracing::info!(what, "the index stores again");
                        self.coverage.set_fault(None);
                    }
                    return Ok(Ok(value));
                }
                Err(e) if e.is_permanent() => return Ok(Err(e)),
                Err(e) => {
                    failed = true;
                    metrics::counter!("sightline_index_retries_total", "step" => what).increment(1);
                    tracing::error!(what, error = %e, pause_s = pause.as_secs_f64(), "cannot store; trying again");
                    self.coverage.set_fault(Some(format!("{what}: {e}")));
                    if !self.pause(pause.mul_f64(rand::rng().random_range(0.5..1.0))) {
                        return Err(e.to_string());
                    }
                    pause = (pause * 2).min(self.options.backoff_last);
                }
            }
        }
    }

    /// Waits; `false` when a stop was ordered.
    fn pause(&self, how_long: Duration) -> bool {
        let end = Instant::now() + how_long;
        while !self.shutdown.is_triggered() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
        false
    }
}
