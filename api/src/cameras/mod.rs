//! Cameras as the API sees them: what runs them ([`CameraControl`]), what it says of them ([`Heard`]), and what an
//! operator is shown ([`CameraView`]).

mod mask;
mod view;

use sightline_core::config::CameraConfig;
use sightline_core::{CameraId, NodeReport};

pub use mask::mask;
pub use view::{CameraState, CameraView, LAG_LIMIT_S, SILENCE_LIMIT_S, view};

use crate::error::Error;
use crate::state::CameraSource;

/// The newest report of a camera, and how long ago it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// What the node said.
    pub report: NodeReport,
    /// Seconds for which nothing newer has been heard of this camera although it could have been: while the place where
    /// reports are read is away itself, this does not grow.
    pub silent_s: f64,
}

impl From<NodeReport> for Heard {
    /// Just heard.
    fn from(report: NodeReport) -> Self {
        Self { report, silent_s: 0.0 }
    }
}

/// Why a camera is not started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum CameraRefused {
    /// The address or a setting cannot work.
    #[error("{0}")]
    Invalid(String),
    /// It is there already, there is no room for one more, or it is not ours to stop.
    #[error("{0}")]
    Conflict(String),
    /// The node (or the way to it) is stopping or broken.
    #[error("{0}")]
    Down(String),
    /// This process cannot steer cameras at all.
    #[error("{0}")]
    Unsupported(&'static str),
}

impl From<CameraRefused> for Error {
    fn from(refused: CameraRefused) -> Self {
        match refused {
            CameraRefused::Invalid(why) => Self::Invalid(why),
            CameraRefused::Conflict(why) => Self::Conflict(why),
            CameraRefused::Down(why) => Self::Unavailable { part: "the camera node", why },
            CameraRefused::Unsupported(why) => Self::NotSupported(why),
        }
    }
}

/// The camera nodes, as far as the API steers them. Calls may block for a short while.
pub trait CameraControl: Send + Sync {
    /// Starts a camera.
    ///
    /// # Errors
    /// Why it cannot be started.
    fn add(&self, camera: CameraConfig) -> Result<(), CameraRefused>;

    /// Whether [`CameraControl::remove`] could stop this camera: asked before anything is erased.
    ///
    /// # Errors
    /// Why not.
    fn removable(&self, camera: &CameraId) -> Result<(), CameraRefused> {
        let _ = camera;
        Ok(())
    }

    /// Stops a camera; nothing happens when it is not running.
    ///
    /// # Errors
    /// Why it may be running still.
    fn remove(&self, camera: &CameraId) -> Result<(), CameraRefused>;

    /// What every camera does.
    fn status(&self) -> Vec<Heard>;

    /// Cameras that this process's own database does not list: those of other processes.
    fn elsewhere(&self) -> Vec<(CameraConfig, CameraSource)> {
        Vec::new()
    }

    /// Cameras run in other processes: they are remembered there and not in this process's database, and pictures of a
    /// removed one may come late (a node that was cut off hears of the removal, and sends what it has, hours after).
    fn remote(&self) -> bool {
        false
    }

    /// What keeps cameras from being seen or steered just now. Searches are answered all the same.
    fn fault(&self) -> Option<String> {
        None
    }
}
