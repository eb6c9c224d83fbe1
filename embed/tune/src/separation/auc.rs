//! Area under the ROC curve: how often a picture that a phrase is true of scores higher than a
//! picture that it is false of. 0.5 is chance.

/// Sorted scores of the pictures for which the truth of a phrase is known.
#[derive(Debug, Clone)]
pub struct SortedScores {
    /// Score, person and truth, by ascending score.
    pictures: Vec<(f32, usize, bool)>,
}

impl SortedScores {
    /// Sorts `scores`, given with the person and the truth of each picture. NaN counts as the
    /// lowest score, as in a search.
    pub fn new(scores: impl Iterator<Item = (f32, usize, bool)>) -> Self {
        let number = |score: f32| if score.is_nan() { f32::NEG_INFINITY } else { score + 0.0 };
        let mut pictures: Vec<_> = scores.map(|(score, person, truth)| (number(score), person, truth)).collect();
        pictures.sort_by(|a, b| a.0.total_cmp(&b.0));
        Self { pictures }
    }

    /// Number of pictures that the phrase is true of, and number of all pictures.
    pub fn counts(&self) -> (usize, usize) {
        (self.pictures.iter().filter(|(.., truth)| *truth).count(), self.pictures.len())
    }

    /// The area, with every picture counted as many `times` as its person was drawn. Equal scores
    /// count half. `None` without a true or without a false picture.
    pub fn area(&self, times: impl Fn(usize) -> u32) -> Option<f64> {
        let (mut positives, mut negatives, mut area) = (0.0, 0.0, 0.0);
        for equal in self.pictures.chunk_by(|a, b| a.0 == b.0) {
            let sum = |wanted: bool| -> f64 {
                equal.iter().filter(|(.., truth)| *truth == wanted).map(|(_, p, _)| f64::from(times(*p))).sum()
            };
            let (own_positives, own_negatives) = (sum(true), sum(false));
            area += own_positives * (negatives + own_negatives / 2.0);
            positives += own_positives;
            negatives += own_negatives;
        }
        (positives > 0.0 && negatives > 0.0).then(|| area / (positives * negatives))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sorted(pictures: &[(f32, bool)]) -> SortedScores {
        SortedScores::new(pictures.iter().enumerate().map(|(person, (score, truth))| (*score, person, *truth)))
    }

    #[test]
    fn known_areas() {
        let area = |pictures: &[(f32, bool)]| sorted(pictures).area(|_| 1);
        assert_eq!(area(&[(0.9, true), (0.8, true), (0.1, false)]), Some(1.0));
        assert_eq!(area(&[(0.1, true), (0.8, false)]), Some(0.0));
        assert_eq!(area(&[(0.5, true), (0.5, false)]), Some(0.5));
        assert_eq!(area(&[(f32::NAN, true), (-5.0, false)]), Some(0.0));
        assert_eq!(area(&[(0.5, true)]), None);
        assert_eq!(sorted(&[(0.5, true), (0.4, false), (0.3, false)]).counts(), (1, 3));
    }

    proptest! {
        /// Compares with the definition: every pair of a true and a false picture, where a picture
        /// drawn twice counts twice.
        #[test]
        fn the_area_is_the_share_of_pairs_in_order(
            pictures in proptest::collection::vec((0u8..6, proptest::bool::ANY, 0u32..3), 1..30),
        ) {
            let all: Vec<(f32, bool)> = pictures.iter()
                .flat_map(|(score, truth, times)| vec![(f32::from(*score), *truth); *times as usize]).collect();
            let (mut sum, mut pairs) = (0.0, 0.0);
            for (score, _) in all.iter().filter(|(_, truth)| *truth) {
                for (other, _) in all.iter().filter(|(_, truth)| !*truth) {
                    sum += if score > other { 1.0 } else if score == other { 0.5 } else { 0.0 };
                    pairs += 1.0;
                }
            }
            let once: Vec<(f32, bool)> = pictures.iter().map(|(score, truth, _)| (f32::from(*score), *truth)).collect();
            match sorted(&once).area(|person| pictures[person].2) {
                None => prop_assert_eq!(pairs, 0.0),
                Some(area) => prop_assert!((area - sum / pairs).abs() < 1e-9, "{} {}", area, sum / pairs),
            }
        }
    }
}
