//! The search side as a small trait, so that the server can answer before the model is loaded and
//! the API's own rules (errors, scopes, limits) are tested without a model.
//! [`crate::local::LocalEngine`] is the implementation.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use sightline_core::{BBox, CameraId, RgbImage, SightingId, Timestamp, TrackId};
use sightline_search::{CropHash, PictureKey, Receipt, Scope};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::erasure::ErasureRun;
use crate::error::Error;

/// Order of the results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sort {
    /// Best match first.
    #[default]
    Relevance,
    /// Newest first, among the best matches.
    Time,
}

/// Validated search: every limit holds; every camera exists and is visible to the caller.
#[derive(Clone, Debug, Default)]
pub struct SearchQuery {
    /// Description of the person.
    pub text: Option<String>,
    /// Example picture.
    pub image: Option<RgbImage>,
    /// Id of a stored picture that serves as the example.
    pub like: Option<SightingId>,
    /// Cameras to search; `None`: all. The filter is part of the vector query.
    pub cameras: Option<BTreeSet<CameraId>>,
    /// Earliest capture time, inclusive.
    pub from: Option<Timestamp>,
    /// Latest capture time, inclusive.
    pub to: Option<Timestamp>,
    /// Number of results, at least 1.
    pub limit: usize,
    /// Cursor of an earlier search of the same owner.
    pub cursor: Option<String>,
    /// Owner of the cursor: a cursor is valid for its owner only.
    pub owner: String,
    /// Number of candidates that the decoder re-ranks.
    pub rerank: usize,
    /// Lowest match probability of a result.
    pub min_probability: Option<f32>,
    /// Order of the results.
    pub sort: Sort,
}

/// One track that matches, shown by its best picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// Id of the picture.
    pub sighting_id: SightingId,
    /// Id of the camera.
    pub camera: CameraId,
    /// Id of the track.
    pub track_id: TrackId,
    /// Capture time of the track's first frame.
    pub first_seen: Timestamp,
    /// Capture time of the track's last frame so far.
    pub last_seen: Timestamp,
    /// Capture time of the picture.
    pub captured_at: Timestamp,
    /// Hash of the picture; `None` for one that an earlier version stored.
    pub crop: Option<CropHash>,
    /// Bounding box of the person in the frame, in source pixels.
    pub bbox: BBox,
    /// Cosine similarity of the global features of picture and query.
    pub similarity: f32,
    /// Match logit of the decoder; `None` when the picture was not re-ranked.
    pub match_logit: Option<f32>,
    /// Hubness: similarity of the picture with texts at large, which lowers its probability; `None`
    /// when the picture was not re-ranked or the model has no query bank.
    pub hubness: Option<f32>,
    /// Calibrated probability; `None` when the picture was not re-ranked. With a model that judges
    /// phrases: that the whole description is true of the person; otherwise: that the picture
    /// matches.
    pub probability: Option<f32>,
    /// Phrases of the description; empty when the track was not re-ranked or the model judges no
    /// phrases.
    pub phrases: Vec<PhraseView>,
    /// Score that the results are ranked by.
    pub score: f32,
}

/// Phrase of the description, with the probability that it is true of the person.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct PhraseView {
    /// The phrase without article and negation: "red jacket", "bag".
    pub text: String,
    /// Calibrated probability that the phrase is true of the person, 0 to 1, from all re-ranked
    /// pictures of the track. For a negated phrase: that the person has no such thing.
    pub probability: f32,
    /// Whether the description negates the phrase: "no bag".
    pub negated: bool,
}

/// Word of the description that the model could not use.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct NotUnderstoodView {
    /// The word.
    pub text: String,
    /// The reason: "age is not judged".
    pub why: String,
}

/// Duration of each stage of a search, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Timings {
    /// Query encoding.
    pub encode: f64,
    /// Vector search, with the filter inside.
    pub search: f64,
    /// Reading the patch features.
    pub fetch: f64,
    /// Re-ranking by the decoder.
    pub rerank: f64,
    /// The whole search.
    pub total: f64,
}

/// Answer to a search.
#[derive(Clone, Debug, Default)]
pub struct SearchAnswer {
    /// Hits in the requested order.
    pub results: Vec<Hit>,
    /// Whether the best result reaches the confident probability.
    pub confident: bool,
    /// Nearest tracks, when no track reaches the requested probability.
    pub nearest_misses: Vec<Hit>,
    /// Words of the description that the model could not use.
    pub not_understood: Vec<NotUnderstoodView>,
    /// Phrases that are more likely false than true of every re-ranked track.
    pub nobody_fulfils: Vec<String>,
    /// Expected number of these results that the description is not true of; `None` when no track
    /// was re-ranked or the model judges no phrases.
    pub expected_wrong: Option<f32>,
    /// Cursor of the next page; `None` on the last page.
    pub next_cursor: Option<String>,
    /// Duration of each stage.
    pub timings: Timings,
    /// Notes for people about what was left out or degraded.
    pub degraded: Vec<String>,
}

