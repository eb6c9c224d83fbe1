//! Point calls: write, read and search. The engine blocks, so every call runs on a thread of the
//! blocking pool.

use qdrant_client::qdrant::points_server::Points;
use qdrant_client::qdrant::{
    ClearPayloadPoints, CountPoints, CountResponse, CountResult, CreateFieldIndexCollection, CreateVectorNameRequest,
    DeleteFieldIndexCollection, DeletePayloadPoints, DeletePointVectors, DeletePoints, DeleteVectorNameRequest,
    Direction, DiscoverBatchPoints, DiscoverBatchResponse, DiscoverPoints, DiscoverResponse, FacetCounts, FacetHit,
    FacetResponse, FacetValue, GetPoints, GetResponse, GroupId, GroupsResult, OrderBy, PointGroup,
    PointsOperationResponse, Query, QueryBatchPoints, QueryBatchResponse, QueryGroupsResponse, QueryPointGroups,
    QueryPoints, QueryResponse, RecommendBatchPoints, RecommendBatchResponse, RecommendGroupsResponse,
    RecommendPointGroups, RecommendPoints, RecommendResponse, ScrollPoints, ScrollResponse, SearchBatchPoints,
    SearchBatchResponse, SearchGroupsResponse, SearchMatrixOffsetsResponse, SearchMatrixPairsResponse,
    SearchMatrixPoints, SearchPointGroups, SearchPoints, SearchResponse, SetPayloadPoints, UpdateBatchPoints,
    UpdateBatchResponse, UpdatePointVectors, UpdateResult, UpdateStatus, UpsertPoints, facet_value, group_id, query,
    vector_input,
};
use qdrant_edge as edge;
use qdrant_edge::EdgeShardRead as _;
use tonic::{Request, Response, Status};

use crate::convert::{self, Which, left_out};
use crate::registry::{Collection, Registry};
use crate::service;

/// Number of results when a call does not set a limit, as on a server.
const LIMIT: u64 = 10;

/// Runs blocking work on a thread of the blocking pool.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Status::internal(format!("the call ended early: {e}"))))
}

/// Applies a change and flushes it before it is acknowledged as complete.
fn apply(
    collection: &Collection,
    operation: edge::UpdateOperation,
    wait: Option<bool>,
) -> Result<PointsOperationResponse, Status> {
    collection.engine().update(operation).map_err(convert::failed)?;
    let wait = wait.unwrap_or_default();
    if wait {
        collection.flush()?;
    }
    let status = if wait { UpdateStatus::Completed } else { UpdateStatus::Acknowledged };
    let result = UpdateResult { operation_id: None, status: status.into() };
    Ok(PointsOperationResponse { result: Some(result), time: 0.0, usage: None })
}

fn nearest(query: Option<Query>, using: Option<&str>) -> Result<Option<edge::ScoringQuery>, Status> {
    if using.is_some_and(|name| !name.is_empty()) {
        return Err(left_out("named vectors"));
    }
    let Some(query) = query else { return Ok(None) };
    let Some(query::Variant::Nearest(input)) = query.variant else {
        return Err(left_out("queries other than the nearest"));
    };
    let Some(vector_input::Variant::Dense(dense)) = input.variant else {
        return Err(left_out("queries by anything but a dense vector"));
    };
    let named = edge::NamedQuery::default_dense(dense.data);
    Ok(Some(edge::ScoringQuery::Vector(edge::QueryEnum::Nearest(named))))
}

fn order(o: &OrderBy) -> Result<edge::OrderByInterface, Status> {
    if o.start_from.is_some() {
        return Err(left_out("start_from"));
    }
    let direction = match o.direction() {
        Direction::Asc => edge::Direction::Asc,
        Direction::Desc => edge::Direction::Desc,
    };
    let key = convert::path(&o.key)?;
    Ok(edge::OrderByInterface::Struct(edge::OrderBy { key, direction: Some(direction), start_from: None }))
}

