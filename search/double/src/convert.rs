//! Conversion between the gRPC interface and the engine. Filters, schemas and quantization are
//! converted to the JSON of Qdrant's REST interface, which the engine parses itself, so that their
//! meaning is the engine's and not a translation.

use std::collections::HashMap;

use qdrant_client::qdrant::condition::ConditionOneOf;
use qdrant_client::qdrant::r#match::MatchValue;
use qdrant_client::qdrant::payload_index_params::IndexParams;
use qdrant_client::qdrant::point_id::PointIdOptions;
use qdrant_client::qdrant::points_selector::PointsSelectorOneOf;
use qdrant_client::qdrant::quantization_config::Quantization;
use qdrant_client::qdrant::vectors::VectorsOptions;
use qdrant_client::qdrant::vectors_config::Config;
use qdrant_client::qdrant::with_payload_selector::SelectorOptions as PayloadOptions;
use qdrant_client::qdrant::with_vectors_selector::SelectorOptions as VectorOptions;
use qdrant_client::qdrant::{
    Condition, CreateCollection, CreateFieldIndexCollection, DenseVector, Distance, FieldType, Filter, PointId,
    PointStruct, PointsSelector, RetrievedPoint, ScoredPoint, SearchParams, Value, VectorOutput, VectorsOutput,
    WithPayloadSelector, WithVectorsSelector, vector, vector_output, vectors_output,
};
use qdrant_edge as edge;
use serde_json::{Value as Json, json};
use tonic::Status;

use sightline_search::EdgeOptions;

/// Converts an engine failure to the status that a server answers.
pub(crate) fn failed(error: edge::OperationError) -> Status {
    use edge::OperationError as E;
    match &error {
        E::WrongVectorDimension { .. }
        | E::VectorNameNotExists { .. }
        | E::TypeError { .. }
        | E::ValidationError { .. }
        | E::WrongSparse
        | E::WrongMulti
        | E::MissingRangeIndexForOrderBy { .. }
        | E::MissingMapIndexForFacet { .. }
        | E::MalformedPayloadBlob { .. }
        | E::MalformedVectorBlob { .. } => Status::invalid_argument(format!("Wrong input: {error}")),
        E::PointIdError { .. } => Status::not_found(error.to_string()),
        _ => Status::internal(error.to_string()),
    }
}

/// Status for a part of a call that the double does not support.
pub(crate) fn left_out(what: &str) -> Status {
    Status::unimplemented(format!("{what}: {}", crate::NOT_HERE))
}

/// Parses the JSON of the REST interface.
fn from_json<T: serde::de::DeserializeOwned>(what: &str, json: Json) -> Result<T, Status> {
    serde_json::from_value(json).map_err(|e| Status::invalid_argument(format!("Wrong input: {what}: {e}")))
}

pub(crate) fn path(key: &str) -> Result<edge::JsonPath, Status> {
    key.parse().map_err(|()| Status::invalid_argument(format!("Wrong input: {key:?} is no payload path")))
}

/// Engine configuration of the collection that this call creates.
#[allow(deprecated, reason = "clients set the flags that servers before 1.19 know, too")]
pub(crate) fn engine_config(request: &CreateCollection, options: &EdgeOptions) -> Result<edge::EdgeConfig, Status> {
    if request.sparse_vectors_config.is_some() || request.sharding_method.is_some_and(|m| m != 0) {
        return Err(left_out("sparse vectors and sharding by key"));
    }
    let without_vectors = options.configure(0);
    Ok(match request.vectors_config.as_ref().and_then(|v| v.config.as_ref()) {
        None => without_vectors,
        Some(Config::Params(p)) => {
            let width = p.size as usize;
            let distance = match p.distance() {
                Distance::Cosine => edge::Distance::Cosine,
                Distance::Dot => edge::Distance::Dot,
                Distance::Euclid => edge::Distance::Euclid,
                other => return Err(left_out(other.as_str_name())),
            };
            let memory = if p.on_disk == Some(true) { edge::Memory::Cold } else { edge::Memory::Cached };
            let mut params = edge::EdgeVectorParams::builder(width, distance).memory(memory);
            if let Some(q) = p.quantization_config.as_ref().or(request.quantization_config.as_ref()) {
                params = params.quantization_config(quantization(q.quantization.as_ref())?);
            }
            options.configure(width).vector(edge::DEFAULT_VECTOR_NAME, params.build())
        }
        Some(Config::ParamsMap(map)) if map.map.is_empty() => without_vectors,
        Some(Config::ParamsMap(_)) => return Err(left_out("named vectors")),
    }
    .build())
}

