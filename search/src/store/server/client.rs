//! The connection to a Qdrant server. It is made at the first call, and made again when it was lost.

use std::future::Future;
use std::time::Duration;

use qdrant_client::qdrant::{HealthCheckReply, PointsOperationResponse, UpdateStatus};
use qdrant_client::{Qdrant, QdrantError};
use sightline_core::config::VectorsConfig;
use tonic::Code;

use crate::remote::Calls;
use crate::store::StoreError;

/// Longest time to establish a connection; it is part of the call's time.
const CONNECT: Duration = Duration::from_secs(5);

/// See the module.
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
    /// A client of the configured server; calls nobody yet.
    ///
    /// # Errors
    /// When the address is none, or no thread can be started.
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

    /// Makes one call and waits for its answer.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the server says that the request is wrong, else [`StoreError::Server`].
    pub fn call<T, F>(&self, call: impl FnOnce(Qdrant) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, QdrantError>> + Send + 'static,
    {
        match self.calls.wait(self.timeout, call(self.qdrant.clone())) {
            Ok(answer) => answer.map_err(|e| self.error(e)),
            Err(problem) => Err(self.trouble(problem)),
        }
    }

    /// A change that counts only once it is applied.
    ///
    /// # Errors
    /// As [`Client::call`], or when the server only promises to apply it.
    pub fn change<F>(&self, call: impl FnOnce(Qdrant) -> F) -> Result<(), StoreError>
    where
        F: Future<Output = Result<PointsOperationResponse, QdrantError>> + Send + 'static,
    {
        let status = self.call(call)?.result.map_or(UpdateStatus::UnknownUpdateStatus, |r| r.status());
        if status == UpdateStatus::Completed {
            return Ok(());
        }
        Err(self.trouble(format!("the change is not applied: {}", status.as_str_name())))
    }

    /// Whether the server answers, and who it says it is.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn health(&self) -> Result<HealthCheckReply, StoreError> {
        self.call(|q| async move { q.health_check().await })
    }

    /// A failure that may pass.
    pub fn trouble(&self, problem: String) -> StoreError {
        StoreError::Server { url: self.url.clone(), problem }
    }

    fn error(&self, error: QdrantError) -> StoreError {
        match error {
            QdrantError::ResponseError { status } if status.code() == Code::InvalidArgument => {
                StoreError::Refused(status.message().to_owned())
            }
            QdrantError::ResponseError { status } | QdrantError::ResourceExhaustedError { status, .. } => {
                self.trouble(format!("{:?}: {}", status.code(), status.message()))
            }
            QdrantError::ConversionError(why) => StoreError::Refused(why),
            other => self.trouble(other.to_string()),
        }
    }
}
