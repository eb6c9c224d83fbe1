//! Cameras: GStreamer pipelines, their supervision, and the path from a decoded picture to a crop
//! event.
//!
//! ```text
//! source/    decode -> sample (analysed rate) -> convert, scale -> copy -> Frame
//!            --(queue of 2: drop oldest when live, wait for files)-->
//! analysis/  detect + track + best shots -> CameraEvent -> Outlet
//! outbox/    disk -> broker (an Outlet; in one process the Outlet is a queue to the next stage)
//! ```
//!
//! `source/` and `analysis/` exist once per camera, with threads of their own (supervision, analysis,
//! GStreamer's), so a camera that hangs, floods or fails affects none of the others. `node/` owns all
//! cameras of a process: a [`CameraNode`] runs them with one pool of detectors and one [`Outlet`],
//! and a [`Roster`] also keeps those that the node refused. The outlet is a queue to the next stage,
//! or a [`Publisher`] that sends events to a broker by way of the disk.

mod analysis;
mod error;
mod node;
mod outbox;
mod outlet;
mod source;

pub use error::IngestError;
pub use node::{CameraNode, CameraStatus, NodeConfig, REPORT_EVERY, Roster};
#[cfg(feature = "kafka")]
pub use outbox::KafkaCarrier;
pub use outbox::{Carrier, DeliveryCallback, DeliveryError, OutboxError, PlacementFence, Publisher, PublisherError};
pub use outlet::{Outlet, SendError};
pub use source::{Camera, CameraSpec, Captured, ClockSource, SampleError, Sampler, copy_rgb};
