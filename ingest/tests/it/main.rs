//! Cameras against real GStreamer sources: test pictures, files made on the spot, servers on loopback, an RTSP server
//! that is killed and started again.
#![allow(clippy::unwrap_used)]

mod faults;
mod file;
mod http;
#[cfg(feature = "kafka")]
mod kafka;
mod node;
mod rtsp;
mod stride;
mod test_picture;
mod util;
