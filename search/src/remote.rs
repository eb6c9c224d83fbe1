//! Asynchronous clients for threads that may block.
//!
//! The traits of this crate are synchronous because the engine in the process and the file system are; clients of servers
//! are not. So those have a small runtime of their own: a call is a task there, and the caller waits for its answer on an
//! ordinary channel. That works from any thread, inside and outside of another runtime, and ends in time whatever the
//! network does.

use std::future::Future;
use std::sync::mpsc;
use std::time::Duration;

use tokio::runtime::Runtime;

/// Threads of a runtime: they only move bytes.
const THREADS: usize = 2;

/// A runtime for the calls of one client.
#[derive(Debug)]
pub(crate) struct Calls {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl Drop for Calls {
    fn drop(&mut self) {
        // A runtime must not be waited for inside another one, and nobody waits for its calls any more.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Calls {
    /// Starts the threads, called `name`.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn new(name: &str) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name(name)
            .enable_all()
            .build()?;
        Ok(Self { runtime: Some(runtime) })
    }

    /// Makes one call and waits for its answer, at most `timeout`.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn wait<T: Send + 'static>(
        &self,
        timeout: Duration,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, String> {
        let Some(runtime) = &self.runtime else { return Err("the connection is closed".to_owned()) };
        let (answer, answered) = mpsc::sync_channel(1);
        runtime.spawn(async move {
            // Nobody listens only when the caller's thread has died.
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
        // Inside another runtime, where a runtime's own wait would panic; so would its end.
        assert_eq!(calls.wait(Duration::from_secs(5), async { 7 }), Ok(7));
        let never = calls.wait(Duration::from_millis(20), std::future::pending::<()>());
        assert!(never.expect_err("too late").contains("no answer within"));
        let broken = calls.wait(Duration::from_secs(5), async { panic!("on purpose") });
        assert_eq!(broken, Err::<(), _>("the call was broken off".to_owned()));
    }
}