#[allow(deprecated, reason = "see engine_config")]
fn quantization(q: Option<&Quantization>) -> Result<edge::QuantizationConfig, Status> {
    let Some(Quantization::Scalar(s)) = q else { return Err(left_out("quantisation other than scalar")) };
    let memory = if s.always_ram == Some(true) { "pinned" } else { "cold" };
    from_json("quantisation", json!({"scalar": {"type": "int8", "quantile": s.quantile, "memory": memory}}))
}

/// Schema of a payload index.
#[allow(deprecated, reason = "see engine_config")]
pub(crate) fn schema(request: &CreateFieldIndexCollection) -> Result<edge::PayloadFieldSchema, Status> {
    let name = match request.field_type() {
        FieldType::Keyword => "keyword",
        FieldType::Integer => "integer",
        FieldType::Float => "float",
        FieldType::Bool => "bool",
        FieldType::Datetime => "datetime",
        FieldType::Uuid => "uuid",
        other => return Err(left_out(other.as_str_name())),
    };
    let json = match request.field_index_params.as_ref().and_then(|p| p.index_params.as_ref()) {
        None => json!(name),
        Some(IndexParams::KeywordIndexParams(p)) => {
            json!({"type": name, "on_disk": p.on_disk, "is_tenant": p.is_tenant})
        }
        Some(IndexParams::IntegerIndexParams(p)) => json!({
            "type": name, "on_disk": p.on_disk, "lookup": p.lookup, "range": p.range, "is_principal": p.is_principal
        }),
        Some(_) => return Err(left_out("parameters of this index")),
    };
    from_json("index", json)
}

pub(crate) fn point_id(id: &PointId) -> Result<edge::PointId, Status> {
    match &id.point_id_options {
        Some(PointIdOptions::Num(n)) => Ok(edge::PointId::NumId(*n)),
        Some(PointIdOptions::Uuid(id)) => id
            .parse()
            .map(edge::PointId::Uuid)
            .map_err(|_| Status::invalid_argument(format!("Wrong input: unable to parse UUID: {id}"))),
        None => Err(Status::invalid_argument("Wrong input: a point without an id")),
    }
}

pub(crate) fn point_ids(ids: &[PointId]) -> Result<Vec<edge::PointId>, Status> {
    ids.iter().map(point_id).collect()
}

fn id_json(id: &PointId) -> Result<Json, Status> {
    Ok(match point_id(id)? {
        edge::PointId::NumId(n) => json!(n),
        edge::PointId::Uuid(id) => json!(id),
    })
}

pub(crate) fn id_out(id: edge::PointId) -> Option<PointId> {
    let options = match id {
        edge::PointId::NumId(n) => PointIdOptions::Num(n),
        edge::PointId::Uuid(id) => PointIdOptions::Uuid(id.to_string()),
    };
    Some(PointId { point_id_options: Some(options) })
}

pub(crate) fn filter(filter: Option<&Filter>) -> Result<Option<edge::Filter>, Status> {
    filter.map(|f| from_json("filter", filter_json(f)?)).transpose()
}

