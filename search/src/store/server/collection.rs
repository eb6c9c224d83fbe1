//! Collections of a Qdrant server: created as configured, and checked at every start before use.
//!
//! A collection holds one model's vectors and is named after the model; the alias, which people and
//! dashboards use, points to the collection that is searched. Payload indexes must exist before the
//! first point: otherwise the server builds its graph without them, and narrow filters lose hits.

use qdrant_client::qdrant::payload_index_params::IndexParams;
use qdrant_client::qdrant::quantization_config::Quantization as ServerQuantization;
use qdrant_client::qdrant::vectors_config::Config;
use qdrant_client::qdrant::{
    CollectionInfo, CreateAlias, CreateCollection, CreateFieldIndexCollection, Distance, FieldType, HnswConfigDiff,
    IntegerIndexParams, KeywordIndexParams, PayloadIndexParams, PayloadSchemaType, QuantizationConfig,
    QuantizationType, ScalarQuantization, VectorParams, VectorsConfig as ServerVectors,
};
use sightline_core::config::{Quantization, VectorsConfig};

use super::client::Client;
use super::convert::TRACK_KEY;
use crate::store::StoreError;
use crate::store::names::{CAMERA, CAPTURED_AT, FIRST_SEEN, LAST_SEEN, TRACK};
use crate::store::tuning::{COMPARE_ALL_BELOW, kilobytes};

/// Quantile of a vector's values that int8 covers; the outermost are clipped. The server's own
/// recommendation.
const QUANTILE: f32 = 0.99;

/// A payload field with an index.
struct Index {
    field: &'static str,
    kind: FieldType,
    stored_as: PayloadSchemaType,
    /// Whether the index goes to the disk where vectors do: it grows with the number of tracks, not
    /// of cameras.
    large: bool,
}

const INDEXES: [Index; 6] = [
    Index { field: CAMERA, kind: FieldType::Keyword, stored_as: PayloadSchemaType::Keyword, large: false },
    Index { field: TRACK, kind: FieldType::Keyword, stored_as: PayloadSchemaType::Keyword, large: true },
    Index { field: CAPTURED_AT, kind: FieldType::Integer, stored_as: PayloadSchemaType::Integer, large: false },
    Index { field: FIRST_SEEN, kind: FieldType::Integer, stored_as: PayloadSchemaType::Integer, large: false },
    Index { field: LAST_SEEN, kind: FieldType::Integer, stored_as: PayloadSchemaType::Integer, large: false },
    Index { field: TRACK_KEY, kind: FieldType::Keyword, stored_as: PayloadSchemaType::Keyword, large: true },
];

/// Creates the collection `name` for vectors of `width` values if it is missing, and checks its
/// settings.
pub(super) fn ensure(client: &Client, config: &VectorsConfig, name: &str, width: usize) -> Result<(), StoreError> {
    create_missing(client, name, || vectors_of(config, name, width))?;
    check_vectors(&info(client, name)?, name, width)?;
    for index in &INDEXES {
        ensure_index(client, config, name, index)?;
    }
    let found = info(client, name)?;
    for index in &INDEXES {
        let kind = kind(&found, index.field);
        if kind != Some(index.stored_as) {
            return Err(other(name, format!("has no index of {:?} but {kind:?}", index.field)));
        }
    }
    Ok(())
}

/// Creates a collection without vectors if it is missing.
pub(super) fn ensure_plain(client: &Client, config: &VectorsConfig, name: &str) -> Result<(), StoreError> {
    create_missing(client, name, || CreateCollection {
        vectors_config: None,
        quantization_config: None,
        shard_number: Some(1),
        ..vectors_of(config, name, 1)
    })
}

/// Points the alias to this collection, unless it exists already, possibly for another model.
pub(super) fn ensure_alias(client: &Client, alias: &str, name: &str) -> Result<(), StoreError> {
    let known = client.call(|q| async move { q.list_aliases().await })?.aliases;
    match known.iter().find(|a| a.alias_name == alias) {
        Some(a) if a.collection_name == name => Ok(()),
        Some(a) => {
            tracing::warn!(alias, names = a.collection_name, "the alias names another model's collection; it is left");
            Ok(())
        }
        None => set_alias(client, alias, name),
    }
}

/// Points the alias to this collection.
pub(super) fn set_alias(client: &Client, alias: &str, name: &str) -> Result<(), StoreError> {
    let create = CreateAlias { alias_name: alias.to_owned(), collection_name: name.to_owned() };
    // Creating an existing alias moves it in one step.
    client.call(|q| async move { q.create_alias(create).await }).map(|_| ())
}

/// Deletes a collection.
pub(super) fn delete(client: &Client, name: &str) -> Result<(), StoreError> {
    let name = name.to_owned();
    client.call(|q| async move { q.delete_collection(name).await }).map(|_| ())
}

