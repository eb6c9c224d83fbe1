//! What the API needs from the search side, as one small trait: the server can start answering before the model is
//! loaded, and its own rules (errors, scopes, limits) are tested without a model. [`crate::local::LocalEngine`] is the
//! real one.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use sightline_core::{BBox, CameraId, RgbImage, SightingId, Timestamp, TrackId};
use utoipa::ToSchema;

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

/// A checked search: every limit holds, every camera exists and may be seen.
#[derive(Clone, Debug, Default)]
pub struct SearchQuery {
    /// The description.
    pub text: Option<String>,
    /// An example picture.
    pub image: Option<RgbImage>,
    /// A stored picture as the example.
    pub like: Option<SightingId>,
    /// Only these cameras; `None`: all. Part of the vector query itself.
    pub cameras: Option<BTreeSet<CameraId>>,
    /// Captured at or after.
    pub from: Option<Timestamp>,
    /// Captured at or before.
    pub to: Option<Timestamp>,
    /// Results wanted, at least 1.
    pub limit: usize,
    /// Continue an earlier search of the same owner.
    pub cursor: Option<String>,
    /// Who asks: cursors are not shared.
    pub owner: String,
    /// Candidates the decoder re-ranks.
    pub rerank: usize,
    /// Only results at or above this match probability.
    pub min_probability: Option<f32>,
    /// Order of the results.
    pub sort: Sort,
}

/// One track that fits, shown by its best picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The picture.
    pub sighting_id: SightingId,
    /// The camera.
    pub camera: CameraId,
    /// The track.
    pub track_id: TrackId,
    /// Capture time of the track's first frame.
    pub first_seen: Timestamp,
    /// Capture time of the track's last frame so far.
    pub last_seen: Timestamp,
    /// Capture time of the picture.
    pub captured_at: Timestamp,
    /// The person in the picture's frame, in source pixels.
    pub bbox: BBox,
    /// Cosine similarity of the global features.
    pub similarity: f32,
    /// The decoder's match logit, when it was asked.
    pub match_logit: Option<f32>,
    /// The picture's similarity with descriptions at large, which is held against it; none when the decoder was not asked or
    /// the model has no query bank.
    pub hubness: Option<f32>,
    /// Calibrated probability, when the decoder was asked: that all of the description is true of the person, or from a model
    /// that judges no phrases that the picture matches.
    pub probability: Option<f32>,
    /// The phrases of the description; empty when the decoder was not asked or judges none.
    pub phrases: Vec<PhraseView>,
    /// What the results are ranked by.
    pub score: f32,
}

/// One phrase of the description, and whether it holds of the person.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct PhraseView {
    /// Its words without article and negation: "red jacket", "bag".
    pub text: String,
    /// Calibrated probability that it holds of the person, 0 to 1, by all judged pictures of the track; for a negated one
    /// that the person has no such thing.
    pub probability: f32,
    /// The description says that it is not so: "no bag".
    pub negated: bool,
}

/// A word of the description of which nothing was made.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct NotUnderstoodView {
    /// The word.
    pub text: String,
    /// Why, in words: "age is not judged".
    pub why: String,
}

/// Milliseconds spent in each stage of a search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Timings {
    /// Encoding the query.
    pub encode: f64,
    /// Vector search with the filter inside.
    pub search: f64,
    /// Fetching patch features.
    pub fetch: f64,
    /// The decoder.
    pub rerank: f64,
    /// Everything together.
    pub total: f64,
}

