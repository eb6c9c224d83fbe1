//! Vector store: one trait, implemented by Qdrant's engine on disk, by a Qdrant server, and by an
//! exact store as the reference for both.
//!
//! A store holds the vectors of one model only. Mixed embedding spaces give wrong neighbours
//! without any error, so model id and width are part of the folder and are checked at every start
//! and every write.

mod all_models;
mod edge;
mod exact;
mod filter;
mod names;
mod point;
mod scope;
#[cfg(feature = "server")]
pub(crate) mod server;
mod tracks;
mod tuning;

use std::sync::Arc;

use sightline_core::{CameraId, SightingId, Timestamp, TrackId};

pub use all_models::AllModels;
pub use edge::{EdgeOptions, EdgeStore, Engine, indexed_models};
pub use exact::ExactStore;
pub use filter::Filter;
pub use point::{CameraExtent, Payload, Point, Record, Scored};
pub use scope::Scope;
#[cfg(feature = "server")]
pub use server::{QdrantStore, ServerCoverage, ServerTombstones};

use crate::files::FileError;

/// Reason why a store call failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The vector has another width than the store.
    #[error("a vector of {got} values does not fit a store of width {expected}")]
    Width {
        /// Values of each stored vector.
        expected: usize,
        /// Values of the vector that was given.
        got: usize,
    },
    /// The vector is zero or not finite, so it has no direction.
    #[error("the vector holds a value that is not a finite number, or is all zero")]
    NoDirection,
    /// The point belongs to another model.
    #[error("a vector of model {got:?} does not belong into the store of model {expected:?}")]
    OtherModel {
        /// Model of the store.
        expected: String,
        /// Model of the point.
        got: String,
    },
    /// The folder holds another store than the one to open.
    #[error("{folder} was made for {found}, not for {wanted}; give the model a folder of its own")]
    OtherFolder {
        /// Path of the folder.
        folder: std::path::PathBuf,
        /// Contents of its manifest.
        found: String,
        /// The store to open.
        wanted: String,
    },
    /// The folder's own files are unreadable.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// Path of the file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The model id is not a valid folder name.
    #[error("model id {0:?} cannot name a folder: use 1 to 128 of a-z A-Z 0-9 . - _, not starting with a dot")]
    ModelId(String),
    /// The filter of a deletion is empty; it would delete everything.
    #[error("refusing to delete without a condition")]
    Unrestricted,
    /// A file operation failed; also when the folder is in use by another process.
    #[error(transparent)]
    File(#[from] FileError),
    /// The engine failed, for example because the disk is full.
    #[error("vector engine: {0}")]
    Engine(String),
    /// The server's collection is not the one to open.
    #[error("collection {collection} on the Qdrant server {problem}")]
    OtherCollection {
        /// Name of the collection.
        collection: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The server is unreachable, too slow, or reports a fault of its own; a retry may succeed.
    #[error("Qdrant server {url}: {problem}")]
    Server {
        /// Address of the server.
        url: String,
        /// What the server or the connection says.
        problem: String,
    },
    /// The server rejects the data as invalid.
    #[error("the Qdrant server refuses the data: {0}")]
    Refused(String),
}

impl StoreError {
    /// Whether a retry can never succeed, because the data itself is invalid.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Width { .. } | Self::NoDirection | Self::OtherModel { .. } | Self::Refused(_))
    }

    /// Whether the disk is full, here or on the server. Qdrant says so in words only.
    pub fn is_disk_full(&self) -> bool {
        let said = |text: &str| text.to_lowercase().contains("no space left");
        match self {
            Self::File(e) => e.is_disk_full(),
            Self::Engine(text) | Self::Server { problem: text, .. } => said(text),
            _ => false,
        }
    }
}

/// Ids per page of [`VectorStore::ids`].
const PAGE: usize = 5000;

/// Number of points deleted, by model.
pub type Deleted = std::collections::BTreeMap<String, u64>;

/// Vectors of one model with their payloads, searched by cosine. Every method may be called from
/// any thread at any time.
pub trait VectorStore: Send + Sync {
    /// Returns the id of the model.
    fn model_id(&self) -> &str;

    /// Returns the width of a vector.
    fn width(&self) -> usize;

    /// Checks points without storing any: width, direction, model.
    ///
    /// # Errors
    /// [`StoreError::Width`], [`StoreError::NoDirection`], [`StoreError::OtherModel`].
    fn check(&self, points: &[Point]) -> Result<(), StoreError> {
        check_points(points, self.width(), self.model_id())
    }

    /// Stores points and replaces those with the same id; stores nothing when one of them is
    /// refused. The time span of a replaced point's track is widened, never narrowed. Durable after
    /// [`VectorStore::flush`].
    ///
    /// # Errors
    /// [`StoreError::Width`], [`StoreError::NoDirection`], [`StoreError::OtherModel`], or a failure
    /// of the engine.
    fn upsert(&self, points: &[Point]) -> Result<(), StoreError>;

    /// Returns the `limit` points nearest to `vector` among those that match `filter`, nearest
    /// first.
    ///
    /// # Errors
    /// [`StoreError::Width`], [`StoreError::NoDirection`], or a failure of the engine.
    fn search(&self, vector: &[f32], limit: usize, filter: &Filter) -> Result<Vec<Scored>, StoreError>;

