//! Topic of camera configurations on Kafka: compacted and keyed by camera, so that it always keeps
//! each camera's newest configuration.

use std::collections::BTreeMap;

use sightline_bus::cameras::{CameraDirectory, CameraPublisher};
use sightline_bus::{self as bus, BusError, Producer, TopicSpec};
use sightline_core::CameraId;
use sightline_core::config::{BusConfig, CameraConfig};
use sightline_core::shutdown::Shutdown;

use super::CameraTopic;

/// [`CameraTopic`] on Kafka.
pub struct KafkaCameras {
    publisher: CameraPublisher,
    directory: CameraDirectory,
}

impl KafkaCameras {
    /// Starts reading the topic, and creates it when it is missing; an unreachable broker is
    /// retried in the background until `shutdown`.
    ///
    /// # Errors
    /// When Kafka's client refuses a setting, or no thread can be started.
    pub fn start(config: &BusConfig, client_id: &str, shutdown: &Shutdown) -> Result<Self, BusError> {
        let (own, stop) = (config.clone(), shutdown.clone());
        let topics = std::thread::Builder::new().name("bus-topics".into()).spawn(move || {
            if let Err(error) = bus::await_topics(&own, &[TopicSpec::compacted(&own.cameras_topic)], &stop) {
                tracing::error!(%error, topic = own.cameras_topic, "the topic of cameras cannot be used");
            }
        });
        topics.map_err(|e| BusError::Settings(format!("no thread for the topics: {e}")))?;
        let producer = Producer::start(config, client_id)?;
        Ok(Self {
            publisher: CameraPublisher::new(producer, config),
            directory: CameraDirectory::start(config, client_id)?,
        })
    }
}

impl CameraTopic for KafkaCameras {
    fn put(&self, camera: &CameraConfig) -> Result<(), String> {
        self.publisher.put(camera).map_err(|e| e.to_string())
    }

    fn remove(&self, camera: &CameraId) -> Result<(), String> {
        self.publisher.remove(camera).map_err(|e| e.to_string())
    }

    fn all(&self) -> BTreeMap<CameraId, CameraConfig> {
        self.directory.all()
    }

    fn fault(&self) -> Option<String> {
        self.directory.fault()
    }
}
