//! From frames to crops: the person detector, the tracker and the choice of the best shots of every track.
//! Pure Rust: no GStreamer, no system library, no server.

pub mod analyzer;
pub mod detection;
pub mod shots;
pub mod track;

pub use analyzer::{ActiveTrack, CameraAnalyzer};
pub use detection::{DetectError, Detection, Detector};
