//! Which offset of each partition may be committed: everything before it is done, however the receipts came back.
//!
//! Records are begun in the order of their offsets and completed in any. The position of a partition is its first open
//! offset, or the one behind the newest when none is open. Offsets may have gaps (compaction, control records). A
//! partition that went and came back is a new one: receipts from before change nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A partition of a topic.
pub type Partition = (Arc<str>, i32);

/// One record that was begun; what its receipt holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    partition: Partition,
    generation: u64,
    offset: i64,
}

/// A record that is not completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    /// Somebody works on it.
    Live,
    /// Its receipt was dropped: it will come again after a restart, and nothing behind it may be committed.
    Abandoned,
}

#[derive(Debug)]
struct Offsets {
    generation: u64,
    /// Behind the newest offset that was begun; `None` before the first.
    next: Option<i64>,
    /// What the broker has, or where this process began.
    committed: Option<i64>,
    open: BTreeMap<i64, Open>,
    live: usize,
}

impl Offsets {
    fn position(&self) -> Option<i64> {
        self.open.keys().next().copied().or(self.next)
    }
}

/// The partitions that this process holds.
#[derive(Debug, Default)]
pub struct Tracker {
    partitions: BTreeMap<Partition, Offsets>,
    generations: u64,
}

impl Tracker {
    /// A partition was given to this process.
    pub fn assign(&mut self, partition: Partition) {
        self.generations += 1;
        let generation = self.generations;
        let offsets = Offsets { generation, next: None, committed: None, open: BTreeMap::new(), live: 0 };
        self.partitions.insert(partition, offsets);
    }

    /// It was taken away: what is open of it is no longer ours.
    pub fn revoke(&mut self, partition: &Partition) {
        self.partitions.remove(partition);
    }

    /// Whether this process holds it.
    pub fn holds(&self, partition: &Partition) -> bool {
        self.partitions.contains_key(partition)
    }

    /// All that this process holds.
    pub fn held(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.keys()
    }

    /// A record has come. `None`: its partition is not (or no longer) ours, or this very record is being worked on.
    pub fn begin(&mut self, partition: &Partition, offset: i64) -> Option<Ticket> {
        let offsets = self.partitions.get_mut(partition)?;
        match offsets.open.insert(offset, Open::Live) {
            Some(Open::Live) => return None,
            Some(Open::Abandoned) | None => offsets.live += 1,
        }
        if offsets.committed.is_none_or(|c| offset < c) {
            // The first record of all, or the log was cut and begins anew: where we stand, with nothing to commit yet.
            (offsets.committed, offsets.next) = (Some(offset), None);
        }
        offsets.next = Some(offsets.next.map_or(offset + 1, |next| next.max(offset + 1)));
        Some(Ticket { partition: partition.clone(), generation: offsets.generation, offset })
    }

    /// Everything that follows from the record is stored. Whether that still matters to anybody.
    pub fn complete(&mut self, ticket: &Ticket) -> bool {
        let Some(offsets) = self.of(ticket) else { return false };
        if offsets.open.remove(&ticket.offset) == Some(Open::Live) {
            offsets.live -= 1;
            return true;
        }
        false
    }

    /// The record's receipt was dropped. Whether that still matters to anybody.
    pub fn abandon(&mut self, ticket: &Ticket) -> bool {
        let Some(offsets) = self.of(ticket) else { return false };
        match offsets.open.get_mut(&ticket.offset) {
            Some(open @ Open::Live) => {
                *open = Open::Abandoned;
                offsets.live -= 1;
                true
            }
            _ => false,
        }
    }

    /// Records of the partition that somebody works on.
    pub fn live(&self, partition: &Partition) -> usize {
        self.partitions.get(partition).map_or(0, |offsets| offsets.live)
    }

    /// What may be committed of the partition: all before this offset is done.
    pub fn position(&self, partition: &Partition) -> Option<i64> {
        self.partitions.get(partition)?.position()
    }

    /// Positions that the broker does not have yet.
    pub fn to_commit(&self) -> Vec<(Partition, i64)> {
        let ahead = |(partition, offsets): (&Partition, &Offsets)| {
            let position = offsets.position()?;
            offsets.committed.is_some_and(|c| position > c).then(|| (partition.clone(), position))
        };
        self.partitions.iter().filter_map(ahead).collect()
    }

    /// The broker has this position.
    pub fn committed(&mut self, partition: &Partition, position: i64) {
        if let Some(offsets) = self.partitions.get_mut(partition) {
            offsets.committed = Some(offsets.committed.map_or(position, |c| c.max(position)));
        }
    }

