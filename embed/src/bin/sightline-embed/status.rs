//! Status of the worker for `/readyz`: its phase and its faults.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use sightline_bus::{Consumer, Producer};
use sightline_embed::Embedder;

/// Parts whose status is known once the pipeline runs.
pub struct Running {
    /// Weak, so that a status request does not delay the shutdown.
    pub consumer: Weak<Consumer>,
    /// Producer of the topic `sightings`.
    pub producer: Producer,
    /// The model.
    pub embedder: Embedder,
}

struct Inner {
    phase: String,
    running: Option<Running>,
}

impl Default for Inner {
    /// Not ready: a request may come before the worker has started.
    fn default() -> Self {
        Self { phase: "starting".to_owned(), running: None }
    }
}

/// Shared status; clones refer to the same one.
#[derive(Clone, Default)]
pub struct Status(Arc<Mutex<Inner>>);

impl Status {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the phase of the start or the shutdown.
    pub fn set_phase(&self, phase: &str) {
        tracing::info!(phase, "worker");
        self.lock().phase = phase.to_owned();
    }

    /// Marks the pipeline as running.
    pub fn set_running(&self, running: Running) {
        let mut inner = self.lock();
        inner.phase.clear();
        inner.running = Some(running);
    }

    /// Whether the pipeline runs, so that records may be in flight.
    pub fn is_running(&self) -> bool {
        self.lock().running.is_some()
    }

    /// Parts that are not ready, and why.
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

    /// Model, device and data type.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let inner = self.lock();
        let Some(info) = inner.running.as_ref().map(|r| r.embedder.info()) else { return Vec::new() };
        vec![
            ("model", info.id.clone()),
            ("device", info.device.clone()),
            ("dtype", info.dtype.clone()),
            ("self_test", info.self_test.to_string()),
        ]
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
