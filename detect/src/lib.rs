//! From frames to crops: the person detector, the tracker, and the selection of the best shots of
//! every track. Pure Rust: no GStreamer, no system library, no server.

pub mod analyzer;
pub mod conv;
pub mod convert;
pub mod detection;
pub mod draw;
pub mod nanodet;
pub mod shots;
pub mod track;

pub use analyzer::{ActiveTrack, CameraAnalyzer};
pub use detection::{DetectError, Detection, Detector};
pub use draw::draw;
pub use nanodet::NanoDet;