    fn of(&mut self, ticket: &Ticket) -> Option<&mut Offsets> {
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
        let (mut tracker, p) = (Tracker::default(), partition(0));
        assert_eq!(tracker.begin(&p, 10), None, "not ours yet");
        tracker.assign(p.clone());
        let tickets: Vec<_> = [10, 11, 15].iter().map(|o| tracker.begin(&p, *o).expect("ours")).collect();
        assert_eq!(tracker.begin(&p, 11), None, "is being worked on");
        assert!(tracker.complete(&tickets[1]));
        assert!(!tracker.complete(&tickets[1]), "once");
        assert_eq!((tracker.to_commit(), tracker.live(&p)), (vec![], 2));
        assert!(tracker.complete(&tickets[0]));
        assert_eq!(tracker.to_commit(), [(p.clone(), 15)]);
        tracker.committed(&p, 15);
        assert_eq!(tracker.to_commit(), []);
        assert!(tracker.complete(&tickets[2]));
        assert_eq!(tracker.to_commit(), [(p.clone(), 16)]);
    }

    #[test]
    fn a_dropped_receipt_holds_the_commit_back_but_nobody_waits_for_it() {
        let (mut tracker, p) = (Tracker::default(), partition(0));
        tracker.assign(p.clone());
        let (a, b) = (tracker.begin(&p, 0).expect("ours"), tracker.begin(&p, 1).expect("ours"));
        assert!(tracker.abandon(&a) && tracker.complete(&b));
        assert_eq!((tracker.live(&p), tracker.to_commit()), (0, vec![]));
        let again = tracker.begin(&p, 0).expect("comes again");
        assert!(tracker.complete(&again));
        assert_eq!(tracker.to_commit(), [(p, 2)]);
    }

    #[test]
    fn receipts_from_before_a_rebalance_change_nothing() {
        let (mut tracker, p) = (Tracker::default(), partition(0));
        tracker.assign(p.clone());
        let old = tracker.begin(&p, 5).expect("ours");
        tracker.revoke(&p);
        assert!(!tracker.complete(&old));
        tracker.assign(p.clone());
        let new = tracker.begin(&p, 5).expect("ours");
        assert!(!tracker.complete(&old) && !tracker.abandon(&old));
        assert_eq!((tracker.live(&p), tracker.to_commit()), (1, vec![]));
        assert!(tracker.complete(&new));
        assert_eq!(tracker.to_commit(), [(p, 6)]);
    }

    #[test]
    fn a_log_that_begins_anew_is_followed() {
        let (mut tracker, p) = (Tracker::default(), partition(0));
        tracker.assign(p.clone());
        let far = tracker.begin(&p, 1000).expect("ours");
        assert!(tracker.complete(&far));
        tracker.committed(&p, 1001);
        let first = tracker.begin(&p, 0).expect("ours");
        assert!(tracker.complete(&first));
        assert_eq!(tracker.to_commit(), [(p, 1)]);
    }

    proptest! {
        /// Whatever comes in whatever order: a position is never behind an open record, never goes back, and is at the
        /// end once all is done. The model is a set of open offsets.
        #[test]
        fn nothing_open_is_ever_committed(steps in prop::collection::vec((0u8..8, any::<prop::sample::Index>(), 1i64..4), 1..200)) {
            let (mut tracker, p) = (Tracker::default(), partition(3));
            tracker.assign(p.clone());
            let (mut next, mut reached) = (7i64, 7i64);
            let (mut live, mut open): (Vec<(i64, Ticket)>, BTreeSet<i64>) = (Vec::new(), BTreeSet::new());
            for (what, which, gap) in steps {
                match what {
                    0..=3 => {
                        live.push((next, tracker.begin(&p, next).expect("ours")));
                        open.insert(next);
                        next += gap;
                    }
                    4..=6 if !live.is_empty() => {
                        let (offset, ticket) = live.swap_remove(which.index(live.len()));
                        prop_assert!(tracker.complete(&ticket));
                        open.remove(&offset);
                    }
                    7 if !live.is_empty() && gap == 1 => {
                        let (_, ticket) = live.swap_remove(which.index(live.len()));
                        prop_assert!(tracker.abandon(&ticket));
                    }
                    _ => {}
                }
                prop_assert_eq!(tracker.live(&p), live.len());
                for (partition, position) in tracker.to_commit() {
                    prop_assert!(position > reached, "goes forward");
                    prop_assert!(open.first().is_none_or(|first| *first >= position), "{:?} open, {} committed", open, position);
                    tracker.committed(&partition, position);
                    reached = position;
                }
                prop_assert_eq!(tracker.to_commit(), vec![]);
                prop_assert_eq!(tracker.position(&p).unwrap_or(7), open.first().copied().unwrap_or(tracker.position(&p).unwrap_or(7)));
            }
            for (offset, ticket) in live {
                prop_assert!(tracker.complete(&ticket));
                open.remove(&offset);
            }
            if let (true, Some((_, position))) = (open.is_empty(), tracker.to_commit().pop()) {
                prop_assert!(position > reached && position <= next);
            }
        }
    }
}
