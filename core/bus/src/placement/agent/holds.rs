//! The holds of one node: which cameras it starts and stops, and what it writes about them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use sightline_core::config::CameraConfig;
use sightline_core::{CameraId, Timestamp};

use super::super::Placement;
use super::super::record::{Hold, Record, Span};
use super::{Agent, CameraChange, MAX_SPANS, Running, close};

impl Agent {
    /// Stops, takes, runs and lets go of cameras, as the placement says.
    pub(super) fn move_cameras(
        &mut self,
        now: Instant,
        wall: Timestamp,
        cameras: &BTreeMap<CameraId, CameraConfig>,
        placed: &Placement,
        records: &mut Vec<Record>,
    ) {
        let mine = |camera: &CameraId| placed.node_of.get(camera).is_some_and(|node| *node == self.node);
        let wanted: BTreeSet<&CameraId> = cameras.keys().filter(|camera| mine(camera)).collect();
        let settled = self.settled.is_none_or(|at| now >= at);
        for (camera, running) in self.running.iter_mut().filter(|(_, r)| !r.stopping) {
            let lost = self.membership.holder(camera).is_some_and(|hold| hold.node != self.node);
            match cameras.get(camera) {
                Some(config) if wanted.contains(camera) && !lost => {
                    if running.config != *config {
                        running.config = config.clone();
                        self.changes.push_back(CameraChange::Run(config.clone()));
                    }
                }
                Some(_) if !lost && !settled => {}
                _ => {
                    running.stopping = true;
                    self.changes.push_back(CameraChange::Stop(camera.clone()));
                }
            }
        }
        for camera in &wanted {
            if self.hold_in_flight.contains_key(*camera) {
                continue;
            }
            let own = self.membership.holder(camera).map(|hold| (hold.node == self.node, hold.epoch));
            match own {
                None => records.push(self.take_hold(camera)),
                Some((true, epoch)) => self.run(camera, &cameras[*camera], epoch, wall),
                Some((false, _)) => {}
            }
        }
        // Let go of what has stopped, also in an earlier process, and write anew what has changed.
        let held: Vec<(CameraId, bool, bool, i64)> = self
            .membership
            .holds_of(&self.node)
            .filter(|hold| hold.held)
            .map(|hold| {
                let holder = self.membership.holder(&hold.camera).is_some_and(|h| h.node == self.node);
                (hold.camera.clone(), wanted.contains(&hold.camera), holder, hold.epoch)
            })
            .collect();
        for (camera, wanted, holder, epoch) in held {
            if self.hold_in_flight.contains_key(&camera) {
                continue;
            }
            match self.running.get_mut(&camera) {
                Some(running) if holder && running.unwritten && !running.stopping => {
                    running.unwritten = false;
                    let spans = running.spans.clone();
                    records.push(self.hold(&camera, epoch, true, spans));
                }
                None if !(wanted && holder) => {
                    let mut spans = self.own_spans(&camera);
                    close(&mut spans, wall);
                    records.push(self.hold(&camera, epoch, false, spans));
                }
                _ => {}
            }
        }
    }

    /// Claims a camera that nobody holds. It runs when the record is read back and was the first.
    fn take_hold(&mut self, camera: &CameraId) -> Record {
        let spans = self.running.get(camera).map_or_else(|| self.own_spans(camera), |running| running.spans.clone());
        self.hold(camera, self.membership.epoch(), true, spans)
    }

    /// Runs a camera whose hold is ours. One that ran on while the hold was lost is in a new epoch
    /// from now.
    fn run(&mut self, camera: &CameraId, config: &CameraConfig, epoch: i64, wall: Timestamp) {
        match self.running.get_mut(camera) {
            Some(running) if running.epoch != epoch && !running.stopping => {
                running.epoch = epoch;
                if close(&mut running.spans, wall) {
                    running.spans.push(Span { epoch, from: wall, until: None });
                }
                running.unwritten = true;
            }
            Some(_) => return,
            None => {
                let (spans, config) = (self.own_spans(camera), config.clone());
                self.changes.push_back(CameraChange::Run(config.clone()));
                let running = Running { config, epoch, stopping: false, spans, covered_at: wall, unwritten: false };
                self.running.insert(camera.clone(), running);
            }
        }
        self.epochs.insert(camera.clone(), epoch);
    }

    /// The spans that this node has written, also before it was started anew.
    fn own_spans(&self, camera: &CameraId) -> Vec<Span> {
        self.membership.hold_of(camera, &self.node).map(|hold| hold.spans.clone()).unwrap_or_default()
    }

    pub(super) fn hold(&mut self, camera: &CameraId, epoch: i64, held: bool, mut spans: Vec<Span>) -> Record {
        spans.drain(..spans.len().saturating_sub(MAX_SPANS));
        let number = self.holds;
        self.holds += 1;
        self.hold_in_flight.insert(camera.clone(), number);
        let (camera, node, incarnation) = (camera.clone(), self.node.clone(), self.incarnation);
        Record::Hold(Hold { camera, node, incarnation, number, epoch, held, spans })
    }
}
