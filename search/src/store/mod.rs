//! The vector store: one trait; behind it Qdrant's engine on disk, a Qdrant server, or a plain exact store to check both
//! against.
//!
//! A store holds the vectors of one model only. Mixed spaces give wrong neighbours without any error, so the model's id
//! and the width are part of the folder and are checked at every start and every write.

mod all_models;
pub(crate) mod edge;
mod exact;
mod filter;
mod names;
mod point;
#[cfg(feature = "server")]
pub(crate) mod server;
mod tracks;
pub(crate) mod tuning;

use sightline_core::{CameraId, SightingId, Timestamp, TrackId};

pub use all_models::AllModels;
pub use edge::{EdgeOptions, EdgeStore, indexed_models};
pub use exact::ExactStore;
pub use filter::Filter;
pub use point::{CameraExtent, Payload, Point, Record, Scored};
#[cfg(feature = "server")]
pub use server::{QdrantStore, ServerCoverage};

use crate::files::FileError;

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The vector does not belong into this space.
    #[error("a vector of {got} values does not fit a store of width {expected}")]
    Width {
        /// Width of the store.
        expected: usize,
        /// Values given.
        got: usize,
    },
    /// A vector without a direction.
    #[error("the vector holds a value that is not a finite number, or is all zero")]
    NoDirection,
    /// The point was made by another model.
    #[error("a vector of model {got:?} does not belong into the store of model {expected:?}")]
    OtherModel {
        /// Model of the store.
        expected: String,
        /// Model of the point.
        got: String,
    },
    /// The folder holds something else than what was to be opened.
    #[error("{folder} was made for {found}, not for {wanted}; give the model a folder of its own")]
    OtherFolder {
        /// The folder.
        folder: std::path::PathBuf,
        /// What its manifest says.
        found: String,
        /// What was to be opened.
        wanted: String,
    },
    /// The folder's own files are unreadable.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: std::path::PathBuf,
        /// In which way.
        reason: String,
    },
    /// A model id that cannot name a folder.
    #[error("model id {0:?} cannot name a folder: use 1 to 128 of a-z A-Z 0-9 . - _, not starting with a dot")]
    ModelId(String),
    /// Deleting everything is not done by leaving the filter empty.
    #[error("refusing to delete without a condition")]
    Unrestricted,
    /// A file operation failed; also when the folder is in use by another process.
    #[error(transparent)]
    File(#[from] FileError),
    /// The engine failed, for example because the disk is full.
    #[error("vector engine: {0}")]
    Engine(String),
    /// The server's collection is not what was to be opened.
    #[error("collection {collection} on the Qdrant server {problem}")]
    OtherCollection {
        /// Its name.
        collection: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The server cannot be reached, is too slow, or has trouble of its own: it may be better in a while.
    #[error("Qdrant server {url}: {problem}")]
    Server {
        /// Its address.
        url: String,
        /// What happened.
        problem: String,
    },
    /// The server says that the data is wrong.
    #[error("the Qdrant server refuses the data: {0}")]
    Refused(String),
}

impl StoreError {
    /// Whether the same call can never succeed, however often it is tried: the data itself is wrong.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Width { .. } | Self::NoDirection | Self::OtherModel { .. } | Self::Refused(_))
    }
}

/// Vectors of one model with their payloads, by cosine. Every method may be called from any thread at any time.
pub trait VectorStore: Send + Sync {
    /// Id of the model whose vectors these are.
    fn model_id(&self) -> &str;

    /// Values in a vector.
    fn width(&self) -> usize;

    /// Checks points without storing any: width, direction, model.
    ///
    /// # Errors
    /// [`StoreError::Width`], [`StoreError::NoDirection`], [`StoreError::OtherModel`].
    fn check(&self, points: &[Point]) -> Result<(), StoreError> {
        check_points(points, self.width(), self.model_id())
    }

    /// Stores points, replacing those with the same id; nothing is stored when one of them is refused. The time span of
    /// a replaced point's track is widened, never narrowed. Durable after [`VectorStore::flush`].
    ///
    /// # Errors
    /// [`StoreError::Width`], [`StoreError::NoDirection`], [`StoreError::OtherModel`], or the engine's.
    fn upsert(&self, points: &[Point]) -> Result<(), StoreError>;

    /// The `limit` points that match `filter` and are nearest to `vector`, nearest first.
    ///
    /// # Errors
    /// [`StoreError::Width`], [`StoreError::NoDirection`], or the engine's.
    fn search(&self, vector: &[f32], limit: usize, filter: &Filter) -> Result<Vec<Scored>, StoreError>;

    /// The `wanted` tracks with the nearest pictures, nearest first; fewer only when no more match. Each comes with those
    /// of its pictures that the search has met, at most `crops`, nearest first; never with none.
    ///
    /// # Errors
    /// As [`VectorStore::search`].
    fn nearest_tracks(
        &self,
        vector: &[f32],
        wanted: usize,
        crops: usize,
        filter: &Filter,
    ) -> Result<Vec<Vec<Scored>>, StoreError> {
        tracks::by_search(wanted, crops, |limit| self.search(vector, limit, filter))
    }

    /// The points of these ids in the order asked for; unknown ids are left out.
    ///
    /// # Errors
    /// The engine's.
    fn get(&self, ids: &[SightingId]) -> Result<Vec<Record>, StoreError>;

    /// As [`VectorStore::get`], with the normalised vectors.
    ///
    /// # Errors
    /// The engine's.
    fn vectors(&self, ids: &[SightingId]) -> Result<Vec<(Record, Vec<f32>)>, StoreError>;

    /// The `limit` newest points that match, by capture time, newest first; those of one moment in any order.
    /// [`Filter::after`] gives the next page.
    ///
    /// # Errors
    /// The engine's.
    fn newest(&self, filter: &Filter, limit: usize) -> Result<Vec<Record>, StoreError>;

    /// Ids of all points that match, in no particular order.
    ///
    /// # Errors
    /// The engine's.
    fn ids(&self, filter: &Filter) -> Result<Vec<SightingId>, StoreError>;

    /// Deletes what matches and says how many points that were. Durable after [`VectorStore::flush`].
    ///
    /// # Errors
    /// [`StoreError::Unrestricted`] for a filter without any condition, or the engine's.
    fn delete(&self, filter: &Filter) -> Result<u64, StoreError>;

    /// Widens the time span of every point of a track to include `first..=last`; `ended` says that it is final.
    /// Gives the number of points of the track.
    ///
    /// # Errors
    /// The engine's.
    fn end_track(
        &self,
        camera: &CameraId,
        track: TrackId,
        first: Timestamp,
        last: Timestamp,
        ended: bool,
    ) -> Result<u64, StoreError>;

    /// How many points match, exactly.
    ///
    /// # Errors
    /// The engine's.
    fn count(&self, filter: &Filter) -> Result<u64, StoreError>;

    /// Every camera with stored points, ordered by id.
    ///
    /// # Errors
    /// The engine's.
    fn cameras(&self) -> Result<Vec<CameraExtent>, StoreError>;

    /// Brings everything stored so far to the disk: it survives a kill from here on.
    ///
    /// # Errors
    /// The engine's, for example when the disk is full.
    fn flush(&self) -> Result<(), StoreError>;

    /// Builds the indexes that are due now, and waits for them; `false` when none was. Searches go on meanwhile.
    ///
    /// # Errors
    /// The engine's.
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
