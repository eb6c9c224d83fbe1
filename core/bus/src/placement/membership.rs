//! Which nodes live and who holds which camera: what follows from the records of the topic `nodes`.
//!
//! The topic has one partition, and the broker stamps each record with its own clock. So all nodes
//! read the same records with the same times in the same order, and conclude the same from them: no
//! clocks of different machines are compared, and no two nodes disagree for longer than one of them
//! has not read. A lease ends at the first record that comes more than [`LEASE`] after the node's
//! last heartbeat. The *epoch* is the offset of the record that last changed the set of live nodes
//! or what they take.
//!
//! Time advances by at most one heartbeat interval a record. When nobody can write, because the
//! broker is away, no lease runs out meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sightline_core::{CameraId, Timestamp};
use uuid::Uuid;

use super::NodeSlots;
use super::record::{Beat, Hold, Record, Span};

/// Interval of the heartbeats. A hundred nodes write fifty small records a second.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);

/// A node that is silent for so long counts as dead. Five heartbeats fit in, so that one that is
/// late moves no camera; and it is as long as the session of the other roles with the broker.
pub const LEASE: Duration = Duration::from_secs(10);

struct Node {
    beat: Beat,
    /// Time of the last heartbeat, by the membership's own clock.
    seen: Duration,
    /// The same by the broker's clock.
    seen_at: Timestamp,
    live: bool,
}

struct HoldState {
    hold: Hold,
    /// Offset and time at which the hold was taken; `None` when it does not count (any more).
    taken: Option<(i64, Timestamp)>,
}

/// The nodes and their holds after the records read so far.
pub struct Membership {
    /// The topic is read for the first time: nothing follows from it yet.
    loading: bool,
    clock: Duration,
    last_record_at: Option<Timestamp>,
    nodes: BTreeMap<String, Node>,
    drained: BTreeSet<String>,
    holds: BTreeMap<CameraId, BTreeMap<String, HoldState>>,
    epoch: i64,
}

impl Default for Membership {
    fn default() -> Self {
        Self {
            loading: true,
            clock: Duration::ZERO,
            last_record_at: None,
            nodes: BTreeMap::new(),
            drained: BTreeSet::new(),
            holds: BTreeMap::new(),
            epoch: 0,
        }
    }
}

impl Membership {
    /// Reads the record at `offset`, which the broker stamped with `at`. Returns whether a node has
    /// joined.
    pub fn apply(&mut self, offset: i64, at: Timestamp, record: Record) -> bool {
        self.advance(at);
        if !self.loading {
            self.expire(offset);
        }
        match record {
            Record::Beat(beat) => return self.beat(offset, at, beat),
            Record::Left(node) => {
                self.void(&node, at, None);
                if self.nodes.remove(&node).is_some_and(|n| n.live) {
                    self.changed(offset);
                }
            }
            Record::Drain(node, on) => {
                let changed = if on { self.drained.insert(node) } else { self.drained.remove(&node) };
                if changed {
                    self.changed(offset);
                }
            }
            Record::Hold(hold) => self.hold(offset, at, hold),
            Record::HoldGone(camera, node) => {
                if let Some(holds) = self.holds.get_mut(&camera) {
                    holds.remove(&node);
                }
            }
        }
        false
    }

    /// Ends the first reading, at the reader's own heartbeat: from here on leases run out.
    pub fn loaded(&mut self, offset: i64) {
        self.loading = false;
        let clock = self.clock;
        let silent = |node: &&mut Node| clock.saturating_sub(node.seen) > LEASE;
        self.nodes.values_mut().filter(silent).for_each(|node| node.live = false);
        for holds in self.holds.values_mut() {
            for (name, state) in holds {
                let node = self.nodes.get(name);
                if !node.is_some_and(|n| n.live && n.beat.incarnation == state.hold.incarnation) {
                    state.void(node.map(|n| n.seen_at));
                }
            }
        }
        self.changed(offset);
    }

    /// Whether the topic is being read for the first time.
    pub fn is_loading(&self) -> bool {
        self.loading
    }

    /// Offset of the record that last changed the set of live nodes or what they take.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// The live nodes, by name.
    pub fn live(&self) -> impl Iterator<Item = &Beat> {
        self.nodes.values().filter(|n| n.live).map(|n| &n.beat)
    }