fn by_query(r: QueryPoints) -> Result<edge::QueryRequest, Status> {
    if !r.prefetch.is_empty() || r.lookup_from.is_some() {
        return Err(left_out("prefetches and look-ups"));
    }
    let mut request = edge::QueryRequest::new(r.limit.unwrap_or(LIMIT) as usize);
    request.query = nearest(r.query, r.using.as_deref())?;
    request.filter = convert::filter(r.filter.as_ref())?;
    request.score_threshold = r.score_threshold;
    request.offset = r.offset.unwrap_or_default() as usize;
    request.params = convert::params(r.params.as_ref())?;
    request.with_vector = convert::with_vectors(r.with_vectors.as_ref())?;
    request.with_payload = convert::with_payload(r.with_payload.as_ref(), false)?;
    Ok(request)
}

fn by_groups(r: QueryPointGroups) -> Result<edge::GroupRequest, Status> {
    if r.with_lookup.is_some() {
        return Err(left_out("look-ups"));
    }
    let (groups, size) = (r.limit.unwrap_or(LIMIT) as usize, r.group_size.unwrap_or(1) as usize);
    let key = convert::path(&r.group_by)?;
    let query = by_query(QueryPoints {
        prefetch: r.prefetch,
        query: r.query,
        using: r.using,
        filter: r.filter,
        params: r.params,
        score_threshold: r.score_threshold,
        limit: Some(groups as u64),
        with_vectors: r.with_vectors,
        with_payload: r.with_payload,
        lookup_from: r.lookup_from,
        ..QueryPoints::default()
    })?;
    Ok(edge::GroupRequest::new(query, key, groups, size))
}

fn group(g: edge::Group) -> PointGroup {
    let key = serde_json::to_value(&g.key).unwrap_or_default();
    let kind = match (key.as_str(), key.as_u64(), key.as_i64()) {
        (Some(text), ..) => Some(group_id::Kind::StringValue(text.to_owned())),
        (_, Some(n), _) => Some(group_id::Kind::UnsignedValue(n)),
        (.., n) => n.map(group_id::Kind::IntegerValue),
    };
    PointGroup { id: Some(GroupId { kind }), hits: g.hits.into_iter().map(convert::scored).collect(), lookup: None }
}