fn filter_json(f: &Filter) -> Result<Json, Status> {
    let all = |list: &[Condition]| list.iter().map(condition_json).collect::<Result<Vec<_>, _>>();
    let mut json = serde_json::Map::new();
    for (name, list) in [("must", &f.must), ("must_not", &f.must_not), ("should", &f.should)] {
        if !list.is_empty() {
            json.insert(name.to_owned(), Json::Array(all(list)?));
        }
    }
    if let Some(min) = &f.min_should {
        let min = json!({"conditions": all(&min.conditions)?, "min_count": min.min_count});
        json.insert("min_should".to_owned(), min);
    }
    Ok(Json::Object(json))
}

fn condition_json(c: &Condition) -> Result<Json, Status> {
    Ok(match &c.condition_one_of {
        Some(ConditionOneOf::HasId(ids)) => {
            json!({"has_id": ids.has_id.iter().map(id_json).collect::<Result<Vec<_>, _>>()?})
        }
        Some(ConditionOneOf::Filter(f)) => filter_json(f)?,
        Some(ConditionOneOf::IsEmpty(e)) => json!({"is_empty": {"key": e.key}}),
        Some(ConditionOneOf::IsNull(e)) => json!({"is_null": {"key": e.key}}),
        Some(ConditionOneOf::Field(field)) => {
            let key = &field.key;
            match (&field.r#match, &field.range) {
                (Some(m), None) => json!({"key": key, "match": match_json(m.match_value.as_ref())?}),
                (None, Some(r)) => {
                    json!({"key": key, "range": {"gt": r.gt, "gte": r.gte, "lt": r.lt, "lte": r.lte}})
                }
                _ => return Err(left_out("conditions other than match and range")),
            }
        }
        _ => return Err(left_out("this kind of condition")),
    })
}

fn match_json(value: Option<&MatchValue>) -> Result<Json, Status> {
    Ok(match value {
        Some(MatchValue::Keyword(v)) => json!({"value": v}),
        Some(MatchValue::Integer(v)) => json!({"value": v}),
        Some(MatchValue::Boolean(v)) => json!({"value": v}),
        Some(MatchValue::Keywords(v)) => json!({"any": v.strings}),
        Some(MatchValue::Integers(v)) => json!({"any": v.integers}),
        Some(MatchValue::ExceptKeywords(v)) => json!({"except": v.strings}),
        Some(MatchValue::ExceptIntegers(v)) => json!({"except": v.integers}),
        _ => return Err(left_out("this kind of match")),
    })
}

/// Points that a change applies to.
pub(crate) enum Which {
    Ids(Vec<edge::PointId>),
    Filter(edge::Filter),
}

pub(crate) fn which(selector: Option<&PointsSelector>) -> Result<Which, Status> {
    match selector.and_then(|s| s.points_selector_one_of.as_ref()) {
        Some(PointsSelectorOneOf::Points(list)) => Ok(Which::Ids(point_ids(&list.ids)?)),
        Some(PointsSelectorOneOf::Filter(f)) => Ok(Which::Filter(filter(Some(f))?.unwrap_or_default())),
        None => Err(Status::invalid_argument("Wrong input: no points selected")),
    }
}

pub(crate) fn payload_in(fields: HashMap<String, Value>) -> edge::Payload {
    edge::Payload(fields.into_iter().map(|(k, v)| (k, v.into_json())).collect())
}

fn payload_out(payload: Option<edge::Payload>) -> HashMap<String, Value> {
    payload.unwrap_or_default().0.into_iter().map(|(k, v)| (k, Value::from(v))).collect()
}

