//! Tombstones in a small collection beside the vectors, so that index workers refuse what the API
//! has erased. One point per tombstone, without a vector; the collection belongs to no model.

use std::sync::Arc;

use qdrant_client::qdrant::vectors::VectorsOptions;
use qdrant_client::qdrant::{DeletePoints, NamedVectors, PointStruct, ScrollPoints, UpsertPoints, Vectors};
use sightline_core::config::VectorsConfig;
use sightline_core::shutdown::Shutdown;
use uuid::Uuid;

use super::client::Client;
use super::{collection, consistency, convert};
use crate::erase::{Tombstone, TombstoneLedger};
use crate::store::StoreError;

/// Tombstones per call.
const CHUNK: usize = 1000;

/// [`TombstoneLedger`] on a Qdrant server.
#[derive(Debug)]
pub struct ServerTombstones {
    client: Arc<Client>,
    collection: String,
}

impl ServerTombstones {
    /// Opens the collection `<vectors.collection>-erased`, and creates it when it is missing.
    ///
    /// # Errors
    /// When the server fails.
    pub fn open(config: &VectorsConfig) -> Result<Self, StoreError> {
        let (client, collection) = (Arc::new(Client::new(config)?), format!("{}-erased", config.collection));
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
    pub fn remove_collection(self) -> Result<(), StoreError> {
        collection::delete(&self.client, &self.collection)
    }
}

impl TombstoneLedger for ServerTombstones {
    /// A tombstone that cannot be read is an error: passing it over would bring erased people back.
    fn all(&self) -> Result<Vec<Tombstone>, StoreError> {
        let (mut tombstones, mut offset) = (Vec::new(), None);
        loop {
            let request = ScrollPoints {
                collection_name: self.collection.clone(),
                offset,
                limit: Some(CHUNK as u32),
                with_payload: convert::with_payload(true),
                read_consistency: consistency::newest(),
                ..ScrollPoints::default()
            };
            let page = self.client.call(|q| async move { q.scroll(request).await })?;
            for point in page.result {
                let tombstone = convert::value(point.payload);
                tombstones.push(tombstone.map_err(|e| convert::engine(format!("a tombstone is not readable: {e}")))?);
            }
            match page.next_page_offset {
                Some(next) => offset = Some(next),
                None => return Ok(tombstones),
            }
        }
    }

    fn put(&self, tombstone: &Tombstone) -> Result<(), StoreError> {
        let none = Vectors { vectors_options: Some(VectorsOptions::Vectors(NamedVectors::default())) };
        let payload = convert::fields(tombstone)?;
        let id = Some(convert::point_id(tombstone.id));
        let request = UpsertPoints {
            collection_name: self.collection.clone(),
            wait: Some(true),
            points: vec![PointStruct { id, payload, vectors: Some(none) }],
            ordering: consistency::in_order(),
            ..UpsertPoints::default()
        };
        self.client.change(|q| async move { q.upsert_points(request).await })
    }

    fn remove(&self, id: Uuid) -> Result<(), StoreError> {
        let request = DeletePoints {
            collection_name: self.collection.clone(),
            wait: Some(true),
            points: Some(convert::selector(&[id])),
            ordering: consistency::in_order(),
            ..DeletePoints::default()
        };
        self.client.change(|q| async move { q.delete_points(request).await })
    }
}
