//! The roster: which cameras a node should run, its own from the configuration and those assigned
//! to it at run time. A camera that the node refuses (a bad address, no room) does not stop the
//! node: the camera is reported as failed with the reason, and retried because there may be room
//! later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use sightline_core::config::CameraConfig;
use sightline_core::message::Origin;
use sightline_core::{CameraId, NodeReport, Timestamp};
use tracing::{info, warn};

use crate::{CameraNode, IngestError, REPORT_EVERY};

/// A camera that should run here but was refused.
struct Refused {
    camera: CameraConfig,
    reason: String,
    since: Timestamp,
    reports: u64,
}

/// Keeps track of the cameras that one node should run, see the module.
pub struct Roster {
    node: Arc<CameraNode>,
    own: BTreeSet<CameraId>,
    assigned: BTreeMap<CameraId, CameraConfig>,
    refused: BTreeMap<CameraId, Refused>,
    /// Cameras that no node can run and that this node reports: reason, since when, and the number of
    /// reports.
    unplaced: BTreeMap<CameraId, (String, Timestamp, u64)>,
    last_retry: Instant,
}

impl std::fmt::Debug for Roster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Roster({} own, {} assigned, {} refused)", self.own.len(), self.assigned.len(), self.refused.len())
    }
}

impl Roster {
    /// Starts the node's own cameras.
    pub fn new(node: Arc<CameraNode>, own: Vec<CameraConfig>) -> Self {
        let ids = own.iter().map(|c| c.id.clone()).collect();
        let (assigned, refused) = (BTreeMap::new(), BTreeMap::new());
        let (unplaced, last_retry) = (BTreeMap::new(), Instant::now());
        let mut roster = Self { node, own: ids, assigned, refused, unplaced, last_retry };
        own.into_iter().for_each(|camera| roster.start(camera));
        roster
    }

    /// Runs a camera that was assigned to this node; a running one is restarted when its settings
    /// changed.
    pub fn run(&mut self, camera: CameraConfig) {
        let id = camera.id.clone();
        if self.own.contains(&id) {
            warn!(camera = %id, "the configuration of this node has a camera of this name already; that one runs");
            return;
        }
        match self.assigned.insert(id.clone(), camera.clone()) {
            Some(before) if before == camera => return,
            Some(_) => {
                info!(camera = %id, "new settings");
                if self.refused.remove(&id).is_none() {
                    self.remove(&id);
                }
            }
            None => {}
        }
        self.start(camera);
    }

    /// Runs a camera that was assigned to this node, or returns why it cannot. A refusal is left to
    /// the caller to report, and is not retried.
    ///
    /// # Errors
    /// As [`CameraNode::add`].
    pub fn try_run(&mut self, camera: CameraConfig) -> Result<(), IngestError> {
        self.node.add(camera.clone())?;
        self.refused.remove(&camera.id);
        self.assigned.insert(camera.id.clone(), camera);
        Ok(())
    }

    /// Stops cameras that are no longer assigned to this node, all side by side: another node waits
    /// for them.
    pub fn stop(&mut self, cameras: &[CameraId]) {
        let running: Vec<CameraId> = cameras.iter().filter(|camera| self.forget(camera)).cloned().collect();
        self.node.remove_all(&running);
    }

    /// Forgets a camera without stopping it; returns whether it may be running. For callers that
    /// must not wait for its end while they hold the roster.
    pub fn forget(&mut self, camera: &CameraId) -> bool {
        let assigned = self.assigned.remove(camera).is_some();
        self.refused.remove(camera).is_none() && assigned
    }

    /// Cameras that should run here but were refused, with the reason.
    pub fn refused(&self) -> Vec<(CameraId, String)> {
        self.refused.values().map(|r| (r.camera.id.clone(), r.reason.clone())).collect()
    }

    /// Reports, in the name of `producer`, of the cameras that should run here but were refused.
    pub fn refused_reports(&self, producer: &str) -> Vec<NodeReport> {
        let report = |r: &Refused| {
            let origin = Origin::of_camera(producer, 0, &r.camera.id);
            NodeReport::refused(origin, r.camera.id.clone(), r.reason.clone(), r.since)
        };
        self.refused.values().map(report).collect()
    }

    /// Cameras that no node can run, with the reason, for this node to report.
    pub fn set_unplaced(&mut self, unplaced: BTreeMap<CameraId, String>) {
        let mut before = std::mem::take(&mut self.unplaced);
        let entry = |(camera, reason)| {
            let (since, reports) = before.remove(&camera).map_or((Timestamp::now(), 0), |(_, since, n)| (since, n));
            (camera, (reason, since, reports))
        };
        self.unplaced = unplaced.into_iter().map(entry).collect();
    }

    /// Retries and reports refused cameras, and reports those that no node can run, at most once per [`REPORT_EVERY`]. To be called every
    /// second or so.
    pub fn retry_refused(&mut self) {
        if self.last_retry.elapsed() < REPORT_EVERY {
            return;
        }
        self.last_retry = Instant::now();
        for (camera, (reason, since, reports)) in &mut self.unplaced {
            self.node.reporter().unplaced(camera, reason, *since, *reports);
            *reports += 1;
        }
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

    fn remove(&self, camera: &CameraId) {
        if let Err(e) = self.node.remove(camera) {
            warn!(%camera, error = %e, "not stopped cleanly");
        }
    }
}
