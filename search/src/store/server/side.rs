//! A small collection beside the vectors, without vectors of its own: one JSON entry per point. It
//! belongs to no model. Coverage and tombstones are kept in one each.

use std::sync::Arc;

use qdrant_client::qdrant::vectors::VectorsOptions;
use qdrant_client::qdrant::{
    DeletePoints, GetPoints, NamedVectors, PointStruct, ReadConsistency, RetrievedPoint, ScrollPoints, UpsertPoints,
    Vectors,
};
use serde::Serialize;
use sightline_core::config::VectorsConfig;
use uuid::Uuid;

use super::client::Client;
use super::{collection, consistency, convert};
use crate::store::StoreError;

/// Entries per call.
const CHUNK: usize = 1000;

/// Handle on the collection `<vectors.collection>-<suffix>`.
#[derive(Debug)]
pub(super) struct SideCollection {
    client: Arc<Client>,
    name: String,
}

impl SideCollection {
    /// Opens the collection, and creates it when it is missing.
    pub fn open(config: &VectorsConfig, suffix: &str) -> Result<Self, StoreError> {
        let (client, name) = (Arc::new(Client::new(config)?), format!("{}-{suffix}", config.collection));
        collection::ensure_plain(&client, config, &name)?;
        Ok(Self { client, name })
    }

    /// Deletes the collection with its contents.
    pub fn remove(self) -> Result<(), StoreError> {
        collection::delete(&self.client, &self.name)
    }

    /// Returns the points of these ids in the state that most replicas agree on; unknown ids are
    /// left out.
    pub fn read(&self, ids: &[Uuid]) -> Result<Vec<RetrievedPoint>, StoreError> {
        let mut found = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(CHUNK) {
            let request = GetPoints {
                collection_name: self.name.clone(),
                ids: chunk.iter().copied().map(convert::point_id).collect(),
                with_payload: convert::with_payload(true),
                read_consistency: consistency::newest(),
                ..GetPoints::default()
            };
            found.extend(self.client.call(|q| async move { q.get_points(request).await })?.result);
        }
        Ok(found)
    }

    /// Returns all points.
    pub fn all(&self, read_consistency: Option<ReadConsistency>) -> Result<Vec<RetrievedPoint>, StoreError> {
        let (mut found, mut offset) = (Vec::new(), None);
        loop {
            let request = ScrollPoints {
                collection_name: self.name.clone(),
                offset,
                limit: Some(CHUNK as u32),
                with_payload: convert::with_payload(true),
                read_consistency,
                ..ScrollPoints::default()
            };
            let page = self.client.call(|q| async move { q.scroll(request).await })?;
            found.extend(page.result);
            match page.next_page_offset {
                Some(next) => offset = Some(next),
                None => return Ok(found),
            }
        }
    }

    /// Writes entries over those of the same ids; durable when it returns.
    pub fn write(&self, entries: impl IntoIterator<Item = (Uuid, impl Serialize)>) -> Result<(), StoreError> {
        let point = |(id, entry)| {
            let none = Vectors { vectors_options: Some(VectorsOptions::Vectors(NamedVectors::default())) };
            let payload = convert::fields(&entry)?;
            Ok(PointStruct { id: Some(convert::point_id(id)), payload, vectors: Some(none) })
        };
        let points = entries.into_iter().map(point).collect::<Result<Vec<_>, StoreError>>()?;
        for chunk in points.chunks(CHUNK) {
            let request = UpsertPoints {
                collection_name: self.name.clone(),
                wait: Some(true),
                points: chunk.to_vec(),
                ordering: consistency::in_order(),
                ..UpsertPoints::default()
            };
            self.client.change(|q| async move { q.upsert_points(request).await })?;
        }
        Ok(())
    }

    /// Deletes an entry, if there is one.
    pub fn delete(&self, id: Uuid) -> Result<(), StoreError> {
        let request = DeletePoints {
            collection_name: self.name.clone(),
            wait: Some(true),
            points: Some(convert::selector(&[id])),
            ordering: consistency::in_order(),
            ..DeletePoints::default()
        };
        self.client.change(|q| async move { q.delete_points(request).await })
    }
}