    /// The live nodes as the placement sees them.
    pub fn slots(&self) -> Vec<NodeSlots> {
        let slots = |beat: &Beat| NodeSlots {
            name: beat.node.clone(),
            capacity: beat.capacity,
            draining: beat.draining || self.drained.contains(&beat.node),
        };
        self.live().map(slots).collect()
    }

    /// The hold of the node that runs the camera: of several live nodes the first that took one.
    pub fn holder(&self, camera: &CameraId) -> Option<&Hold> {
        let holds = self.holds.get(camera)?.values();
        let valid = holds.filter_map(|state| Some((state.taken?, &state.hold)));
        valid.min_by_key(|(taken, _)| *taken).map(|(_, hold)| hold)
    }

    /// The last record of this node's hold on the camera.
    pub fn hold_of(&self, camera: &CameraId, node: &str) -> Option<&Hold> {
        Some(&self.holds.get(camera)?.get(node)?.hold)
    }

    /// All holds of a node.
    pub fn holds_of(&self, node: &str) -> impl Iterator<Item = &Hold> {
        self.holds.values().filter_map(move |holds| holds.get(node)).map(|state| &state.hold)
    }

    /// Whether another node had footage of the camera at `at`, in a later epoch; `None` while that
    /// node has not said yet. A heartbeat says that all spans up to it are written.
    pub fn is_superseded(&self, camera: &CameraId, epoch: i64, at: Timestamp) -> Option<bool> {
        let holds = || self.holds.get(camera).into_iter().flatten();
        let unsaid = |(node, state): (&String, &HoldState)| {
            let taken = state.taken.filter(|_| state.hold.epoch > epoch);
            let seen_at = self.nodes.get(node).map(|n| n.seen_at);
            taken.is_some_and(|(_, taken_at)| taken_at <= at && seen_at.is_some_and(|seen_at| seen_at <= at))
        };
        let mut later = holds().flat_map(|(_, state)| &state.hold.spans).filter(|span| span.epoch > epoch);
        let covered = later.any(|span| span.from <= at && span.until.is_none_or(|until| at < until));
        (!holds().any(unsaid)).then_some(covered)
    }

    /// Records that remove nodes which have been silent since before `since`, and their holds.
    pub fn forgotten(&self, since: Timestamp) -> Vec<Record> {
        let old = |(name, node): (&String, &Node)| (!node.live && node.seen_at < since).then(|| name.clone());
        let mut records = Vec::new();
        for name in self.nodes.iter().filter_map(old) {
            let held = self.holds.iter().filter(|(_, holds)| holds.contains_key(&name));
            records.extend(held.map(|(camera, _)| Record::HoldGone(camera.clone(), name.clone())));
            records.push(Record::Left(name));
        }
        records
    }

    fn advance(&mut self, at: Timestamp) {
        if let Some(last) = self.last_record_at {
            let step = Duration::from_micros(at.as_micros().saturating_sub(last.as_micros()).max(0).unsigned_abs());
            self.clock += if self.loading { step } else { step.min(HEARTBEAT_INTERVAL) };
        }
        self.last_record_at = Some(at);
    }

    fn changed(&mut self, offset: i64) {
        if !self.loading {
            self.epoch = offset;
        }
    }

    fn expire(&mut self, offset: i64) {
        let clock = self.clock;
        let silent = |(name, node): (&String, &mut Node)| {
            let ends = node.live && clock.saturating_sub(node.seen) > LEASE;
            node.live &= !ends;
            ends.then(|| (name.clone(), node.seen_at))
        };
        let expired: Vec<_> = self.nodes.iter_mut().filter_map(silent).collect();
        for (name, seen_at) in expired {
            self.void(&name, seen_at, None);
            self.changed(offset);
        }
    }

    fn beat(&mut self, offset: i64, at: Timestamp, beat: Beat) -> bool {
        let before = self.nodes.get(&beat.node);
        let same_process = before.is_some_and(|n| n.beat.incarnation == beat.incarnation);
        let joined = !before.is_some_and(|n| n.live && same_process);
        let changed = before.is_none_or(|n| n.beat.capacity != beat.capacity || n.beat.draining != beat.draining);
        if let Some(seen_at) = before.filter(|_| !same_process).map(|n| n.seen_at) {
            self.void(&beat.node, seen_at, Some(beat.incarnation));
        }
        if joined || changed {
            self.changed(offset);
        }
        self.nodes.insert(beat.node.clone(), Node { beat, seen: self.clock, seen_at: at, live: true });
        joined
    }