pub(crate) fn point(p: PointStruct) -> Result<edge::PointStructPersisted, Status> {
    let id = point_id(&p.id.ok_or_else(|| Status::invalid_argument("Wrong input: a point without an id"))?)?;
    let vectors = match p.vectors.and_then(|v| v.vectors_options) {
        Some(VectorsOptions::Vector(v)) => {
            #[allow(deprecated)]
            let data = match v.vector {
                Some(vector::Vector::Dense(dense)) => dense.data,
                None if v.indices.is_none() => v.data,
                _ => return Err(left_out("vectors other than dense ones")),
            };
            edge::Vectors::from(data)
        }
        Some(VectorsOptions::Vectors(named)) if named.vectors.is_empty() => no_vectors(),
        None => no_vectors(),
        Some(VectorsOptions::Vectors(_)) => return Err(left_out("named vectors")),
    };
    let edge::Payload(fields) = payload_in(p.payload);
    Ok(edge::PointStruct::new(id, vectors, Json::Object(fields)).into())
}

fn no_vectors() -> edge::Vectors {
    edge::Vectors::new_named(std::iter::empty::<(String, Vec<f32>)>())
}

pub(crate) fn with_payload(
    selector: Option<&WithPayloadSelector>,
    default: bool,
) -> Result<edge::WithPayloadInterface, Status> {
    Ok(match selector.and_then(|s| s.selector_options.as_ref()) {
        None => edge::WithPayloadInterface::Bool(default),
        Some(PayloadOptions::Enable(yes)) => edge::WithPayloadInterface::Bool(*yes),
        Some(PayloadOptions::Include(list)) => {
            edge::WithPayloadInterface::Fields(list.fields.iter().map(|f| path(f)).collect::<Result<_, _>>()?)
        }
        Some(PayloadOptions::Exclude(_)) => return Err(left_out("payload without some fields")),
    })
}

pub(crate) fn with_vectors(selector: Option<&WithVectorsSelector>) -> Result<edge::WithVector, Status> {
    match selector.and_then(|s| s.selector_options.as_ref()) {
        None => Ok(edge::WithVector::Bool(false)),
        Some(VectorOptions::Enable(yes)) => Ok(edge::WithVector::Bool(*yes)),
        Some(VectorOptions::Include(_)) => Err(left_out("some of the vectors")),
    }
}

pub(crate) fn params(p: Option<&SearchParams>) -> Result<Option<edge::SearchParams>, Status> {
    let Some(p) = p else { return Ok(None) };
    if p.idf.is_some() {
        return Err(left_out("IDF"));
    }
    Ok(Some(edge::SearchParams {
        hnsw_ef: p.hnsw_ef.map(|ef| ef as usize),
        exact: p.exact.unwrap_or_default(),
        quantization: p.quantization.as_ref().map(|q| edge::QuantizationSearchParams {
            ignore: q.ignore.unwrap_or_default(),
            rescore: q.rescore,
            oversampling: q.oversampling,
        }),
        indexed_only: p.indexed_only.unwrap_or_default(),
        acorn: p.acorn.map(|a| edge::AcornSearchParams {
            enable: a.enable.unwrap_or_default(),
            max_selectivity: a.max_selectivity.map(edge::external::ordered_float::OrderedFloat),
        }),
        ..edge::SearchParams::default()
    }))
}

fn vectors_out(vector: Option<edge::VectorStructInternal>) -> Option<VectorsOutput> {
    let Some(edge::VectorStructInternal::Single(data)) = vector else { return None };
    let dense =
        VectorOutput { vector: Some(vector_output::Vector::Dense(DenseVector { data })), ..VectorOutput::default() };
    Some(VectorsOutput { vectors_options: Some(vectors_output::VectorsOptions::Vector(dense)) })
}

pub(crate) fn scored(p: edge::ScoredPoint) -> ScoredPoint {
    ScoredPoint {
        id: id_out(p.id),
        payload: payload_out(p.payload),
        score: p.score,
        version: p.version,
        vectors: vectors_out(p.vector),
        shard_key: None,
        order_value: None,
    }
}

pub(crate) fn retrieved(r: edge::Record) -> RetrievedPoint {
    RetrievedPoint {
        id: id_out(r.id),
        payload: payload_out(r.payload),
        vectors: vectors_out(r.vector),
        shard_key: None,
        order_value: None,
    }
}
