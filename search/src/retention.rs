//! Retention: deletes expired sightings in small batches beside the indexing.
//!
//! Pictures are deleted before their vectors: a crash in between leaves points, which the next run
//! finds and deletes, and never pictures that nothing refers to. Several workers may run it
//! concurrently; each finds only what the others have not deleted.
//!
//! Deleting point by point costs about as much as inserting did, and the server compacts its
//! segments afterwards. That suffices up to some ten million sightings a day. Beyond, the plan is
//! sharding by time: a collection with `sharding_method: custom`, one shard key per day
//! (`2026-05-01`) created ahead of its first point; upserts and spans with the key of the track's
//! birth (so that a track never lies in two shards); searches with the keys of the requested time
//! only; and retention that deletes the oldest key, which removes a folder and touches no point.
//! The filter on the capture time stays in the query; the keys only reduce the shards that it
//! searches. A lifecycle rule of the bucket then expires pictures in object storage.

use std::time::Duration;

use rand::Rng;
use sightline_core::shutdown::Shutdown;
use sightline_core::{SightingId, Timestamp};

use crate::erase::{EraseError, Receipt};
use crate::gallery::Gallery;
use crate::store::{Filter, VectorStore};

/// Sightings deleted in one batch.
const BATCH: usize = 500;

/// Pause after each batch: searches and the indexer take precedence.
const BATCH_PAUSE: Duration = Duration::from_millis(100);

/// Interval between two checks for expired sightings.
const INTERVAL: Duration = Duration::from_secs(3600);

/// Deletes everything captured before `before`, until nothing of it is left or `shutdown`. Durable
/// when it returns.
///
/// # Errors
/// When a part fails; the next call finds what is left.
pub fn expire(
    store: &dyn VectorStore,
    gallery: &dyn Gallery,
    before: Timestamp,
    shutdown: &Shutdown,
) -> Result<Receipt, EraseError> {
    let filter = Filter { to: Some(before - Duration::from_micros(1)), ..Filter::default() };
    let mut receipt = Receipt::default();
    let mut delete = |ids: Vec<SightingId>| -> Result<(), EraseError> {
        let files = gallery.delete(&ids)?;
        // The filter repeats the time: a better picture for the same slot may have arrived in
        // between.
        let points = store.delete(&Filter { ids: Some(ids), ..filter.clone() })?;
        store.flush()?;
        receipt.points += points;
        receipt.files += files;
        metrics::counter!("sightline_index_expired_sightings_total").increment(points);
        metrics::counter!("sightline_index_expired_files_total").increment(files);
        pause(BATCH_PAUSE, shutdown);
        Ok(())
    };
    while !shutdown.is_triggered() {
        let ids: Vec<SightingId> = store.newest(&filter, BATCH)?.into_iter().map(|r| r.id).collect();
        if ids.is_empty() {
            // Sightings that only other models' indexes hold, see [`crate::AllModels`].
            let others = store.ids(&filter)?;
            others.chunks(BATCH).take_while(|_| !shutdown.is_triggered()).try_for_each(|ids| delete(ids.to_vec()))?;
            break;
        }
        delete(ids)?;
    }
    Ok(receipt)
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
