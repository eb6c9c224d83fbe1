//! Cameras: GStreamer pipelines, their supervision, and the path from a decoded picture to a crop
//! event.
//!
//! ```text
//! source -> decode -> sample (analysed rate) -> convert, scale -> copy -> Frame
//!        --(queue of 2: drop oldest when live, wait for files)-->
//!        detect + track + best shots -> CameraEvent -> Outlet
//! ```
//!
//! One [`CameraNode`] runs many cameras. Each has threads of its own (supervision, analysis,
//! GStreamer's), so a camera that hangs, floods or fails affects none of the others. They share the
//! pool of detectors and the [`Outlet`] of events: a queue to the next stage, or a [`Publisher`]
//! that sends them to a broker by way of the disk.

mod analysis;
mod camera;
mod clock;
mod connection;
mod error;
mod frame_sink;
mod node;
mod outbox;
mod outlet;
mod pipeline;
mod pool;
mod reason;
mod report;
mod roster;
mod sample;
mod sampler;
mod scale;
mod spec;
mod status;

pub use camera::{Camera, Captured};
pub use clock::ClockSource;
pub use error::IngestError;
pub use node::{CameraNode, NodeConfig};
#[cfg(feature = "kafka")]
pub use outbox::KafkaCarrier;
pub use outbox::{Carrier, DeliveryCallback, DeliveryError, OutboxError, PlacementFence, Publisher, PublisherError};
pub use outlet::{Outlet, SendError};
pub use report::REPORT_EVERY;
pub use roster::Roster;
pub use sample::{SampleError, copy_rgb};
pub use sampler::Sampler;
pub use spec::CameraSpec;
pub use status::CameraStatus;
