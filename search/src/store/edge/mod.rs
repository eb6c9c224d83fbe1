//! Embedded store: Qdrant's own engine (`qdrant-edge`) inside the process, on disk.
//!
//! The engine writes every change to its log before it applies it, but it neither acknowledges
//! durability nor builds an index by itself. So the indexer calls [`VectorStore::flush`] before it
//! reports anything as stored, and a thread of this store builds the graph index whenever enough
//! points wait for one. Until then, and for filters that keep few points, the engine compares
//! exactly.

mod convert;
mod engine;
mod manifest;
mod optimizer;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use qdrant_edge::{
    AcornSearchParams, CountRequest, CreateIndex, Direction, Distance, EdgeConfig, EdgeConfigBuilder,
    EdgeOptimizersConfig, EdgeShard, EdgeVectorParams, FacetRequest, FacetValue, FieldIndexOperations, HnswIndexConfig,
    Memory, NamedQuery, OrderBy, OrderByInterface, PayloadFieldSchema, PayloadOps, PayloadSchemaType,
    PointInsertOperations, PointOperations, QuantizationSearchParams, QueryEnum, QueryRequest, RetrieveRequest,
    ScoringQuery, ScrollRequest, SearchParams, SetPayloadOp, UpdateOperation, WithPayloadInterface, WithVector,
};
use sightline_core::{CameraId, SightingId, Timestamp, TrackId};

use super::names::{self, CAMERA, CAPTURED_AT, FIRST_SEEN, LAST_SEEN, TRACK};
use super::point::{next_id, widened};
use super::tuning::{COMPARE_ALL_BELOW, MIN_BEAM, kilobytes};
use super::{CameraExtent, Deleted, Filter, Point, Record, Scored, StoreError, VectorStore, check_vector};
use crate::files::DataLock;
pub use engine::Engine;

/// Indexed payload fields and the type of each index. Created before the first point, or at the
/// first start with a version that needs them, and verified at every start.
const INDEXES: [(&str, PayloadSchemaType); 5] = [
    (CAMERA, PayloadSchemaType::Keyword),
    (TRACK, PayloadSchemaType::Keyword),
    (CAPTURED_AT, PayloadSchemaType::Integer),
    (FIRST_SEEN, PayloadSchemaType::Integer),
    (LAST_SEEN, PayloadSchemaType::Integer),
];

/// Ids or points per call to the engine.
const CHUNK: usize = 1000;

/// Largest number of cameras listed.
const MAX_CAMERAS: usize = 100_000;

/// Settings of the engine.
#[derive(Clone, Debug, PartialEq)]
pub struct EdgeOptions {
    /// Number of points without a graph index at which the background thread builds one. Below
    /// that, comparing all points is fast.
    pub index_from: usize,
    /// Number of points of a segment below which a filter's points are all compared, exactly.
    pub compare_all_below: usize,
    /// Threads that build indexes. One thread leaves the other cores to the cameras.
    pub index_threads: usize,
    /// Whether the graph is walked over int8 vectors and the best points are rescored with the full
    /// vectors, which may then stay on the disk. A store that was opened with it once keeps the
    /// int8 vectors.
    pub int8: bool,
    /// With `int8`: number of rescored points as a multiple of the limit.
    pub oversampling: f64,
    /// Smallest beam width of the graph search.
    pub beam: usize,
}

impl Default for EdgeOptions {
    fn default() -> Self {
        Self {
            index_from: 20_000,
            compare_all_below: COMPARE_ALL_BELOW,
            index_threads: 1,
            int8: false,
            oversampling: 3.0,
            beam: MIN_BEAM,
        }
    }
}

impl EdgeOptions {
    /// Begins an engine's configuration with these options, for vectors of `width` values. The
    /// vectors themselves are still to be named.
    pub fn configure(&self, width: usize) -> EdgeConfigBuilder {
        let hnsw = HnswIndexConfig {
            full_scan_threshold: kilobytes(self.compare_all_below, width),
            max_indexing_threads: self.index_threads.max(1),
            ..HnswIndexConfig::default()
        };
        let optimizers =
            EdgeOptimizersConfig { indexing_threshold: Some(kilobytes(self.index_from, width)), ..Default::default() };
        EdgeConfig::builder().hnsw_config(hnsw).optimizers(optimizers)
    }
}

/// [`VectorStore`] on disk.
#[derive(Debug)]
pub struct EdgeStore {
    model_id: String,
    width: usize,
    /// Held by changes that read before they write.
    writer: Mutex<()>,
    options: EdgeOptions,
    engine: Engine,
}

