//! Records on their way to the broker, oldest first. They arrive in any order; on disk they can only be forgotten from
//! the front, so what has arrived waits here for those before it.

use std::collections::VecDeque;

use sightline_core::spool::Place;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Number of the oldest record in here.
    first: u64,
    records: VecDeque<(Place, bool)>,
    /// A record came back without having been refused for good: it has to be sent again, and what follows it too.
    pub(super) broken: bool,
}

impl Window {
    /// A record is sent; its number.
    pub(super) fn push(&mut self, place: Place) -> u64 {
        self.records.push_back((place, false));
        self.first + self.records.len() as u64 - 1
    }

    /// The newest record was not sent after all.
    pub(super) fn take_back(&mut self) {
        self.records.pop_back();
    }

    /// A record has arrived, or never will.
    pub(super) fn done(&mut self, number: u64) {
        let at = number.checked_sub(self.first).and_then(|n| usize::try_from(n).ok());
        if let Some(record) = at.and_then(|at| self.records.get_mut(at)) {
            record.1 = true;
        }
    }

    /// The place up to which everything is done, if that has moved.
    pub(super) fn settle(&mut self) -> Option<Place> {
        let mut last = None;
        while let Some(&(place, true)) = self.records.front() {
            self.records.pop_front();
            self.first += 1;
            last = Some(place);
        }
        last
    }

    /// Records on their way.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sightline_core::spool::Spool;

    #[test]
    fn what_arrives_early_waits_for_what_went_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = Spool::open(folder.path(), 1 << 20).expect("opens");
        for n in 0..5u8 {
            spool.push(&[n]).expect("room");
        }
        let places: Vec<Place> = spool.take(9, 99).expect("read").into_iter().map(|t| t.0).collect();
        let mut window = Window::default();
        let numbers: Vec<u64> = places.iter().map(|p| window.push(*p)).collect();
        window.done(numbers[1]);
        window.done(numbers[3]);
        assert_eq!(window.settle(), None);
        window.done(numbers[0]);
        assert_eq!(window.settle(), Some(places[1]));
        window.done(numbers[0]);
        assert_eq!((window.settle(), window.len()), (None, 3));
        window.take_back();
        window.done(numbers[2]);
        assert_eq!((window.settle(), window.len()), (Some(places[3]), 0));
        let next = window.push(places[4]);
        assert_eq!(next, 4);
        window.done(next);
        assert_eq!(window.settle(), Some(places[4]));
    }
}
