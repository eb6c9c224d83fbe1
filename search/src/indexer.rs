//! The last stage of the line: takes sightings with their features and stores them, losing none.
//!
//! Order of every batch: pictures and patch features into the gallery (durable), points into the store, track spans,
//! flush, and only then the coverage moves on. So a point that is found has its picture, what the coverage promises
//! survives a kill, and everything may be delivered twice. A full disk or an absent server stops the stage, and through
//! its bounded queue the stages before it, until it is mended.
//!
//! Only after all of that are the messages' receipts completed: whoever delivered them may forget them then. What is
//! refused for its data is handed over with its receipt instead.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::{Duration, Instant};

use rand::Rng;
use sightline_core::message::Sighting;
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_core::{Delivery, IndexEvent, Receipt, Refused, SightingId, Timestamp, TrackEnd};

use crate::coverage::{Coverage, News, Word};
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
/// only ends the waiting after failures; an orderly stop closes the queue. What can never be stored goes to `refused`.
///
/// # Errors
/// [`IndexerError::Unsaved`]; the queue is closed then, and the receipts of what was not stored are left open.
pub fn run<I: Into<Delivery<IndexEvent>>>(
    input: &Queue<I>,
    store: &dyn VectorStore,
    gallery: &dyn Gallery,
    coverage: &Coverage,
    refused: &dyn Refused<IndexEvent>,
    options: &IndexerOptions,
    shutdown: &Shutdown,
) -> Result<(), IndexerError> {
    let stage = Stage { store, gallery, coverage, refused, options, shutdown };
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

/// Events sorted by what has to be done, each kind in its order of arrival. Spans only ever widen and progress is
/// reported last, so sorting by kind changes nothing.
#[derive(Default)]
struct Batch {
    events: usize,
    sightings: Vec<(Sighting, Receipt)>,
    tracks: Vec<TrackEnd>,
    news: News,
    /// Those of everything but the sightings.
    receipts: Vec<Receipt>,
}

impl Batch {
    fn add(&mut self, delivery: Delivery<IndexEvent>) {
        let Delivery { event, receipt } = delivery;
        self.events += 1;
        match event {
            IndexEvent::Sighting(sighting) => return self.sightings.push((*sighting, receipt)),
            IndexEvent::TrackEnd(end) => self.tracks.push(end),
            IndexEvent::Progress(progress) => self.news.words.push(Word::Progress(progress)),
            IndexEvent::Report(report) => self.news.words.push(Word::Report(report)),
        }
        self.receipts.push(receipt);
    }
}

/// Of several pictures for one slot only the last, with the latest end of them all.
fn newest_of_each_slot(sightings: &[(Sighting, Receipt)]) -> Vec<Sighting> {
    let mut kept: Vec<Sighting> = Vec::with_capacity(sightings.len());
    let mut slots: HashMap<SightingId, usize> = HashMap::new();
    for (new, _) in sightings {
        match slots.get(&new.id()) {
            Some(&at) => {
                let last_seen = new.crop.last_seen.max(kept[at].crop.last_seen);
                kept[at] = new.clone();
                kept[at].crop.last_seen = last_seen;
            }
            None => {
                slots.insert(new.id(), kept.len());
                kept.push(new.clone());
            }
        }
    }
    kept
}

struct Stage<'a> {
    store: &'a dyn VectorStore,
    gallery: &'a dyn Gallery,
    coverage: &'a Coverage,
    refused: &'a dyn Refused<IndexEvent>,
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
    fn store(&self, batch: Batch) -> Result<(), String> {
        let start = Instant::now();
        let Batch { sightings, tracks, mut news, mut receipts, .. } = batch;
        let changed = !(sightings.is_empty() && tracks.is_empty());
        self.put(sightings, &mut news, &mut receipts)?;
        for end in &tracks {
            self.retry("track span", || {
                self.store.end_track(&end.camera, end.track, end.first_seen, end.last_seen, end.ended)
            })?
            .map_err(|e: StoreError| e.to_string())?;
        }
        let flushing = Instant::now();
        if changed {
            self.retry("flush", || self.store.flush())?.map_err(|e| e.to_string())?;
        }
        metrics::histogram!("sightline_index_flush_seconds").record(flushing.elapsed().as_secs_f64());
        news.now = Timestamp::now();
        self.retry("coverage", || self.coverage.settle(&news))?.map_err(|e| e.to_string())?;
        metrics::histogram!("sightline_index_batch_seconds").record(start.elapsed().as_secs_f64());
        count(&news);
        receipts.into_iter().for_each(Receipt::complete);
        Ok(())
    }

    /// Gallery, then store. What is refused for its data is set aside one by one, so that the others are not held up.
    fn put(
        &self,
        sightings: Vec<(Sighting, Receipt)>,
        news: &mut News,
        receipts: &mut Vec<Receipt>,
    ) -> Result<(), String> {
        if sightings.is_empty() {
            return Ok(());
        }
        let newest = newest_of_each_slot(&sightings);
        if self.put_all(&newest)?.is_ok() {
            for s in &newest {
                stored(s, news);
            }
            receipts.extend(sightings.into_iter().map(|(_, receipt)| receipt));
            return Ok(());
        }
        for (sighting, receipt) in sightings {
            match self.put_all(std::slice::from_ref(&sighting))? {
                Ok(()) => {
                    stored(&sighting, news);
                    receipts.push(receipt);
                }
                Err(reason) => {
                    let camera = &sighting.crop.camera;
                    tracing::error!(
                        %camera, sighting = %sighting.id(), trace = %sighting.crop.origin.trace, reason,
                        "sighting refused: its data cannot be stored"
                    );
                    metrics::counter!("sightline_index_rejected_sightings_total", "camera" => camera.to_string())
                        .increment(1);
                    *news.rejected.entry(camera.clone()).or_default() += 1;
                    self.refused.refuse(IndexEvent::Sighting(Box::new(sighting)), &reason, receipt);
                }
            }
        }
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

fn stored(s: &Sighting, news: &mut News) {
    *news.stored.entry(s.crop.camera.clone()).or_default() += 1;
    news.captured.push(s.crop.captured_at);
}

/// Tells the metrics of what is searchable now.
fn count(news: &News) {
    for captured in &news.captured {
        metrics::histogram!("sightline_index_capture_to_searchable_seconds")
            .record(news.now.seconds_since(*captured).max(0.0));
    }
    for (camera, count) in &news.stored {
        metrics::counter!("sightline_index_sightings_total", "camera" => camera.to_string()).increment(*count);
    }
    for word in &news.words {
        match word {
            Word::Progress(p) => metrics::gauge!("sightline_index_lag_seconds", "camera" => p.camera.to_string())
                .set(news.now.seconds_since(p.analysed_through)),
            Word::Report(_) => metrics::counter!("sightline_index_reports_total").increment(1),
        }
    }
}