/// Lists the ids of the models whose vectors lie below `root`, each in a folder of its own, sorted;
/// empty when the folder does not exist.
///
/// # Errors
/// When a folder or a manifest cannot be read.
pub fn indexed_models(root: &Path) -> Result<Vec<String>, StoreError> {
    Ok(manifest::stores(root)?.into_iter().map(|(model, _)| model).collect())
}

impl EdgeStore {
    /// Opens every store below `root` except that of the model `except`, if given, sorted by model
    /// id.
    ///
    /// # Errors
    /// The errors of [`EdgeStore::open`] and [`indexed_models`].
    pub fn open_others(root: &Path, except: Option<&str>, options: &EdgeOptions) -> Result<Vec<Self>, StoreError> {
        let others = manifest::stores(root)?.into_iter().filter(|(model, _)| Some(model.as_str()) != except);
        others.map(|(model, width)| Self::open(root, &model, width, options)).collect()
    }

    /// Opens `root/<model_id>/` for vectors of `width` values, and creates it when it is missing.
    ///
    /// # Errors
    /// [`StoreError::OtherFolder`] when the folder was created for another model, width or layout;
    /// [`StoreError::File`] when it is in use; [`StoreError::Damaged`] when its manifest is
    /// unreadable; or a failure of the engine.
    pub fn open(root: &Path, model_id: &str, width: usize, options: &EdgeOptions) -> Result<Self, StoreError> {
        names::check_model_id(model_id)?;
        if width == 0 {
            return Err(StoreError::Width { expected: 1, got: 0 });
        }
        let folder = root.join(model_id);
        let lock = DataLock::acquire(&folder)?;
        manifest::claim(&folder, model_id, width)?;
        let engine = Engine::open(&folder, lock, engine_config(width, options)?, options.index_from)?;
        ensure_indexes(engine.shard())?;
        let info = engine.shard().info().map_err(convert::engine)?;
        tracing::info!(
            folder = %folder.display(), model = model_id, width, points = info.points_count,
            indexed = info.indexed_vectors_count, segments = info.segments_count, "vector store open"
        );
        engine.wake();
        Ok(Self { model_id: model_id.to_owned(), width, writer: Mutex::new(()), options: options.clone(), engine })
    }

    /// Returns the number of stored points, and of those in a graph index; both are approximate
    /// while an index is built.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn indexed(&self) -> Result<(usize, usize), StoreError> {
        let info = self.engine().info().map_err(convert::engine)?;
        Ok((info.points_count, info.indexed_vectors_count))
    }

    fn engine(&self) -> &EdgeShard {
        self.engine.shard()
    }

    fn update(&self, operation: UpdateOperation) -> Result<(), StoreError> {
        self.engine().update(operation).map_err(convert::engine)
    }

    /// Deletes stored points. The caller holds the writer's lock.
    fn delete_stored(&self, ids: &[SightingId]) -> Result<(), StoreError> {
        let ids = ids.iter().copied().map(convert::point_id).collect();
        self.update(UpdateOperation::PointOperation(PointOperations::DeletePoints { ids }))
    }

    /// Returns the oldest or newest pictures of a filter by capture time.
    fn by_time(&self, filter: &Filter, limit: usize, direction: Direction) -> Result<Vec<Record>, StoreError> {
        let mut request = ScrollRequest::new();
        request.limit = Some(limit);
        request.filter = convert::filter(filter)?;
        request.with_payload = Some(WithPayloadInterface::Bool(true));
        let key = convert::path(CAPTURED_AT)?;
        request.order_by =
            Some(OrderByInterface::Struct(OrderBy { key, direction: Some(direction), start_from: None }));
        let (page, _) = self.engine().scroll(request).map_err(convert::engine)?;
        page.into_iter().map(|r| convert::record(r.id, r.payload)).collect()
    }

    fn count_points(&self, filter: &Filter, exact: bool) -> Result<u64, StoreError> {
        if filter.matches_nothing() {
            return Ok(0);
        }
        let mut request = CountRequest::new();
        request.filter = convert::filter(filter)?;
        request.exact = exact;
        Ok(self.engine().count(request).map_err(convert::engine)? as u64)
    }

    fn retrieve(&self, ids: &[SightingId], vectors: bool) -> Result<Vec<(Record, Vec<f32>)>, StoreError> {
        let mut request = RetrieveRequest::new(ids.iter().copied().map(convert::point_id).collect());
        request.with_payload = Some(WithPayloadInterface::Bool(true));
        request.with_vector = Some(WithVector::Bool(vectors));
        let mut found = std::collections::HashMap::new();
        for r in self.engine().retrieve(request).map_err(convert::engine)? {
            let record = convert::record(r.id, r.payload)?;
            let vector = if vectors { convert::vector(r.vector)? } else { Vec::new() };
            found.insert(record.id, (record, vector));
        }
        Ok(ids.iter().filter_map(|id| found.get(id).cloned()).collect())
    }
}

