//! Training pairs of real persons: half of the captions are written by hand, the others are
//! generated from the labels anew at every use.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rand::rngs::StdRng;

use crate::dataset::Entry;
use crate::facts::{Description, Facts, Label, RareKind};
use crate::source::{DatasetSource, Source, WeightedDraw};
use crate::{Result, TrainError};

/// Most that a rare kind adds to the weight of a person, which is 1 without a rare kind. With more,
/// batches would see the same few pictures again and again.
const MOST_PER_KIND: f64 = 3.0;
/// A kind that this share of the persons has adds 1 to their weight.
const COMMON: f64 = 1.0 / 8.0;

/// Persons of a folder with their facts.
pub struct PeopleSource {
    pictures: DatasetSource,
    facts: Vec<Facts>,
    by_weight: WeightedDraw,
}

impl PeopleSource {
    /// Creates a source of `entries` with their `labels`, at `size` (height, width) in pixels.
    /// Decoded pictures may take `memory` bytes.
    ///
    /// # Errors
    /// No entry at all, or one without label.
    pub fn new(entries: Vec<Entry>, labels: &BTreeMap<u32, Label>, size: [usize; 2], memory: usize) -> Result<Self> {
        let mut ids: Vec<u32> = entries.iter().map(|entry| entry.identity).collect();
        ids.sort_unstable();
        ids.dedup();
        let label = |id: &u32| labels.get(id).ok_or_else(|| TrainError::Usage(format!("there is no label of id {id}")));
        let facts: Vec<Facts> = ids.iter().map(|id| label(id).map(Facts::of_label)).collect::<Result<_>>()?;
        let by_weight = WeightedDraw::new(weights(&facts));
        // The source sorts its identities by their numbers, in the same order as `ids`.
        Ok(Self { pictures: DatasetSource::new(entries, size, memory)?, facts, by_weight })
    }

    /// Weight of each person in [`Source::draw`].
    pub fn weights(&self) -> Vec<f64> {
        weights(&self.facts)
    }
}

/// Weight of each person: 1, plus more for each rare kind, the rarer the more.
fn weights(facts: &[Facts]) -> Vec<f64> {
    let kinds = RareKind::ALL.map(|kind| {
        let having = facts.iter().filter(|facts| kind.is_in(facts)).count();
        (kind, (facts.len() as f64 * COMMON / having.max(1) as f64).min(MOST_PER_KIND))
    });
    let weight = |facts| 1.0 + kinds.iter().filter(|(kind, _)| kind.is_in(facts)).map(|(_, more)| more).sum::<f64>();
    facts.iter().map(weight).collect()
}

impl Source for PeopleSource {
    fn size(&self) -> [usize; 2] {
        self.pictures.size()
    }

    fn identities(&self) -> usize {
        self.pictures.identities()
    }

    fn views(&self, identity: usize) -> usize {
        self.pictures.views(identity)
    }

    /// Number of written captions, plus as many that are generated from the facts.
    fn captions(&self, identity: usize, view: usize) -> usize {
        2 * self.pictures.captions(identity, view)
    }

    fn resemblance(&self, one: usize, other: usize) -> f32 {
        self.pictures.resemblance(one, other)
    }

    fn draw(&self, rng: &mut StdRng) -> usize {
        self.by_weight.draw(rng)
    }

    fn picture(&self, identity: usize, view: usize) -> Result<Cow<'_, [u8]>> {
        self.pictures.picture(identity, view)
    }

    fn caption(&self, identity: usize, view: usize, which: usize, rng: &mut StdRng) -> String {
        self.describe(identity, view, which, rng).0
    }

    fn describe(&self, identity: usize, view: usize, which: usize, rng: &mut StdRng) -> (String, Option<Description>) {
        let made = which >= self.pictures.captions(identity, view);
        match Description::of(&self.facts[identity], rng).filter(|_| made) {
            Some(description) => (description.text().to_owned(), Some(description)),
            None => (self.pictures.caption(identity, view, which, rng), None),
        }
    }

    fn facts(&self, identity: usize) -> Option<Cow<'_, Facts>> {
        Some(Cow::Borrowed(&self.facts[identity]))
    }
}
