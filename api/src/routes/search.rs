//! `POST /v1/search`: finds people by a description, an example picture, or both. The limits that
//! need no look-up are checked here; everything else is the [`Desk`]'s.

use axum::Json;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sightline_core::config::{MAX_RERANK, SearchConfig};
use sightline_core::{CameraId, SightingId, Timestamp};
use sightline_search::{Filter, Hit, SearchRequest, Sort, Timings};
use utoipa::ToSchema;

use crate::cameras::CameraView;
use crate::desk::{Desk, Found, Operator, SearchOrder};
use crate::error::Error;
use crate::extract::ApiJson;
use crate::routes::sightings::thumbnail_path;

/// Largest number of characters of a query. The model reads 72 words, and no description of a
/// person is longer than this.
const MAX_QUERY_CHARS: usize = 2000;

/// Largest number of cameras whose coverage an answer lists.
const MAX_COVERAGE: usize = 100;

/// Search request. At least one of `query`, `image` and `like` is required.
#[derive(Debug, Default, PartialEq, Deserialize, ToSchema)]
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
    /// In view at or after this time (RFC 3339): the track's last frame is not earlier.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Timestamp>,
    /// In view at or before this time (RFC 3339), to the end of its millisecond: the track's first
    /// frame is not later.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub to: Option<Timestamp>,
    /// Number of results, 1 to `search.max_limit` (default 20).
    pub limit: Option<usize>,
    /// `next_cursor` of an earlier answer to the same token. It goes on with that search, so that
    /// only `purpose` may be sent with it.
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

/// Person found, with links.
#[derive(Debug, Serialize, ToSchema)]
pub struct HitView {
    /// The track and its best picture; its fields stand beside `thumbnail`.
    #[serde(flatten)]
    pub hit: Hit,
    /// Path of the picture's JPEG. It names the picture that was judged, which is there for an hour
    /// after a better one of the same track has replaced it; then the answer is 404.
    pub thumbnail: String,
}

impl From<Hit> for HitView {
    fn from(hit: Hit) -> Self {
        Self { thumbnail: thumbnail_path(hit.sighting_id, hit.crop), hit }
    }
}

/// Word of the description that the model could not use.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct NotUnderstoodView {
    /// The word as it stands in the query.
    pub text: String,
    /// The reason: "age is not judged".
    pub why: String,
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
    /// Whether a result, of this page or another, reaches `search.confident_probability`; what was
    /// erased meanwhile does not count. `null` when nothing was judged: by a search without a
    /// query, with `rerank` 0, or of a query that states nothing the model judges.
    pub confident: Option<bool>,
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
    /// Number of cameras that were searched.
    pub cameras_searched: usize,
    /// Coverage of the cameras that were searched: of at most 100, those first that are furthest
    /// behind or dropped most.
    pub coverage: Vec<CoverageView>,
    /// Duration of each stage in milliseconds.
    pub timings_ms: Timings,
    /// Notes for people about what was left out or degraded.
    pub degraded: Vec<String>,
}

/// Finds people by a description, an example picture, or both.
#[utoipa::path(post, path = "/v1/search", tag = "search", request_body = SearchBody,
    responses((status = 200, body = SearchView)))]
pub async fn search(desk: Desk<Operator>, ApiJson(body): ApiJson<SearchBody>) -> Result<Json<SearchView>, Error> {
    let order = validate(desk.search_config(), body)?;
    let Found { answer, cameras } = desk.search(order).await?;
    let views = |hits: Vec<Hit>| hits.into_iter().map(HitView::from).collect();
    let lost = answer.not_understood.into_iter().map(|n| NotUnderstoodView { text: n.text, why: n.why.to_string() });
    Ok(Json(SearchView {
        results: views(answer.hits),
        confident: answer.confident,
        nearest_misses: views(answer.nearest_misses),
        not_understood: lost.collect(),
        nobody_fulfils: answer.nobody_fulfils,
        expected_wrong: answer.expected_wrong,
        next_cursor: answer.next_cursor,
        cameras_searched: cameras.len(),
        coverage: worst_covered(cameras).into_iter().map(CoverageView::from).collect(),
        timings_ms: answer.timings,
        degraded: answer.degraded,
    }))
}

/// Returns all cameras in their order, or of more than [`MAX_COVERAGE`] those with the longest lag
/// or the largest losses.
fn worst_covered(mut cameras: Vec<CameraView>) -> Vec<CameraView> {
    if cameras.len() > MAX_COVERAGE {
        let badness = |v: &CameraView| (v.lag_s.unwrap_or(f64::INFINITY), v.dropped_fraction);
        cameras.sort_by(|a, b| {
            let ((lag_a, lost_a), (lag_b, lost_b)) = (badness(a), badness(b));
            lag_b.total_cmp(&lag_a).then(lost_b.total_cmp(&lost_a)).then(a.id.cmp(&b.id))
        });
        cameras.truncate(MAX_COVERAGE);
    }
    cameras
}

/// Validates everything that needs no look-up, and decodes the example's base64.
fn validate(config: &SearchConfig, body: SearchBody) -> Result<SearchOrder, Error> {
    if body.purpose.as_ref().is_some_and(|p| p.chars().count() > MAX_QUERY_CHARS) {
        return Err(Error::Invalid(format!("purpose has more than {MAX_QUERY_CHARS} characters")));
    }
    if let Some(cursor) = body.cursor {
        let own = SearchBody { cursor: None, purpose: None, ..body };
        if own != SearchBody::default() {
            return Err(Error::Invalid(
                "a cursor goes on with its own search: send it alone, without query or filters".into(),
            ));
        }
        return Ok(SearchOrder { cursor: Some(cursor), purpose: body.purpose, ..SearchOrder::default() });
    }
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
    if let Some(text) = body.query.as_deref() {
        let chars = text.chars().count();
        if chars > MAX_QUERY_CHARS {
            return Err(Error::QueryTooLong { chars, max: MAX_QUERY_CHARS });
        }
        // A query of emoji or punctuation contains nothing that the model could read.
        if !text.chars().any(char::is_alphanumeric) {
            return Err(Error::EmptyQuery);
        }
    }
    if body.query.is_none() && body.image.is_none() && body.like.is_none() {
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
    let image = image.transpose()?;
    let request = SearchRequest {
        query: body.query,
        like: body.like,
        filter: Filter {
            seen_from: body.from.map(start_of_millisecond),
            seen_to: body.to.map(end_of_millisecond),
            ..Filter::default()
        },
        limit,
        rerank: Some(rerank),
        min_probability: body.min_probability,
        sort: body.sort,
        ..SearchRequest::default()
    };
    Ok(SearchOrder { request, image, cameras: body.cameras, cursor: None, purpose: body.purpose })
}

/// People and programs write times to the millisecond; cameras have them to the microsecond.
fn start_of_millisecond(t: Timestamp) -> Timestamp {
    Timestamp::from_micros(t.as_micros() - t.as_micros().rem_euclid(1000))
}

fn end_of_millisecond(t: Timestamp) -> Timestamp {
    Timestamp::from_micros(start_of_millisecond(t).as_micros().saturating_add(999))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_range_includes_the_whole_of_its_last_millisecond() {
        for (us, start, end) in [(1_000, 1_000, 1_999), (1_999, 1_000, 1_999), (0, 0, 999), (-1, -1_000, -1)] {
            let t = Timestamp::from_micros(us);
            assert_eq!((start_of_millisecond(t).as_micros(), end_of_millisecond(t).as_micros()), (start, end), "{us}");
        }
    }
}
