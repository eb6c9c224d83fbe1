//! Tests of cameras with real GStreamer sources: test pictures, files made by the tests, servers on
//! loopback, an RTSP server that is killed and restarted.
#![allow(clippy::unwrap_used)]

mod faults;
mod file;
mod http;
#[cfg(feature = "kafka")]
mod needs_kafka;
mod node;
mod rtsp;
mod sources;
mod stride;
mod test_picture;
mod util;
