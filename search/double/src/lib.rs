//! Test double of a Qdrant server, for tests and trials without one: Qdrant's gRPC interface, as
//! its own client defines it, over Qdrant's own engine in this process, on disk.
//!
//! It is **not** Qdrant: no shards, no replicas, no REST, no snapshots, and only the calls that
//! Sightline makes; every other call is answered with `unimplemented` and this reason. It shares
//! with a server what the tests need: the same engine, the same wire format, and that a change
//! acknowledged with `wait` survives `kill -9`. It acknowledges such a change only after the engine
//! has flushed.

mod collections;
mod convert;
mod points;
mod registry;
mod thread;

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use qdrant_client::qdrant::collections_server::CollectionsServer;
use qdrant_client::qdrant::points_server::PointsServer;
use qdrant_client::qdrant::qdrant_server::{Qdrant, QdrantServer};
use qdrant_client::qdrant::{HealthCheckReply, HealthCheckRequest};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use sightline_search::{EdgeOptions, StoreError};

use registry::Registry;
pub use thread::DoubleThread;

/// Largest request in bytes: 64 MiB, the default of a server.
const MAX_REQUEST: usize = 64 << 20;

/// Header of the API key in every call.
const API_KEY_HEADER: &str = "api-key";

/// Message for calls that the double does not support.
const NOT_HERE: &str =
    "this is Sightline's double of Qdrant for tests, not Qdrant: it has only the calls Sightline makes";

/// A double that has bound its address and is ready to serve.
#[derive(Debug)]
pub struct QdrantDouble {
    registry: Arc<Registry>,
    listener: TcpListener,
    api_key: Option<String>,
}

/// Reason why the double cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum DoubleError {
    /// The folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// No thread can be started.
    #[error("cannot start threads: {0}")]
    Threads(#[source] std::io::Error),
    /// The gRPC server failed.
    #[error("the server stopped: {0}")]
    Serve(#[from] tonic::transport::Error),
}

impl QdrantDouble {
    /// Opens `folder` and binds `address`; port 0 picks a free port. With an `api_key`, calls
    /// without it are refused. `options` apply to the engines of all collections.
    ///
    /// # Errors
    /// When the folder is in use or damaged, or the address is taken.
    pub async fn open(
        folder: &Path,
        address: SocketAddr,
        api_key: Option<String>,
        options: EdgeOptions,
    ) -> Result<Self, DoubleError> {
        let listener = TcpListener::bind(address).await.map_err(|source| DoubleError::Listen { address, source })?;
        let registry = Arc::new(Registry::open(folder, options)?);
        Ok(Self { registry, listener, api_key })
    }

    /// Returns the bound address.
    ///
    /// # Errors
    /// When the socket has no address.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` resolves.
    ///
    /// # Errors
    /// When the gRPC server fails.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), DoubleError> {
        let Self { registry, listener, api_key } = self;
        let keyed = tonic::service::InterceptorLayer::new(move |request: Request<()>| {
            let given = request.metadata().get(API_KEY_HEADER).and_then(|k| k.to_str().ok());
            match &api_key {
                Some(key) if given != Some(key.as_str()) => Err(Status::unauthenticated("Must provide an API key")),
                _ => Ok(request),
            }
        });
        Server::builder()
            .layer(keyed)
            .add_service(QdrantServer::new(Health))
            .add_service(CollectionsServer::from_arc(Arc::clone(&registry)).max_decoding_message_size(MAX_REQUEST))
            .add_service(
                PointsServer::from_arc(registry)
                    .max_decoding_message_size(MAX_REQUEST)
                    .accept_compressed(tonic::codec::CompressionEncoding::Gzip),
            )
            .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stop)
            .await?;
        Ok(())
    }
}

struct Health;

#[tonic::async_trait]
impl Qdrant for Health {
    async fn health_check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckReply>, Status> {
        Ok(Response::new(HealthCheckReply {
            title: "Sightline's double of Qdrant, for tests".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: None,
        }))
    }
}

/// Defines a service with some calls implemented and the others answered as unsupported.
macro_rules! service {
    ($service:ident for $kind:ty; { $($known:tt)* } refused: $($name:ident($request:ident) -> $reply:ident),* $(,)?) => {
        #[tonic::async_trait]
        impl $service for $kind {
            $($known)*
            $(
                async fn $name(
                    &self,
                    _: tonic::Request<$request>,
                ) -> Result<tonic::Response<$reply>, tonic::Status> {
                    Err(tonic::Status::unimplemented(concat!(stringify!($name), ": ").to_owned() + crate::NOT_HERE))
                }
            )*
        }
    };
}
use service;