    /// Returns the `wanted` tracks with the nearest pictures, nearest first; fewer only when no
    /// more match. Each has the pictures that the search found, at least one and at most `crops`,
    /// nearest first.
    ///
    /// # Errors
    /// The errors of [`VectorStore::search`].
    fn nearest_tracks(
        &self,
        vector: &[f32],
        wanted: usize,
        crops: usize,
        filter: &Filter,
    ) -> Result<Vec<Vec<Scored>>, StoreError> {
        tracks::by_search(wanted, crops, |limit| self.search(vector, limit, filter))
    }

    /// Returns the points of these ids in the given order; unknown ids are left out.
    ///
    /// # Errors
    /// When the engine fails.
    fn get(&self, ids: &[SightingId]) -> Result<Vec<Record>, StoreError>;

    /// Returns the points of [`VectorStore::get`] with their normalised vectors.
    ///
    /// # Errors
    /// When the engine fails.
    fn vectors(&self, ids: &[SightingId]) -> Result<Vec<(Record, Vec<f32>)>, StoreError>;

    /// Returns the `limit` newest matching points by capture time, newest first; points of the same
    /// time in any order. [`Filter::after`] gives the next page.
    ///
    /// # Errors
    /// When the engine fails.
    fn newest(&self, filter: &Filter, limit: usize) -> Result<Vec<Record>, StoreError>;

    /// Returns the ids of the first `limit` matching points behind `after`, in ascending order;
    /// fewer only when no more match. The last of them is the cursor of the next page, whatever is
    /// stored or deleted meanwhile.
    ///
    /// # Errors
    /// When the engine fails.
    fn scroll(&self, filter: &Filter, after: Option<SightingId>, limit: usize) -> Result<Vec<SightingId>, StoreError>;

    /// Returns the ids of all matching points, in ascending order. All of them are in memory at
    /// once: work that grows with the number of points uses [`VectorStore::scroll`].
    ///
    /// # Errors
    /// When the engine fails.
    fn ids(&self, filter: &Filter) -> Result<Vec<SightingId>, StoreError> {
        let mut ids: Vec<SightingId> = Vec::new();
        loop {
            let page = self.scroll(filter, ids.last().copied(), PAGE)?;
            let last = page.len() < PAGE;
            ids.extend(page);
            if last {
                return Ok(ids);
            }
        }
    }

    /// Deletes the points of these ids without listing anything, and returns how many of them each
    /// model's index held; unknown ids count as none. Durable after [`VectorStore::flush`].
    ///
    /// Writers of other points wait for at most one call; a caller with many ids makes several.
    ///
    /// # Errors
    /// When the engine fails.
    fn delete_ids(&self, ids: &[SightingId]) -> Result<Deleted, StoreError>;

    /// Deletes all matching points, page by page, and returns their number. Durable after
    /// [`VectorStore::flush`].
    ///
    /// # Errors
    /// [`StoreError::Unrestricted`] for a filter without a condition, or a failure of the engine.
    fn delete(&self, filter: &Filter) -> Result<u64, StoreError>;

    /// Returns the indexes that other models have beside this one and that it does not delete from
    /// by itself, as they are at the moment. An erasure reaches them too.
    ///
    /// # Errors
    /// When the engine fails.
    fn beside(&self) -> Result<Vec<Arc<dyn VectorStore>>, StoreError> {
        Ok(Vec::new())
    }

    /// Widens the time span of every point of a track to include `first..=last`; `ended` marks it
    /// as final. Returns the number of points of the track.
    ///
    /// # Errors
    /// When the engine fails.
    fn end_track(
        &self,
        camera: &CameraId,
        track: TrackId,
        first: Timestamp,
        last: Timestamp,
        ended: bool,
    ) -> Result<u64, StoreError>;

    /// Estimates the number of matching points without listing them: of the right order, exact
    /// only by luck.
    ///
    /// # Errors
    /// When the engine fails.
    fn estimate(&self, filter: &Filter) -> Result<u64, StoreError>;

    /// Counts the matching points exactly. It reads the id of each of them: neither a request nor
    /// a probe may wait for it.
    ///
    /// # Errors
    /// When the engine fails.
    fn count(&self, filter: &Filter) -> Result<u64, StoreError>;

    /// Returns every camera with stored points, ordered by id.
    ///
    /// # Errors
    /// When the engine fails.
    fn cameras(&self) -> Result<Vec<CameraExtent>, StoreError>;

    /// Syncs everything stored so far to the disk, so that it survives a kill.
    ///
    /// # Errors
    /// When the engine fails, for example because the disk is full.
    fn flush(&self) -> Result<(), StoreError>;

    /// Builds the indexes that are due and waits for them; `false` when none was due. Searches
    /// continue meanwhile.
    ///
    /// # Errors
    /// When the engine fails.
    fn optimize(&self) -> Result<bool, StoreError>;
}

/// Checks that a vector has the store's width and a direction.
fn check_vector(vector: &[f32], width: usize) -> Result<(), StoreError> {
    if vector.len() != width {
        return Err(StoreError::Width { expected: width, got: vector.len() });
    }
    let norm: f32 = vector.iter().map(|x| x * x).sum();
    if norm.is_finite() && norm > 0.0 { Ok(()) } else { Err(StoreError::NoDirection) }
}

/// Checks a batch of points before any of them is stored.
fn check_points(points: &[Point], width: usize, model_id: &str) -> Result<(), StoreError> {
    for point in points {
        check_vector(&point.vector, width)?;
        if point.payload.model_id != model_id {
            let (expected, got) = (model_id.to_owned(), point.payload.model_id.clone());
            return Err(StoreError::OtherModel { expected, got });
        }
    }
    Ok(())
}
