//! Real persons for training: a folder with pictures, two written descriptions each, and labels.
//!
//! ```text
//! ROOT/reid_raw.json   CUHK-PEDES layout, split "train"
//! ROOT/labels.json     label of each person (facts::Label)
//! ROOT/imgs/           one or more pictures of each person
//! ```
//!
//! Ninety of them are never used for training ([`held_out`]): half of those choose when to stop,
//! half calibrate. A model that was stopped or calibrated on its training persons would look better
//! than it is.

mod source;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::dataset::{Dataset, Entry};
use super::facts::Label;
use super::{Result, TrainError};

pub use source::PeopleSource;

/// Layout of the annotation file.
pub const LAYOUT: Dataset = Dataset::CuhkPedes;
/// Split that all persons of the folder belong to.
pub const SPLIT: &str = "train";
/// Name of the labels' file in the folder.
pub const LABELS: &str = "labels.json";

/// Committed list of the persons who are held out.
const HELD_OUT: &str = include_str!("held_out.txt");

/// A part of the folder's persons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeoplePart {
    /// All persons who are not held out and who are alone in their picture.
    Train,
    /// Held-out persons who choose when to stop: the first half of the list.
    Stop,
    /// Held-out persons to calibrate on: the second half of the list.
    Calibrate,
}

impl PeoplePart {
    /// All parts.
    pub const ALL: [Self; 3] = [Self::Train, Self::Stop, Self::Calibrate];

    /// Name of the part on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "people",
            Self::Stop => "people-stop",
            Self::Calibrate => "people-calibrate",
        }
    }

    /// Picks the entries of this part from the `entries` of the folder.
    ///
    /// # Errors
    /// An entry without label, or a part without an entry.
    pub fn of(self, entries: Vec<Entry>, labels: &BTreeMap<u32, Label>, root: &Path) -> Result<Vec<Entry>> {
        if let Some(entry) = entries.iter().find(|entry| !labels.contains_key(&entry.identity)) {
            let path = root.join(LABELS);
            return Err(TrainError::content(&path, format!("there is no label of id {}", entry.identity)));
        }
        let held_out = held_out();
        let place = |id| held_out.iter().position(|held| *held == id);
        let chosen = |entry: &Entry| match (self, place(entry.identity)) {
            (Self::Train, place) => place.is_none() && !labels[&entry.identity].several_people,
            (Self::Stop, place) => place.is_some_and(|place| place < held_out.len() / 2),
            (Self::Calibrate, place) => place.is_some_and(|place| place >= held_out.len() / 2),
        };
        let some: Vec<Entry> = entries.into_iter().filter(chosen).collect();
        if some.is_empty() {
            let message =
                format!("nobody is of {self}: the persons held out are those of embed/tune/src/people/held_out.txt");
            return Err(TrainError::content(root, message));
        }
        Ok(some)
    }

    /// Reads the entries of this part from the folder `root`.
    ///
    /// # Errors
    /// The errors of [`Dataset::read`], of reading the labels, and of [`PeoplePart::of`].
    pub fn read(self, root: &Path) -> Result<Vec<Entry>> {
        let labels = super::facts::read_labels(&root.join(LABELS))?;
        self.of(LAYOUT.read(root, SPLIT)?, &labels, root)
    }
}

impl fmt::Display for PeoplePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Identities of the persons who are held out, in the order of the list.
pub fn held_out() -> Vec<u32> {
    let lines = HELD_OUT.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::RareKind;

    #[test]
    fn ninety_persons_are_held_out_and_each_half_has_every_rare_kind() {
        let lines: Vec<&str> = HELD_OUT.lines().filter(|line| !line.starts_with('#')).collect();
        let mut ids = held_out();
        assert_eq!((lines.len(), ids.len()), (90, 90), "every line is read");
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 90);
        for half in lines.chunks(45) {
            for kind in RareKind::ALL {
                let having = half.iter().filter(|line| line.split(' ').any(|word| word == kind.name())).count();
                assert!(having >= 4, "{} has {having}", kind.name());
            }
        }
    }
}
