//! Vector store on a Qdrant server or cluster, over gRPC.
//!
//! The server makes changes durable and builds its indexes by itself, so flush and optimize are
//! no-ops: a change counts once the server reports it as applied. With int8 vectors the first pass
//! compares bytes in memory, and several times more points than requested are rescored in full
//! precision, because recall falls without that.
//!
//! Changes that read before they write hold a lock of this process only. Across processes each
//! camera has one writer: the camera id is the partition key in Kafka, and a partition has one
//! index worker at a time.

mod calls;
mod client;
mod collection;
mod consistency;
mod convert;
mod coverage;
mod side;
mod tombstones;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sightline_core::Backoff;
use sightline_core::config::{Quantization, VectorsConfig};
use sightline_core::shutdown::Shutdown;

pub use coverage::ServerCoverage;
pub use tombstones::ServerTombstones;

use super::{StoreError, names};
use client::Client;

/// Back-off between attempts to open: doubled from the first to the last pause, with jitter.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// [`super::VectorStore`] on a Qdrant server.
#[derive(Debug)]
pub struct QdrantStore {
    client: Arc<Client>,
    collection: String,
    alias: String,
    model_id: String,
    width: usize,
    /// Oversampling: number of rescored candidates as a multiple of the limit; `None` without
    /// quantization.
    oversampling: Option<f64>,
    /// Held by changes that read before they write.
    writer: Mutex<()>,
}

/// Retries to open until the server answers; `None` when the shutdown came first.
fn retry_until_up<T>(
    shutdown: &Shutdown,
    mut waiting: impl FnMut(&StoreError),
    open: impl Fn() -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    while !shutdown.is_triggered() {
        match open() {
            Ok(opened) => return Ok(Some(opened)),
            Err(error @ StoreError::Server { .. }) => waiting(&error),
            Err(error) => return Err(error),
        }
        let end = Instant::now() + backoff.pause();
        while Instant::now() < end && !shutdown.is_triggered() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(None)
}

impl QdrantStore {
    /// Opens the collection of `model_id`; creates it, its indexes and the alias when they are
    /// missing.
    ///
    /// # Errors
    /// [`StoreError::OtherCollection`] when the collection exists for something else;
    /// [`StoreError::Server`] when the server is unreachable.
    pub fn open(config: &VectorsConfig, model_id: &str, width: usize) -> Result<Self, StoreError> {
        names::check_model_id(model_id)?;
        let client = Arc::new(Client::new(config)?);
        let collection = format!("{}-{model_id}", config.collection);
        collection::ensure(&client, config, &collection, width)?;
        collection::ensure_alias(&client, &config.collection, &collection)?;
        tracing::info!(url = config.url, collection, model = model_id, width, "vector store open");
        let oversampling = (config.quantization == Quantization::Int8).then_some(config.oversampling);
        let (alias, model_id) = (config.collection.clone(), model_id.to_owned());
        Ok(Self { client, collection, alias, model_id, width, oversampling, writer: Mutex::new(()) })
    }

    /// Opens the collection and retries until the server answers; `waiting` receives each error.
    /// `None` when `shutdown` came first.
    ///
    /// # Errors
    /// When a retry cannot help: [`StoreError::OtherCollection`], [`StoreError::ModelId`], a
    /// request that the server rejects.
    pub fn open_with_retry(
        config: &VectorsConfig,
        model_id: &str,
        width: usize,
        shutdown: &Shutdown,
        waiting: impl FnMut(&StoreError),
    ) -> Result<Option<Self>, StoreError> {
        retry_until_up(shutdown, waiting, || Self::open(config, model_id, width))
    }

    /// Points the alias to this model's collection: the last step of building it beside another
    /// one.
    ///
    /// # Errors
    /// When the server fails.
    pub fn take_alias(&self) -> Result<(), StoreError> {
        collection::set_alias(&self.client, &self.alias, &self.collection)
    }

    /// Deletes the collection with its contents and its alias, for a model that is no longer used.
    ///
    /// # Errors
    /// When the server fails.
    pub fn remove(self) -> Result<(), StoreError> {
        collection::delete(&self.client, &self.collection)
    }

    /// Checks that the server answers, and returns its name and version.
    ///
    /// # Errors
    /// When the server fails.
    pub fn health(&self) -> Result<String, StoreError> {
        self.client.health().map(|h| format!("{} {}", h.title, h.version))
    }

    /// Returns the number of stored points, and of those in a graph index; both are approximate
    /// while an index is built.
    ///
    /// # Errors
    /// When the server fails.
    pub fn indexed(&self) -> Result<(u64, u64), StoreError> {
        let name = self.collection.clone();
        let info = self.client.call(|q| async move { q.collection_info(name).await })?.result.unwrap_or_default();
        Ok((info.points_count.unwrap_or_default(), info.indexed_vectors_count.unwrap_or_default()))
    }

    /// Returns the name of the collection.
    pub fn collection(&self) -> &str {
        &self.collection
    }
}
