//! Thread that builds graph indexes. Building takes minutes for a few hundred thousand points; the
//! engine keeps answering and accepting writes meanwhile.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::engine::Shard;

/// Longest wait of closing the store for an index in progress. It may be abandoned: the half-built
/// index is a temporary folder, and everything stored is already on the disk.
const LEAVE_AFTER: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Optimizer {
    /// `None` once the store is being closed.
    wake: Option<SyncSender<()>>,
    /// In a lock only because a receiver belongs to one thread; only closing the store uses it.
    finished: Mutex<Receiver<()>>,
}

impl Optimizer {
    /// Starts the thread; `index_from` is the number of unindexed points at which an index is
    /// built.
    pub fn start(shard: Arc<Shard>, index_from: usize) -> io::Result<Self> {
        let (wake, woken) = sync_channel::<()>(1);
        let (finish, finished) = sync_channel::<()>(1);
        std::thread::Builder::new().name("vector-index".to_owned()).spawn(move || {
            // Waits for the next change; ends when the store is closed.
            while woken.recv().is_ok() {
                if let Err(error) = build_if_due(&shard, index_from) {
                    metrics::counter!("sightline_index_build_errors_total").increment(1);
                    tracing::error!(error, "cannot build the vector index; searches compare all vectors instead");
                }
            }
            drop(shard);
            let _ = finish.send(());
        })?;
        Ok(Self { wake: Some(wake), finished: Mutex::new(finished) })
    }

    /// Wakes the thread to check for work; never blocks.
    pub fn wake(&self) {
        if let Some(wake) = &self.wake {
            // Full: it will check anyway. Disconnected: the thread has ended, which only happens
            // when the store is closed.
            match wake.try_send(()) {
                Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
            }
        }
    }
}

impl Drop for Optimizer {
    fn drop(&mut self) {
        drop(self.wake.take());
        let finished = self.finished.get_mut().unwrap_or_else(PoisonError::into_inner);
        if matches!(finished.recv_timeout(LEAVE_AFTER), Err(RecvTimeoutError::Timeout)) {
            tracing::warn!("a vector index is still being built while the store closes; it will be built again");
        }
    }
}

fn build_if_due(shard: &Shard, index_from: usize) -> Result<(), String> {
    let info = shard.engine.info().map_err(|e| e.to_string())?;
    metrics::gauge!("sightline_index_points").set(info.points_count as f64);
    if info.points_count.saturating_sub(info.indexed_vectors_count) < index_from {
        return Ok(());
    }
    let start = Instant::now();
    let built = shard.optimize().map_err(|e| e.to_string())?;
    if built {
        let seconds = start.elapsed().as_secs_f64();
        metrics::histogram!("sightline_index_build_seconds").record(seconds);
        tracing::info!(points = info.points_count, seconds, "vector index built");
    }
    Ok(())
}
