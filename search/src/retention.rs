//! Retention: deletes expired sightings in small batches beside the indexing.
//!
//! Pictures are deleted before their vectors: a crash in between leaves points, which the next run
//! finds and deletes, and never pictures that nothing refers to. Several workers may run it
//! concurrently; each finds only what the others have not deleted. The indexes of other models are
//! covered as well: a former model's would otherwise show expired people when one goes back to it.
//!
//! Deleting point by point costs about as much as inserting did, and the server compacts its
//! segments afterwards. That suffices up to some ten million sightings a day. Beyond, the plan is
//! sharding by time: a collection with `sharding_method: custom`, one shard key per day
//! (`2026-05-01`) created ahead of its first point; upserts and spans with the key of the track's
//! birth (so that a track never lies in two shards); searches with the keys of the requested time
//! only; and retention that deletes the oldest key, which removes a folder and touches no point.
//! The filter on the capture time stays in the query; the keys only reduce the shards that it
//! searches. A lifecycle rule of the bucket then expires pictures in object storage.

use std::collections::HashMap;
use std::time::Duration;

use rand::Rng;
use sightline_core::shutdown::Shutdown;
use sightline_core::{SightingId, Timestamp};

use crate::erase::{EraseError, Receipt};
use crate::gallery::Gallery;
use crate::picture::PictureKey;
use crate::store::{Filter, VectorStore};

/// Sightings deleted in one batch.
const BATCH: usize = 500;

/// Pause after each batch: searches and the indexer take precedence.
const BATCH_PAUSE: Duration = Duration::from_millis(100);

/// Interval between two checks for expired sightings.
const INTERVAL: Duration = Duration::from_secs(3600);

/// Deletes everything captured before `before` from this model's index and those of all others,
/// until nothing of it is left or `shutdown`. Durable when it returns.
///
/// # Errors
/// When a part fails; the next call finds what is left.
pub fn expire(
    store: &dyn VectorStore,
    gallery: &dyn Gallery,
    before: Timestamp,
    shutdown: &Shutdown,
) -> Result<Receipt, EraseError> {
    let beside = store.beside()?;
    let indexes = std::iter::once(store).chain(beside.iter().map(|index| &**index)).collect();
    let mut run = Expiry { indexes, gallery, before, shutdown, receipt: Receipt::default() };
    let last = before - Duration::from_micros(1);
    let expired = Filter { to: Some(last), ..Filter::default() };
    for index in run.indexes.clone() {
        run.each_page(index, &expired, |run, ids| run.delete(&expired, ids))?;
    }
    // Of a track that is in view across the moment, a replaced picture may be older than the
    // present one.
    let across = Filter { from: Some(before), seen_to: Some(last), ..Filter::default() };
    run.each_page(store, &across, |run, ids| {
        run.receipt.files += gallery.delete_replaced(&ids)?;
        Ok(())
    })?;
    Ok(run.receipt)
}

/// One pass of the retention.
struct Expiry<'a> {
    /// The index that answers, then those of other models.
    indexes: Vec<&'a dyn VectorStore>,
    gallery: &'a dyn Gallery,
    before: Timestamp,
    shutdown: &'a Shutdown,
    receipt: Receipt,
}

impl<'a> Expiry<'a> {
    /// Calls `work` with the ids that match, page by page, with pauses, until the shutdown.
    fn each_page(
        &mut self,
        index: &'a dyn VectorStore,
        filter: &Filter,
        mut work: impl FnMut(&mut Self, Vec<SightingId>) -> Result<(), EraseError>,
    ) -> Result<(), EraseError> {
        let mut after = None;
        while !self.shutdown.is_triggered() {
            let ids = index.scroll(filter, after, BATCH)?;
            let Some(last) = ids.last() else { return Ok(()) };
            after = Some(*last);
            work(self, ids)?;
            pause(BATCH_PAUSE, self.shutdown);
        }
        Ok(())
    }

    /// Deletes the pictures of a page, then its points.
    fn delete(&mut self, expired: &Filter, ids: Vec<SightingId>) -> Result<(), EraseError> {
        // A later picture of the same slot, which another model's index does not have, stays.
        let mut kept: HashMap<SightingId, PictureKey> = HashMap::new();
        for index in &self.indexes {
            let young = index.get(&ids)?.into_iter().filter(|r| r.payload.captured_at >= self.before);
            kept.extend(young.map(|r| (r.id, r.key())));
        }
        let (young, old): (Vec<_>, Vec<_>) = ids.iter().copied().partition(|id| kept.contains_key(id));
        let mut files = self.gallery.delete(&old)?;
        if !young.is_empty() {
            files += self.gallery.prune(&kept.into_values().collect::<Vec<_>>())?;
            files += self.gallery.delete_replaced(&young)?;
        }
        for index in &self.indexes {
            // The filter repeats the time: a better picture for the same slot may have arrived in
            // between.
            let points = index.delete(&Filter { ids: Some(ids.clone()), ..expired.clone() })?;
            index.flush()?;
            *self.receipt.by_model.entry(index.model_id().to_owned()).or_default() += points;
        }
        self.receipt.points += old.len() as u64;
        self.receipt.files += files;
        metrics::counter!("sightline_index_expired_sightings_total").increment(old.len() as u64);
        metrics::counter!("sightline_index_expired_files_total").increment(files);
        Ok(())
    }
}

/// Runs [`expire`] every hour for sightings older than `keep`, if given, and deletes what has been in
/// the gallery's quarantine for its days and among the replaced pictures for its hour, until
/// `shutdown`. Blocks: run it on a thread of its own.
pub fn run(store: &dyn VectorStore, gallery: &dyn Gallery, keep: Option<Duration>, shutdown: &Shutdown) {
    while !shutdown.is_triggered() {
        if let Err(error) = gallery.expire_replaced(Timestamp::now()) {
            tracing::error!(%error, "cannot delete replaced pictures; trying again in an hour");
        }
        match gallery.expire_quarantine(Timestamp::now()) {
            Ok(0) => {}
            Ok(days) => tracing::info!(days, "deleted what was in quarantine for its time"),
            Err(error) => tracing::error!(%error, "cannot empty the quarantine; trying again in an hour"),
        }
        if let Some(keep) = keep {
            run_once(store, gallery, keep, shutdown);
        }
        // Jitter: workers that start together do not all run at the same moment.
        pause(INTERVAL.mul_f64(rand::rng().random_range(0.8..1.2)), shutdown);
    }
}

fn run_once(store: &dyn VectorStore, gallery: &dyn Gallery, keep: Duration, shutdown: &Shutdown) {
    match expire(store, gallery, Timestamp::now() - keep, shutdown) {
        Ok(Receipt { points: 0, .. }) => {}
        Ok(Receipt { points, files, .. }) => {
            tracing::info!(points, files, days = keep.as_secs_f64() / 86_400.0, "deleted what was too old");
        }
        Err(error) => {
            metrics::counter!("sightline_index_expire_errors_total").increment(1);
            tracing::error!(%error, "cannot delete what is too old; trying again in an hour");
        }
    }
}

fn pause(how_long: Duration, shutdown: &Shutdown) {
    let end = std::time::Instant::now() + how_long;
    while !shutdown.is_triggered() {
        let left = end.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(Duration::from_millis(200)));
    }
}
