//! What every room of Sightline shares: identifiers, time, geometry, images, the messages that cross a process, queues
//! with a stated overflow rule, configuration, telemetry and shutdown. No system library, no server, no model.
//!
//! The way of the data, with queue capacities:
//!
//! ```text
//! camera -> Frame --(2, drop oldest)--> detect + track -> Crop --(8, drop oldest, counted)--> embed (batch B, linger T)
//!        -> Sighting --(block)--> index: gallery, vector store, flush, ack
//! ```

#[cfg(feature = "kafka")]
pub mod bus;
pub mod config;
pub mod delivery;
pub mod frame;
pub mod geometry;
pub mod ids;
pub mod message;
pub mod queue;
#[cfg(feature = "service")]
pub mod service;
pub mod shutdown;
pub mod spool;
pub mod telemetry;
pub mod time;
pub mod wire;

pub use config::Config;
pub use delivery::{Delivery, Forget, Receipt, Refused};
pub use frame::{Frame, RgbImage};
pub use geometry::BBox;
pub use ids::{CameraId, SightingId, TrackId};
pub use message::{
    CameraEvent, Crop, CropQuality, IndexEvent, NodeReport, NodeState, PatchFeatures, Progress, Sighting, TrackEnd,
};
pub use time::Timestamp;