fn other(collection: &str, problem: String) -> StoreError {
    StoreError::OtherCollection { collection: collection.to_owned(), problem }
}

fn info(client: &Client, name: &str) -> Result<CollectionInfo, StoreError> {
    let asked = name.to_owned();
    let found = client.call(|q| async move { q.collection_info(asked).await })?.result;
    found.ok_or_else(|| client.transient_error(format!("says nothing about collection {name}")))
}

fn exists(client: &Client, name: &str) -> Result<bool, StoreError> {
    let name = name.to_owned();
    client.call(|q| async move { q.collection_exists(name).await })
}

fn create_missing(client: &Client, name: &str, request: impl FnOnce() -> CreateCollection) -> Result<(), StoreError> {
    if exists(client, name)? {
        return Ok(());
    }
    let request = request();
    match client.call(|q| async move { q.create_collection(request).await }) {
        Ok(_) => {
            tracing::info!(collection = name, "collection made");
            Ok(())
        }
        // Another process created it first.
        Err(e) => {
            if exists(client, name)? {
                Ok(())
            } else {
                Err(e)
            }
        }
    }
}

#[allow(
    deprecated,
    reason = "servers before 1.19 know only these flags for what is in memory, and later ones still do"
)]
fn vectors_of(config: &VectorsConfig, name: &str, width: usize) -> CreateCollection {
    let vectors = VectorParams {
        size: width as u64,
        distance: Distance::Cosine.into(),
        on_disk: Some(config.on_disk),
        ..VectorParams::default()
    };
    let int8 = ScalarQuantization {
        r#type: QuantizationType::Int8.into(),
        quantile: Some(QUANTILE),
        always_ram: Some(true),
        ..ScalarQuantization::default()
    };
    let quantization_config = match config.quantization {
        Quantization::None => None,
        Quantization::Int8 => Some(QuantizationConfig { quantization: Some(ServerQuantization::Scalar(int8)) }),
    };
    CreateCollection {
        collection_name: name.to_owned(),
        vectors_config: Some(ServerVectors { config: Some(Config::Params(vectors)) }),
        quantization_config,
        hnsw_config: Some(HnswConfigDiff {
            full_scan_threshold: Some(kilobytes(COMPARE_ALL_BELOW, width) as u64),
            ..HnswConfigDiff::default()
        }),
        shard_number: Some(config.shards),
        replication_factor: Some(config.replication),
        // A write is acknowledged when most replicas have it, so that it survives the loss of any
        // one of three.
        write_consistency_factor: Some(config.replication / 2 + 1),
        on_disk_payload: Some(true),
        ..CreateCollection::default()
    }
}

fn check_vectors(info: &CollectionInfo, name: &str, width: usize) -> Result<(), StoreError> {
    let vectors = info.config.as_ref().and_then(|c| c.params.as_ref()).and_then(|p| p.vectors_config.as_ref());
    let Some(Config::Params(found)) = vectors.and_then(|v| v.config.as_ref()) else {
        return Err(other(
            name,
            "does not have one plain vector a point; give `vectors.collection` another name".into(),
        ));
    };
    if found.size == width as u64 && found.distance() == Distance::Cosine {
        return Ok(());
    }
    let (size, distance) = (found.size, found.distance().as_str_name());
    let problem = format!(
        "holds vectors of {size} values by {distance}, not of {width} by Cosine; give `vectors.collection` another name"
    );
    Err(other(name, problem))
}

fn kind(info: &CollectionInfo, field: &str) -> Option<PayloadSchemaType> {
    info.payload_schema.get(field).map(|i| i.data_type())
}

#[allow(deprecated, reason = "as with the vectors")]
fn ensure_index(client: &Client, config: &VectorsConfig, name: &str, index: &Index) -> Result<(), StoreError> {
    if kind(&info(client, name)?, index.field).is_some() {
        return Ok(());
    }
    let on_disk = Some(index.large && config.on_disk);
    let params = match index.kind {
        FieldType::Integer => IndexParams::IntegerIndexParams(IntegerIndexParams {
            lookup: Some(true),
            range: Some(true),
            on_disk,
            ..IntegerIndexParams::default()
        }),
        _ => IndexParams::KeywordIndexParams(KeywordIndexParams { on_disk, ..KeywordIndexParams::default() }),
    };
    let request = CreateFieldIndexCollection {
        collection_name: name.to_owned(),
        wait: Some(true),
        field_name: index.field.to_owned(),
        field_type: Some(index.kind.into()),
        field_index_params: Some(PayloadIndexParams { index_params: Some(params) }),
        ..CreateFieldIndexCollection::default()
    };
    client.change(|q| async move { q.create_field_index(request).await })
}