service! { Points for Registry; {
    async fn upsert(&self, request: Request<UpsertPoints>) -> Result<Response<PointsOperationResponse>, Status> {
        let r = request.into_inner();
        if r.shard_key_selector.is_some() || r.update_filter.is_some() || r.update_mode.is_some_and(|m| m != 0) {
            return Err(left_out("shard keys and conditional upserts"));
        }
        let collection = self.find(&r.collection_name)?;
        blocking(move || {
            let points = r.points.into_iter().map(convert::point).collect::<Result<Vec<_>, _>>()?;
            let insert = edge::PointInsertOperations::PointsList(points);
            let operation = edge::UpdateOperation::PointOperation(edge::PointOperations::UpsertPoints(insert));
            apply(&collection, operation, r.wait).map(Response::new)
        })
        .await
    }

    async fn delete(&self, request: Request<DeletePoints>) -> Result<Response<PointsOperationResponse>, Status> {
        let r = request.into_inner();
        let collection = self.find(&r.collection_name)?;
        blocking(move || {
            let operation = match convert::which(r.points.as_ref())? {
                Which::Ids(ids) => edge::PointOperations::DeletePoints { ids },
                Which::Filter(filter) => edge::PointOperations::DeletePointsByFilter(filter),
            };
            apply(&collection, edge::UpdateOperation::PointOperation(operation), r.wait).map(Response::new)
        })
        .await
    }

    async fn set_payload(&self, request: Request<SetPayloadPoints>) -> Result<Response<PointsOperationResponse>, Status> {
        let r = request.into_inner();
        let collection = self.find(&r.collection_name)?;
        blocking(move || {
            let (points, filter) = match convert::which(r.points_selector.as_ref())? {
                Which::Ids(ids) => (Some(ids), None),
                Which::Filter(filter) => (None, Some(filter)),
            };
            let key = r.key.as_deref().map(convert::path).transpose()?;
            let set = edge::SetPayloadOp { payload: convert::payload_in(r.payload), points, filter, key };
            let operation = edge::UpdateOperation::PayloadOperation(edge::PayloadOps::SetPayload(set));
            apply(&collection, operation, r.wait).map(Response::new)
        })
        .await
    }

    async fn create_field_index(
        &self,
        request: Request<CreateFieldIndexCollection>,
    ) -> Result<Response<PointsOperationResponse>, Status> {
        let r = request.into_inner();
        let collection = self.find(&r.collection_name)?;
        blocking(move || {
            let field_name = convert::path(&r.field_name)?;
            let create = edge::CreateIndex { field_name, field_schema: Some(convert::schema(&r)?) };
            let operation =
                edge::UpdateOperation::FieldIndexOperation(edge::FieldIndexOperations::CreateIndex(create));
            apply(&collection, operation, r.wait).map(Response::new)
        })
        .await
    }

    async fn get(&self, request: Request<GetPoints>) -> Result<Response<GetResponse>, Status> {
        let r = request.into_inner();
        let collection = self.find(&r.collection_name)?;
        blocking(move || {
            let mut request = edge::RetrieveRequest::new(convert::point_ids(&r.ids)?);
            request.with_payload = Some(convert::with_payload(r.with_payload.as_ref(), true)?);
            request.with_vector = Some(convert::with_vectors(r.with_vectors.as_ref())?);
            let found = collection.engine().retrieve(request).map_err(convert::failed)?;
            let result = found.into_iter().map(convert::retrieved).collect();
            Ok(Response::new(GetResponse { result, time: 0.0, usage: None }))
        })
        .await
    }

    async fn scroll(&self, request: Request<ScrollPoints>) -> Result<Response<ScrollResponse>, Status> {
        let r = request.into_inner();
        let collection = self.find(&r.collection_name)?;
        blocking(move || {
            let mut request = edge::ScrollRequest::new();
            request.offset = r.offset.as_ref().map(convert::point_id).transpose()?;
            request.limit = Some(r.limit.map_or(LIMIT as usize, |l| l as usize));
            request.filter = convert::filter(r.filter.as_ref())?;
            request.with_payload = Some(convert::with_payload(r.with_payload.as_ref(), true)?);
            request.with_vector = convert::with_vectors(r.with_vectors.as_ref())?;
            request.order_by = r.order_by.as_ref().map(order).transpose()?;
            let ordered = request.order_by.is_some();
            let (found, next) = collection.engine().scroll(request).map_err(convert::failed)?;
            let next_page_offset = next.filter(|_| !ordered).and_then(convert::id_out);
            let result = found.into_iter().map(convert::retrieved).collect();
            Ok(Response::new(ScrollResponse { next_page_offset, result, time: 0.0, usage: None }))
        })
        .await
    }

    async fn count(&self, request: Request<CountPoints>) -> Result<Response<CountResponse>, Status> {
        let r = request.into_inner();
        let collection = self.find(&r.collection_name)?;
        blocking(move || {
            let mut request = edge::CountRequest::new();
            request.filter = convert::filter(r.filter.as_ref())?;
            request.exact = r.exact.unwrap_or(true);
            let count = collection.engine().count(request).map_err(convert::failed)? as u64;
            Ok(Response::new(CountResponse { result: Some(CountResult { count }), time: 0.0, usage: None }))
        })
        .await
    }

    async fn query(&self, request: Request<QueryPoints>) -> Result<Response<QueryResponse>, Status> {
        let r = request.into_inner();
        let collection = self.find(&r.collection_name)?;
        blocking(move || {
            let found = collection.engine().query(by_query(r)?).map_err(convert::failed)?;
            let result = found.into_iter().map(convert::scored).collect();
            Ok(Response::new(QueryResponse { result, time: 0.0, usage: None }))
        })
        .await
    }

    async fn query_batch(&self, request: Request<QueryBatchPoints>) -> Result<Response<QueryBatchResponse>, Status> {
        let r = request.into_inner();
        let collection = self.find(&r.collection_name)?;
        blocking(move || {
            let mut result = Vec::with_capacity(r.query_points.len());
            for query in r.query_points {
                let found = collection.engine().query(by_query(query)?).map_err(convert::failed)?;
                let result_of_one = found.into_iter().map(convert::scored).collect();
                result.push(qdrant_client::qdrant::BatchResult { result: result_of_one });
            }
            Ok(Response::new(QueryBatchResponse { result, time: 0.0, usage: None }))
        })
        .await
    }

    async fn query_groups(&self, request: Request<QueryPointGroups>) -> Result<Response<QueryGroupsResponse>, Status> {
        let r = request.into_inner();
        let collection = self.find(&r.collection_name)?;
        blocking(move || {
            let found = collection.engine().query_groups(by_groups(r)?).map_err(convert::failed)?;
            let groups = found.into_iter().map(group).collect();
            Ok(Response::new(QueryGroupsResponse { result: Some(GroupsResult { groups }), time: 0.0, usage: None }))
        })
        .await
    }

    async fn facet(&self, request: Request<FacetCounts>) -> Result<Response<FacetResponse>, Status> {
        let r = request.into_inner();
        let collection = self.find(&r.collection_name)?;
        blocking(move || {
            let mut request = edge::FacetRequest::new(convert::path(&r.key)?);
            request.limit = r.limit.unwrap_or(LIMIT) as usize;
            request.filter = convert::filter(r.filter.as_ref())?;
            request.exact = r.exact.unwrap_or_default();
            let found = collection.engine().facet(request).map_err(convert::failed)?;
            let hits = found.hits.into_iter().map(|hit| {
                let variant = match hit.value {
                    edge::FacetValue::Keyword(text) => facet_value::Variant::StringValue(text),
                    edge::FacetValue::Int(n) => facet_value::Variant::IntegerValue(n),
                    edge::FacetValue::Bool(b) => facet_value::Variant::BoolValue(b),
                    edge::FacetValue::Uuid(n) => {
                        facet_value::Variant::StringValue(uuid::Uuid::from_u128(n).to_string())
                    }
                };
                FacetHit { value: Some(FacetValue { variant: Some(variant) }), count: hit.count as u64 }
            });
            Ok(Response::new(FacetResponse { hits: hits.collect(), time: 0.0, usage: None }))
        })
        .await
    }
}
refused:
    update_vectors(UpdatePointVectors) -> PointsOperationResponse,
    delete_vectors(DeletePointVectors) -> PointsOperationResponse,
    overwrite_payload(SetPayloadPoints) -> PointsOperationResponse,
    delete_payload(DeletePayloadPoints) -> PointsOperationResponse,
    clear_payload(ClearPayloadPoints) -> PointsOperationResponse,
    delete_field_index(DeleteFieldIndexCollection) -> PointsOperationResponse,
    create_vector_name(CreateVectorNameRequest) -> PointsOperationResponse,
    delete_vector_name(DeleteVectorNameRequest) -> PointsOperationResponse,
    search(SearchPoints) -> SearchResponse,
    search_batch(SearchBatchPoints) -> SearchBatchResponse,
    search_groups(SearchPointGroups) -> SearchGroupsResponse,
    recommend(RecommendPoints) -> RecommendResponse,
    recommend_batch(RecommendBatchPoints) -> RecommendBatchResponse,
    recommend_groups(RecommendPointGroups) -> RecommendGroupsResponse,
    discover(DiscoverPoints) -> DiscoverResponse,
    discover_batch(DiscoverBatchPoints) -> DiscoverBatchResponse,
    update_batch(UpdateBatchPoints) -> UpdateBatchResponse,
    search_matrix_pairs(SearchMatrixPoints) -> SearchMatrixPairsResponse,
    search_matrix_offsets(SearchMatrixPoints) -> SearchMatrixOffsetsResponse,
}
