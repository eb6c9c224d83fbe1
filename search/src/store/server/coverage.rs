//! Coverage ledger in a small collection beside the vectors, so that index workers and the API read
//! the same.
//!
//! One point per camera, without a vector; its id is derived from the camera's. The collection
//! belongs to no model.

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
use super::{collection, consistency, convert};
use crate::coverage::{CameraCoverage, CoverageLedger};
use crate::store::StoreError;

/// Entries per call.
const CHUNK: usize = 1000;

/// Stored entry of one camera.
#[derive(Serialize, Deserialize)]
struct Entry {
    camera: CameraId,
    coverage: CameraCoverage,
}

/// [`CoverageLedger`] on a Qdrant server.
#[derive(Debug)]
pub struct ServerCoverage {
    client: Arc<Client>,
    collection: String,
}

impl ServerCoverage {
    /// Opens the collection `<vectors.collection>-coverage`, and creates it when it is missing.
    ///
    /// # Errors
    /// When the server fails.
    pub fn open(config: &VectorsConfig) -> Result<Self, StoreError> {
        let (client, collection) = (Arc::new(Client::new(config)?), format!("{}-coverage", config.collection));
        collection::ensure_plain(&client, config, &collection)?;
        Ok(Self { client, collection })
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
        collection::delete(&self.client, &self.collection)
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
        let mut entries = BTreeMap::new();
        for chunk in cameras.chunks(CHUNK) {
            let request = GetPoints {
                collection_name: self.collection.clone(),
                ids: chunk.iter().map(|c| convert::point_id(id(c))).collect(),
                with_payload: convert::with_payload(true),
                read_consistency: consistency::newest(),
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
                ordering: consistency::in_order(),
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
            ordering: consistency::in_order(),
            ..DeletePoints::default()
        };
        self.client.change(|q| async move { q.delete_points(request).await })
    }
}
