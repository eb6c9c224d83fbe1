//! Client of a Qdrant server. It connects at the first call, and reconnects when the connection is
//! lost.

use std::future::Future;
use std::time::Duration;

use qdrant_client::qdrant::{HealthCheckReply, PointsOperationResponse, UpdateStatus};
use qdrant_client::{Qdrant, QdrantError};
use sightline_core::config::VectorsConfig;
use tonic::Code;

use crate::remote::Calls;
use crate::store::StoreError;

/// Time limit for a connection; it counts towards the time limit of the call.
const CONNECT: Duration = Duration::from_secs(5);

/// Client of one server with a runtime of its own.
pub(crate) struct Client {
    qdrant: Qdrant,
    url: String,
    timeout: Duration,
    calls: Calls,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("url", &self.url).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Client {
    /// Creates a client of the configured server without connecting.
    ///
    /// # Errors
    /// When the address is invalid, or no thread can be started.
    pub fn new(config: &VectorsConfig) -> Result<Self, StoreError> {
        let url = config.url.clone();
        let failed = |problem: String| StoreError::Server { url: url.clone(), problem };
        let timeout = Duration::try_from_secs_f64(config.timeout_seconds).map_err(|e| failed(e.to_string()))?;
        let key = Some(config.api_key.clone()).filter(|k| !k.is_empty());
        let qdrant = Qdrant::from_url(&config.url)
            .api_key(key)
            .timeout(timeout)
            .connect_timeout(timeout.min(CONNECT))
            .skip_compatibility_check()
            .build()
            .map_err(|e| failed(e.to_string()))?;
        let calls = Calls::new("qdrant").map_err(|e| failed(e.to_string()))?;
        Ok(Self { qdrant, url, timeout, calls })
    }

    /// Makes one call and blocks until its answer.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the server rejects the request as invalid, otherwise
    /// [`StoreError::Server`].
    pub fn call<T, F>(&self, call: impl FnOnce(Qdrant) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, QdrantError>> + Send + 'static,
    {
        match self.calls.wait(self.timeout, call(self.qdrant.clone())) {
            Ok(answer) => answer.map_err(|e| self.error(e)),
            Err(problem) => Err(self.transient_error(problem)),
        }
    }

    /// Makes a change and verifies that the server has applied it.
    ///
    /// # Errors
    /// The errors of [`Client::call`], and when the server has only queued the change.
    pub fn change<F>(&self, call: impl FnOnce(Qdrant) -> F) -> Result<(), StoreError>
    where
        F: Future<Output = Result<PointsOperationResponse, QdrantError>> + Send + 'static,
    {
        let status = self.call(call)?.result.map_or(UpdateStatus::UnknownUpdateStatus, |r| r.status());
        if status == UpdateStatus::Completed {
            return Ok(());
        }
        Err(self.transient_error(format!("the change is not applied: {}", status.as_str_name())))
    }

    /// Checks that the server answers, and returns its name and version.
    ///
    /// # Errors
    /// The errors of [`Client::call`].
    pub fn health(&self) -> Result<HealthCheckReply, StoreError> {
        self.call(|q| async move { q.health_check().await })
    }

    /// A transient failure of this server.
    pub fn transient_error(&self, problem: String) -> StoreError {
        StoreError::Server { url: self.url.clone(), problem }
    }

    fn error(&self, error: QdrantError) -> StoreError {
        match error {
            QdrantError::ResponseError { status } if status.code() == Code::InvalidArgument => {
                StoreError::Refused(status.message().to_owned())
            }
            QdrantError::ResponseError { status } | QdrantError::ResourceExhaustedError { status, .. } => {
                self.transient_error(format!("{:?}: {}", status.code(), status.message()))
            }
            QdrantError::ConversionError(why) => StoreError::Refused(why),
            other => self.transient_error(other.to_string()),
        }
    }
}
