//! The source of one camera: GStreamer pipelines, one per connection, and the supervision that
//! connects, watches and reconnects. It delivers frames with a capture time.
//!
//! ```text
//! CameraSpec -> Camera (supervisor, back-off) -> connection -> pipeline -> FrameSink -> Queue<Captured>
//!                                            Guard             Sampler     Timeline
//! ```

pub(crate) mod camera;
mod connection;
mod frame_sink;
mod guard;
pub(crate) mod pipeline;
mod reason;
mod sample;
mod sampler;
mod scale;
mod spec;
mod timeline;

pub use camera::{Camera, Captured};
pub use sample::{SampleError, copy_rgb};
pub use sampler::Sampler;
pub use spec::CameraSpec;
pub use timeline::ClockSource;
