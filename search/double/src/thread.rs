//! The double on a thread of its own, for tests that need a server which comes and goes and have no
//! binary to start.

use std::net::SocketAddr;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use sightline_search::EdgeOptions;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::{DoubleError, QdrantDouble};

/// Longest wait of a stop for what the engine still does; closing one that builds an index takes up
/// to five seconds.
const LEAVE_AFTER: Duration = Duration::from_secs(20);

/// A serving double. It stops when it is dropped.
#[derive(Debug)]
pub struct DoubleThread {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), DoubleError>>>,
}

impl DoubleThread {
    /// Opens and serves; the parameters are those of [`QdrantDouble::open`].
    ///
    /// # Errors
    /// The errors of [`QdrantDouble::open`], and [`DoubleError::Threads`].
    pub fn start(
        folder: &Path,
        address: SocketAddr,
        api_key: Option<String>,
        options: EdgeOptions,
    ) -> Result<Self, DoubleError> {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(DoubleError::Threads)?;
        let double = runtime.block_on(QdrantDouble::open(folder, address, api_key, options))?;
        let address = double.address().map_err(|source| DoubleError::Listen { address, source })?;
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            let served = runtime.block_on(async {
                tokio::select! { served = double.serve(std::future::pending()) => served, _ = stopped => Ok(()) }
            });
            // Ends every connection at once, as the death of a process does.
            runtime.shutdown_timeout(LEAVE_AFTER);
            served
        };
        let thread = std::thread::Builder::new().name("qdrant-double".to_owned()).spawn(serve);
        Ok(Self { address, stop: Some(stop), thread: Some(thread.map_err(DoubleError::Threads)?) })
    }

    /// Returns the address, to start another one there.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the address as a client wants it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Breaks all connections and closes the folder. Calls in flight get no answer, but what the
    /// engine does for them comes to its end. A second stop does nothing.
    ///
    /// # Errors
    /// When the gRPC server had failed before.
    pub fn stop(&mut self) -> Result<(), DoubleError> {
        drop(self.stop.take());
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(served)) => served,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for DoubleThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A failure of the server shows in the calls of its clients.
            let _ = thread.join();
        }
    }
}
