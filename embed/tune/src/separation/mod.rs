//! Measures how well phrases separate the persons that they are true of from the others: `eval
//! --phrases`.
//!
//! A search for a whole description may succeed by its colours alone. Single phrases show what a
//! model recognises and what it does not. The phrases and their rules are fixed ([`yardstick`]).

mod auc;

use std::collections::BTreeMap;

use serde::Serialize;

use super::bootstrap::{interval, numbered};
use super::facts::yardstick::{self, Asks, Entry};
use super::facts::{Facts, Label};
use super::{Result, TrainError};
pub use auc::SortedScores;

/// Smallest number of pictures that a phrase must be true of, and of those that it must be false
/// of, to be counted: with fewer, chance decides.
const FEWEST: usize = 5;

/// Truth of the yardstick's phrases about each picture of a gallery.
pub struct Truths {
    /// The phrases.
    pub phrases: Vec<Entry>,
    /// Truth, phrases x pictures; `None` if unknown.
    truth: Vec<Vec<Option<bool>>>,
    /// Number of the person in each picture. A person in other clothes keeps the number.
    persons: Vec<usize>,
    /// Group of each picture, where the set has groups.
    groups: Vec<Option<String>>,
}

/// How well one phrase separates.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PhraseArea {
    /// The phrase.
    pub text: &'static str,
    /// What the phrase is about.
    pub asks: Asks,
    /// Number of pictures that the phrase is true of.
    pub positives: usize,
    /// Number of pictures for which the truth is known.
    pub known: usize,
    /// Area under the ROC curve; `None` if the phrase has too few pictures to be counted.
    pub auc: Option<f64>,
}

/// Mean over the phrases that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MeanArea {
    /// What the phrases are about: kinds or colours.
    pub asks: Asks,
    /// Number of phrases.
    pub phrases: usize,
    /// Mean of their areas.
    pub auc: f64,
    /// Bootstrap interval of `auc` (the middle 95 %) over persons.
    pub interval: Option<[f64; 2]>,
}

/// Areas of all phrases by one score.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Separation {
    /// Area of each phrase, in the order of the yardstick.
    pub phrases: Vec<PhraseArea>,
    /// Means of kinds and of colours, if a phrase is counted.
    pub means: Vec<MeanArea>,
    /// Means by group of pictures.
    pub groups: Vec<GroupSeparation>,
}

/// Means of one group of pictures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupSeparation {
    /// Name of the group in the labels.
    pub name: String,
    /// Number of pictures in the group.
    pub pictures: usize,
    /// Means as in [`Separation::means`].
    pub means: Vec<MeanArea>,
}

impl Truths {
    /// Truths about pictures of labelled persons, whose identities are `image_ids`.
    ///
    /// # Errors
    /// An identity without label.
    pub fn of_labels(image_ids: &[u32], labels: &BTreeMap<u32, Label>) -> Result<Self> {
        let label =
            |id: &u32| labels.get(id).ok_or_else(|| TrainError::Usage(format!("labels.json has no label of id {id}")));
        let labels: Vec<&Label> = image_ids.iter().map(label).collect::<Result<_>>()?;
        let phrases = yardstick::entries();
        let of = |entry: &Entry| labels.iter().map(|label| (entry.of_label)(label)).collect();
        let truth = phrases.iter().map(of).collect();
        let person = |label: &&Label| (label.actor.clone(), label.actor.is_none().then_some(label.id));
        let names: Vec<_> = labels.iter().map(person).collect();
        let persons = numbered(names.iter()).0;
        let groups = labels.iter().map(|label| label.group.clone()).collect();
        Ok(Self { phrases, truth, persons, groups })
    }

    /// Truths about pictures of persons with `facts`, whose identities are `image_ids`.
    pub fn of_facts(image_ids: &[u32], facts: &[Option<Facts>]) -> Self {
        let phrases = yardstick::entries();
        let of = |entry: &Entry| facts.iter().map(|facts| entry.claim.truth(facts.as_ref()?)).collect();
        let truth = phrases.iter().map(of).collect();
        let persons = numbered(image_ids.iter()).0;
        Self { phrases, truth, persons, groups: vec![None; facts.len()] }
    }

    /// Words of the phrases.
    pub fn texts(&self) -> Vec<String> {
        self.phrases.iter().map(|phrase| phrase.text.to_owned()).collect()
    }