fn engine_config(width: usize, options: &EdgeOptions) -> Result<EdgeConfig, StoreError> {
    let mut vectors = EdgeVectorParams::builder(width, Distance::Cosine);
    if options.int8 {
        // Parsed from JSON because the engine's struct has deprecated fields. The outermost
        // hundredth of the values is clipped: otherwise a few large values would make the
        // quantization steps coarse for all.
        let scalar = serde_json::json!({ "scalar": { "type": "int8", "quantile": 0.99, "memory": "pinned" } });
        vectors =
            vectors.quantization_config(serde_json::from_value(scalar).map_err(convert::engine)?).memory(Memory::Cold);
    }
    Ok(options.configure(width).vector(convert::VECTOR, vectors.build()).build())
}

/// Creates missing payload indexes and checks that all exist with the right type.
fn ensure_indexes(engine: &EdgeShard) -> Result<(), StoreError> {
    for (field, kind) in INDEXES {
        let name = convert::path(field)?;
        let found = engine.info().map_err(convert::engine)?.payload_schema.get(&name).map(|i| i.data_type);
        if found.is_none() {
            let create =
                CreateIndex { field_name: name.clone(), field_schema: Some(PayloadFieldSchema::FieldType(kind)) };
            engine
                .update(UpdateOperation::FieldIndexOperation(FieldIndexOperations::CreateIndex(create)))
                .map_err(convert::engine)?;
        }
        let found = engine.info().map_err(convert::engine)?.payload_schema.get(&name).map(|i| i.data_type);
        if found != Some(kind) {
            return Err(StoreError::Engine(format!("payload index {field:?} is {found:?} instead of {kind:?}")));
        }
    }
    engine.flush().map_err(convert::engine)
}

impl VectorStore for EdgeStore {
    fn model_id(&self) -> &str {
        &self.model_id
    }

    fn width(&self) -> usize {
        self.width
    }

    fn upsert(&self, points: &[Point]) -> Result<(), StoreError> {
        self.check(points)?;
        if points.is_empty() {
            return Ok(());
        }
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let ids: Vec<SightingId> = points.iter().map(|p| p.id).collect();
        let mut known: std::collections::HashMap<_, _> =
            self.retrieve(&ids, false)?.into_iter().map(|(r, _)| (r.id, r.payload)).collect();
        let mut list = Vec::with_capacity(points.len());
        for point in points {
            let mut payload = point.payload.clone();
            if let Some(old) = known.get(&point.id) {
                payload.widen(old.first_seen, old.last_seen, old.ended);
            }
            list.push(convert::point(point.id, &point.vector, &payload)?);
            known.insert(point.id, payload);
        }
        self.update(UpdateOperation::PointOperation(PointOperations::UpsertPoints(PointInsertOperations::PointsList(
            list,
        ))))
    }

    fn search(&self, vector: &[f32], limit: usize, filter: &Filter) -> Result<Vec<Scored>, StoreError> {
        check_vector(vector, self.width)?;
        if limit == 0 || filter.matches_nothing() {
            return Ok(Vec::new());
        }
        let mut request = QueryRequest::new(limit);
        request.query = Some(ScoringQuery::Vector(QueryEnum::Nearest(NamedQuery::default_dense(vector.to_vec()))));
        request.filter = convert::filter(filter)?;
        let again = QuantizationSearchParams {
            ignore: false,
            rescore: Some(true),
            oversampling: Some(self.options.oversampling.max(1.0)),
        };
        // Where the filter keeps more than `compare_all_below` points: ACORN skips the points that
        // the filter excludes.
        let acorn = AcornSearchParams { enable: true, max_selectivity: None };
        request.params = Some(SearchParams {
            hnsw_ef: Some(self.options.beam.max(2 * limit)),
            acorn: request.filter.is_some().then_some(acorn),
            quantization: self.options.int8.then_some(again),
            ..SearchParams::default()
        });
        request.with_payload = WithPayloadInterface::Bool(true);
        let found = self.engine().query(request).map_err(convert::engine)?;
        found
            .into_iter()
            .map(|p| {
                let record = convert::record(p.id, p.payload)?;
                Ok(Scored { id: record.id, cosine: p.score, payload: record.payload })
            })
            .collect()
    }

    fn get(&self, ids: &[SightingId]) -> Result<Vec<Record>, StoreError> {
        Ok(self.retrieve(ids, false)?.into_iter().map(|(record, _)| record).collect())
    }

    fn vectors(&self, ids: &[SightingId]) -> Result<Vec<(Record, Vec<f32>)>, StoreError> {
        self.retrieve(ids, true)
    }