/// What a search found.
#[derive(Clone, Debug, Default)]
pub struct SearchAnswer {
    /// In the order asked for.
    pub results: Vec<Hit>,
    /// Whether the best result reaches the confident probability.
    pub confident: bool,
    /// When nobody reaches the asked-for probability: what came nearest.
    pub nearest_misses: Vec<Hit>,
    /// Words of the description of which nothing was made.
    pub not_understood: Vec<NotUnderstoodView>,
    /// Phrases that hold of no judged track more likely than not.
    pub nobody_fulfils: Vec<String>,
    /// How many of these results the description is expected to be untrue of; `None`: nothing was judged, or not by phrases.
    pub expected_wrong: Option<f32>,
    /// Where to go on; `None`: this was everything.
    pub next_cursor: Option<String>,
    /// Time spent.
    pub timings: Timings,
    /// What was left out or done worse than asked, in words.
    pub degraded: Vec<String>,
}

/// A stored picture and what is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredSighting {
    /// The picture.
    pub sighting_id: SightingId,
    /// The camera.
    pub camera: CameraId,
    /// The track.
    pub track_id: TrackId,
    /// Capture time of the track's first frame.
    pub first_seen: Timestamp,
    /// Capture time of the track's last frame so far.
    pub last_seen: Timestamp,
    /// Capture time of the picture.
    pub captured_at: Timestamp,
    /// The person in the picture's frame, in source pixels.
    pub bbox: BBox,
    /// How well the picture shows the person, 0 to 1.
    pub quality: f32,
}

/// How far a camera's footage is searchable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// The connection of the camera this footage came from; `None`: from before this process started.
    pub connection: Option<u64>,
    /// Everything captured up to here is searchable.
    pub through: Timestamp,
    /// The footage has ended, and all of it is searchable.
    pub ended: bool,
    /// When this was learnt, by the system clock.
    pub arrived: Timestamp,
    /// Pictures stored.
    pub indexed: u64,
    /// Pictures that the index refused, because their data was wrong.
    pub rejected: u64,
}

/// What an erasure removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Erased {
    /// Sightings removed from the vector store.
    pub sightings: u64,
    /// Files removed from the gallery: pictures, and their patch features.
    pub files: u64,
}

/// The model that answers, for `/readyz` and the page's footer.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ModelView {
    /// Hash of the model folder's contents.
    pub id: String,
    /// Name from its configuration.
    pub name: String,
    /// The device in use.
    pub device: String,
    /// Number format of the weights in use.
    pub dtype: String,
    /// Height and width of its input in pixels.
    pub image_size: [usize; 2],
    /// Length of the global feature.
    pub feature_dim: usize,
    /// What it was trained on and how good it is, as its folder says.
    #[schema(value_type = Object)]
    pub provenance: serde_json::Value,
    /// How far its start-up self-test went: `compared` with stored answers, or `spread only` where its folder has none.
    pub self_test: String,
}

/// Search, stored pictures and erasure.
pub trait Engine: Send + Sync {
    /// The model in use.
    fn model(&self) -> ModelView;

    /// Searches.
    fn search(&self, query: SearchQuery) -> BoxFuture<'_, Result<SearchAnswer, Error>>;

    /// The stored picture with this id.
    fn sighting(&self, id: SightingId) -> BoxFuture<'_, Result<Option<StoredSighting>, Error>>;

    /// Its JPEG.
    fn thumbnail(&self, id: SightingId) -> BoxFuture<'_, Result<Option<Bytes>, Error>>;

    /// Erases everything of one camera.
    fn erase_camera(&self, camera: CameraId) -> BoxFuture<'_, Result<Erased, Error>>;

    /// How far each camera is searchable.
    fn watermarks(&self) -> BTreeMap<CameraId, Watermark>;

    /// Forgets how far this camera is searchable: it starts anew.
    fn restart_camera(&self, camera: &CameraId) -> BoxFuture<'_, ()>;

    /// What keeps new footage from being stored just now. Searches are answered all the same.
    fn fault(&self) -> Option<String>;

    /// Sightings in the index.
    fn count(&self) -> BoxFuture<'_, Result<u64, Error>>;

    /// Whether anything of this camera is stored.
    fn holds(&self, camera: CameraId) -> BoxFuture<'_, Result<bool, Error>>;
}
