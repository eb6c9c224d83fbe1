//! `POST /v1/search`: finds people by a description, an example picture, or both.
//!
//! The order of the steps matters: first the limits (cheap), then the camera scope, then the audit
//! record (a search that cannot be recorded is not run), then the search. The coverage is read
//! last, so that it is as recent as the results.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sightline_core::{BBox, CameraId, SightingId, Timestamp, TrackId};
use sightline_embed::decode_image_within;
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::Caller;
use crate::cameras::CameraView;
use crate::engine::{Hit, NotUnderstoodView, PhraseView, SearchQuery, Sort, Timings};
use crate::error::{Error, ErrorBody};
use crate::extract::ApiJson;
use crate::routes::sightings::thumbnail_path;
use crate::state::{AuditEntry, CameraRow, Role};

/// Largest number of characters of a query. The model reads 72 words, and no description of a
/// person is longer than this.
const MAX_QUERY_CHARS: usize = 2000;

/// Longest side of an example picture in pixels: a square picture takes 200 MB. A small file may
/// declare enormous dimensions.
const MAX_IMAGE_SIDE: u32 = 8192;

/// Largest number of candidates that the decoder re-ranks for one search; more would take minutes
/// on a CPU.
const MAX_RERANK: usize = 256;

/// Time limit of a search.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(60);

/// Search request. At least one of `query`, `image` and `like` is required.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchBody {
    /// Description of the person in plain words.
    pub query: Option<String>,
    /// Example picture of the person: JPEG or PNG, base64.
    pub image: Option<String>,
    /// Id of a stored picture as the example; with `query`: "like this one, but ...".
    #[schema(value_type = Option<uuid::Uuid>)]
    pub like: Option<SightingId>,
    /// Search only these cameras.
    #[schema(value_type = Option<Vec<String>>)]
    pub cameras: Option<Vec<String>>,
    /// Captured at or after this time (RFC 3339).
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Timestamp>,
    /// Captured at or before this time (RFC 3339).
    #[schema(value_type = Option<String>, format = DateTime)]
    pub to: Option<Timestamp>,
    /// Number of results, 1 to `search.max_limit` (default 20).
    pub limit: Option<usize>,
    /// `next_cursor` of an earlier answer to the same search.
    pub cursor: Option<String>,
    /// Number of candidates that the decoder re-ranks (default `search.rerank`; 0: none).
    pub rerank: Option<usize>,
    /// Only results with at least this match probability.
    pub min_probability: Option<f32>,
    /// Order of the results: best match first, or newest first.
    #[serde(default)]
    pub sort: Sort,
    /// Purpose of this search, for the audit trail.
    pub purpose: Option<String>,
}

/// Person found: a track, shown by its best picture.
#[derive(Debug, Serialize, ToSchema)]
pub struct HitView {
    /// Id of the picture.
    #[schema(value_type = uuid::Uuid)]
    pub sighting_id: SightingId,
    /// Id of the camera.
    #[schema(value_type = String)]
    pub camera: CameraId,
    /// Id of the track.
    #[schema(value_type = String)]
    pub track_id: TrackId,
    /// Capture time of the track's first frame.
    #[schema(value_type = String, format = DateTime)]
    pub first_seen: Timestamp,
    /// Capture time of the track's last frame so far.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen: Timestamp,
    /// Capture time of the picture.
    #[schema(value_type = String, format = DateTime)]
    pub captured_at: Timestamp,
    /// Bounding box `[x0, y0, x1, y1]` of the person in the frame, in source pixels.
    #[serde(rename = "box")]
    #[schema(rename = "box", value_type = [f32; 4])]
    pub bbox: BBox,
    /// Cosine similarity of picture and query.
    pub similarity: f32,
    /// Match logit of the decoder; `null` when this picture was not re-ranked.
    pub match_logit: Option<f32>,
    /// Hubness: similarity of the picture with texts at large, which lowers `probability`; `null`
    /// when the picture was not re-ranked or the model has no query bank.
    pub hubness: Option<f32>,
    /// Calibrated probability, 0 to 1; `null` when this track was not re-ranked. With a model that
    /// judges phrases: that the whole description is true of the person, from all re-ranked
    /// pictures of the track. Otherwise: that the picture matches.
    pub probability: Option<f32>,
    /// Phrases of the description in their order, each with the probability that it is true of the
    /// person; empty when this track was not re-ranked or the model judges no phrases.
    pub phrases: Vec<PhraseView>,
    /// Score that the results are ranked by.
    pub score: f32,
    /// Path of the picture's JPEG. It names the picture that was judged: when a better one of the
    /// same track has replaced it, the answer is 404.
    pub thumbnail: String,
}

