//! Collections and aliases.

use qdrant_client::qdrant::alias_operations::Action;
use qdrant_client::qdrant::collections_server::Collections;
use qdrant_client::qdrant::{
    AliasDescription, ChangeAliases, CollectionClusterInfoRequest, CollectionClusterInfoResponse, CollectionConfig,
    CollectionDescription, CollectionExists, CollectionExistsRequest, CollectionExistsResponse, CollectionInfo,
    CollectionOperationResponse, CollectionParams, CollectionStatus, CreateCollection, CreateShardKeyRequest,
    CreateShardKeyResponse, DeleteCollection, DeleteShardKeyRequest, DeleteShardKeyResponse, GetCollectionInfoRequest,
    GetCollectionInfoResponse, ListAliasesRequest, ListAliasesResponse, ListCollectionAliasesRequest,
    ListCollectionsRequest, ListCollectionsResponse, ListShardKeysRequest, ListShardKeysResponse, OptimizerStatus,
    PayloadSchemaInfo, PayloadSchemaType, UpdateCollection, UpdateCollectionClusterSetupRequest,
    UpdateCollectionClusterSetupResponse,
};
use qdrant_edge as edge;
use tonic::{Request, Response, Status};

use crate::registry::{Collection, Registry};
use crate::{convert, points, service};

/// A success without a result.
fn done(result: bool) -> Response<CollectionOperationResponse> {
    Response::new(CollectionOperationResponse { result, time: 0.0 })
}

fn data_type(kind: edge::PayloadSchemaType) -> PayloadSchemaType {
    match kind {
        edge::PayloadSchemaType::Keyword => PayloadSchemaType::Keyword,
        edge::PayloadSchemaType::Integer => PayloadSchemaType::Integer,
        edge::PayloadSchemaType::Float => PayloadSchemaType::Float,
        edge::PayloadSchemaType::Geo => PayloadSchemaType::Geo,
        edge::PayloadSchemaType::Text => PayloadSchemaType::Text,
        edge::PayloadSchemaType::Bool => PayloadSchemaType::Bool,
        edge::PayloadSchemaType::Datetime => PayloadSchemaType::Datetime,
        edge::PayloadSchemaType::Uuid => PayloadSchemaType::Uuid,
    }
}

fn describe(collection: &Collection) -> Result<CollectionInfo, Status> {
    let info = collection.engine().info().map_err(convert::failed)?;
    let r = &collection.request;
    let params = CollectionParams {
        shard_number: 1,
        vectors_config: r.vectors_config.clone(),
        replication_factor: Some(1),
        write_consistency_factor: Some(1),
        ..CollectionParams::default()
    };
    let config = CollectionConfig {
        params: Some(params),
        quantization_config: r.quantization_config,
        ..CollectionConfig::default()
    };
    let schema = info.payload_schema.into_iter().map(|(field, index)| {
        let points = Some(index.points as u64);
        (field.to_string(), PayloadSchemaInfo { data_type: data_type(index.data_type).into(), params: None, points })
    });
    Ok(CollectionInfo {
        status: CollectionStatus::Green.into(),
        optimizer_status: Some(OptimizerStatus { ok: true, error: String::new() }),
        segments_count: info.segments_count as u64,
        config: Some(config),
        payload_schema: schema.collect(),
        points_count: Some(info.points_count as u64),
        indexed_vectors_count: Some(info.indexed_vectors_count as u64),
        ..CollectionInfo::default()
    })
}

fn listed(aliases: impl IntoIterator<Item = (String, String)>) -> Response<ListAliasesResponse> {
    let one = |(alias_name, collection_name)| AliasDescription { alias_name, collection_name };
    Response::new(ListAliasesResponse { aliases: aliases.into_iter().map(one).collect(), time: 0.0 })
}

service! { Collections for Registry; {
    async fn get(
        &self,
        request: Request<GetCollectionInfoRequest>,
    ) -> Result<Response<GetCollectionInfoResponse>, Status> {
        let collection = self.find(&request.into_inner().collection_name)?;
        let result = points::blocking(move || describe(&collection)).await?;
        Ok(Response::new(GetCollectionInfoResponse { result: Some(result), time: 0.0 }))
    }

    async fn list(&self, _: Request<ListCollectionsRequest>) -> Result<Response<ListCollectionsResponse>, Status> {
        let collections = self.collections().keys().map(|name| CollectionDescription { name: name.clone() }).collect();
        Ok(Response::new(ListCollectionsResponse { collections, time: 0.0 }))
    }

    async fn create(&self, request: Request<CreateCollection>) -> Result<Response<CollectionOperationResponse>, Status> {
        let request = request.into_inner();
        // Created in place: this happens once in a collection's life.
        tokio::task::block_in_place(|| self.create(request))?;
        Ok(done(true))
    }

    async fn delete(&self, request: Request<DeleteCollection>) -> Result<Response<CollectionOperationResponse>, Status> {
        let name = request.into_inner().collection_name;
        Ok(done(tokio::task::block_in_place(|| self.delete(&name))?))
    }

    async fn collection_exists(
        &self,
        request: Request<CollectionExistsRequest>,
    ) -> Result<Response<CollectionExistsResponse>, Status> {
        let exists = self.find(&request.into_inner().collection_name).is_ok();
        Ok(Response::new(CollectionExistsResponse { result: Some(CollectionExists { exists }), time: 0.0 }))
    }

    async fn update_aliases(
        &self,
        request: Request<ChangeAliases>,
    ) -> Result<Response<CollectionOperationResponse>, Status> {
        let actions = request.into_inner().actions;
        tokio::task::block_in_place(|| {
            self.change_aliases(|aliases| {
                for action in actions.into_iter().filter_map(|a| a.action) {
                    match action {
                        Action::CreateAlias(a) => {
                            if !self.collections().contains_key(&a.collection_name) {
                                let problem = format!("Not found: Collection `{}` doesn't exist!", a.collection_name);
                                return Err(Status::not_found(problem));
                            }
                            aliases.insert(a.alias_name, a.collection_name);
                        }
                        Action::RenameAlias(a) => {
                            let collection = aliases.remove(&a.old_alias_name);
                            let missing = || Status::not_found(format!("Not found: alias {}", a.old_alias_name));
                            aliases.insert(a.new_alias_name, collection.ok_or_else(missing)?);
                        }
                        Action::DeleteAlias(a) => drop(aliases.remove(&a.alias_name)),
                    }
                }
                Ok(())
            })
        })?;
        Ok(done(true))
    }

    async fn list_collection_aliases(
        &self,
        request: Request<ListCollectionAliasesRequest>,
    ) -> Result<Response<ListAliasesResponse>, Status> {
        let name = request.into_inner().collection_name;
        Ok(listed(self.aliases().into_iter().filter(|(_, collection)| *collection == name)))
    }

    async fn list_aliases(&self, _: Request<ListAliasesRequest>) -> Result<Response<ListAliasesResponse>, Status> {
        Ok(listed(self.aliases()))
    }
}
refused:
    update(UpdateCollection) -> CollectionOperationResponse,
    collection_cluster_info(CollectionClusterInfoRequest) -> CollectionClusterInfoResponse,
    update_collection_cluster_setup(UpdateCollectionClusterSetupRequest) -> UpdateCollectionClusterSetupResponse,
    create_shard_key(CreateShardKeyRequest) -> CreateShardKeyResponse,
    delete_shard_key(DeleteShardKeyRequest) -> DeleteShardKeyResponse,
    list_shard_keys(ListShardKeysRequest) -> ListShardKeysResponse,
}
