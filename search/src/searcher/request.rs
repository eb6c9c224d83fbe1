//! Request and response of a search.

use serde::{Deserialize, Serialize};
use sightline_core::config::ScoreForm;
use sightline_core::{BBox, CameraId, RgbImage, SightingId, Timestamp, TrackId};
use sightline_embed::text::NotUnderstood;

use crate::encoder::{EncodeError, PhraseAsked};
use crate::gallery::GalleryError;
use crate::picture::CropHash;
use crate::store::{Filter, StoreError};

/// Order of the results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Sort {
    /// Best match first.
    #[default]
    Relevance,
    /// Newest first, among the best matches. Results that were not re-ranked stay behind those that
    /// were.
    Time,
}

/// A search. At least one of `query`, `image` and `like` is required; several are combined: the
/// search then uses the normalised sum of their features, and the text re-ranks the matches.
#[derive(Clone, Debug, Default)]
pub struct SearchRequest {
    /// Description of a person.
    pub query: Option<String>,
    /// Picture of a person.
    pub image: Option<RgbImage>,
    /// Id of a stored picture. Its own track is left out of the answer.
    pub like: Option<SightingId>,
    /// Cameras and times to search.
    pub filter: Filter,
    /// Hits per page, 1 to the configured maximum.
    pub limit: usize,
    /// Number of tracks to re-rank, instead of the configured number; 0 ranks by cosine alone.
    pub rerank: Option<usize>,
    /// Lowest match probability of a hit; hits without a probability are left out. Needs `query`.
    pub min_probability: Option<f32>,
    /// Order of the hits.
    pub sort: Sort,
    /// Combination of cosine and match, instead of the configured form.
    pub score: Option<ScoreForm>,
    /// Owner of the cursor: a cursor is valid for the same owner only; may be empty.
    pub owner: String,
}

/// Phrase of the description, with the probability that it is true of the person.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PhraseTruth {
    /// The phrase without article and negation: "red jacket", "bag".
    pub text: String,
    /// Calibrated probability that the phrase is true of the person, 0 to 1, from all re-ranked
    /// pictures of the track. For a negated phrase: that the person has no such thing.
    pub probability: f32,
    /// Whether the description negates the phrase: "no bag".
    pub negated: bool,
}

/// Person found: one track of a person through one camera's view, shown by its best picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Hit {
    /// Id of the best picture of the track; the picture fields below belong to it.
    #[cfg_attr(feature = "openapi", schema(value_type = uuid::Uuid))]
    pub sighting_id: SightingId,
    /// Id of the camera.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub camera: CameraId,
    /// Id of the track.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub track_id: TrackId,
    /// Capture time of the track's first frame.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub first_seen: Timestamp,
    /// Capture time of the last frame in which the track was seen, as far as known.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub last_seen: Timestamp,
    /// Whether the track has ended.
    #[serde(skip)]
    pub ended: bool,
    /// Capture time of the picture.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub captured_at: Timestamp,
    /// Hash of the picture that was judged; `None` for one that an earlier version stored. It stands
    /// in the path of the picture.
    #[serde(skip)]
    pub crop: Option<CropHash>,
    /// Bounding box `[x0, y0, x1, y1]` of the person in the frame, in source pixels.
    #[serde(rename = "box")]
    #[cfg_attr(feature = "openapi", schema(rename = "box", value_type = [f32; 4]))]
    pub bbox: BBox,
    /// Width and height of the source frame in pixels.
    #[serde(skip)]
    pub frame_size: (u32, u32),
    /// Cosine of the query and the picture, -1 to 1.
    pub similarity: f32,
    /// Match logit of the decoder; `null` when this picture was not re-ranked.
    pub match_logit: Option<f32>,
    /// Hubness: similarity of the picture with texts at large, which lowers `probability`; `null`
    /// when the picture was not re-ranked or the model has no query bank.
    pub hubness: Option<f32>,
    /// Calibrated probability, 0 to 1; `null` when this track was not re-ranked. With a model that
    /// judges phrases: that the whole description is true of the person, from all re-ranked
    /// pictures of the track. Otherwise: that the best picture matches.
    pub probability: Option<f32>,
    /// Phrases of the description in their order, each with the probability that it is true of the
    /// person; empty when this track was not re-ranked or the model judges no phrases.
    pub phrases: Vec<PhraseTruth>,
    /// Score that ranks the hit: its probability, or cosine plus match (in the chosen form), or
    /// cosine alone. Hits with and without a match are never mixed, so scores compare within each
    /// group only.
    pub score: f32,
    /// Ids of all pictures of the track that match the filter, best first.
    #[serde(skip)]
    pub crops: Vec<SightingId>,
}

