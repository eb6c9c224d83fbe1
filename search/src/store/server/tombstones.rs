//! Tombstones in a small collection beside the vectors, so that index workers refuse what the API
//! has erased. One point per tombstone, without a vector; the collection belongs to no model.

use qdrant_client::qdrant::RetrievedPoint;
use sightline_core::config::VectorsConfig;
use sightline_core::shutdown::Shutdown;
use uuid::Uuid;

use super::side::SideCollection;
use super::{consistency, convert};
use crate::erase::{Tombstone, TombstoneLedger};
use crate::store::StoreError;

/// [`TombstoneLedger`] on a Qdrant server.
#[derive(Debug)]
pub struct ServerTombstones {
    collection: SideCollection,
}

impl ServerTombstones {
    /// Opens the collection `<vectors.collection>-erased`, and creates it when it is missing.
    ///
    /// # Errors
    /// When the server fails.
    pub fn open(config: &VectorsConfig) -> Result<Self, StoreError> {
        Ok(Self { collection: SideCollection::open(config, "erased")? })
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
        self.collection.remove()
    }
}

impl TombstoneLedger for ServerTombstones {
    /// A tombstone that cannot be read is an error: passing it over would bring erased people back.
    fn all(&self) -> Result<Vec<Tombstone>, StoreError> {
        let read = |point: RetrievedPoint| {
            let tombstone = convert::value(point.payload);
            tombstone.map_err(|e| convert::engine(format!("a tombstone is not readable: {e}")))
        };
        self.collection.all(consistency::newest())?.into_iter().map(read).collect()
    }

    fn put(&self, tombstone: &Tombstone) -> Result<(), StoreError> {
        self.collection.write([(tombstone.id, tombstone)])
    }

    fn remove(&self, id: Uuid) -> Result<(), StoreError> {
        self.collection.delete(id)
    }
}
