//! Stores one batch, in the order that the module above gives, and retries what fails.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use sightline_core::message::Sighting;
use sightline_core::shutdown::Shutdown;
use sightline_core::{Backoff, CameraId, IndexEvent, Receipt, RefusalHandler, SightingId, Timestamp, TrackId};

use super::failure::{Failure, PutError};
use super::{Batch, IndexerOptions, Sink};
use crate::coverage::{CoverageEvent, CoverageUpdate};
use crate::gallery::GalleryEntry;
use crate::picture::PictureKey;
use crate::store::{Point, Record, StoreError};

/// A stored picture.
struct StoredPicture {
    key: PictureKey,
    camera: CameraId,
    track: TrackId,
    captured_at: Timestamp,
}

impl From<Record> for StoredPicture {
    fn from(r: Record) -> Self {
        let key = r.key();
        Self { key, camera: r.payload.camera, track: r.payload.track, captured_at: r.payload.captured_at }
    }
}

impl From<&Sighting> for StoredPicture {
    fn from(s: &Sighting) -> Self {
        let (camera, track, captured_at) = (s.crop.camera.clone(), s.crop.track, s.crop.captured_at);
        Self { key: PictureKey::new(s.id(), &s.crop.jpeg), camera, track, captured_at }
    }
}

/// A picture whose slot a better one has taken.
struct Replaced {
    old: StoredPicture,
    by: PictureKey,
}

