//! What a search is asked and what it answers.

use sightline_core::config::ScoreForm;
use sightline_core::{BBox, CameraId, RgbImage, SightingId, Timestamp, TrackId};
use sightline_embed::text::NotUnderstood;

use crate::encoder::{EncodeError, PhraseAsked};
use crate::gallery::GalleryError;
use crate::store::{Filter, StoreError};

/// Order of the hits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Best first.
    #[default]
    Relevance,
    /// Newest first. Hits that were not re-ranked stay behind those that were.
    Time,
}

/// One search. At least one of `query`, `image` and `like` is needed; several are composed: the search is then for the
/// normalised sum of their features, and the text judges the matches.
#[derive(Clone, Debug, Default)]
pub struct SearchRequest {
    /// Description of a person.
    pub query: Option<String>,
    /// Picture of a person.
    pub image: Option<RgbImage>,
    /// A stored picture. Its own track is left out of the answer.
    pub like: Option<SightingId>,
    /// Where and when to look.
    pub filter: Filter,
    /// Hits on a page, 1 to the configured maximum.
    pub limit: usize,
    /// Tracks to re-rank, instead of the configured number; 0 ranks by cosine alone.
    pub rerank: Option<usize>,
    /// Leaves out hits below this match probability, and those that have none. Needs `query`.
    pub min_probability: Option<f32>,
    /// Order of the hits.
    pub sort: Sort,
    /// How cosine and match are added, instead of the configured form.
    pub score: Option<ScoreForm>,
    /// Who asks. A cursor is good for the same asker only; may be empty.
    pub owner: String,
}

/// One person's way through one camera's view.
#[derive(Clone, Debug, PartialEq)]
pub struct TrackHit {
    /// The best picture of the track; the fields of a single picture below are its.
    pub sighting: SightingId,
    /// The camera.
    pub camera: CameraId,
    /// The track.
    pub track: TrackId,
    /// Capture time of the first frame of the track.
    pub first_seen: Timestamp,
    /// Capture time of the last frame in which the track was seen, as far as known.
    pub last_seen: Timestamp,
    /// The track is over.
    pub ended: bool,
    /// Capture time of the picture.
    pub captured_at: Timestamp,
    /// Where the person is, in source pixels.
    pub bbox: BBox,
    /// Width and height of the source frame in pixels.
    pub frame_size: (u32, u32),
    /// Cosine of the query and the picture, -1..=1.
    pub similarity: f32,
    /// The decoder's raw logit; `None` when the picture was not re-ranked.
    pub match_logit: Option<f32>,
    /// The picture's cosine with texts at large, which is held against it; `None` when it was not re-ranked, or by a model
    /// without a query bank.
    pub hubness: Option<f32>,
    /// Calibrated probability; `None` when the track was not re-ranked. From a model that judges phrases: that all of the
    /// description is true of the person, by all judged pictures of the track. From another: that the best picture matches.
    pub probability: Option<f32>,
    /// Probability that each of [`SearchResponse::phrases`] holds of the person, by all judged pictures of the track: for a
    /// negated one that it is absent. Empty when the track was not re-ranked, or by a model that judges no phrases.
    pub phrases: Vec<f32>,
    /// What the hit is ranked by: its probability or cosine plus match (in the chosen form), or cosine alone. Hits with and without a
    /// match are never mixed, so scores compare within each group only.
    pub score: f32,
    /// All pictures of the track that match the filter, best first.
    pub crops: Vec<SightingId>,
}

/// Milliseconds that the parts of a search took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// Encoding the query.
    pub encode: f64,
    /// Vector search.
    pub search: f64,
    /// Reading patch features.
    pub fetch: f64,
    /// The decoder.
    pub rerank: f64,
    /// All of it.
    pub total: f64,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SearchResponse {
    /// Hits in order, whether confident or not: `confident` says how to read them.
    pub hits: Vec<TrackHit>,
    /// Some hit reaches the configured probability. A search without text has no probabilities and makes no such
    /// claim: there it only says that something was found.
    pub confident: bool,
    /// When no hit reaches the asked-for `min_probability`: what came nearest, in order.
    pub nearest_misses: Vec<TrackHit>,
    /// What the description states, in order; empty with a model that judges no phrases.
    pub phrases: Vec<PhraseAsked>,
    /// Words of the description of which nothing was made, and why; empty with a model that judges no phrases.
    pub not_understood: Vec<NotUnderstood>,
    /// Phrases that hold of no judged track more likely than not, on whatever page: "red jacket", "no bag".
    pub nobody_fulfils: Vec<String>,
    /// Hits of this page that the description is expected to be untrue of: the sum of 1 - probability over those that were
    /// judged. `None` when none was, or by a model that judges no phrases.
    pub expected_wrong: Option<f32>,
    /// For the next page; `None` at the end.
    pub next_cursor: Option<String>,
    /// Where the time went.
    pub timings: Timings,
    /// What did not work as it should and how the answer suffers, for people to read.
    pub degraded: Vec<String>,
    /// Model that made the features.
    pub model_id: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// Neither text nor picture.
    #[error("a search needs a query, an image or a sighting to resemble")]
    Empty,
    /// The limit is out of range.
    #[error("limit {got} is not between 1 and {max}")]
    Limit {
        /// Asked for.
        got: usize,
        /// The configured maximum.
        max: usize,
    },
    /// Too many tracks to re-rank.
    #[error("rerank {got} is more than {max}")]
    Rerank {
        /// Asked for.
        got: usize,
        /// The maximum.
        max: usize,
    },
    /// The probability is none, or there is no text to judge by.
    #[error("min_probability {0} is not between 0 and 1, or the search has no query to judge by or no rerank")]
    MinProbability(f32),
    /// The end lies before the start.
    #[error("the time range ends at {to}, before it starts at {from}")]
    TimeRange {
        /// Start.
        from: Timestamp,
        /// End.
        to: Timestamp,
    },
    /// The picture to resemble is not stored.
    #[error("no sighting {0} is stored")]
    UnknownSighting(SightingId),
    /// Query and picture cancel each other out.
    #[error("query and picture are opposites: there is nothing to search for")]
    NoDirection,
    /// The cursor is unknown, too old, or another asker's.
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
    /// The search's own thread died.
    #[error("the search was broken off")]
    Broken,
}

impl SearchError {
    /// Whether the request is at fault, not the service.
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
