//! Readiness of this node, for `/readyz`. A camera that fails, or that the node refuses, does not
//! make the node unready: reports say so, and the other cameras run on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use sightline_bus::CameraPlacement;
use sightline_ingest::Publisher;

#[derive(Default)]
struct Inner {
    started: bool,
    publisher: Option<Publisher>,
    placement: Weak<CameraPlacement>,
}

/// The readiness state. Clones share it.
#[derive(Clone, Default)]
pub struct Status(Arc<Mutex<Inner>>);

impl Status {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Events can be accepted.
    pub fn set_publisher(&self, publisher: &Publisher) {
        self.lock().publisher = Some(publisher.clone());
    }

    /// The node's own cameras are running.
    pub fn set_started(&self) {
        self.lock().started = true;
    }

    /// The node takes part in the placement of the cameras of the topic `cameras`.
    pub fn set_placement(&self, placement: &Arc<CameraPlacement>) {
        self.lock().placement = Arc::downgrade(placement);
    }

    /// The faults: what is not ready, and why.
    pub fn faults(&self) -> Vec<(String, String)> {
        let inner = self.lock();
        let mut all = Vec::new();
        if !inner.started {
            all.push(("node".to_owned(), "starting".to_owned()));
        }
        all.extend(inner.publisher.as_ref().and_then(Publisher::fault).map(|why| ("bus".to_owned(), why)));
        all.extend(inner.placement.upgrade().and_then(|p| p.fault()).map(|why| ("cameras".to_owned(), why)));
        all
    }
}