/// Duration of each stage of a search, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Timings {
    /// Encoding of text and example picture.
    pub encode: f64,
    /// Vector search, with the filter inside.
    pub search: f64,
    /// Reading the patch features.
    pub fetch: f64,
    /// Re-ranking by the decoder.
    pub rerank: f64,
    /// From the start to the answer, waits between the stages included.
    pub total: f64,
}

/// One page of a search, with what is said of its hits as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SearchResponse {
    /// The description that was searched for; on a further page, that of its search.
    pub query: Option<String>,
    /// Hits in order, whether confident or not; see `confident`.
    pub hits: Vec<Hit>,
    /// Whether a hit of the search, on this page or another, reaches the configured probability;
    /// hits that may not be shown any more do not count. `None` when nothing was judged: by a
    /// search without text, without re-ranking, or of a text that states nothing the model judges.
    pub confident: Option<bool>,
    /// Nearest hits, in order, when no hit reaches the requested `min_probability`.
    pub nearest_misses: Vec<Hit>,
    /// Phrases of the description, in order; empty with a model that judges no phrases.
    pub phrases: Vec<PhraseAsked>,
    /// Words of the description that the model could not use, with the reason; empty with a model
    /// that judges no phrases.
    pub not_understood: Vec<NotUnderstood>,
    /// Phrases that are more likely false than true of every re-ranked track, on all pages: "red
    /// jacket", "no bag".
    pub nobody_fulfils: Vec<String>,
    /// Expected number of this page's hits that the description is not true of: the sum of 1 -
    /// probability over the re-ranked hits. `None` when none was re-ranked, or by a model that
    /// judges no phrases.
    pub expected_wrong: Option<f32>,
    /// Cursor of the next page; `None` on the last page.
    pub next_cursor: Option<String>,
    /// Duration of each stage; of a further page, of its look-up alone.
    pub timings: Timings,
    /// Notes for people about what was degraded and how the answer suffers.
    pub degraded: Vec<String>,
    /// Id of the model that computed the features.
    pub model_id: String,
}

/// Reason why a search has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The request has neither text nor picture.
    #[error("a search needs a query, an image or a sighting to resemble")]
    Empty,
    /// The limit is out of range.
    #[error("limit {got} is not between 1 and {max}")]
    Limit {
        /// Limit of the request.
        got: usize,
        /// `search.max_limit`.
        max: usize,
    },
    /// Too many tracks to re-rank.
    #[error("rerank {got} is more than {max}")]
    Rerank {
        /// Tracks that the request wants judged.
        got: usize,
        /// Tracks that one search may have judged.
        max: usize,
    },
    /// The minimum probability is out of range, or there is no text to match.
    #[error("min_probability {0} is not between 0 and 1, or the search has no query to judge by or no rerank")]
    MinProbability(f32),
    /// The end of the time filter lies before its start.
    #[error("the time range ends at {to}, before it starts at {from}")]
    TimeRange {
        /// Start of the time filter.
        from: Timestamp,
        /// End of the time filter.
        to: Timestamp,
    },
    /// The example picture is not stored.
    #[error("no sighting {0} is stored")]
    UnknownSighting(SightingId),
    /// Text and picture cancel each other out.
    #[error("query and picture are opposites: there is nothing to search for")]
    NoDirection,
    /// The cursor is unknown, expired, or of another owner.
    #[error("this cursor is unknown or has expired; search again")]
    UnknownCursor,
    /// The query could not be encoded, or the decoder failed.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The vector store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The gallery failed.
    #[error(transparent)]
    Gallery(#[from] GalleryError),
    /// Encoder and store belong to different models.
    #[error("the encoder is model {encoder} and the store holds model {store}")]
    OtherModel {
        /// Id and width of the encoder.
        encoder: String,
        /// Id and width of the store.
        store: String,
    },
    /// Nobody waits for the answer any more.
    #[error("the search was cancelled")]
    Cancelled,
    /// The thread of the search panicked.
    #[error("the search was broken off")]
    Broken,
}

impl SearchError {
    /// Whether the request is invalid, as opposed to a fault of the service.
    pub fn is_bad_request(&self) -> bool {
        matches!(
            self,
            Self::Empty
                | Self::Limit { .. }
                | Self::Rerank { .. }
                | Self::MinProbability(_)
                | Self::TimeRange { .. }
                | Self::UnknownSighting(_)
                | Self::NoDirection
                | Self::UnknownCursor
                | Self::Encode(EncodeError::EmptyQuery)
        )
    }
}
