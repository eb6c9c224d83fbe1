//! Cameras that come and go at run time: one compacted topic says which there are, and the camera nodes share them.
//!
//! The key of a record is the camera's id, its value the camera as JSON; a record without a value removes it. The API
//! writes ([`CameraPublisher`]), whoever wants to know all reads ([`CameraDirectory`]), and every camera node runs those of
//! the partitions that the consumer group gives to it ([`CameraShare`]): when a node dies, others take over its cameras.
//! Addresses of cameras may hold passwords, so the topic is to be guarded like them.

mod directory;
mod share;

use std::time::Duration;

use rdkafka::message::Message;

use super::{BusError, Outgoing, Producer};
use crate::CameraId;
use crate::config::{BusConfig, CameraConfig};

pub use directory::CameraDirectory;
pub use share::CameraShare;

/// A change that is not acknowledged for so long is reported as late; it is still sent when the broker comes back.
const ACKNOWLEDGE: Duration = Duration::from_secs(15);

/// What a camera node is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum CameraChange {
    /// Run this camera. One of the same id that runs already is to be replaced.
    Run(CameraConfig),
    /// Stop it: it was removed, or another node has it now.
    Stop(CameraId),
}

/// Adds and removes cameras.
#[derive(Clone, Debug)]
pub struct CameraPublisher {
    producer: Producer,
    topic: String,
}

impl CameraPublisher {
    /// Writes to `bus.cameras_topic`.
    pub fn new(producer: Producer, config: &BusConfig) -> Self {
        Self { producer, topic: config.cameras_topic.clone() }
    }

    /// Adds a camera, or changes it. Blocks until the broker has it.
    ///
    /// # Errors
    /// [`BusError::Late`] when the broker does not answer in time; the change may still come about.
    pub fn put(&self, camera: &CameraConfig) -> Result<(), BusError> {
        let value = serde_json::to_vec(camera)
            .map_err(|e| BusError::Refused { topic: self.topic.clone(), why: format!("not JSON: {e}") })?;
        self.send(&camera.id, value)
    }

    /// Removes a camera; one that is not there is no error. Blocks until the broker has it.
    ///
    /// # Errors
    /// As [`CameraPublisher::put`].
    pub fn remove(&self, camera: &CameraId) -> Result<(), BusError> {
        self.send(camera, Vec::new())
    }

    fn send(&self, camera: &CameraId, value: Vec<u8>) -> Result<(), BusError> {
        let record =
            Outgoing { topic: self.topic.clone(), key: camera.to_string(), payload: value.into(), headers: Vec::new() };
        self.producer.send_and_wait(record, ACKNOWLEDGE)
    }
}

/// What a record says: the camera, and what it is now (`None`: removed). Records that make no sense are logged and
/// passed over: one bad camera must not stop the others.
fn read(message: &impl Message) -> Option<(CameraId, Option<CameraConfig>)> {
    let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
    let bad = |why: &dyn std::fmt::Display| {
        tracing::warn!(key, partition = message.partition(), offset = message.offset(), %why, "not a camera");
        metrics::counter!("sightline_bus_bad_cameras_total").increment(1);
    };
    let camera: CameraId = key.parse().map_err(|e| bad(&e)).ok()?;
    let Some(value) = message.payload().filter(|v| !v.is_empty()) else { return Some((camera, None)) };
    let config: CameraConfig = serde_json::from_slice(value).map_err(|e| bad(&e)).ok()?;
    if config.id != camera {
        bad(&format_args!("the value is about {}", config.id));
        return None;
    }
    Some((camera, Some(config)))
}
