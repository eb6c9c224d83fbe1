//! The camera node behind the API's trait. A camera the node refuses at start (a bad address in the configuration, say)
//! is shown as failed with the reason; it stops neither the start nor the other cameras.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sightline_api::cameras::{CameraControl, CameraRefused, Heard};
use sightline_core::config::CameraConfig;
use sightline_core::message::Origin;
use sightline_core::{CameraId, NodeReport, NodeState, Timestamp};
use sightline_ingest::{CameraNode, CameraState, IngestError};

/// The name of this process in its messages.
pub const PRODUCER: &str = "sightline";

/// See the module.
pub struct LocalNode {
    node: Arc<CameraNode>,
    refused: Mutex<BTreeMap<CameraId, NodeReport>>,
}

impl LocalNode {
    /// Steers `node`.
    pub fn new(node: Arc<CameraNode>) -> Self {
        Self { node, refused: Mutex::default() }
    }

    fn refused(&self) -> MutexGuard<'_, BTreeMap<CameraId, NodeReport>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a camera that is known already; a refusal becomes its state.
    pub fn start(&self, camera: CameraConfig) {
        let id = camera.id.clone();
        if let Err(e) = self.node.add(camera) {
            tracing::warn!(camera = %id, error = %e, "camera not started");
            let status = NodeReport {
                origin: Origin::of_camera(PRODUCER, 0, &id),
                camera: id.clone(),
                at: Timestamp::now(),
                state: NodeState::Failed,
                reason: Some(e.to_string()),
                since: Timestamp::now(),
                connection: 0,
                frames_decoded: 0,
                frames_analysed: 0,
                frames_dropped: 0,
                crops: 0,
                crops_dropped: 0,
                retry_in_s: None,
                spooled_bytes: 0,
            };
            self.refused().insert(id, status);
        }
    }
}

impl CameraControl for LocalNode {
    fn add(&self, camera: CameraConfig) -> Result<(), CameraRefused> {
        let id = camera.id.clone();
        self.node.add(camera).map_err(|e| match e {
            IngestError::Url(_) | IngestError::Setting { .. } => CameraRefused::Invalid(e.to_string()),
            IngestError::Duplicate(_) | IngestError::OverCapacity { .. } => CameraRefused::Conflict(e.to_string()),
            e => CameraRefused::Down(e.to_string()),
        })?;
        self.refused().remove(&id);
        Ok(())
    }

    fn remove(&self, camera: &CameraId) -> Result<(), CameraRefused> {
        self.refused().remove(camera);
        match self.node.remove(camera) {
            Ok(()) | Err(IngestError::Unknown(_)) => {}
            Err(e) => tracing::warn!(%camera, error = %e, "camera not stopped cleanly"),
        }
        Ok(())
    }

    fn status(&self) -> Vec<Heard> {
        let at = Timestamp::now();
        let running = self.node.status().into_iter().map(|s| NodeReport {
            origin: Origin::of_camera(PRODUCER, 0, &s.camera),
            camera: s.camera,
            at,
            state: match s.state {
                CameraState::Connecting => NodeState::Connecting,
                CameraState::Decoding => NodeState::Decoding,
                CameraState::Retrying => NodeState::Retrying,
                CameraState::Failed => NodeState::Failed,
                CameraState::Ended => NodeState::Ended,
            },
            reason: s.reason,
            since: s.since,
            connection: s.connection,
            frames_decoded: s.frames_decoded,
            frames_analysed: s.frames_analysed,
            frames_dropped: s.frames_dropped,
            crops: s.crops,
            crops_dropped: s.crops_dropped,
            retry_in_s: s.retry_in_s,
            spooled_bytes: 0,
        });
        running.chain(self.refused().values().cloned()).map(Heard::from).collect()
    }
}
