//! Conversion between this crate's types and the engine's.

use std::fmt::Display;

use qdrant_edge::external::ordered_float::OrderedFloat;
use qdrant_edge::{
    Condition, FieldCondition, Filter as EngineFilter, HasIdCondition, JsonPath, Match, Payload as EnginePayload,
    PointId, PointStruct, PointStructPersisted, Range, VectorStructInternal, Vectors,
};
use serde_json::{Map, Value};
use sightline_core::{SightingId, Timestamp};

use crate::store::names::{CAMERA, CAPTURED_AT, FIRST_SEEN, LAST_SEEN, TRACK};
use crate::store::{Filter, Payload, Record, StoreError};

/// Name of a point's only vector: the engine's default.
pub(super) const VECTOR: &str = qdrant_edge::DEFAULT_VECTOR_NAME;

pub(super) fn engine(error: impl Display) -> StoreError {
    StoreError::Engine(error.to_string())
}

pub(super) fn path(field: &str) -> Result<JsonPath, StoreError> {
    field.parse().map_err(|()| StoreError::Engine(format!("payload field {field:?} is not a path")))
}

pub(super) fn point_id(id: SightingId) -> PointId {
    PointId::Uuid(id)
}

pub(super) fn sighting_id(id: PointId) -> Result<SightingId, StoreError> {
    match id {
        PointId::Uuid(id) => Ok(id),
        PointId::NumId(n) => Err(StoreError::Engine(format!("a stored point is named {n} instead of by a UUID"))),
    }
}

pub(super) fn point(id: SightingId, vector: &[f32], payload: &Payload) -> Result<PointStructPersisted, StoreError> {
    let payload = serde_json::to_value(payload).map_err(engine)?;
    Ok(PointStruct::new(point_id(id), Vectors::from(vector), payload).into())
}

pub(super) fn record(id: PointId, payload: Option<EnginePayload>) -> Result<Record, StoreError> {
    let id = sighting_id(id)?;
    let EnginePayload(map) = payload.unwrap_or_default();
    let payload = serde_json::from_value(Value::Object(map))
        .map_err(|e| StoreError::Engine(format!("payload of point {id} is not readable: {e}")))?;
    Ok(Record { id, payload })
}

pub(super) fn vector(v: Option<VectorStructInternal>) -> Result<Vec<f32>, StoreError> {
    match v {
        Some(VectorStructInternal::Single(v)) => Ok(v),
        _ => Err(StoreError::Engine("a stored point has no plain vector".to_owned())),
    }
}

/// Payload fields of the track's time span, to be set on stored points.
pub(super) fn span(p: &Payload) -> EnginePayload {
    let mut map = Map::new();
    map.insert(FIRST_SEEN.to_owned(), p.first_seen.as_micros().into());
    map.insert(LAST_SEEN.to_owned(), p.last_seen.as_micros().into());
    map.insert("ended".to_owned(), p.ended.into());
    EnginePayload(map)
}

/// Converts a filter; `None` when it restricts nothing.
pub(super) fn filter(f: &Filter) -> Result<Option<EngineFilter>, StoreError> {
    let mut must = Vec::new();
    if let Some(cameras) = &f.cameras {
        must.push(one_of(CAMERA, cameras.iter().map(ToString::to_string).collect())?);
    }
    if let Some((camera, track)) = &f.track {
        must.push(one_of(CAMERA, vec![camera.to_string()])?);
        must.push(one_of(TRACK, vec![track.to_string()])?);
    }
    let times = [(CAPTURED_AT, f.from, f.to), (LAST_SEEN, f.seen_from, None), (FIRST_SEEN, None, f.seen_to)];
    for (field, from, to) in times.into_iter().filter(|(_, from, to)| from.is_some() || to.is_some()) {
        // The engine compares integers as f64, exact for every time up to the year 2255.
        let number = |t: Timestamp| OrderedFloat(t.as_micros() as f64);
        let range = Range { gte: from.map(number), lte: to.map(number), gt: None, lt: None };
        must.push(Condition::Field(FieldCondition::new_range(path(field)?, range)));
    }
    if let Some(ids) = &f.ids {
        must.push(with_ids(ids));
    }
    let mut must_not = Vec::new();
    if !f.exclude.is_empty() {
        must_not.push(with_ids(&f.exclude));
    }
    for scope in &f.except {
        must_not.extend(filter(&scope.filter())?.map(Condition::Filter));
    }
    if must.is_empty() && must_not.is_empty() {
        return Ok(None);
    }
    let some = |conditions: Vec<Condition>| (!conditions.is_empty()).then_some(conditions);
    let (must, must_not) = (some(must), some(must_not));
    Ok(Some(EngineFilter { must, must_not, should: None, min_should: None }))
}

fn one_of(field: &str, values: Vec<String>) -> Result<Condition, StoreError> {
    Ok(Condition::Field(FieldCondition::new_match(path(field)?, Match::from(values))))
}

fn with_ids(ids: &[SightingId]) -> Condition {
    Condition::HasId(ids.iter().copied().map(point_id).collect::<HasIdCondition>())
}