impl From<Hit> for HitView {
    fn from(h: Hit) -> Self {
        Self {
            thumbnail: thumbnail_path(h.sighting_id, h.crop),
            sighting_id: h.sighting_id,
            camera: h.camera,
            track_id: h.track_id,
            first_seen: h.first_seen,
            last_seen: h.last_seen,
            captured_at: h.captured_at,
            bbox: h.bbox,
            similarity: h.similarity,
            match_logit: h.match_logit,
            hubness: h.hubness,
            probability: h.probability,
            phrases: h.phrases,
            score: h.score,
        }
    }
}

/// Coverage of a camera that was searched.
#[derive(Debug, Serialize, ToSchema)]
pub struct CoverageView {
    /// Id of the camera.
    #[schema(value_type = String)]
    pub camera: CameraId,
    /// All footage captured up to this time was searched; `null`: none has arrived since the start.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub searchable_through: Option<Timestamp>,
    /// Lag of the index behind the camera, in seconds.
    pub lag_s: Option<f64>,
    /// Fraction of the footage that was dropped because the machine is too slow, 0 to 1.
    pub dropped_fraction: f64,
}

impl From<CameraView> for CoverageView {
    fn from(v: CameraView) -> Self {
        Self {
            camera: v.id,
            searchable_through: v.searchable_through,
            lag_s: v.lag_s,
            dropped_fraction: v.dropped_fraction,
        }
    }
}

/// Answer to a search: results, coverage and timings.
#[derive(Debug, Serialize, ToSchema)]
pub struct SearchView {
    /// Results in the requested order.
    pub results: Vec<HitView>,
    /// Whether the best result reaches `search.confident_probability`.
    pub confident: bool,
    /// Nearest tracks, when no track reaches `min_probability`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nearest_misses: Vec<HitView>,
    /// Words of the query that the model could not use, with the reason; empty with a model that
    /// judges no phrases. A query of such words alone is searched by similarity, and no track is
    /// judged.
    pub not_understood: Vec<NotUnderstoodView>,
    /// Phrases that are more likely false than true of every judged track, on all pages: "red
    /// jacket", "no bag".
    pub nobody_fulfils: Vec<String>,
    /// Expected number of `results` that the description is not true of: the sum of 1 - probability
    /// over the judged results; `null` when none was judged or the model judges no phrases.
    pub expected_wrong: Option<f32>,
    /// Cursor of the next page, to be sent as `cursor`; `null` on the last page.
    pub next_cursor: Option<String>,
    /// Coverage of each camera that was searched.
    pub coverage: Vec<CoverageView>,
    /// Duration of each stage in milliseconds.
    pub timings_ms: Timings,
    /// Notes for people about what was left out or degraded.
    pub degraded: Vec<String>,
}

/// Finds people by a description, an example picture, or both.
#[utoipa::path(post, path = "/v1/search", tag = "search", request_body = SearchBody,
    responses((status = 200, body = SearchView), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
              (status = 403, body = ErrorBody), (status = 413, body = ErrorBody), (status = 429, body = ErrorBody),
              (status = 503, body = ErrorBody, description = "what is down stands in the message")))]
pub async fn search(
    State(app): State<App>,
    caller: Caller,
    ApiJson(body): ApiJson<SearchBody>,
) -> Result<Json<SearchView>, Error> {
    caller.require(Role::Operator)?;
    let (mut query, image) = validate(&app, &body)?;
    query.owner = caller.id.clone();
    let engine = app.engine()?.clone();
    let rows = cameras_to_search(app.visible_cameras(&caller).await?, body.cameras.as_deref())?;
    if body.cameras.is_some() || caller.cameras.is_some() {
        query.cameras = Some(rows.iter().map(|r| r.spec.id.clone()).collect());
    }
    if query.cameras.as_ref().is_some_and(BTreeSet::is_empty) {
        return Err(Error::Forbidden("this token may not see any camera that is there".into()));
    }
    if let Some(bytes) = image {
        let decoded = tokio::task::spawn_blocking(move || decode_image_within(&bytes, MAX_IMAGE_SIDE)).await;
        let decoded = decoded.map_err(|e| Error::Internal(format!("decoding the example: {e}")))?;
        query.image = Some(decoded.map_err(|e| Error::InvalidImage(e.to_string()))?);
    }
    let like = body.like;
    if let Some(id) = like {
        // A picture outside the token's scope must not even serve as the example.
        let seen = engine.sighting(id).await?.filter(|s| caller.sees(&s.camera));
        seen.ok_or_else(|| Error::Invalid(format!("like: there is no sighting {id}")))?;
    }
    let detail = json!({
        "query": query.text, "image": query.image.is_some(), "like": like, "cameras": query.cameras,
        "from": query.from, "to": query.to, "limit": query.limit, "min_probability": query.min_probability,
        "cursor": query.cursor.is_some(),
    });
    let entry = AuditEntry { who: caller.signature(), action: "search", purpose: body.purpose, detail };
    app.state().run(move |s| s.record(&entry)).await?;
    let answer =
        tokio::time::timeout(SEARCH_TIMEOUT, engine.search(query)).await.map_err(|_| Error::Unavailable {
            part: "search",
            why: format!("no answer within {} s; the machine is overloaded", SEARCH_TIMEOUT.as_secs()),
        })??;
    let coverage = app.camera_views(&rows, false).await;
    let views = |hits: Vec<Hit>| hits.into_iter().map(HitView::from).collect();
    Ok(Json(SearchView {
        results: views(answer.results),
        confident: answer.confident,
        nearest_misses: views(answer.nearest_misses),
        not_understood: answer.not_understood,
        nobody_fulfils: answer.nobody_fulfils,
        expected_wrong: answer.expected_wrong,
        next_cursor: answer.next_cursor,
        coverage: coverage.into_iter().map(CoverageView::from).collect(),
        timings_ms: answer.timings,
        degraded: answer.degraded,
    }))
}

