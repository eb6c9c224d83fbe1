//! Which cameras a node runs: its own, from its configuration, and those it is given while it runs. A camera that the node
//! refuses (a bad address, no room) is no reason to stop: it is reported as failed with the reason, and tried again when
//! there may be room.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use sightline_core::config::CameraConfig;
use sightline_core::{CameraId, Timestamp};
use tracing::{info, warn};

use crate::{CameraNode, IngestError, REPORT_EVERY};

/// A camera that should run here and does not.
struct Refused {
    camera: CameraConfig,
    reason: String,
    since: Timestamp,
    reports: u64,
}

/// See the module.
pub struct Roster {
    node: Arc<CameraNode>,
    own: BTreeSet<CameraId>,
    given: BTreeMap<CameraId, CameraConfig>,
    refused: BTreeMap<CameraId, Refused>,
    beat: Instant,
}

impl std::fmt::Debug for Roster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Roster({} own, {} given, {} refused)", self.own.len(), self.given.len(), self.refused.len())
    }
}

impl Roster {
    /// Starts the node's own cameras.
    pub fn new(node: Arc<CameraNode>, own: Vec<CameraConfig>) -> Self {
        let ids = own.iter().map(|c| c.id.clone()).collect();
        let (given, refused) = (BTreeMap::new(), BTreeMap::new());
        let mut roster = Self { node, own: ids, given, refused, beat: Instant::now() };
        own.into_iter().for_each(|camera| roster.start(camera));
        roster
    }

    /// Runs a camera that was given to this node, with these settings from now on.
    pub fn run(&mut self, camera: CameraConfig) {
        let id = camera.id.clone();
        if self.own.contains(&id) {
            warn!(camera = %id, "the configuration of this node has a camera of this name already; that one runs");
            return;
        }
        match self.given.insert(id.clone(), camera.clone()) {
            Some(before) if before == camera => return,
            Some(_) => {
                info!(camera = %id, "new settings");
                self.end(&id);
            }
            None => {}
        }
        self.start(camera);
    }

    /// A camera was taken away from this node.
    pub fn stop(&mut self, camera: &CameraId) {
        if self.given.remove(camera).is_some() {
            self.end(camera);
        }
    }

    /// Cameras that should run here and do not, with the reason.
    pub fn refused(&self) -> Vec<(CameraId, String)> {
        self.refused.values().map(|r| (r.camera.id.clone(), r.reason.clone())).collect()
    }

    /// To be called every second or so: reports what is refused and tries it again.
    pub fn beat(&mut self) {
        if self.beat.elapsed() < REPORT_EVERY {
            return;
        }
        self.beat = Instant::now();
        for (id, mut refused) in std::mem::take(&mut self.refused) {
            match self.node.add(refused.camera.clone()) {
                Ok(()) => info!(camera = %id, "runs now"),
                Err(e) => {
                    refused.reason = e.to_string();
                    self.report(&mut refused);
                    self.refused.insert(id, refused);
                }
            }
        }
    }

    fn start(&mut self, camera: CameraConfig) {
        let Err(e) = self.node.add(camera.clone()) else { return };
        if matches!(e, IngestError::Stopped) {
            return;
        }
        warn!(camera = %camera.id, error = %e, "camera not started");
        let id = camera.id.clone();
        let mut refused = Refused { camera, reason: e.to_string(), since: Timestamp::now(), reports: 0 };
        self.report(&mut refused);
        self.refused.insert(id, refused);
    }

    fn report(&self, refused: &mut Refused) {
        self.node.reporter().refused(&refused.camera.id, &refused.reason, refused.since, refused.reports);
        refused.reports += 1;
    }

    fn end(&mut self, camera: &CameraId) {
        if self.refused.remove(camera).is_none()
            && let Err(e) = self.node.remove(camera)
        {
            warn!(%camera, error = %e, "not stopped cleanly");
        }
    }
}
