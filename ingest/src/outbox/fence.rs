//! The fence between this node and others that may run the same camera: it decides which records of
//! placed cameras may be sent.

use sightline_bus::placement::Verdict;
use sightline_core::{CameraId, Timestamp};

/// What the placement knows about the records of this node.
pub trait PlacementFence: Send + Sync {
    /// The epoch in which this node took the camera; `None` for a camera of its own, which nobody
    /// else runs.
    fn epoch(&self, camera: &CameraId) -> Option<i64>;

    /// Whether a record of the camera, written in `epoch` at the time `recorded_at`, may be sent.
    fn verdict(&self, camera: &CameraId, epoch: i64, recorded_at: Timestamp) -> Verdict;
}

#[cfg(feature = "kafka")]
impl PlacementFence for sightline_bus::CameraPlacement {
    fn epoch(&self, camera: &CameraId) -> Option<i64> {
        Self::epoch(self, camera)
    }

    fn verdict(&self, camera: &CameraId, epoch: i64, recorded_at: Timestamp) -> Verdict {
        Self::verdict(self, camera, epoch, recorded_at)
    }
}
