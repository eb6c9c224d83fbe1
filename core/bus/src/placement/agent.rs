//! What one node does about the placement: its heartbeats, the holds it takes and lets go of, and
//! the cameras it starts and stops.
//!
//! A camera moves in this order: the placement gives it to another node; its node stops it and then
//! lets go of the hold; the other node takes the hold, reads it back, and starts the camera. So at
//! most one node runs a camera, except while one is cut off from the broker. That one records on.
//! Each of its records carries the epoch in which it took the camera. When it is back, it has read
//! who had footage of the camera meanwhile, and the records of that time are
//! [`Verdict::Superseded`]. One case is left: a node that took a camera over and ends soon has told
//! of its footage up to its last heartbeat only. What it sent after that, two seconds at most, the
//! node that comes back sends again. The alternatives are worse: to hold every picture back until a
//! heartbeat tells of it, or to lose two seconds at each such end.
//!
//! The agent does no input and output: the caller gives it records, cameras and the time, and takes
//! records to write and changes to make.

mod holds;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use sightline_core::config::CameraConfig;
use sightline_core::{CameraId, Timestamp};
use uuid::Uuid;

use super::membership::{HEARTBEAT_INTERVAL, LEASE, Membership, new_incarnation};
use super::record::{Beat, Hold, Record, Span};
use super::{NodeSlots, Placement, placement};

/// For how long after a heartbeat was sent its node relies on the lease. Others count from when the
/// broker has the heartbeat, which is later, and for longer: so the node doubts its lease before
/// anybody takes its cameras.
const OWN_LEASE: Duration = LEASE.saturating_sub(HEARTBEAT_INTERVAL);

/// How long a node that has joined may move no running camera, so that a rack of nodes that start
/// together moves each camera once.
const SETTLE: Duration = Duration::from_secs(3);

/// Spans kept of a node's footage of one camera.
const MAX_SPANS: usize = 16;

/// How long nodes and holds that are over are remembered: as long as a node's outbox may wait
/// unsent, so that it learns who covered its cameras.
const REMEMBER: Duration = Duration::from_secs(7 * 86_400);

/// A change that a camera node has to make.
#[derive(Clone, Debug, PartialEq)]
pub enum CameraChange {
    /// Run this camera, in place of a running one with the same id.
    Run(CameraConfig),
    /// Stop this camera: it was removed, or another node is to run it.
    Stop(CameraId),
}

/// Whether a record of a placed camera may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it.
    Send,
    /// The node is cut off, or has just come back: it is not known yet.
    Wait,
    /// Another node covered the camera at that time: drop it.
    Superseded,
}

/// A camera that runs on this node.
struct Running {
    config: CameraConfig,
    epoch: i64,
    /// The node was told to stop it and has not said that it did.
    stopping: bool,
    spans: Vec<Span>,
    /// When frames were last known to arrive.
    covered_at: Timestamp,
    /// The spans differ from those that were written.
    unwritten: bool,
}

/// The part of one node in the placement.
pub struct Agent {
    node: String,
    incarnation: Uuid,
    capacity: u32,
    draining: bool,
    /// It has left while it was current.
    left_in_order: bool,
    membership: Membership,
    /// The topic was read to its end since the last restart.
    read_to_end: bool,
    beats: u64,
    last_beat: Option<Instant>,
    /// The heartbeat that was sent and not read back.
    beat_in_flight: Option<(u64, Instant)>,
    /// When the newest heartbeat that was read back was sent.
    lease_from: Option<Instant>,
    joined: Option<Instant>,
    /// No running camera moves before.
    settled: Option<Instant>,
    cameras: Option<BTreeMap<CameraId, CameraConfig>>,
    /// The placement of `cameras`, and the nodes that it was made for.
    placed: Option<(Vec<NodeSlots>, Placement)>,
    running: BTreeMap<CameraId, Running>,
    /// The epoch of every camera that ran here, for records that come late.
    epochs: BTreeMap<CameraId, i64>,
    holds: u64,
    /// The number of the hold that was written and not read back, by camera.
    hold_in_flight: BTreeMap<CameraId, u64>,
    changes: VecDeque<CameraChange>,
    /// The changes that the node has taken and not made yet.
    taken: Vec<CameraChange>,
    unplaced: BTreeMap<CameraId, String>,
    /// When another process last wrote heartbeats in this node's name.
    namesake: Option<Instant>,
}

impl Agent {
    /// An agent of the node `node`, which can run `capacity` cameras of the topic.
    pub fn new(node: &str, capacity: u32) -> Self {
        Self {
            node: node.to_owned(),
            incarnation: new_incarnation(),
            capacity,
            draining: false,
            left_in_order: false,
            membership: Membership::default(),
            read_to_end: false,
            beats: 0,
            last_beat: None,
            beat_in_flight: None,
            lease_from: None,
            joined: None,
            settled: None,
            cameras: None,
            placed: None,
            running: BTreeMap::new(),
            epochs: BTreeMap::new(),
            holds: 0,
            hold_in_flight: BTreeMap::new(),
            changes: VecDeque::new(),
            taken: Vec::new(),
            unplaced: BTreeMap::new(),
            namesake: None,
        }
    }

