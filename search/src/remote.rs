//! Blocking calls of asynchronous clients.
//!
//! The traits of this crate are synchronous because the embedded engine and the file system are;
//! clients of servers are asynchronous. Such a client therefore has a small runtime of its own: a
//! call is a task there, and the caller waits for its answer on a plain channel. That works on any
//! thread, inside and outside of another runtime, and always ends within the time limit.

use std::future::Future;
use std::sync::mpsc;
use std::time::Duration;

use tokio::runtime::Runtime;

/// Threads of a runtime; they only move bytes.
const THREADS: usize = 2;

/// Runtime for the calls of one client.
#[derive(Debug)]
pub(crate) struct Calls {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl Drop for Calls {
    fn drop(&mut self) {
        // Dropping a runtime must not block inside another one, and nobody waits for its calls any
        // more.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Calls {
    /// Starts a runtime whose threads are called `name`.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn new(name: &str) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name(name)
            .enable_all()
            .build()?;
        Ok(Self { runtime: Some(runtime) })
    }

    /// Runs one call and blocks until its answer, at most `timeout`.
    ///
    /// # Errors
    /// The reason why there is no answer.
    pub fn wait<T: Send + 'static>(
        &self,
        timeout: Duration,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, String> {
        let Some(runtime) = &self.runtime else { return Err("the connection is closed".to_owned()) };
        let (answer, answered) = mpsc::sync_channel(1);
        runtime.spawn(async move {
            // The receiver is gone only when the caller's thread has panicked.
            let _ = answer.send(tokio::time::timeout(timeout, call).await);
        });
        match answered.recv() {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) => Err(format!("no answer within {:.1} s", timeout.as_secs_f64())),
            Err(_) => Err("the call was broken off".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_waits_anywhere_and_not_for_ever() {
        let calls = Calls::new("test").expect("threads");
        // Inside another runtime, where blocking on or dropping a runtime would panic.
        assert_eq!(calls.wait(Duration::from_secs(5), async { 7 }), Ok(7));
        let never = calls.wait(Duration::from_millis(20), std::future::pending::<()>());
        assert!(never.expect_err("too late").contains("no answer within"));
        let broken = calls.wait(Duration::from_secs(5), async { panic!("on purpose") });
        assert_eq!(broken, Err::<(), _>("the call was broken off".to_owned()));
    }
}
