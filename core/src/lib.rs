//! What all crates of Sightline share: identifiers, time, geometry, images, the messages between
//! processes, queues with a stated overflow rule, configuration, telemetry and shutdown. Needs no
//! system library, no server and no model.
//!
//! The path of the data, with queue capacities:
//!
//! ```text
//! camera -> Frame --(2, drop oldest)--> detect + track
//!        -> Crop --(8, drop oldest, counted)--> embed (batch B, linger T)
//!        -> Sighting --(block)--> index: gallery, vector store, flush, ack
//! ```

pub mod backoff;
pub mod camera;
pub mod config;
pub mod delivery;
pub mod frame;
pub mod geometry;
#[cfg(feature = "service")]
pub mod http;
pub mod ids;
pub mod message;
pub mod queue;
#[cfg(feature = "service")]
pub mod service;
pub mod shutdown;
pub mod telemetry;
pub mod time;

pub use backoff::Backoff;
pub use camera::{CameraConfig, CameraState, CameraUrl};
pub use config::Config;
pub use delivery::{Delivery, Discard, Receipt, RefusalHandler};
pub use frame::{Frame, RgbImage};
pub use geometry::BBox;
pub use ids::{CameraId, SightingId, TrackId};
pub use message::{
    CameraEvent, Crop, CropQuality, IndexEvent, NodeReport, PatchFeatures, Progress, Sighting, TrackEnd,
};
pub use time::Timestamp;
