//! Cameras as the API sees them: [`CameraControl`] runs them, [`LastReport`] is the last report of
//! a camera and its age, [`CameraView`] is what an operator sees.

mod view;

use sightline_core::config::CameraConfig;
use sightline_core::{CameraId, NodeReport};

pub use view::{CameraView, LAG_LIMIT_S, REPORT_TIMEOUT_S, view};

use crate::error::Error;
use crate::state::CameraSource;

/// Last report of a camera, with its age.
#[derive(Clone, Debug, PartialEq)]
pub struct LastReport {
    /// State and counts, as the node last sent them.
    pub report: NodeReport,
    /// Age of the report in seconds. It does not grow while the place that reports are read from is
    /// unreachable, since no newer report could arrive then.
    pub age_s: f64,
}

impl From<NodeReport> for LastReport {
    /// A report that has just arrived: age 0.
    fn from(report: NodeReport) -> Self {
        Self { report, age_s: 0.0 }
    }
}

/// Reason why a camera was not started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum CameraRefused {
    /// The address or a setting is invalid.
    #[error("{0}")]
    Invalid(String),
    /// The camera exists already, the node has no capacity left, or the camera cannot be stopped
    /// from here.
    #[error("{0}")]
    Conflict(String),
    /// The node, or the connection to it, is stopping or broken.
    #[error("{0}")]
    Down(String),
    /// This process cannot control cameras.
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

/// Control of the camera nodes. Calls may block for a short time.
pub trait CameraControl: Send + Sync {
    /// Starts a camera.
    ///
    /// # Errors
    /// The reason why the camera cannot be started.
    fn add(&self, camera: CameraConfig) -> Result<(), CameraRefused>;

    /// Checks whether [`CameraControl::remove`] could stop this camera; called before anything is
    /// erased.
    ///
    /// # Errors
    /// The reason why it could not.
    fn removable(&self, camera: &CameraId) -> Result<(), CameraRefused> {
        let _ = camera;
        Ok(())
    }

    /// Stops a camera; does nothing when it is not running.
    ///
    /// # Errors
    /// The reason why the camera may still run.
    fn remove(&self, camera: &CameraId) -> Result<(), CameraRefused>;

    /// Returns the last report of every camera.
    fn status(&self) -> Vec<LastReport>;

    /// Returns cameras that this process's database does not list: those of other processes.
    fn remote_cameras(&self) -> Vec<(CameraConfig, CameraSource)> {
        Vec::new()
    }

    /// Whether cameras run in other processes. Such cameras are stored there and not in this
    /// process's database, and pictures of a removed camera may arrive late: a node that was cut
    /// off learns of the removal, and sends its outbox, hours later.
    fn remote(&self) -> bool {
        false
    }

    /// Reason why cameras cannot be seen or controlled at the moment. Searches are still answered.
    fn fault(&self) -> Option<String> {
        None
    }
}
