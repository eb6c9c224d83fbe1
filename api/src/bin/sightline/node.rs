//! [`CameraControl`] over the camera node of this process. A camera that the node refuses at the
//! start (invalid address in the configuration, or no capacity) has the state failed with the
//! reason and is retried when there may be capacity; it stops neither the start nor the other
//! cameras.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sightline_api::cameras::{CameraControl, CameraRefused, LastReport};
use sightline_core::CameraId;
use sightline_core::camera::AllowedSources;
use sightline_core::config::CameraConfig;
use sightline_core::message::Origin;
use sightline_core::shutdown::Shutdown;
use sightline_ingest::{CameraNode, IngestError, REPORT_EVERY, Roster};

/// Producer name of this process in its messages.
pub const PRODUCER: &str = "sightline";

/// Cameras of this process, including those that the node refused.
pub struct LocalNode {
    node: Arc<CameraNode>,
    roster: Mutex<Roster>,
    allowed: AllowedSources,
}

impl LocalNode {
    /// Creates the control of `node`; only `allowed` cameras are added at run time.
    pub fn new(node: Arc<CameraNode>, allowed: AllowedSources) -> Self {
        let roster = Mutex::new(Roster::new(Arc::clone(&node), Vec::new()));
        Self { node, roster, allowed }
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a known camera; a refusal becomes the camera's state.
    pub fn start(&self, camera: CameraConfig) {
        self.roster().run(camera);
    }

    /// Retries refused cameras until `shutdown`; run it as a task of its own.
    pub async fn retry_refused(self: Arc<Self>, shutdown: Shutdown) {
        while !shutdown.is_triggered() {
            tokio::time::sleep(REPORT_EVERY).await;
            let node = Arc::clone(&self);
            if tokio::task::spawn_blocking(move || node.roster().retry_refused()).await.is_err() {
                tracing::error!("trying refused cameras again panicked");
            }
        }
    }
}

impl CameraControl for LocalNode {
    fn add(&self, camera: CameraConfig) -> Result<(), CameraRefused> {
        self.allowed.check(&camera.url).map_err(|e| CameraRefused::Invalid(e.to_string()))?;
        self.roster().try_run(camera).map_err(|e| match e {
            IngestError::Url(_) | IngestError::Setting { .. } => CameraRefused::Invalid(e.to_string()),
            IngestError::Duplicate(_) | IngestError::OverCapacity { .. } => CameraRefused::Conflict(e.to_string()),
            e => CameraRefused::Down(e.to_string()),
        })
    }

    fn remove(&self, camera: &CameraId) -> Result<(), CameraRefused> {
        // Stopping a camera takes up to two seconds; status requests must not wait for it.
        if self.roster().forget(camera)
            && let Err(e) = self.node.remove(camera)
        {
            tracing::warn!(%camera, error = %e, "camera not stopped cleanly");
        }
        Ok(())
    }

    fn status(&self) -> Vec<LastReport> {
        let running = self.node.status().into_iter().map(|status| {
            let origin = Origin::of_camera(PRODUCER, 0, &status.camera);
            status.report(origin, 0)
        });
        running.chain(self.roster().refused_reports(PRODUCER)).map(LastReport::from).collect()
    }
}