    fn hold(&mut self, offset: i64, at: Timestamp, hold: Hold) {
        let live = |n: &Node| n.live && n.beat.incarnation == hold.incarnation;
        // While loading, the heartbeats that stood before this record may be compacted away.
        let counts = hold.held && (self.loading || self.nodes.get(&hold.node).is_some_and(live));
        let holds = self.holds.entry(hold.camera.clone()).or_default();
        let same = holds.get(&hold.node).filter(|before| before.hold.incarnation == hold.incarnation);
        let since = same.and_then(|before| before.taken).unwrap_or((offset, at));
        holds.insert(hold.node.clone(), HoldState { hold, taken: counts.then_some(since) });
    }

    /// The node's holds, all but those of the process `except`, do not count any more; it had footage
    /// until `at` at the latest.
    fn void(&mut self, node: &str, at: Timestamp, except: Option<Uuid>) {
        let of_node = self.holds.values_mut().filter_map(|holds| holds.get_mut(node));
        for state in of_node.filter(|state| Some(state.hold.incarnation) != except) {
            state.void(Some(at));
        }
    }
}

impl HoldState {
    fn void(&mut self, at: Option<Timestamp>) {
        self.taken = None;
        for Span { from, until, .. } in &mut self.hold.spans {
            until.get_or_insert(at.unwrap_or(*from).max(*from));
        }
    }
}