    /// Measures how well `scores` (phrases x pictures) separate.
    pub fn separation(&self, scores: &[Vec<f32>]) -> Separation {
        let all: Vec<usize> = (0..self.persons.len()).collect();
        let sorted = self.sorted(scores, &all);
        let phrases = self.phrases.iter().zip(&sorted).map(|(phrase, sorted)| {
            let (positives, known) = sorted.counts();
            let auc = counted(sorted).then(|| sorted.area(|_| 1)).flatten();
            PhraseArea { text: phrase.text, asks: phrase.asks, positives, known, auc }
        });
        let mut by_group: BTreeMap<&String, Vec<usize>> = BTreeMap::new();
        for (picture, group) in self.groups.iter().enumerate() {
            group.iter().for_each(|group| by_group.entry(group).or_default().push(picture));
        }
        let groups = by_group.into_iter().map(|(name, pictures)| GroupSeparation {
            name: name.clone(),
            pictures: pictures.len(),
            means: self.means(&self.sorted(scores, &pictures), &pictures),
        });
        Separation { phrases: phrases.collect(), means: self.means(&sorted, &all), groups: groups.collect() }
    }

    /// Sorts the scores of `pictures` for each phrase, and numbers the persons among them from 0.
    fn sorted(&self, scores: &[Vec<f32>], pictures: &[usize]) -> Vec<SortedScores> {
        let (persons, _) = numbered(pictures.iter().map(|picture| self.persons[*picture]));
        let rows = self.truth.iter().zip(scores);
        rows.map(|(truth, row)| {
            let known = pictures.iter().zip(&persons);
            SortedScores::new(known.filter_map(|(picture, person)| Some((row[*picture], *person, truth[*picture]?))))
        })
        .collect()
    }

    fn means(&self, sorted: &[SortedScores], pictures: &[usize]) -> Vec<MeanArea> {
        let (_, persons) = numbered(pictures.iter().map(|picture| self.persons[*picture]));
        let mean = |asks: Asks| {
            let some: Vec<&SortedScores> = self
                .phrases
                .iter()
                .zip(sorted)
                .filter(|(phrase, sorted)| phrase.asks == asks && counted(sorted))
                .map(|(_, sorted)| sorted)
                .collect();
            let over = |times: &[u32]| {
                let areas: Vec<f64> = some.iter().filter_map(|sorted| sorted.area(|person| times[person])).collect();
                (!areas.is_empty()).then(|| areas.iter().sum::<f64>() / areas.len() as f64)
            };
            let auc = over(&vec![1; persons])?;
            Some(MeanArea { asks, phrases: some.len(), auc, interval: interval(persons, over) })
        };
        [Asks::Kind, Asks::Colour].into_iter().filter_map(mean).collect()
    }
}

/// Whether a phrase has enough pictures to be counted.
fn counted(sorted: &SortedScores) -> bool {
    let (positives, known) = sorted.counts();
    positives >= FEWEST && known - positives >= FEWEST
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Forty pictures of twenty persons: the first phrase of each sort is true of every other
    /// person, the second of one person, the others are not known.
    fn truths() -> Truths {
        let phrases = yardstick::entries();
        let mut seen = [0, 0];
        let truth = phrases.iter().map(|phrase| {
            let nth = &mut seen[usize::from(phrase.asks == Asks::Colour)];
            *nth += 1;
            match nth {
                1 => (0..40).map(|picture| Some((picture / 2) % 2 == 0)).collect(),
                2 => (0..40).map(|picture| Some(picture < 2)).collect(),
                _ => vec![None; 40],
            }
        });
        let truth = truth.collect();
        let groups = (0..40).map(|picture| Some(if picture < 20 { "a" } else { "b" }.to_owned())).collect();
        Truths { phrases, truth, persons: (0..40).map(|picture| picture / 2).collect(), groups }
    }

    #[test]
    fn means_are_over_phrases_with_pictures_enough() {
        let truths = truths();
        // The first phrase separates in group a, and the wrong way round in group b.
        let score = |picture: usize| if (picture / 2).is_multiple_of(2) == (picture < 20) { 1.0 } else { 0.0 };
        let scores: Vec<Vec<f32>> = truths.phrases.iter().map(|_| (0..40).map(score).collect()).collect();
        let separation = truths.separation(&scores);
        let first = &separation.phrases[0];
        assert_eq!((first.positives, first.known, first.auc), (20, 40, Some(0.5)));
        let second = &separation.phrases[1];
        assert_eq!((second.positives, second.known, second.auc), (2, 40, None), "two pictures are too few");
        assert_eq!(separation.means.iter().map(|mean| mean.phrases).collect::<Vec<_>>(), [1, 1]);
        let [low, high] = separation.means[0].interval.expect("twenty persons");
        assert!(low < 0.4 && 0.6 < high, "{low} {high}");
        let groups: Vec<_> = separation.groups.iter().map(|g| (g.name.as_str(), g.pictures, g.means[0].auc)).collect();
        assert_eq!(groups, [("a", 20, 1.0), ("b", 20, 0.0)]);
        assert_eq!(separation.groups[0].means[0].interval, Some([1.0, 1.0]));
    }
}
