//! Conversion between this crate's types and those of Qdrant's gRPC interface.

use std::collections::HashMap;

use qdrant_client::qdrant::condition::ConditionOneOf;
use qdrant_client::qdrant::r#match::MatchValue;
use qdrant_client::qdrant::point_id::PointIdOptions;
use qdrant_client::qdrant::points_selector::PointsSelectorOneOf;
use qdrant_client::qdrant::vectors::VectorsOptions;
use qdrant_client::qdrant::with_payload_selector::SelectorOptions as PayloadOptions;
use qdrant_client::qdrant::with_vectors_selector::SelectorOptions as VectorOptions;
use qdrant_client::qdrant::{
    Condition, DenseVector, FieldCondition, Filter as ServerFilter, HasIdCondition, Match, PayloadIncludeSelector,
    PointId, PointStruct, PointsIdsList, PointsSelector, Range, RepeatedStrings, ScoredPoint, Value, Vector, Vectors,
    VectorsOutput, WithPayloadSelector, WithVectorsSelector, vector, vector_output, vectors_output,
};
use sightline_core::{CameraId, SightingId, Timestamp, TrackId};

use crate::store::names::{CAMERA, CAPTURED_AT, FIRST_SEEN, LAST_SEEN, TRACK};
use crate::store::{Filter, Payload, Record, Scope, Scored, StoreError};

/// Payload field that joins camera and track, for grouping: track ids are unique within their
/// camera only.
pub(super) const TRACK_KEY: &str = "track_key";

/// Payload fields of the track's time span.
pub(super) const SPAN: [&str; 3] = [FIRST_SEEN, LAST_SEEN, "ended"];

pub(super) fn engine(error: impl std::fmt::Display) -> StoreError {
    StoreError::Engine(error.to_string())
}

fn track_key(camera: &CameraId, track: TrackId) -> String {
    format!("{camera}/{track}")
}

pub(super) fn point_id(id: SightingId) -> PointId {
    PointId { point_id_options: Some(PointIdOptions::Uuid(id.to_string())) }
}

pub(super) fn sighting_id(id: Option<PointId>) -> Result<SightingId, StoreError> {
    match id.and_then(|id| id.point_id_options) {
        Some(PointIdOptions::Uuid(id)) => id.parse().map_err(engine),
        other => Err(engine(format!("a stored point is named {other:?} instead of by a UUID"))),
    }
}

pub(super) fn selector(ids: &[SightingId]) -> PointsSelector {
    let ids = ids.iter().copied().map(point_id).collect();
    PointsSelector { points_selector_one_of: Some(PointsSelectorOneOf::Points(PointsIdsList { ids })) }
}

pub(super) fn with_payload(yes: bool) -> Option<WithPayloadSelector> {
    Some(WithPayloadSelector { selector_options: Some(PayloadOptions::Enable(yes)) })
}

/// Selects only these fields of the payload.
pub(super) fn with_fields(fields: &[&str]) -> Option<WithPayloadSelector> {
    let fields = fields.iter().map(|f| (*f).to_owned()).collect();
    Some(WithPayloadSelector { selector_options: Some(PayloadOptions::Include(PayloadIncludeSelector { fields })) })
}

pub(super) fn with_vectors(yes: bool) -> Option<WithVectorsSelector> {
    Some(WithVectorsSelector { selector_options: Some(VectorOptions::Enable(yes)) })
}

/// Converts a value to payload fields.
pub(super) fn fields(value: &impl serde::Serialize) -> Result<HashMap<String, Value>, StoreError> {
    match serde_json::to_value(value).map_err(engine)? {
        serde_json::Value::Object(map) => Ok(map.into_iter().map(|(k, v)| (k, Value::from(v))).collect()),
        other => Err(engine(format!("{other} is no payload"))),
    }
}

/// Parses a value from payload fields.
pub(super) fn value<T: serde::de::DeserializeOwned>(fields: HashMap<String, Value>) -> Result<T, serde_json::Error> {
    let map = fields.into_iter().map(|(k, v)| (k, v.into_json())).collect();
    serde_json::from_value(serde_json::Value::Object(map))
}

