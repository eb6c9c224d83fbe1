//! The store on a Qdrant server or cluster, asked over gRPC.
//!
//! The server makes changes durable and builds its indexes by itself, so flushing and optimising are nothing to do here:
//! a change counts once the server says that it is applied. With int8 vectors the first pass compares bytes in memory;
//! the best of it are compared again in full precision, several times more than were asked for, because without that
//! recall falls.
//!
//! Changes that read before they write hold a lock of this process only. Between processes there is one writer a camera:
//! cameras are keys of Kafka's partitions, and a partition has one index worker at a time.

mod calls;
mod client;
mod collection;
mod convert;
mod coverage;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::Rng;
use sightline_core::config::{Quantization, VectorsConfig};
use sightline_core::shutdown::Shutdown;

pub use coverage::ServerCoverage;

use super::{StoreError, names};
use client::Client;

/// Pauses between attempts to open: doubled from the first to the last, with jitter.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// See the module.
#[derive(Debug)]
pub struct QdrantStore {
    client: Arc<Client>,
    collection: String,
    alias: String,
    model_id: String,
    width: usize,
    /// So many times more candidates are compared again than are asked for; `None` without quantisation.
    oversampling: Option<f64>,
    /// Changes that read before they write hold this.
    writer: Mutex<()>,
}

/// Tries to open until the server answers; `None` when the stop came first.
fn when_up<T>(
    shutdown: &Shutdown,
    mut waiting: impl FnMut(&StoreError),
    open: impl Fn() -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    let mut pause = BACKOFF.0;
    while !shutdown.is_triggered() {
        match open() {
            Ok(opened) => return Ok(Some(opened)),
            Err(error @ StoreError::Server { .. }) => waiting(&error),
            Err(error) => return Err(error),
        }
        let end = Instant::now() + pause.mul_f64(rand::rng().random_range(0.5..1.0));
        while Instant::now() < end && !shutdown.is_triggered() {
            std::thread::sleep(Duration::from_millis(50));
        }
        pause = (pause * 2).min(BACKOFF.1);
    }
    Ok(None)
}

impl QdrantStore {
    /// Opens the collection of `model_id`, making it with its indexes and the alias when they are missing.
    ///
    /// # Errors
    /// [`StoreError::OtherCollection`] when it is there and made for something else; [`StoreError::Server`] when the
    /// server cannot be asked.
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

    /// As [`QdrantStore::open`], again and again until the server answers; `waiting` is told what is wrong. `None` when
    /// `shutdown` came first.
    ///
    /// # Errors
    /// What no waiting mends: [`StoreError::OtherCollection`], [`StoreError::ModelId`], a request the server refuses.
    pub fn open_when_up(
        config: &VectorsConfig,
        model_id: &str,
        width: usize,
        shutdown: &Shutdown,
        waiting: impl FnMut(&StoreError),
    ) -> Result<Option<Self>, StoreError> {
        when_up(shutdown, waiting, || Self::open(config, model_id, width))
    }

    /// Has the alias name this model's collection from now on: the last step of building one beside another.
    ///
    /// # Errors
    /// The server's.
    pub fn take_alias(&self) -> Result<(), StoreError> {
        collection::set_alias(&self.client, &self.alias, &self.collection)
    }

    /// Deletes the collection with everything in it, and its alias: for a model that is no longer used.
    ///
    /// # Errors
    /// The server's.
    pub fn remove(self) -> Result<(), StoreError> {
        collection::delete(&self.client, &self.collection)
    }

    /// Whether the server answers, with its name and version.
    ///
    /// # Errors
    /// The server's.
    pub fn health(&self) -> Result<String, StoreError> {
        self.client.health().map(|h| format!("{} {}", h.title, h.version))
    }

    /// Points stored, and how many of them are in a graph index; both approximate while an index is built.
    ///
    /// # Errors
    /// The server's.
    pub fn indexed(&self) -> Result<(u64, u64), StoreError> {
        let name = self.collection.clone();
        let info = self.client.call(|q| async move { q.collection_info(name).await })?.result.unwrap_or_default();
        Ok((info.points_count.unwrap_or_default(), info.indexed_vectors_count.unwrap_or_default()))
    }

    /// The name of the collection.
    pub fn collection(&self) -> &str {
        &self.collection
    }
}
