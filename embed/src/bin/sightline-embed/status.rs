//! What the worker is busy with, and what is wrong, for `/readyz`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use sightline_core::bus::{Consumer, Producer};
use sightline_embed::Embedder;

/// What can be for_readiness once the line runs.
pub struct Running {
    /// Weak, so that nobody holds the end up by asking.
    pub consumer: Weak<Consumer>,
    /// To the sightings.
    pub producer: Producer,
    /// The model.
    pub embedder: Embedder,
}

struct Inner {
    phase: String,
    running: Option<Running>,
}

impl Default for Inner {
    /// Not ready from the first question on, which may come before the start has got anywhere.
    fn default() -> Self {
        Self { phase: "starting".to_owned(), running: None }
    }
}

/// Cloning shares it.
#[derive(Clone, Default)]
pub struct Status(Arc<Mutex<Inner>>);

impl Status {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the start (or the stop) is busy with.
    pub fn set_phase(&self, phase: &str) {
        tracing::info!(phase, "worker");
        self.lock().phase = phase.to_owned();
    }

    /// The line runs.
    pub fn set_running(&self, running: Running) {
        let mut inner = self.lock();
        inner.phase.clear();
        inner.running = Some(running);
    }

    /// Whether the line runs: something may have been begun.
    pub fn is_running(&self) -> bool {
        self.lock().running.is_some()
    }

    /// What is not ready, and why.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let inner = self.lock();
        let mut all = Vec::new();
        if !inner.phase.is_empty() {
            all.push(("worker", inner.phase.clone()));
        }
        let Some(running) = &inner.running else { return all };
        let info = running.embedder.info();
        if !running.embedder.is_alive() {
            all.push(("model", format!("the inference thread for {} on {} has died", info.id, info.device)));
        }
        all.extend(running.consumer.upgrade().and_then(|c| c.fault()).map(|why| ("crops", why)));
        all.extend(running.producer.fault().map(|why| ("sightings", why)));
        all
    }

    /// What runs, and where.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let inner = self.lock();
        let Some(info) = inner.running.as_ref().map(|r| r.embedder.info()) else { return Vec::new() };
        vec![("model", info.id.clone()), ("device", info.device.clone()), ("dtype", info.dtype.clone())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_has_not_begun_is_not_ready() {
        assert_eq!(Status::default().faults(), [("worker", "starting".to_owned())]);
    }
}
