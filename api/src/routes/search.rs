//! `POST /v1/search`: people who fit a description, an example picture, or both.
//!
//! The order of things matters: limits first (cheap), then which cameras may be seen, then the audit record (what cannot
//! be recorded is not done), then the search. Coverage comes last, so it is as fresh as the results.

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

/// Most characters of a query. The model reads 72 words; nobody describes a person in more than this.
const MAX_QUERY_CHARS: usize = 2000;

/// Longer side of an example picture in pixels: 200 MB when it is square. A small file may claim to be enormous.
const MAX_IMAGE_SIDE: u32 = 8192;

/// Most candidates the decoder re-ranks for one search; more would take minutes on a CPU.
const MAX_RERANK: usize = 256;

/// A search that takes longer than this is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to look for. At least one of `query`, `image` and `like` is needed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchBody {
    /// The person in plain words.
    pub query: Option<String>,
    /// An example picture of the person: JPEG or PNG, base64.
    pub image: Option<String>,
    /// A stored picture as the example; with `query`: "like this one, but ...".
    #[schema(value_type = Option<uuid::Uuid>)]
    pub like: Option<SightingId>,
    /// Only these cameras.
    #[schema(value_type = Option<Vec<String>>)]
    pub cameras: Option<Vec<String>>,
    /// Captured at or after (RFC 3339).
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Timestamp>,
    /// Captured at or before (RFC 3339).
    #[schema(value_type = Option<String>, format = DateTime)]
    pub to: Option<Timestamp>,
    /// Results wanted, 1 to `search.max_limit` (default 20).
    pub limit: Option<usize>,
    /// `next_cursor` of an earlier answer to the same search.
    pub cursor: Option<String>,
    /// Candidates the decoder re-ranks (default `search.rerank`; 0: none).
    pub rerank: Option<usize>,
    /// Only results at or above this match probability.
    pub min_probability: Option<f32>,
    /// Best match first, or newest first.
    #[serde(default)]
    pub sort: Sort,
    /// Why this search is made, for the audit trail.
    pub purpose: Option<String>,
}

/// One person found, shown by the best picture of the track.
#[derive(Debug, Serialize, ToSchema)]
pub struct HitView {
    /// The picture.
    #[schema(value_type = uuid::Uuid)]
    pub sighting_id: SightingId,
    /// The camera.
    #[schema(value_type = String)]
    pub camera: CameraId,
    /// The track.
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
    /// `[x0, y0, x1, y1]` of the person in the frame, in source pixels.
    #[serde(rename = "box")]
    #[schema(rename = "box", value_type = [f32; 4])]
    pub bbox: BBox,
    /// Cosine similarity of picture and query.
    pub similarity: f32,
    /// The decoder's match logit; `null` when it did not look at this one.
    pub match_logit: Option<f32>,
    /// The picture's similarity with descriptions at large, which the probability holds against it; `null` when the decoder
    /// did not look at it, or the model has no query bank.
    pub hubness: Option<f32>,
    /// Calibrated probability, 0 to 1; `null` when the decoder did not look at this one. From a model that judges phrases: that
    /// all of the description is true of the person, by all judged pictures of the track. From another: that the picture
    /// matches.
    pub probability: Option<f32>,
    /// Each phrase of the description, in its order, and how likely it holds of the person; empty when the decoder did not look
    /// at this one, or the model judges no phrases.
    pub phrases: Vec<PhraseView>,
    /// What the results are ranked by.
    pub score: f32,
    /// Path of the picture's JPEG.
    pub thumbnail: String,
}

impl From<Hit> for HitView {
    fn from(h: Hit) -> Self {
        Self {
            thumbnail: thumbnail_path(h.sighting_id),
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

/// How far a camera that was searched is searchable.
#[derive(Debug, Serialize, ToSchema)]
pub struct CoverageView {
    /// The camera.
    #[schema(value_type = String)]
    pub camera: CameraId,
    /// Everything captured up to here was searched; `null`: nothing has arrived since the start.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub searchable_through: Option<Timestamp>,
    /// Seconds by which the index is behind.
    pub lag_s: Option<f64>,
    /// Part of the footage that was dropped because the machine is too slow, 0 to 1.
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

/// What was found, where it was looked for, and how long it took.
#[derive(Debug, Serialize, ToSchema)]
pub struct SearchView {
    /// In the order asked for.
    pub results: Vec<HitView>,
    /// Whether the best result reaches `search.confident_probability`.
    pub confident: bool,
    /// When nobody reaches `min_probability`: what came nearest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nearest_misses: Vec<HitView>,
    /// Words of the query of which nothing was made, and why; empty with a model that judges no phrases. A query of such words
    /// alone is searched for by similarity, and nobody is judged.
    pub not_understood: Vec<NotUnderstoodView>,
    /// Phrases that hold of nobody judged more likely than not, on whatever page: "red jacket", "no bag".
    pub nobody_fulfils: Vec<String>,
    /// How many of `results` the description is expected to be untrue of: the sum of 1 - probability over those judged; `null`
    /// when none was, or the model judges no phrases.
    pub expected_wrong: Option<f32>,
    /// Pass as `cursor` for the next page; `null`: this was everything.
    pub next_cursor: Option<String>,
    /// How far each camera that was searched is searchable.
    pub coverage: Vec<CoverageView>,
    /// Milliseconds spent in each stage.
    pub timings_ms: Timings,
    /// What was left out or done worse than asked, in words.
    pub degraded: Vec<String>,
}

/// People who fit a description, an example picture, or both.
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
    let (mut query, image) = checked(&app, &body)?;
    query.owner = caller.id.clone();
    let engine = app.engine()?.clone();
    let rows = chosen(app.visible_cameras(&caller).await?, body.cameras.as_deref())?;
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
        // An example outside the token's scope must not even be compared with.
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
    let answer = tokio::time::timeout(PATIENCE, engine.search(query)).await.map_err(|_| Error::Unavailable {
        part: "search",
        why: format!("no answer within {} s; the machine is overloaded", PATIENCE.as_secs()),
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

/// Everything that can be said about the request without looking anything up; and the example's bytes.
fn checked(app: &App, body: &SearchBody) -> Result<(SearchQuery, Option<Vec<u8>>), Error> {
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
        // A query of emoji or punctuation says nothing the model could read.
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
        // Browsers hand out data URLs.
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

/// The visible cameras a search covers.
fn chosen(visible: Vec<CameraRow>, wanted: Option<&[String]>) -> Result<Vec<CameraRow>, Error> {
    let Some(wanted) = wanted else { return Ok(visible) };
    if wanted.is_empty() {
        return Err(Error::Invalid("cameras is empty: name at least one, or leave it out for all".into()));
    }
    if let Some(unknown) = wanted.iter().find(|w| !visible.iter().any(|r| r.spec.id.as_str() == *w)) {
        return Err(Error::UnknownCamera(unknown.clone()));
    }
    Ok(visible.into_iter().filter(|r| wanted.iter().any(|w| r.spec.id.as_str() == w)).collect())
}
