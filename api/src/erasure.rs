//! Erasures that cannot be finished on the spot, because the camera runs in another process.
//!
//! Between a node and the index lie its spool and two topics, so pictures of a removed camera arrive after the removal:
//! for seconds as a rule, hours after where a node was cut off. Every such erasure goes through two phases:
//!
//! 1. *begun*: the removal is told to the nodes (again, when that failed), and what arrived is erased every few seconds,
//!    until nothing has been heard of the camera for [`QUIET_S`] and nothing of it is stored;
//! 2. *watched*: once a minute, for as long as the bus may hold a message, what came late is erased.
//!
//! It ends early when the camera is wanted again: added through the API, or run again by a node's own configuration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sightline_core::shutdown::Shutdown;
use sightline_core::{CameraId, Timestamp};

use crate::app::App;
use crate::cameras::{CameraControl, Heard};
use crate::engine::Engine;
use crate::error::Error;
use crate::state::{Erasure, State};

/// Seconds without a word after which a camera's node has stopped it: nodes report every two seconds, and a busy line
/// holds a report back for some more.
pub const QUIET_S: f64 = 30.0;

/// Pause between looks at erasures that have begun.
const ROUND: Duration = Duration::from_secs(3);

/// Pause between looks at erasures that are watched.
const WATCH: Duration = Duration::from_secs(60);

/// Takes care of all erasures until `shutdown`: a task of its own. `keep` is how long messages may lie on the bus.
pub async fn run(app: App, keep: Duration, shutdown: Shutdown) {
    let mut sweeper = Sweeper::new(app, keep);
    while !shutdown.is_triggered() {
        sweeper.round().await;
        tokio::select! {
            () = tokio::time::sleep(ROUND) => {}
            () = shutdown.triggered() => return,
        }
    }
}

/// What has to be remembered between rounds.
pub struct Sweeper {
    app: App,
    keep: Duration,
    looked: BTreeMap<CameraId, Instant>,
}

impl Sweeper {
    /// See [`run`].
    pub fn new(app: App, keep: Duration) -> Self {
        Self { app, keep, looked: BTreeMap::new() }
    }

    /// Looks at every erasure once. What fails is logged and tried again in the next round.
    pub async fn round(&mut self) {
        let (Ok(engine), Ok(control)) = (self.app.engine().cloned(), self.app.control().cloned()) else { return };
        let erasures = match self.app.state().run(State::erasures).await {
            Ok(erasures) => erasures,
            Err(error) => {
                tracing::warn!(%error, "cannot read which erasures are under way");
                return;
            }
        };
        self.looked.retain(|camera, _| erasures.iter().any(|e| e.camera == *camera));
        if erasures.is_empty() {
            return;
        }
        let asked = Arc::clone(&control);
        let heard = tokio::task::spawn_blocking(move || asked.status()).await.unwrap_or_default();
        for erasure in erasures {
            if self.app.is_removing(&erasure.camera) {
                // The request that removes it waits for what is on its way, and counts what it erases.
                continue;
            }
            let heard = heard.iter().find(|h| h.report.camera == erasure.camera);
            let camera = erasure.camera.clone();
            if let Err(error) = self.look(&engine, &control, erasure, heard).await {
                metrics::counter!("sightline_api_erasure_retries_total").increment(1);
                tracing::warn!(%camera, %error, "an erasure is not finished; trying again");
            }
        }
    }

    async fn look(
        &mut self,
        engine: &Arc<dyn Engine>,
        control: &Arc<dyn CameraControl>,
        erasure: Erasure,
        heard: Option<&Heard>,
    ) -> Result<(), Error> {
        let camera = erasure.camera;
        let Some(since) = erasure.watched_since else {
            let (steering, stopping) = (Arc::clone(control), camera.clone());
            let told = tokio::task::spawn_blocking(move || steering.remove(&stopping));
            // What is there goes even while the nodes cannot be told.
            let stored = erase(engine, &camera).await?;
            told.await.map_err(|e| Error::Internal(e.to_string()))??;
            if !stored && heard.is_none_or(|h| h.silent_s >= QUIET_S) {
                tracing::info!(%camera, "nothing of the removed camera arrives any more");
                self.app.state().run(move |s| s.watch_erasure(&camera)).await?;
            }
            return Ok(());
        };
        let now = Timestamp::now();
        // Written after everything that was on its way had passed: somebody runs the camera again.
        let again = heard.is_some_and(|h| h.silent_s < QUIET_S && h.report.at > since + Duration::from_secs(60));
        if again || now.seconds_since(since) > self.keep.as_secs_f64() {
            tracing::info!(%camera, again, "the erasure is over");
            self.app.state().run(move |s| s.finish_erasure(&camera)).await?;
            return Ok(());
        }
        if self.looked.get(&camera).is_none_or(|at| at.elapsed() >= WATCH) {
            erase(engine, &camera).await?;
            self.looked.insert(camera, Instant::now());
        }
        Ok(())
    }
}

/// Erases what there is of a camera; whether there was anything.
async fn erase(engine: &Arc<dyn Engine>, camera: &CameraId) -> Result<bool, Error> {
    // A late report alone brings the camera's entry in the coverage back.
    engine.restart_camera(camera).await;
    if !engine.holds(camera.clone()).await? {
        return Ok(false);
    }
    let erased = engine.erase_camera(camera.clone()).await?;
    metrics::counter!("sightline_api_late_erased_sightings_total").increment(erased.sightings);
    tracing::info!(%camera, sightings = erased.sightings, files = erased.files, "erased what came late of a removed camera");
    Ok(true)
}