/// Stored picture with its metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredSighting {
    /// Id of the picture.
    pub sighting_id: SightingId,
    /// Id of the camera.
    pub camera: CameraId,
    /// Id of the track.
    pub track_id: TrackId,
    /// Capture time of the track's first frame.
    pub first_seen: Timestamp,
    /// Capture time of the track's last frame so far.
    pub last_seen: Timestamp,
    /// Capture time of the picture.
    pub captured_at: Timestamp,
    /// Hash of the picture; `None` for one that an earlier version stored.
    pub crop: Option<CropHash>,
    /// Bounding box of the person in the frame, in source pixels.
    pub bbox: BBox,
    /// Quality of the picture of the person, 0 to 1.
    pub quality: f32,
}

/// Watermark of a camera: the capture time up to which its footage is searchable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// Connection of the camera that this footage came from; `None`: footage from before this
    /// process started.
    pub connection: Option<u64>,
    /// All footage captured up to this time is searchable.
    pub through: Timestamp,
    /// Whether the footage has ended and all of it is searchable.
    pub ended: bool,
    /// System time at which this watermark was recorded.
    pub arrived: Timestamp,
    /// Number of stored pictures.
    pub indexed: u64,
    /// Number of pictures that the index rejected because of invalid data.
    pub rejected: u64,
}

/// Model in use, for `/readyz` and the page's footer.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ModelView {
    /// Hash of the model folder's contents.
    pub id: String,
    /// Name in its configuration.
    pub name: String,
    /// Device that computes it.
    pub device: String,
    /// Number format of the weights.
    pub dtype: String,
    /// Height and width of its input in pixels.
    pub image_size: [usize; 2],
    /// Length of the global feature.
    pub feature_dim: usize,
    /// Training data and measured quality, as the model folder states them.
    #[schema(value_type = Object)]
    pub provenance: serde_json::Value,
    /// Extent of the self-test at the start: `compared` with stored answers, or `spread only` when
    /// the model folder has none.
    pub self_test: String,
}

/// Search, stored pictures and erasure.
pub trait Engine: Send + Sync {
    /// Returns the model in use.
    fn model(&self) -> ModelView;

    /// Runs a search.
    fn search(&self, query: SearchQuery) -> BoxFuture<'_, Result<SearchAnswer, Error>>;

    /// Returns the stored picture with this id.
    fn sighting(&self, id: SightingId) -> BoxFuture<'_, Result<Option<StoredSighting>, Error>>;

    /// Returns the JPEG of a stored picture.
    fn thumbnail(&self, key: PictureKey) -> BoxFuture<'_, Result<Option<Bytes>, Error>>;

    /// Begins an erasure: from now on nobody sees pictures of these scopes, and none is stored.
    fn begin_erasure(&self, id: Uuid, scopes: Vec<Scope>) -> BoxFuture<'_, Result<(), Error>>;

    /// Begins an erasure if necessary and deletes what is stored; may be repeated.
    fn erase(&self, id: Uuid, scopes: Vec<Scope>, run: ErasureRun) -> BoxFuture<'_, Result<Receipt, Error>>;

    /// Stores pictures of a camera again that was erased as a whole: those captured from `from` on,
    /// or without it, of any time.
    fn admit(&self, camera: CameraId, from: Option<Timestamp>) -> BoxFuture<'_, Result<(), Error>>;

    /// Returns the tracks of these sightings, and those of the sightings that are not stored.
    fn tracks_of(&self, ids: Vec<SightingId>) -> BoxFuture<'_, Result<(Vec<Scope>, Vec<SightingId>), Error>>;

    /// Returns the watermark of each camera.
    fn watermarks(&self) -> BTreeMap<CameraId, Watermark>;

    /// Resets the watermark of a camera that starts anew.
    fn restart_camera(&self, camera: &CameraId) -> BoxFuture<'_, ()>;

    /// Reason why new footage cannot be stored at the moment. Searches are still answered.
    fn fault(&self) -> Option<String>;

    /// Returns the number of sightings in the index.
    fn count(&self) -> BoxFuture<'_, Result<u64, Error>>;

    /// Whether any picture of this camera is stored.
    fn holds(&self, camera: CameraId) -> BoxFuture<'_, Result<bool, Error>>;
}
