//! Late pictures of removed cameras that run in another process.
//!
//! An outbox and two topics lie between a node and the index, so pictures of a removed camera
//! arrive after the removal: usually for seconds, and for hours if the node was cut off. Index
//! workers refuse them by the tombstone of the erasure. What a worker of an earlier version stores
//! all the same is erased here, in two phases that begin when the erasure's job is done:
//!
//! 1. *begun*: the removal is published to the nodes again, and arrived pictures are erased every
//!    few seconds, until the camera has not reported for [`QUIET_S`] and nothing of it is stored;
//! 2. *watched*: late pictures are erased once a minute, for as long as the bus may keep a message.
//!
//! The watch ends early when the camera is wanted again: added through the API, or run again by a
//! node's own configuration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sightline_core::shutdown::Shutdown;
use sightline_core::{CameraId, Timestamp};
use sightline_search::{Index, Scope};

use super::jobs::camera_tombstone;
use crate::app::App;
use crate::cameras::{CameraControl, LastReport};
use crate::error::Error;
use crate::state::{Erasure, State};

/// Age of the last report in seconds after which the camera counts as stopped: nodes report every
/// two seconds, and a loaded pipeline delays a report for some more.
pub const QUIET_S: f64 = 30.0;

/// Interval between checks of erasures that have begun.
const ROUND_INTERVAL: Duration = Duration::from_secs(3);

/// Interval between checks of erasures that are watched.
const WATCH_INTERVAL: Duration = Duration::from_secs(60);

/// Processes all erasures until `shutdown`; run it as a task of its own. `keep` is the retention
/// time of messages on the bus.
pub async fn run(app: App, keep: Duration, shutdown: Shutdown) {
    let mut sweeper = Sweeper::new(app, keep);
    while !shutdown.is_triggered() {
        sweeper.round().await;
        tokio::select! {
            () = tokio::time::sleep(ROUND_INTERVAL) => {}
            () = shutdown.triggered() => return,
        }
    }
}

/// Task state that is kept between rounds.
pub struct Sweeper {
    app: App,
    keep: Duration,
    watched_at: BTreeMap<CameraId, Instant>,
}

impl Sweeper {
    /// Creates a sweeper; see [`run`].
    pub fn new(app: App, keep: Duration) -> Self {
        Self { app, keep, watched_at: BTreeMap::new() }
    }

    /// Processes every erasure once. A failed one is logged and retried in the next round.
    pub async fn round(&mut self) {
        let (Ok(index), Ok(control)) = (self.app.index().cloned(), self.app.control().cloned()) else { return };
        let read = self.app.state().run(|s| Ok((State::erasures(s)?, s.unfinished_erasures()?)));
        let (erasures, jobs) = match read.await {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(%error, "cannot read which erasures are under way");
                return;
            }
        };
        self.watched_at.retain(|camera, _| erasures.iter().any(|e| e.camera == *camera));
        if erasures.is_empty() {
            return;
        }
        let asked = Arc::clone(&control);
        let reports = tokio::task::spawn_blocking(move || asked.status()).await.unwrap_or_default();
        for erasure in erasures {
            if jobs.iter().any(|job| job.removes.as_ref() == Some(&erasure.camera)) {
                // The job that removes this camera counts what it erases.
                continue;
            }
            let last_report = reports.iter().find(|h| h.report.camera == erasure.camera);
            let camera = erasure.camera.clone();
            if let Err(error) = self.step(&index, &control, erasure, last_report).await {
                metrics::counter!("sightline_api_erasure_retries_total").increment(1);
                tracing::warn!(%camera, %error, "an erasure is not finished; trying again");
            }
        }
    }

    async fn step(
        &mut self,
        index: &Index,
        control: &Arc<dyn CameraControl>,
        erasure: Erasure,
        last_report: Option<&LastReport>,
    ) -> Result<(), Error> {
        let camera = erasure.camera;
        let Some(since) = erasure.watched_since else {
            let (steering, stopping) = (Arc::clone(control), camera.clone());
            let removal = tokio::task::spawn_blocking(move || steering.remove(&stopping));
            // Stored pictures are erased even while the nodes cannot be reached.
            let stored = erase(index, &camera).await?;
            removal.await.map_err(|e| Error::Internal(e.to_string()))??;
            if !stored && last_report.is_none_or(|h| h.age_s >= QUIET_S) {
                tracing::info!(%camera, "nothing of the removed camera arrives any more");
                self.app.state().run(move |s| s.watch_erasure(&camera)).await?;
            }
            return Ok(());
        };
        let now = Timestamp::now();
        // A report written after all messages in flight had arrived: a node runs the camera again.
        let again = last_report.is_some_and(|h| h.age_s < QUIET_S && h.report.at > since + Duration::from_secs(60));
        if again || now.seconds_since(since) > self.keep.as_secs_f64() {
            tracing::info!(%camera, again, "the erasure is over");
            if again {
                // The node's own configuration is not known here. Footage from before the erasure
                // is a recording that the node plays.
                let recording =
                    index.coverage().get(&camera).and_then(|c| c.searchable_through).is_some_and(|t| t < since);
                index.admit(camera.clone(), (!recording).then_some(since)).await?;
            }
            self.app.state().run(move |s| s.finish_erasure(&camera)).await?;
            return Ok(());
        }
        if self.watched_at.get(&camera).is_none_or(|at| at.elapsed() >= WATCH_INTERVAL) {
            erase(index, &camera).await?;
            self.watched_at.insert(camera, Instant::now());
        }
        Ok(())
    }
}

/// Erases everything stored of a camera; returns whether there was anything.
async fn erase(index: &Index, camera: &CameraId) -> Result<bool, Error> {
    // A late report alone re-creates the camera's coverage entry.
    index.forget_coverage(camera.clone()).await;
    if !index.holds(camera.clone()).await? {
        return Ok(false);
    }
    let scopes = vec![Scope::camera(camera.clone())];
    let erased = index.erase(camera_tombstone(camera), scopes, Shutdown::new(), |_| ()).await?;
    metrics::counter!("sightline_api_late_erased_sightings_total").increment(erased.points);
    tracing::info!(%camera, sightings = erased.points, files = erased.files, "erased what came late of a removed camera");
    Ok(true)
}
