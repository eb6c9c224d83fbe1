//! Tracks offsets: which offset of each partition may be committed, given that receipts are
//! completed in any order.
//!
//! Records begin in the order of their offsets and complete in any order. The position of a
//! partition is its first open offset, or the offset after the newest record when none is open.
//! Offsets may have gaps (compaction, control records). A partition that is revoked and assigned
//! again starts afresh: receipts from before change nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A partition of a topic.
pub type Partition = (Arc<str>, i32);

/// Identifies a record that was begun; held by its receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    partition: Partition,
    generation: u64,
    offset: i64,
}

/// State of a record that is not completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpenState {
    /// It is queued or being processed.
    InFlight,
    /// Its receipt was dropped: its partition has to be read again from there, and no later offset
    /// may be committed.
    Abandoned,
}

#[derive(Debug)]
struct Offsets {
    generation: u64,
    /// The offset after the newest record; `None` before the first one.
    next: Option<i64>,
    /// The committed offset, or where this process started.
    committed: Option<i64>,
    open: BTreeMap<i64, OpenState>,
    in_flight: usize,
}

impl Offsets {
    fn position(&self) -> Option<i64> {
        self.open.keys().next().copied().or(self.next)
    }
}

/// The offsets of all partitions assigned to this process.
#[derive(Debug, Default)]
pub struct OffsetTracker {
    partitions: BTreeMap<Partition, Offsets>,
    generations: u64,
}

impl OffsetTracker {
    /// Adds a partition that was assigned to this process.
    pub fn assign(&mut self, partition: Partition) {
        self.generations += 1;
        let generation = self.generations;
        let offsets = Offsets { generation, next: None, committed: None, open: BTreeMap::new(), in_flight: 0 };
        self.partitions.insert(partition, offsets);
    }

    /// Removes a revoked partition: its open records no longer belong to this process.
    pub fn revoke(&mut self, partition: &Partition) {
        self.partitions.remove(partition);
    }

    /// Whether the partition is assigned to this process.
    pub fn holds(&self, partition: &Partition) -> bool {
        self.partitions.contains_key(partition)
    }

    /// All partitions assigned to this process.
    pub fn held(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.keys()
    }

    /// Begins a record. `None` when its partition is not (or no longer) assigned to this process,
    /// or when this very record is in flight.
    pub fn begin(&mut self, partition: &Partition, offset: i64) -> Option<Ticket> {
        let offsets = self.partitions.get_mut(partition)?;
        match offsets.open.insert(offset, OpenState::InFlight) {
            Some(OpenState::InFlight) => return None,
            Some(OpenState::Abandoned) | None => offsets.in_flight += 1,
        }
        if offsets.committed.is_none_or(|c| offset < c) {
            // This is the first record, or the log was truncated and starts again: continue from
            // here, with nothing to commit yet.
            (offsets.committed, offsets.next) = (Some(offset), None);
        }
        offsets.next = Some(offsets.next.map_or(offset + 1, |next| next.max(offset + 1)));
        Some(Ticket { partition: partition.clone(), generation: offsets.generation, offset })
    }

    /// Completes a record: everything that follows from it is stored. Returns whether it was still
    /// in flight.
    pub fn complete(&mut self, ticket: &Ticket) -> bool {
        let Some(offsets) = self.offsets_of(ticket) else { return false };
        if offsets.open.remove(&ticket.offset) == Some(OpenState::InFlight) {
            offsets.in_flight -= 1;
            return true;
        }
        false
    }

    /// Abandons a record: its receipt was dropped. Returns whether it was still in flight.
    pub fn abandon(&mut self, ticket: &Ticket) -> bool {
        let Some(offsets) = self.offsets_of(ticket) else { return false };
        match offsets.open.get_mut(&ticket.offset) {
            Some(open @ OpenState::InFlight) => {
                *open = OpenState::Abandoned;
                offsets.in_flight -= 1;
                true
            }
            _ => false,
        }
    }

    /// Partitions with an abandoned record, and the offset of the first one in each: from there they
    /// have to be read again.
    pub fn abandoned(&self) -> Vec<(Partition, i64)> {
        let first = |offsets: &Offsets| {
            offsets.open.iter().find(|(_, state)| **state == OpenState::Abandoned).map(|(offset, _)| *offset)
        };
        self.partitions.iter().filter_map(|(partition, offsets)| Some((partition.clone(), first(offsets)?))).collect()
    }

    /// Whether the record was completed and comes again only because the partition is read again.
    pub fn is_done(&self, partition: &Partition, offset: i64) -> bool {
        self.partitions.get(partition).is_some_and(|offsets| {
            let begun = offsets.committed.is_some_and(|c| offset >= c) && offsets.next.is_some_and(|n| offset < n);
            begun && !offsets.open.contains_key(&offset)
        })
    }

    /// Number of records in flight of the partition.
    pub fn in_flight(&self, partition: &Partition) -> usize {
        self.partitions.get(partition).map_or(0, |offsets| offsets.in_flight)
    }

    /// The offset that may be committed: all records before it are done.
    pub fn position(&self, partition: &Partition) -> Option<i64> {
        self.partitions.get(partition)?.position()
    }

    /// Positions that are not committed yet.
    pub fn to_commit(&self) -> Vec<(Partition, i64)> {
        let ahead = |(partition, offsets): (&Partition, &Offsets)| {
            let position = offsets.position()?;
            offsets.committed.is_some_and(|c| position > c).then(|| (partition.clone(), position))
        };
        self.partitions.iter().filter_map(ahead).collect()
    }

    /// Notes that the broker has committed this position.
    pub fn committed(&mut self, partition: &Partition, position: i64) {
        if let Some(offsets) = self.partitions.get_mut(partition) {
            offsets.committed = Some(offsets.committed.map_or(position, |c| c.max(position)));
        }
    }

