//! Coverage in a small collection of its own beside the vectors, so that index workers and the API see the same.
//!
//! One point a camera, without a vector; its id follows from the camera's. The collection belongs to no model.

use std::collections::BTreeMap;
use std::sync::Arc;

use qdrant_client::qdrant::vectors::VectorsOptions;
use qdrant_client::qdrant::{
    DeletePoints, GetPoints, NamedVectors, PointStruct, RetrievedPoint, ScrollPoints, UpsertPoints, Vectors,
};
use serde::{Deserialize, Serialize};
use sightline_core::CameraId;
use sightline_core::config::VectorsConfig;
use sightline_core::shutdown::Shutdown;
use uuid::Uuid;

use super::client::Client;
use super::{collection, convert};
use crate::coverage::{CameraCoverage, CoverageLedger};
use crate::store::StoreError;

/// Entries sent or read in one call.
const CHUNK: usize = 1000;

/// One entry as it is stored.
#[derive(Serialize, Deserialize)]
struct Entry {
    camera: CameraId,
    coverage: CameraCoverage,
}

/// See the module.
#[derive(Debug)]
pub struct ServerCoverage {
    client: Arc<Client>,
    collection: String,
}

impl ServerCoverage {
    /// Opens the collection `<vectors.collection>-coverage`, making it when it is missing.
    ///
    /// # Errors
    /// The server's.
    pub fn open(config: &VectorsConfig) -> Result<Self, StoreError> {
        let (client, collection) = (Arc::new(Client::new(config)?), format!("{}-coverage", config.collection));
        collection::ensure_plain(&client, config, &collection)?;
        Ok(Self { client, collection })
    }

    /// As [`ServerCoverage::open`], again and again until the server answers; see [`super::QdrantStore::open_when_up`].
    ///
    /// # Errors
    /// What no waiting mends.
    pub fn open_when_up(
        config: &VectorsConfig,
        shutdown: &Shutdown,
        waiting: impl FnMut(&StoreError),
    ) -> Result<Option<Self>, StoreError> {
        super::when_up(shutdown, waiting, || Self::open(config))
    }

    /// Deletes the collection with everything in it.
    ///
    /// # Errors
    /// The server's.
    pub fn remove(self) -> Result<(), StoreError> {
        collection::delete(&self.client, &self.collection)
    }
}

fn id(camera: &CameraId) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("coverage/{camera}").as_bytes())
}

/// An entry that cannot be read (of a later version, say) counts as none, so that it does not hide the others.
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
        let mut entries = BTreeMap::new();
        for chunk in cameras.chunks(CHUNK) {
            let request = GetPoints {
                collection_name: self.collection.clone(),
                ids: chunk.iter().map(|c| convert::point_id(id(c))).collect(),
                with_payload: convert::with_payload(true),
                ..GetPoints::default()
            };
            let found = self.client.call(|q| async move { q.get_points(request).await })?.result;
            entries.extend(found.into_iter().filter_map(entry));
        }
        Ok(entries)
    }

    fn all(&self) -> Result<BTreeMap<CameraId, CameraCoverage>, StoreError> {
        let (mut entries, mut offset) = (BTreeMap::new(), None);
        loop {
            let request = ScrollPoints {
                collection_name: self.collection.clone(),
                offset,
                limit: Some(CHUNK as u32),
                with_payload: convert::with_payload(true),
                ..ScrollPoints::default()
            };
            let page = self.client.call(|q| async move { q.scroll(request).await })?;
            entries.extend(page.result.into_iter().filter_map(entry));
            match page.next_page_offset {
                Some(next) => offset = Some(next),
                None => return Ok(entries),
            }
        }
    }

    fn write(&self, entries: &BTreeMap<CameraId, CameraCoverage>) -> Result<(), StoreError> {
        let mut points = Vec::with_capacity(entries.len());
        for (camera, coverage) in entries {
            let entry = Entry { camera: camera.clone(), coverage: coverage.clone() };
            let none = Vectors { vectors_options: Some(VectorsOptions::Vectors(NamedVectors::default())) };
            let payload = convert::fields(&entry)?;
            points.push(PointStruct { id: Some(convert::point_id(id(camera))), payload, vectors: Some(none) });
        }
        for chunk in points.chunks(CHUNK) {
            let request = UpsertPoints {
                collection_name: self.collection.clone(),
                wait: Some(true),
                points: chunk.to_vec(),
                ..UpsertPoints::default()
            };
            self.client.change(|q| async move { q.upsert_points(request).await })?;
        }
        Ok(())
    }

    fn forget(&self, camera: &CameraId) -> Result<(), StoreError> {
        let request = DeletePoints {
            collection_name: self.collection.clone(),
            wait: Some(true),
            points: Some(convert::selector(&[id(camera)])),
            ..DeletePoints::default()
        };
        self.client.change(|q| async move { q.delete_points(request).await })
    }
}
