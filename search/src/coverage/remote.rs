//! Coverage that other processes write, followed by polling a ledger; for the API, which indexes
//! nothing itself.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Coverage, CoverageLedger};

/// Shortest pause after a poll, as a multiple of its duration: with many cameras polls become rarer
/// instead of a constant load.
const PAUSE_FACTOR: u32 = 5;

/// Polls a ledger until it is dropped.
#[derive(Debug)]
pub struct RemoteCoverage {
    coverage: Coverage,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RemoteCoverage {
    /// Starts polling `ledger` at the interval `every`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(ledger: Arc<dyn CoverageLedger>, every: Duration) -> std::io::Result<Self> {
        let coverage = Coverage::with_ledger(Arc::clone(&ledger));
        let (stop, stopped) = channel::<()>();
        let known = coverage.clone();
        let thread = std::thread::Builder::new().name("coverage".to_owned()).spawn(move || {
            let mut pause = Duration::ZERO;
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                let start = Instant::now();
                match ledger.all() {
                    Ok(entries) => {
                        known.set_fault(None);
                        known.replace(entries);
                    }
                    Err(error) => {
                        if known.fault().is_none() {
                            tracing::warn!(%error, "the coverage cannot be read; what was read last is shown");
                        }
                        known.set_fault(Some(format!("coverage: {error}")));
                    }
                }
                metrics::histogram!("sightline_search_coverage_read_seconds").record(start.elapsed().as_secs_f64());
                pause = every.max(start.elapsed() * PAUSE_FACTOR);
            }
        })?;
        Ok(Self { coverage, stop: Some(stop), thread: Some(thread) })
    }

    /// Returns the coverage of the last poll. Its fault says why the coverage is stale, if it is.
    pub fn coverage(&self) -> Coverage {
        self.coverage.clone()
    }
}

impl Drop for RemoteCoverage {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that follows the coverage had died");
        }
    }
}
