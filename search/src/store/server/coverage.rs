//! Coverage ledger in a small collection beside the vectors, so that index workers and the API read
//! the same.
//!
//! One point per camera, without a vector; its id is derived from the camera's. The collection
//! belongs to no model.

use std::collections::BTreeMap;

use qdrant_client::qdrant::RetrievedPoint;
use serde::{Deserialize, Serialize};
use sightline_core::CameraId;
use sightline_core::config::VectorsConfig;
use sightline_core::shutdown::Shutdown;
use uuid::Uuid;

use super::convert;
use super::side::SideCollection;
use crate::coverage::{CameraCoverage, CoverageLedger};
use crate::store::StoreError;

/// Stored entry of one camera.
#[derive(Serialize, Deserialize)]
struct Entry {
    camera: CameraId,
    coverage: CameraCoverage,
}

/// [`CoverageLedger`] on a Qdrant server.
#[derive(Debug)]
pub struct ServerCoverage {
    collection: SideCollection,
}

impl ServerCoverage {
    /// Opens the collection `<vectors.collection>-coverage`, and creates it when it is missing.
    ///
    /// # Errors
    /// When the server fails.
    pub fn open(config: &VectorsConfig) -> Result<Self, StoreError> {
        Ok(Self { collection: SideCollection::open(config, "coverage")? })
    }

    /// Opens the collection and retries until the server answers; see
    /// [`super::QdrantStore::open_with_retry`].
    ///
    /// # Errors
    /// When a retry cannot help.
    pub fn open_with_retry(
        config: &VectorsConfig,
        shutdown: &Shutdown,
        waiting: impl FnMut(&StoreError),
    ) -> Result<Option<Self>, StoreError> {
        super::retry_until_up(shutdown, waiting, || Self::open(config))
    }

    /// Deletes the collection with its contents.
    ///
    /// # Errors
    /// When the server fails.
    pub fn remove(self) -> Result<(), StoreError> {
        self.collection.remove()
    }
}

fn id(camera: &CameraId) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("coverage/{camera}").as_bytes())
}

/// Parses an entry; an unreadable one (of a later version, say) counts as missing, so that it does
/// not hide the others.
fn entry(point: RetrievedPoint) -> Option<(CameraId, CameraCoverage)> {
    match convert::value::<Entry>(point.payload) {
        Ok(entry) => Some((entry.camera, entry.coverage)),
        Err(error) => {
            tracing::warn!(point = ?point.id, %error, "an entry of the coverage is not readable and is passed over");
            None
        }
    }
}

impl CoverageLedger for ServerCoverage {
    fn read(&self, cameras: &[CameraId]) -> Result<BTreeMap<CameraId, CameraCoverage>, StoreError> {
        let ids: Vec<Uuid> = cameras.iter().map(id).collect();
        Ok(self.collection.read(&ids)?.into_iter().filter_map(entry).collect())
    }

    fn all(&self) -> Result<BTreeMap<CameraId, CameraCoverage>, StoreError> {
        Ok(self.collection.all(None)?.into_iter().filter_map(entry).collect())
    }

    fn write(&self, entries: &BTreeMap<CameraId, CameraCoverage>) -> Result<(), StoreError> {
        let entry = |(camera, coverage): (&CameraId, &CameraCoverage)| {
            (id(camera), Entry { camera: camera.clone(), coverage: coverage.clone() })
        };
        self.collection.write(entries.iter().map(entry))
    }

    fn forget(&self, camera: &CameraId) -> Result<(), StoreError> {
        self.collection.delete(id(camera))
    }
}