    /// The topic is read from its beginning (again). What runs goes on.
    pub fn restart(&mut self) {
        (self.membership, self.read_to_end) = (Membership::default(), false);
        (self.lease_from, self.joined) = (None, None);
    }

    /// Reads a record; `at` is when the broker took it.
    pub fn record(&mut self, offset: i64, at: Timestamp, record: Record, now: Instant) {
        let own = match &record {
            Record::Beat(beat) if beat.node == self.node && beat.incarnation == self.incarnation => Some(beat.number),
            _ => None,
        };
        if let Record::Beat(beat) = &record
            && beat.node == self.node
            && own.is_none()
            && self.joined.is_some()
        {
            self.namesake = Some(now);
        }
        if let Record::Hold(hold) = &record
            && hold.incarnation == self.incarnation
            && self.hold_in_flight.get(&hold.camera) == Some(&hold.number)
        {
            self.hold_in_flight.remove(&hold.camera);
        }
        if self.membership.apply(offset, at, record) {
            self.settled = Some(now + SETTLE);
        }
        let Some((number, sent)) = self.beat_in_flight.filter(|(number, _)| own == Some(*number)) else { return };
        self.beat_in_flight = None;
        self.lease_from = Some(sent);
        tracing::trace!(number, offset, "heartbeat read back");
        if self.membership.is_loading() && self.read_to_end {
            self.membership.loaded(offset);
            self.joined = Some(now);
        }
    }

    /// The topic was read to its end.
    pub fn end_reached(&mut self) {
        self.read_to_end = true;
    }

    /// The cameras of the topic of cameras.
    pub fn set_cameras(&mut self, cameras: BTreeMap<CameraId, CameraConfig>) {
        if self.cameras.as_ref() != Some(&cameras) {
            (self.cameras, self.placed) = (Some(cameras), None);
        }
    }

    /// The node ends: it takes no more cameras, and others may have those that it lets go of.
    pub fn drain(&mut self) {
        (self.draining, self.last_beat) = (true, None);
    }

    /// Whether the node knows that it lives in the eyes of all, and has read what they did.
    pub fn is_current(&self, now: Instant) -> bool {
        // One heartbeat interval after joining, every live node has been heard.
        let joined = self.joined.is_some_and(|at| now.saturating_duration_since(at) >= HEARTBEAT_INTERVAL);
        joined && self.lease_from.is_some_and(|at| now.saturating_duration_since(at) < OWN_LEASE)
    }

    /// Why this node takes no part in the placement; `None` when it does.
    pub fn fault(&self, now: Instant) -> Option<String> {
        if self.namesake.is_some_and(|at| now.saturating_duration_since(at) < LEASE) {
            return Some(format!("another camera node is called {:?}, too: set monitor.node", self.node));
        }
        (!self.is_current(now)).then(|| "this node is not in touch with the other camera nodes".to_owned())
    }

    /// Cameras that run here, and those that the node was told to stop but still runs.
    pub fn load(&self) -> usize {
        self.running.len()
    }

    /// Cameras that no node can run and that this node has to report, with the reason.
    pub fn unplaced(&self) -> &BTreeMap<CameraId, String> {
        &self.unplaced
    }

    /// The epoch in which this node took the camera; `None` when it never ran here.
    pub fn epoch(&self, camera: &CameraId) -> Option<i64> {
        self.epochs.get(camera).copied()
    }

    /// Whether a record of the camera, written here in `epoch` at the time `at`, may be sent.
    pub fn verdict(&self, camera: &CameraId, epoch: i64, at: Timestamp, now: Instant) -> Verdict {
        let known = self.left_in_order || self.is_current(now);
        let superseded = self.membership.is_superseded(camera, epoch, at).filter(|_| known);
        match superseded {
            None => Verdict::Wait,
            Some(true) => Verdict::Superseded,
            Some(false) => Verdict::Send,
        }
    }

    /// The changes for the node to make. Calling again means that the changes of the previous call
    /// are made.
    pub fn take_changes(&mut self) -> Vec<CameraChange> {
        for change in std::mem::take(&mut self.taken) {
            if let CameraChange::Stop(camera) = change {
                self.running.remove(&camera);
            }
        }
        self.taken = self.changes.drain(..).collect();
        self.taken.clone()
    }