    fn offsets_of(&mut self, ticket: &Ticket) -> Option<&mut Offsets> {
        self.partitions.get_mut(&ticket.partition).filter(|o| o.generation == ticket.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn partition(number: i32) -> Partition {
        (Arc::from("crops"), number)
    }

    #[test]
    fn commits_up_to_the_first_open_record() {
        let (mut tracker, p) = (OffsetTracker::default(), partition(0));
        assert_eq!(tracker.begin(&p, 10), None, "not ours yet");
        tracker.assign(p.clone());
        let tickets: Vec<_> = [10, 11, 15].iter().map(|o| tracker.begin(&p, *o).expect("ours")).collect();
        assert_eq!(tracker.begin(&p, 11), None, "is being worked on");
        assert!(tracker.complete(&tickets[1]));
        assert!(!tracker.complete(&tickets[1]), "once");
        assert_eq!((tracker.to_commit(), tracker.in_flight(&p)), (vec![], 2));
        assert!(tracker.complete(&tickets[0]));
        assert_eq!(tracker.to_commit(), [(p.clone(), 15)]);
        tracker.committed(&p, 15);
        assert_eq!(tracker.to_commit(), []);
        assert!(tracker.complete(&tickets[2]));
        assert_eq!(tracker.to_commit(), [(p.clone(), 16)]);
    }

    #[test]
    fn a_dropped_receipt_holds_back_the_commit_but_not_the_drain() {
        let (mut tracker, p) = (OffsetTracker::default(), partition(0));
        tracker.assign(p.clone());
        let (a, b) = (tracker.begin(&p, 0).expect("ours"), tracker.begin(&p, 1).expect("ours"));
        assert!(tracker.abandon(&a) && tracker.complete(&b));
        assert_eq!((tracker.in_flight(&p), tracker.to_commit()), (0, vec![]));
        assert_eq!(tracker.abandoned(), [(p.clone(), 0)], "to be read again from there");
        assert_eq!([0, 1, 2].map(|offset| tracker.is_done(&p, offset)), [false, true, false]);
        let again = tracker.begin(&p, 0).expect("comes again");
        assert_eq!(tracker.abandoned(), []);
        assert!(tracker.complete(&again));
        assert_eq!(tracker.to_commit(), [(p, 2)]);
    }

    #[test]
    fn receipts_from_before_a_rebalance_change_nothing() {
        let (mut tracker, p) = (OffsetTracker::default(), partition(0));
        tracker.assign(p.clone());
        let old = tracker.begin(&p, 5).expect("ours");
        tracker.revoke(&p);
        assert!(!tracker.complete(&old));
        tracker.assign(p.clone());
        let new = tracker.begin(&p, 5).expect("ours");
        assert!(!tracker.complete(&old) && !tracker.abandon(&old));
        assert_eq!((tracker.in_flight(&p), tracker.to_commit()), (1, vec![]));
        assert!(tracker.complete(&new));
        assert_eq!(tracker.to_commit(), [(p, 6)]);
    }

    #[test]
    fn a_truncated_log_is_followed() {
        let (mut tracker, p) = (OffsetTracker::default(), partition(0));
        tracker.assign(p.clone());
        let far = tracker.begin(&p, 1000).expect("ours");
        assert!(tracker.complete(&far));
        tracker.committed(&p, 1001);
        let first = tracker.begin(&p, 0).expect("ours");
        assert!(tracker.complete(&first));
        assert_eq!(tracker.to_commit(), [(p, 1)]);
    }

    proptest! {
        /// In any sequence of steps a committed position is never past an open record, never goes
        /// back, and is at the end once all records are done. The model is a set of open offsets.
        #[test]
        fn nothing_open_is_ever_committed(steps in prop::collection::vec((0u8..8, any::<prop::sample::Index>(), 1i64..4), 1..200)) {
            let (mut tracker, p) = (OffsetTracker::default(), partition(3));
            tracker.assign(p.clone());
            let (mut next, mut reached) = (7i64, 7i64);
            let (mut in_flight, mut open): (Vec<(i64, Ticket)>, BTreeSet<i64>) = (Vec::new(), BTreeSet::new());
            for (what, which, gap) in steps {
                match what {
                    0..=3 => {
                        in_flight.push((next, tracker.begin(&p, next).expect("ours")));
                        open.insert(next);
                        next += gap;
                    }
                    4..=6 if !in_flight.is_empty() => {
                        let (offset, ticket) = in_flight.swap_remove(which.index(in_flight.len()));
                        prop_assert!(tracker.complete(&ticket));
                        open.remove(&offset);
                    }
                    7 if !in_flight.is_empty() && gap == 1 => {
                        let (_, ticket) = in_flight.swap_remove(which.index(in_flight.len()));
                        prop_assert!(tracker.abandon(&ticket));
                    }
                    _ => {}
                }
                prop_assert_eq!(tracker.in_flight(&p), in_flight.len());
                for (partition, position) in tracker.to_commit() {
                    prop_assert!(position > reached, "goes forward");
                    prop_assert!(open.first().is_none_or(|first| *first >= position), "{:?} open, {} committed", open, position);
                    tracker.committed(&partition, position);
                    reached = position;
                }
                prop_assert_eq!(tracker.to_commit(), vec![]);
                prop_assert_eq!(tracker.position(&p).unwrap_or(7), open.first().copied().unwrap_or(tracker.position(&p).unwrap_or(7)));
            }
            for (offset, ticket) in in_flight {
                prop_assert!(tracker.complete(&ticket));
                open.remove(&offset);
            }
            if let (true, Some((_, position))) = (open.is_empty(), tracker.to_commit().pop()) {
                prop_assert!(position > reached && position <= next);
            }
        }
    }
}