/// Where a batch is stored, and what is done with what cannot be.
pub(super) struct Stage<'a> {
    sink: Sink<'a>,
    refused: &'a dyn RefusalHandler<IndexEvent>,
    options: &'a IndexerOptions,
    shutdown: &'a Shutdown,
    /// Sightings of the batch that no full disk has kept out yet.
    not_kept_out: Cell<u64>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        sink: Sink<'a>,
        refused: &'a dyn RefusalHandler<IndexEvent>,
        options: &'a IndexerOptions,
        shutdown: &'a Shutdown,
    ) -> Self {
        let stage = Self { sink, refused, options, shutdown, not_kept_out: Cell::default() };
        stage.degraded(None);
        stage
    }

    /// Stores one batch and retries without limit; the error is the last failure before a shutdown.
    pub(super) fn store(&self, batch: Batch) -> Result<(), String> {
        let start = Instant::now();
        let Batch { sightings, tracks, mut update, mut receipts, .. } = batch;
        let changed = !(sightings.is_empty() && tracks.is_empty());
        self.not_kept_out.set(sightings.len() as u64);
        let replaced = self.put(sightings, &mut update, &mut receipts)?;
        for end in &tracks {
            self.retry("track span", || {
                self.sink.store.end_track(&end.camera, end.track, end.first_seen, end.last_seen, end.ended)
            })?
            .map_err(|e: StoreError| e.to_string())?;
        }
        let flushing = Instant::now();
        if changed {
            self.retry("flush", || self.sink.store.flush())?.map_err(|e| e.to_string())?;
            // Only now is the earlier picture of a slot nobody's any more.
            self.retire(&replaced)?;
            self.sink.journals.end_batch();
        }
        metrics::histogram!("sightline_index_flush_seconds").record(flushing.elapsed().as_secs_f64());
        update.now = Timestamp::now();
        self.retry("coverage", || self.sink.coverage.commit(&update))?.map_err(|e| e.to_string())?;
        metrics::histogram!("sightline_index_batch_seconds").record(start.elapsed().as_secs_f64());
        record_metrics(&update);
        receipts.into_iter().for_each(Receipt::complete);
        Ok(())
    }

    /// Moves pictures that others have replaced to where results from before still find them; those
    /// that an erasure covers are deleted.
    fn retire(&self, replaced: &[Replaced]) -> Result<(), String> {
        if replaced.is_empty() {
            return Ok(());
        }
        let Sink { gallery, journals, .. } = self.sink;
        // The last one of each slot; a redelivery may put an earlier one into its place again.
        let kept: HashMap<SightingId, PictureKey> = replaced.iter().map(|r| (r.by.id, r.by)).collect();
        let kept: Vec<PictureKey> = kept.into_values().collect();
        let mut attempt = || -> Result<(), PutError> {
            journals.tombstones().refresh()?;
            // No erasure begins between the look at the tombstones and the move.
            let _turn = journals.turn();
            let erased = |old: &StoredPicture| journals.tombstones().covers(&old.camera, old.track, old.captured_at);
            let old = replaced.iter().map(|r| &r.old).filter(|old| !kept.contains(&old.key) && !erased(old));
            gallery.retire(&old.map(|old| old.key).collect::<Vec<_>>(), Timestamp::now())?;
            gallery.prune(&kept)?;
            Ok(())
        };
        self.retry("gallery", &mut attempt)?.map_err(|e| e.to_string())
    }

    /// Writes to the gallery, then to the store. Sightings refused because of their data are set
    /// aside one by one, so that they do not block the others. Returns the pictures that were
    /// replaced.
    fn put(
        &self,
        sightings: Vec<(Sighting, Receipt)>,
        update: &mut CoverageUpdate,
        receipts: &mut Vec<Receipt>,
    ) -> Result<Vec<Replaced>, String> {
        if sightings.is_empty() {
            return Ok(Vec::new());
        }
        let newest = newest_of_each_slot(&sightings);
        let ids: Vec<SightingId> = newest.iter().map(Sighting::id).collect();
        self.retry("journal", || self.sink.journals.begin_batch(&ids))?.map_err(|e| e.to_string())?;
        let before = self.retry("look-up", || self.sink.store.get(&ids))?.map_err(|e| e.to_string())?;
        let mut pictures: HashMap<SightingId, StoredPicture> =
            before.into_iter().map(|r| (r.id, StoredPicture::from(r))).collect();
        let mut replaced = Vec::new();
        let mut stored = |s: &Sighting| {
            let picture = StoredPicture::from(s);
            let by = picture.key;
            replaced
                .extend(pictures.insert(by.id, picture).filter(|old| old.key != by).map(|old| Replaced { old, by }));
        };
        if let Ok(erased) = self.put_all(&newest)? {
            newest.iter().filter(|s| !erased.contains(&s.id())).for_each(&mut stored);
            newest.iter().filter(|s| !erased.contains(&s.id())).for_each(|s| count_stored(s, update));
            receipts.extend(sightings.into_iter().map(|(_, receipt)| receipt));
            return Ok(replaced);
        }
        for (sighting, receipt) in sightings {
            match self.put_all(std::slice::from_ref(&sighting))? {
                Ok(erased) => {
                    if erased.is_empty() {
                        stored(&sighting);
                        count_stored(&sighting, update);
                    }
                    receipts.push(receipt);
                }
                Err(reason) => {
                    self.delete_pictures(&[sighting.id()])?;
                    let camera = &sighting.crop.camera;
                    tracing::error!(
                        %camera, sighting = %sighting.id(), trace = %sighting.crop.origin.trace, reason,
                        "sighting refused: its data cannot be stored"
                    );
                    metrics::counter!("sightline_index_rejected_sightings_total", "camera" => camera.to_string())
                        .increment(1);
                    *update.rejected.entry(camera.clone()).or_default() += 1;
                    self.refused.refuse(IndexEvent::Sighting(Box::new(sighting)), &reason, receipt);
                }
            }
        }
        Ok(replaced)
    }

    /// Stores all of these sightings except those that are erased, which it returns; the inner error
    /// says why the data is refused.
    fn put_all(&self, sightings: &[Sighting]) -> Result<Result<Vec<SightingId>, String>, String> {
        let Sink { store, gallery, journals, .. } = self.sink;
        let points: Vec<Point> = sightings.iter().map(Point::from).collect();
        if let Err(e) = store.check(&points) {
            return Ok(Err(e.to_string()));
        }
        let entry = |s: &Sighting, p: &Point| {
            let (jpeg, patches) = (s.crop.jpeg.clone(), s.patches.clone());
            GalleryEntry { key: p.key(), jpeg, patches }
        };
        // Erasures so far when the pictures were written; another one may have deleted them since.
        let mut written = None;
        let mut attempt = || -> Result<Vec<SightingId>, PutError> {
            journals.tombstones().refresh()?;
            // No erasure begins or deletes anything between the look at the tombstones and the
            // upsert. Between two attempts it may, so that a failing store delays none.
            let turn = journals.turn();
            let erased = |s: &Sighting| journals.tombstones().covers(&s.crop.camera, s.crop.track, s.crop.captured_at);
            let (late, kept): (Vec<_>, Vec<_>) = sightings.iter().zip(&points).partition(|(s, _)| erased(s));
            if written != Some(*turn) {
                gallery.put(&kept.iter().map(|(s, p)| entry(s, p)).collect::<Vec<_>>())?;
                written = Some(*turn);
            }
            store.upsert(&kept.into_iter().map(|(_, p)| p.clone()).collect::<Vec<_>>())?;
            Ok(late.into_iter().map(|(s, _)| s.id()).collect())
        };
        let erased = match self.retry("storage", &mut attempt)? {
            Ok(erased) => erased,
            Err(e) => return Ok(Err(e.to_string())),
        };
        if !erased.is_empty() {
            // An attempt before the erasure began may have written their pictures.
            self.delete_pictures(&erased)?;
            for s in sightings.iter().filter(|s| erased.contains(&s.id())) {
                tracing::debug!(camera = %s.crop.camera, sighting = %s.id(), "an erased sighting is not stored");
                let camera = s.crop.camera.to_string();
                metrics::counter!("sightline_index_erased_arrivals_total", "camera" => camera).increment(1);
            }
        }
        Ok(Ok(erased))
    }

    /// Deletes the pictures of sightings that were not stored; an earlier picture of the same slot
    /// stays.
    fn delete_pictures(&self, ids: &[SightingId]) -> Result<(), String> {
        let known = self.retry("look-up", || self.sink.store.get(ids))?.map_err(|e| e.to_string())?;
        let gone: Vec<SightingId> = ids.iter().copied().filter(|id| known.iter().all(|r| r.id != *id)).collect();
        let kept: Vec<PictureKey> = known.iter().map(Record::key).collect();
        if !kept.is_empty() {
            self.retry("gallery", || self.sink.gallery.prune(&kept))?.map_err(|e| e.to_string())?;
        }
        if !gone.is_empty() {
            self.retry("gallery", || self.sink.gallery.delete(&gone))?.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// Retries `attempt` until it succeeds or fails permanently (the inner result). The outer error
    /// is the last failure before a shutdown.
    fn retry<T, E: Failure>(
        &self,
        what: &'static str,
        mut attempt: impl FnMut() -> Result<T, E>,
    ) -> Result<Result<T, E>, String> {
        let mut backoff = Backoff::new(self.options.backoff_first, self.options.backoff_last);
        let mut failed = false;
        loop {
            match attempt() {
                Ok(value) => {
                    if failed {
                        tracing::info!(what, "the index stores again");
                        self.sink.coverage.set_fault(None);
                        self.degraded(None);
                    }
                    return Ok(Ok(value));
                }
                Err(e) if e.is_permanent() => return Ok(Err(e)),
                Err(e) => {
                    failed = true;
                    metrics::counter!("sightline_index_retries_total", "step" => what).increment(1);
                    let pause = backoff.pause();
                    tracing::error!(what, error = %e, pause_s = pause.as_secs_f64(), "cannot store; trying again");
                    self.sink.coverage.set_fault(Some(format!("{what}: {e}")));
                    self.degraded(Some(e.is_disk_full()));
                    if !self.pause(pause) {
                        return Err(e.to_string());
                    }
                }
            }
        }
    }

    /// Records whether the index can store, and if not, whether the disk is full. The sightings
    /// that a full disk keeps out are counted once, however often they are tried; what waits behind
    /// them is dropped and counted where it comes from.
    fn degraded(&self, disk_full: Option<bool>) {
        for (cause, now) in [("disk_full", Some(true)), ("other", Some(false))] {
            let degraded = f64::from(u8::from(disk_full == now));
            metrics::gauge!("sightline_index_degraded", "cause" => cause).set(degraded);
        }
        let kept_out = if disk_full == Some(true) { self.not_kept_out.take() } else { 0 };
        metrics::counter!("sightline_index_disk_full_sightings_total").increment(kept_out);
    }

    /// Waits; returns `false` when a shutdown was triggered.
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

/// Keeps only the last of several pictures for one slot, with the latest end of them all.
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

fn count_stored(s: &Sighting, update: &mut CoverageUpdate) {
    *update.stored.entry(s.crop.camera.clone()).or_default() += 1;
    update.captured.push(s.crop.captured_at);
}

/// Updates the metrics of what has become searchable.
fn record_metrics(update: &CoverageUpdate) {
    for captured in &update.captured {
        metrics::histogram!("sightline_index_capture_to_searchable_seconds")
            .record(update.now.seconds_since(*captured).max(0.0));
    }
    for (camera, count) in &update.stored {
        metrics::counter!("sightline_index_sightings_total", "camera" => camera.to_string()).increment(*count);
    }
    for event in &update.events {
        match event {
            CoverageEvent::Progress(p) => {
                metrics::gauge!("sightline_index_lag_seconds", "camera" => p.camera.to_string())
                    .set(update.now.seconds_since(p.analysed_through))
            }
            CoverageEvent::Report(_) => metrics::counter!("sightline_index_reports_total").increment(1),
        }
    }
}
