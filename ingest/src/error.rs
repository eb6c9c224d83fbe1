//! Why a camera node refuses something. What goes wrong *with a camera* is no error but a state with a reason, see
//! [`crate::CameraStatus`].

use sightline_core::CameraId;

use crate::UrlError;

/// A refused call.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// GStreamer itself does not start.
    #[error("GStreamer does not start: {0}")]
    GStreamer(String),
    /// An element every pipeline needs is not installed.
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
    /// A setting that this kind of camera cannot have, or out of range.
    #[error("camera {camera}: {reason}")]
    Setting {
        /// The camera.
        camera: CameraId,
        /// What is wrong and what would be valid.
        reason: String,
    },
    /// There is a camera of this id already.
    #[error("camera {0} exists already")]
    Duplicate(CameraId),
    /// There is no camera of this id.
    #[error("there is no camera {0}")]
    Unknown(CameraId),
    /// The node runs as many cameras as it may.
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