/// Validates everything that needs no look-up, and decodes the example's bytes.
fn validate(app: &App, body: &SearchBody) -> Result<(SearchQuery, Option<Vec<u8>>), Error> {
    let config = app.search_config();
    let limit = body.limit.unwrap_or(20.min(config.max_limit));
    if !(1..=config.max_limit).contains(&limit) {
        return Err(Error::Invalid(format!("limit {limit} is out of range: 1 to {}", config.max_limit)));
    }
    let rerank = body.rerank.unwrap_or(config.rerank);
    if rerank > MAX_RERANK {
        return Err(Error::Invalid(format!("rerank {rerank} is out of range: 0 to {MAX_RERANK}")));
    }
    if let Some(p) = body.min_probability
        && !(0.0..=1.0).contains(&p)
    {
        return Err(Error::Invalid(format!("min_probability {p} is out of range: 0 to 1")));
    }
    if let (Some(from), Some(to)) = (body.from, body.to)
        && from > to
    {
        return Err(Error::Invalid(format!("from {from} is later than to {to}")));
    }
    if body.purpose.as_ref().is_some_and(|p| p.chars().count() > MAX_QUERY_CHARS) {
        return Err(Error::Invalid(format!("purpose has more than {MAX_QUERY_CHARS} characters")));
    }
    let text = body.query.as_deref();
    if let Some(text) = text {
        let chars = text.chars().count();
        if chars > MAX_QUERY_CHARS {
            return Err(Error::QueryTooLong { chars, max: MAX_QUERY_CHARS });
        }
        // A query of emoji or punctuation contains nothing that the model could read.
        if !text.chars().any(char::is_alphanumeric) {
            return Err(Error::EmptyQuery);
        }
    }
    if text.is_none() && body.image.is_none() && body.like.is_none() && body.cursor.is_none() {
        return Err(Error::Invalid("one of query, image and like is needed".into()));
    }
    if body.image.is_some() && body.like.is_some() {
        return Err(Error::Invalid("image and like are both examples: give one of them".into()));
    }
    let image = body.image.as_deref().map(|i| {
        // Browsers send data URLs.
        let data = i.strip_prefix("data:").and_then(|d| d.split_once(";base64,")).map_or(i, |(_, d)| d);
        STANDARD.decode(data).map_err(|e| Error::InvalidImage(format!("it is not base64: {e}")))
    });
    let query = SearchQuery {
        text: text.map(str::to_owned),
        image: None,
        like: body.like,
        cameras: None,
        from: body.from,
        to: body.to,
        limit,
        cursor: body.cursor.clone(),
        owner: String::new(),
        rerank,
        min_probability: body.min_probability,
        sort: body.sort,
    };
    Ok((query, image.transpose()?))
}

/// Returns the visible cameras that a search covers.
fn cameras_to_search(visible: Vec<CameraRow>, wanted: Option<&[String]>) -> Result<Vec<CameraRow>, Error> {
    let Some(wanted) = wanted else { return Ok(visible) };
    if wanted.is_empty() {
        return Err(Error::Invalid("cameras is empty: name at least one, or leave it out for all".into()));
    }
    if let Some(unknown) = wanted.iter().find(|w| !visible.iter().any(|r| r.spec.id.as_str() == *w)) {
        return Err(Error::UnknownCamera(unknown.clone()));
    }
    Ok(visible.into_iter().filter(|r| wanted.iter().any(|w| r.spec.id.as_str() == w)).collect())
}