/// Identifies a process in [`Beat::incarnation`].
pub(super) fn new_incarnation() -> Uuid {
    Uuid::new_v4()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(node: &str, process: u128, number: u64) -> Record {
        let (node, incarnation) = (node.to_owned(), Uuid::from_u128(process));
        Record::Beat(Beat { node, incarnation, number, capacity: 4, load: 0, draining: false })
    }

    fn hold(node: &str, process: u128, epoch: i64, held: bool) -> Record {
        let (camera, node) = (gate(), node.to_owned());
        Record::Hold(Hold {
            camera,
            node,
            incarnation: Uuid::from_u128(process),
            number: 0,
            epoch,
            held,
            spans: Vec::new(),
        })
    }

    fn gate() -> CameraId {
        "gate".parse().expect("valid")
    }

    /// A topic's records, each some seconds after the one before it.
    #[derive(Default)]
    struct Log {
        records: Vec<(Timestamp, Record)>,
        now: f64,
    }

    impl Log {
        fn add(&mut self, seconds: f64, record: Record) {
            self.now += seconds;
            self.records.push((Timestamp::from_micros((self.now * 1e6) as i64), record));
        }

        /// As read by somebody who ends loading after the record at `loaded`.
        fn read(&self, loaded: usize) -> Membership {
            let mut membership = Membership::default();
            for (offset, (at, record)) in self.records.iter().enumerate() {
                membership.apply(offset as i64, *at, record.clone());
                if offset == loaded {
                    membership.loaded(offset as i64);
                }
            }
            membership
        }
    }

    fn names(membership: &Membership) -> Vec<&str> {
        membership.live().map(|b| b.node.as_str()).collect()
    }

    #[test]
    fn a_lease_ends_by_the_records_of_others_and_the_epoch_says_where() {
        let mut log = Log::default();
        log.add(0.0, beat("a", 1, 0));
        log.add(1.0, beat("b", 2, 0));
        for n in 1..=5 {
            log.add(2.0, beat("a", 1, n));
        }
        let read = log.read(0);
        assert_eq!((names(&read), read.epoch()), (vec!["a", "b"], 1));
        log.add(2.0, beat("a", 1, 6));
        let read = log.read(0);
        assert_eq!((names(&read), read.epoch()), (vec!["a"], 7), "12 s after the last heartbeat of b");
        log.add(1.0, beat("b", 2, 1));
        assert_eq!((names(&log.read(0)), log.read(0).epoch()), (vec!["a", "b"], 8));
        // Another process of the same name is a change, too.
        log.add(1.0, beat("b", 3, 0));
        assert_eq!(log.read(0).epoch(), 9);
        log.add(1.0, Record::Left("b".into()));
        assert_eq!((names(&log.read(0)), log.read(0).epoch()), (vec!["a"], 10));
        log.add(1.0, Record::Drain("a".into(), true));
        assert!(log.read(0).slots()[0].draining && log.read(0).epoch() == 11);
    }

    #[test]
    fn an_outage_of_the_broker_ends_no_lease() {
        let mut log = Log::default();
        log.add(0.0, beat("a", 1, 0));
        log.add(0.0, beat("b", 2, 0));
        log.add(600.0, beat("a", 1, 1));
        log.add(2.0, beat("a", 1, 2));
        assert_eq!(names(&log.read(0)), ["a", "b"]);
    }

    #[test]
    fn whoever_reads_later_concludes_the_same() {
        let mut log = Log::default();
        log.add(0.0, beat("dead", 9, 0));
        log.add(1.0, hold("dead", 9, 0, true));
        log.add(50.0, beat("a", 1, 0));
        log.add(1.0, beat("a", 1, 1));
        log.add(1.0, hold("a", 1, 2, true));
        log.add(2.0, beat("b", 2, 0));
        let (early, late) = (log.read(2), log.read(5));
        assert_eq!((names(&early), early.epoch()), (names(&late), late.epoch()));
        assert_eq!(early.holder(&gate()).map(|h| h.node.as_str()), Some("a"));
        assert_eq!(late.holder(&gate()), early.holder(&gate()));
    }

    #[test]
    fn of_two_holds_the_first_counts_and_a_lost_lease_ends_it() {
        let mut log = Log::default();
        log.add(0.0, beat("a", 1, 0));
        log.add(0.0, beat("b", 2, 0));
        log.add(0.0, hold("b", 2, 1, true));
        log.add(0.0, hold("a", 1, 1, true));
        let holder = |log: &Log| log.read(0).holder(&gate()).map(|h| h.node.clone());
        assert_eq!(holder(&log).as_deref(), Some("b"));
        // Written again, for its spans: still the first.
        log.add(0.0, hold("b", 2, 1, true));
        assert_eq!(holder(&log).as_deref(), Some("b"));
        log.add(0.0, hold("b", 2, 1, false));
        assert_eq!(holder(&log).as_deref(), Some("a"));
        for n in 1..7 {
            log.add(2.0, beat("b", 2, n));
        }
        assert_eq!(holder(&log), None, "the lease of a is over");
        // What a dead node wrote before it knew does not count, not even when it lives again.
        log.add(0.0, hold("a", 1, 1, true));
        log.add(0.0, beat("a", 1, 1));
        assert_eq!(holder(&log), None);
        log.add(0.0, hold("a", 1, 14, true));
        assert_eq!(holder(&log).as_deref(), Some("a"));
        log.add(0.0, beat("a", 5, 0));
        assert_eq!(holder(&log), None, "another process has to take its own");
    }

    #[test]
    fn records_of_a_time_that_a_later_epoch_covers_are_superseded() {
        let at = |s: f64| Timestamp::from_micros((s * 1e6) as i64);
        let mut log = Log::default();
        log.add(0.0, beat("a", 1, 0));
        log.add(0.0, beat("b", 2, 0));
        let spans =
            vec![Span { epoch: 5, from: at(1.0), until: Some(at(1.5)) }, Span { epoch: 9, from: at(2.0), until: None }];
        let Record::Hold(taken) = hold("b", 2, 9, true) else { panic!("a hold") };
        log.add(2.0, Record::Hold(Hold { spans, ..taken }));
        log.add(2.0, beat("b", 2, 1));
        let read = log.read(0);
        let superseded = |read: &Membership, epoch, s| read.is_superseded(&gate(), epoch, at(s));
        let (yes, no) = (Some(true), Some(false));
        assert_eq!([0.9, 1.0, 1.4, 1.5, 2.0, 3.9].map(|s| superseded(&read, 3, s)), [no, yes, yes, no, yes, yes]);
        assert_eq!([1.0, 2.0].map(|s| superseded(&read, 5, s)), [no, yes]);
        assert_eq!((superseded(&read, 9, 3.0), superseded(&read, 9, 99.0)), (no, no), "its own epoch");
        assert_eq!(superseded(&read, 3, 4.1), None, "b has not said yet");
        assert_eq!(read.is_superseded(&"yard".parse().expect("valid"), 0, at(3.0)), no);
        // When b dies, its footage ended with its last heartbeat.
        for n in 1..8 {
            log.add(2.0, beat("a", 1, n));
        }
        let read = log.read(0);
        assert_eq!([3.9, 4.1].map(|s| superseded(&read, 3, s)), [yes, no]);
        assert!(read.forgotten(at(4.0)).is_empty());
        assert_eq!(read.forgotten(at(5.0)), [Record::HoldGone(gate(), "b".into()), Record::Left("b".into())]);
    }
}