    fn newest(&self, filter: &Filter, limit: usize) -> Result<Vec<Record>, StoreError> {
        if limit == 0 || filter.matches_nothing() {
            return Ok(Vec::new());
        }
        let mut page = self.by_time(filter, limit, Direction::Desc)?;
        page.sort_by_key(|r| (std::cmp::Reverse(r.payload.captured_at), r.id));
        Ok(page)
    }

    /// The engine either walks its ids from the cursor on or collects what the filter's index
    /// names, whichever is less work: so all pages together cost one walk over the ids at most.
    fn scroll(&self, filter: &Filter, after: Option<SightingId>, limit: usize) -> Result<Vec<SightingId>, StoreError> {
        let Some(first) = next_id(after).filter(|_| limit > 0 && !filter.matches_nothing()) else {
            return Ok(Vec::new());
        };
        let mut request = ScrollRequest::new();
        request.offset = after.map(|_| convert::point_id(first));
        request.limit = Some(limit);
        request.filter = convert::filter(filter)?;
        request.with_payload = Some(WithPayloadInterface::Bool(false));
        let (page, _) = self.engine().scroll(request).map_err(convert::engine)?;
        page.into_iter().map(|record| convert::sighting_id(record.id)).collect()
    }

    fn delete_ids(&self, ids: &[SightingId]) -> Result<Deleted, StoreError> {
        let mut deleted = 0;
        for chunk in ids.chunks(CHUNK) {
            let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let mut request = RetrieveRequest::new(chunk.iter().copied().map(convert::point_id).collect());
            request.with_payload = Some(WithPayloadInterface::Bool(false));
            let stored = self.engine().retrieve(request).map_err(convert::engine)?;
            let stored: Vec<_> = stored.into_iter().map(|r| convert::sighting_id(r.id)).collect::<Result<_, _>>()?;
            if !stored.is_empty() {
                self.delete_stored(&stored)?;
                deleted += stored.len() as u64;
            }
        }
        Ok([(self.model_id.clone(), deleted)].into())
    }

    fn delete(&self, filter: &Filter) -> Result<u64, StoreError> {
        if filter.is_unrestricted() {
            return Err(StoreError::Unrestricted);
        }
        let (mut deleted, mut after) = (0, None);
        loop {
            // Listed and deleted under one lock, so that no picture that replaces one of these
            // meanwhile is deleted in its place.
            let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let ids = self.scroll(filter, after, CHUNK)?;
            let Some(last) = ids.last() else { return Ok(deleted) };
            self.delete_stored(&ids)?;
            deleted += ids.len() as u64;
            after = Some(*last);
        }
    }

    fn end_track(
        &self,
        camera: &CameraId,
        track: TrackId,
        first: Timestamp,
        last: Timestamp,
        ended: bool,
    ) -> Result<u64, StoreError> {
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let points = self.get(&self.ids(&Filter::track(camera.clone(), track))?)?;
        let Some((span, stale)) = widened(&points, first, last, ended) else { return Ok(0) };
        let stale: Vec<_> = stale.into_iter().map(convert::point_id).collect();
        if !stale.is_empty() {
            let set = SetPayloadOp { payload: convert::span(&span), points: Some(stale), filter: None, key: None };
            self.update(UpdateOperation::PayloadOperation(PayloadOps::SetPayload(set)))?;
        }
        Ok(points.len() as u64)
    }

    fn estimate(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.count_points(filter, false)
    }

    fn count(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.count_points(filter, true)
    }

    fn cameras(&self) -> Result<Vec<CameraExtent>, StoreError> {
        let mut request = FacetRequest::new(convert::path(CAMERA)?);
        request.limit = MAX_CAMERAS;
        request.exact = true;
        let mut cameras = Vec::new();
        for hit in self.engine().facet(request).map_err(convert::engine)?.hits {
            let FacetValue::Keyword(name) = hit.value else { continue };
            let camera: CameraId = name.parse().map_err(|e| StoreError::Engine(format!("stored camera id: {e}")))?;
            let filter = Filter::camera(camera.clone());
            let first = self.by_time(&filter, 1, Direction::Asc)?.pop();
            let last = self.by_time(&filter, 1, Direction::Desc)?.pop();
            // Deleted between the two calls.
            let (Some(first), Some(last)) = (first, last) else { continue };
            let (first, last) = (first.payload.captured_at, last.payload.captured_at);
            cameras.push(CameraExtent { camera, points: hit.count as u64, first, last });
        }
        cameras.sort_by(|a, b| a.camera.cmp(&b.camera));
        Ok(cameras)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.engine().flush().map_err(convert::engine)?;
        self.engine.wake();
        Ok(())
    }

    fn optimize(&self) -> Result<bool, StoreError> {
        self.engine.optimize()
    }
}
