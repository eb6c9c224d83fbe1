//! What is wrong with this node, for `/readyz`. A camera that fails is no fault of the node: its reports say so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use sightline_core::CameraId;
use sightline_core::bus::CameraShare;
use sightline_ingest::Publisher;

#[derive(Default)]
struct Inner {
    started: bool,
    publisher: Option<Publisher>,
    share: Weak<CameraShare>,
    refused: Vec<(CameraId, String)>,
}

/// Cloning shares it.
#[derive(Clone, Default)]
pub struct Status(Arc<Mutex<Inner>>);

impl Status {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Events can be taken.
    pub fn set_publisher(&self, publisher: &Publisher) {
        self.lock().publisher = Some(publisher.clone());
    }

    /// Cameras run.
    pub fn set_started(&self) {
        self.lock().started = true;
    }

    /// The node has asked for its share of the cameras.
    pub fn set_share(&self, share: &Arc<CameraShare>) {
        self.lock().share = Arc::downgrade(share);
    }

    /// Cameras that should run here and do not.
    pub fn set_refused(&self, refused: Vec<(CameraId, String)>) {
        self.lock().refused = refused;
    }

    /// What is not ready, and why.
    pub fn faults(&self) -> Vec<(String, String)> {
        let inner = self.lock();
        let mut all = Vec::new();
        if !inner.started {
            all.push(("node".to_owned(), "starting".to_owned()));
        }
        all.extend(inner.publisher.as_ref().and_then(Publisher::fault).map(|why| ("bus".to_owned(), why)));
        all.extend(inner.share.upgrade().and_then(|s| s.fault()).map(|why| ("cameras".to_owned(), why)));
        all.extend(inner.refused.iter().map(|(camera, why)| (format!("camera {camera}"), why.clone())));
        all
    }
}