pub(super) fn point(id: SightingId, vector: &[f32], payload: &Payload) -> Result<PointStruct, StoreError> {
    let mut payload_fields = fields(payload)?;
    payload_fields.insert(TRACK_KEY.to_owned(), track_key(&payload.camera, payload.track).into());
    let dense =
        Vector { vector: Some(vector::Vector::Dense(DenseVector { data: vector.to_vec() })), ..Vector::default() };
    let vectors = Vectors { vectors_options: Some(VectorsOptions::Vector(dense)) };
    Ok(PointStruct { id: Some(point_id(id)), payload: payload_fields, vectors: Some(vectors) })
}

pub(super) fn record(id: Option<PointId>, payload: HashMap<String, Value>) -> Result<Record, StoreError> {
    let id = sighting_id(id)?;
    let payload = value(payload).map_err(|e| engine(format!("payload of point {id} is not readable: {e}")))?;
    Ok(Record { id, payload })
}

pub(super) fn scored(p: ScoredPoint) -> Result<Scored, StoreError> {
    let record = record(p.id, p.payload)?;
    Ok(Scored { id: record.id, cosine: p.score, payload: record.payload })
}

pub(super) fn vector(v: Option<VectorsOutput>) -> Result<Vec<f32>, StoreError> {
    if let Some(vectors_output::VectorsOptions::Vector(v)) = v.and_then(|v| v.vectors_options)
        && let vector_output::Vector::Dense(dense) = v.into_vector()
    {
        return Ok(dense.data);
    }
    Err(engine("a stored point has no plain vector"))
}

/// Payload fields of the track's time span, to be set on stored points.
pub(super) fn span(p: &Payload) -> HashMap<String, Value> {
    let values = [p.first_seen.as_micros().into(), p.last_seen.as_micros().into(), Value::from(p.ended)];
    SPAN.iter().map(|field| (*field).to_owned()).zip(values).collect()
}

/// Converts a filter; `None` when it restricts nothing.
pub(super) fn filter(f: &Filter) -> Option<ServerFilter> {
    let mut must = Vec::new();
    if let Some(cameras) = &f.cameras {
        must.push(one_of(CAMERA, cameras.iter().map(ToString::to_string).collect()));
    }
    if let Some((camera, track)) = &f.track {
        must.push(one_of(CAMERA, vec![camera.to_string()]));
        must.push(one_of(TRACK, vec![track.to_string()]));
    }
    let times = [(CAPTURED_AT, f.from, f.to), (LAST_SEEN, f.seen_from, None), (FIRST_SEEN, None, f.seen_to)];
    for (key, from, to) in times.into_iter().filter(|(_, from, to)| from.is_some() || to.is_some()) {
        // The server compares integers as f64, exact for every time up to the year 2255.
        let number = |t: Timestamp| t.as_micros() as f64;
        let range = Range { gte: from.map(number), lte: to.map(number), ..Range::default() };
        must.push(field(FieldCondition { key: key.to_owned(), range: Some(range), ..Default::default() }));
    }
    must.extend(f.ids.as_deref().map(with_ids));
    let mut must_not = Vec::new();
    if !f.exclude.is_empty() {
        must_not.push(with_ids(&f.exclude));
    }
    let nested = |scope: &Scope| {
        filter(&scope.filter()).map(|f| Condition { condition_one_of: Some(ConditionOneOf::Filter(f)) })
    };
    must_not.extend(f.except.iter().filter_map(nested));
    if must.is_empty() && must_not.is_empty() {
        return None;
    }
    Some(ServerFilter { must, must_not, ..ServerFilter::default() })
}

fn field(condition: FieldCondition) -> Condition {
    Condition { condition_one_of: Some(ConditionOneOf::Field(condition)) }
}

fn one_of(key: &str, strings: Vec<String>) -> Condition {
    let keywords = Match { match_value: Some(MatchValue::Keywords(RepeatedStrings { strings })) };
    field(FieldCondition { key: key.to_owned(), r#match: Some(keywords), ..Default::default() })
}

fn with_ids(ids: &[SightingId]) -> Condition {
    let has_id = ids.iter().copied().map(point_id).collect();
    Condition { condition_one_of: Some(ConditionOneOf::HasId(HasIdCondition { has_id })) }
}