    /// Decides what follows from all that was read. `covered` says of which cameras frames arrive
    /// here, and since when. Returns the records to write, in this order.
    pub fn step(&mut self, now: Instant, wall: Timestamp, covered: &BTreeMap<CameraId, Timestamp>) -> Vec<Record> {
        let mut records = Vec::new();
        let beat = self.beat(now);
        self.note_footage(wall, covered, beat.is_some());
        if self.is_current(now)
            && let Some(cameras) = self.cameras.take()
        {
            let slots = self.membership.slots();
            let known = self.placed.take().filter(|(nodes, _)| *nodes == slots);
            let placed = known.map_or_else(
                || placement(cameras.iter().map(|(id, c)| (id, c.node.as_deref())), &slots),
                |(_, placed)| placed,
            );
            self.move_cameras(now, wall, &cameras, &placed, &mut records);
            self.report_unplaced(&placed);
            (self.cameras, self.placed) = (Some(cameras), Some((slots, placed)));
            if beat.is_some() {
                records.extend(self.forget(wall));
            }
        }
        // The heartbeat says that all spans before it are written.
        records.extend(beat);
        records
    }

    /// The records that end this node's part: its holds, and then the node itself. To be called
    /// when all its cameras have stopped.
    pub fn leave(&mut self, now: Instant, wall: Timestamp) -> Vec<Record> {
        // What this node has written until now is its alone: nobody takes a camera before it reads that
        // it was let go of.
        self.left_in_order = self.is_current(now);
        let mut records = Vec::new();
        for (camera, mut running) in std::mem::take(&mut self.running) {
            close(&mut running.spans, wall);
            records.push(self.hold(&camera, running.epoch, false, running.spans));
        }
        records.push(Record::Left(self.node.clone()));
        (self.lease_from, self.joined) = (None, None);
        records
    }

    /// The heartbeat that is due. While one is in flight there is none: a node that comes back must
    /// not send those of an hour.
    fn beat(&mut self, now: Instant) -> Option<Record> {
        let due = self.last_beat.is_none_or(|last| now.saturating_duration_since(last) >= HEARTBEAT_INTERVAL);
        if !self.read_to_end || !due || self.beat_in_flight.is_some() {
            return None;
        }
        let (node, number) = (self.node.clone(), self.beats);
        self.beats += 1;
        (self.last_beat, self.beat_in_flight) = (Some(now), Some((number, now)));
        let (incarnation, capacity, draining) = (self.incarnation, self.capacity, self.draining);
        let load = u32::try_from(self.running.len()).unwrap_or(u32::MAX);
        Some(Record::Beat(Beat { node, incarnation, number, capacity, load, draining }))
    }

    /// Keeps the spans of footage. One begins at once, so that a node that ends soon after it took a
    /// camera has told of it; one ends with a heartbeat, so that a short gap makes no second span.
    fn note_footage(&mut self, wall: Timestamp, covered: &BTreeMap<CameraId, Timestamp>, heartbeat: bool) {
        for (camera, running) in &mut self.running {
            let open = running.spans.last().is_some_and(|span| span.until.is_none());
            match (covered.get(camera), open) {
                (Some(since), false) => {
                    let after = running.spans.last().and_then(|span| span.until);
                    let from = after.map_or(*since, |until| until.max(*since));
                    running.spans.push(Span { epoch: running.epoch, from, until: None });
                    running.unwritten = true;
                }
                (None, true) if heartbeat => {
                    // Rather too little than too much: what nobody else has must not be dropped.
                    close(&mut running.spans, running.covered_at);
                    running.unwritten = true;
                }
                _ => {}
            }
            if covered.contains_key(camera) {
                running.covered_at = wall;
            }
        }
    }

    /// One node reports what no node can run: the first of them.
    fn report_unplaced(&mut self, placed: &Placement) {
        let reporter = self.membership.live().next().is_some_and(|beat| beat.node == self.node);
        self.unplaced = if reporter {
            placed.unplaced.iter().map(|(camera, why)| (camera.clone(), why.to_string())).collect()
        } else {
            BTreeMap::new()
        };
    }

    /// Removes what is over for long: this node's own holds, and, as the first of the live nodes,
    /// those of nodes that never came back.
    fn forget(&self, wall: Timestamp) -> Vec<Record> {
        let since = wall - REMEMBER;
        let ended = |hold: &&Hold| !hold.held && hold.spans.iter().all(|s| s.until.is_some_and(|until| until < since));
        let own = self.membership.holds_of(&self.node).filter(ended);
        let own = own.filter(|hold| !self.hold_in_flight.contains_key(&hold.camera));
        let mut records: Vec<Record> =
            own.map(|hold| Record::HoldGone(hold.camera.clone(), self.node.clone())).collect();
        if self.membership.live().next().is_some_and(|beat| beat.node == self.node) {
            records.extend(self.membership.forgotten(since));
        }
        records
    }
}

/// Ends the open span; returns whether there was one.
fn close(spans: &mut [Span], at: Timestamp) -> bool {
    let Some(open) = spans.last_mut().filter(|span| span.until.is_none()) else { return false };
    open.until = Some(at.max(open.from));
    true
}

#[cfg(test)]
mod tests;
