//! The topic of cameras on Kafka: compacted, keyed by camera, so that it always holds every camera's newest word.

use std::collections::BTreeMap;

use sightline_core::CameraId;
use sightline_core::bus::BusError;
use sightline_core::bus::cameras::{CameraDirectory, CameraPublisher};
use sightline_core::config::{BusConfig, CameraConfig};

use super::CameraTopic;

/// See the module.
pub struct KafkaCameras {
    publisher: CameraPublisher,
    directory: CameraDirectory,
}

impl KafkaCameras {
    /// Starts reading the topic; a broker that is away is waited for in the background.
    ///
    /// # Errors
    /// A setting that Kafka's client refuses.
    pub fn start(config: &BusConfig, client_id: &str) -> Result<Self, BusError> {
        Ok(Self {
            publisher: CameraPublisher::start(config, client_id)?,
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
