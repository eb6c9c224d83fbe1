//! Errors of a camera node's calls. What goes wrong *with a camera* is not an error but a state
//! with a reason, see [`crate::CameraStatus`].

use sightline_core::CameraId;
use sightline_core::camera::UrlError;

/// Why a call was refused.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// GStreamer cannot be started.
    #[error("GStreamer does not start: {0}")]
    GStreamer(String),
    /// An element that every pipeline needs is not installed.
    #[error("GStreamer element {element} is missing: install {package}")]
    MissingElement {
        /// Name of the element.
        element: String,
        /// Debian package that holds it.
        package: &'static str,
    },
    /// The camera's address is not valid.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// A setting that this kind of camera cannot have, or that is out of range.
    #[error("camera {camera}: {reason}")]
    Setting {
        /// The camera.
        camera: CameraId,
        /// What is wrong and what would be valid.
        reason: String,
    },
    /// A camera with this id exists already.
    #[error("camera {0} exists already")]
    Duplicate(CameraId),
    /// There is no camera with this id.
    #[error("there is no camera {0}")]
    Unknown(CameraId),
    /// The node already runs `ingest.max_cameras` cameras.
    #[error("camera {camera} is refused: this node runs at most {max} cameras (ingest.max_cameras)")]
    OverCapacity {
        /// The refused camera.
        camera: CameraId,
        /// `ingest.max_cameras`.
        max: usize,
    },
    /// The node has been stopped.
    #[error("the camera node has been stopped")]
    Stopped,
    /// A thread could not be started.
    #[error("no thread for camera work: {0}")]
    Thread(#[from] std::io::Error),
}
