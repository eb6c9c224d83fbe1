//! Cameras that are added and removed at run time: one compacted topic holds all of them, and the
//! camera nodes share them by their capacities.
//!
//! The key of a record is the camera's id, its value the camera as JSON; a record without a value
//! (a tombstone) removes the camera. The API writes the topic ([`CameraPublisher`]); whoever wants
//! to know all cameras reads it ([`CameraDirectory`]); and every camera node runs those that the
//! placement gives it ([`CameraPlacement`], [`crate::placement`]): when a node dies, others take over
//! its cameras. Camera addresses may contain passwords, so protect the topic like passwords.

mod directory;
mod placement;

use std::time::Duration;

use rdkafka::message::Message;

use super::{BusError, Outgoing, Producer};
use sightline_core::CameraId;
use sightline_core::config::{BusConfig, CameraConfig};

pub use directory::CameraDirectory;
pub use placement::{CameraPlacement, request_drain};

/// A change that is not acknowledged within this time is reported as [`BusError::Late`]; it is
/// still sent when the broker comes back.
const ACK_TIMEOUT: Duration = Duration::from_secs(15);

/// Adds and removes cameras by writing to the topic.
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

    /// Adds or changes a camera. Blocks until the broker has acknowledged it.
    ///
    /// # Errors
    /// [`BusError::Late`] when the broker does not answer in time; the change may still take
    /// effect.
    pub fn put(&self, camera: &CameraConfig) -> Result<(), BusError> {
        let value = serde_json::to_vec(camera)
            .map_err(|e| BusError::Refused { topic: self.topic.clone(), why: format!("not JSON: {e}") })?;
        self.send(&camera.id, value)
    }

    /// Removes a camera; an unknown one is no error. Blocks until the broker has acknowledged it.
    ///
    /// # Errors
    /// As [`CameraPublisher::put`].
    pub fn remove(&self, camera: &CameraId) -> Result<(), BusError> {
        self.send(camera, Vec::new())
    }

    fn send(&self, camera: &CameraId, value: Vec<u8>) -> Result<(), BusError> {
        let record =
            Outgoing { topic: self.topic.clone(), key: camera.to_string(), payload: value.into(), headers: Vec::new() };
        self.producer.send_and_wait(record, ACK_TIMEOUT)
    }
}

/// Decodes a record: the camera, and its settings (`None`: removed). Invalid records are logged and
/// skipped: one bad camera must not stop the others.
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
