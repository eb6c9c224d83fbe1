//! Bootstrap confidence intervals: how far a figure would move if other persons of the same kind
//! had been measured.
//!
//! Persons are resampled with all their texts and pictures, because the texts of one person are
//! right or wrong together; resampling single texts would make the intervals too narrow.

use rand::Rng;
use rayon::prelude::*;

use super::streams;
use sightline_figures::stream;

/// Number of resamples. With 1000 of them, the ends of the interval move by a tenth of its width
/// from seed to seed.
pub const DRAWS: u64 = 1000;
/// Seed of the resamples: the same persons give the same interval in every process.
const SEED: u64 = 20_311;

/// The middle 95 % of `statistic` when `persons` persons are resampled with replacement.
/// `statistic` receives how often each person was drawn; resamples for which it returns `None` are
/// left out. The result is `None` if no resample has a value, or for fewer than two persons.
pub fn interval(persons: usize, statistic: impl Fn(&[u32]) -> Option<f64> + Sync) -> Option<[f64; 2]> {
    if persons < 2 {
        return None;
    }
    let draw = |number: u64| {
        let mut rng = stream(SEED, streams::BOOTSTRAP, number);
        let mut times = vec![0u32; persons];
        (0..persons).for_each(|_| times[rng.random_range(0..persons)] += 1);
        statistic(&times)
    };
    let mut values: Vec<f64> = (0..DRAWS).into_par_iter().filter_map(draw).collect();
    values.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| values.get(((values.len().max(1) - 1) as f64 * share).round() as usize).copied();
    Some([at(0.025)?, at(0.975)?])
}

/// Numbers identities from 0 in the order in which they first appear; also returns how many there
/// are.
pub fn numbered<T: Copy + Eq + std::hash::Hash>(all: impl IntoIterator<Item = T>) -> (Vec<usize>, usize) {
    let mut known = std::collections::HashMap::new();
    let places = all.into_iter().map(|one| {
        let next = known.len();
        *known.entry(one).or_insert(next)
    });
    let places = places.collect();
    (places, known.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(values: &[f64]) -> impl Fn(&[u32]) -> Option<f64> + Sync + '_ {
        |times| {
            let sum: f64 = values.iter().zip(times).map(|(value, times)| value * f64::from(*times)).sum();
            Some(sum / values.len() as f64)
        }
    }

    /// The interval of a mean of n values is known: 1.96 standard deviations over the root of n.
    #[test]
    fn the_interval_of_a_mean_is_that_of_theory() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 20)).collect();
        let [low, high] = interval(values.len(), mean(&values)).expect("an interval");
        let deviation = (values.iter().map(|v| (v - 9.5).powi(2)).sum::<f64>() / 400.0).sqrt();
        let half = 1.96 * deviation / 20.0;
        assert!((low - (9.5 - half)).abs() < 0.15 * half && (high - (9.5 + half)).abs() < 0.15 * half, "{low} {high}");
        assert_eq!(interval(values.len(), mean(&values)), Some([low, high]), "the same persons, the same interval");
    }

    /// Twins count as one person: twice as many values add nothing new.
    #[test]
    fn values_of_one_person_are_drawn_together() {
        let few: Vec<f64> = (0..20).map(f64::from).collect();
        let twins = |times: &[u32]| mean(&few)(times);
        let alone = interval(20, mean(&few)).expect("an interval");
        assert_eq!(interval(20, twins), Some(alone));
        let many: Vec<f64> = (0..400).map(|i| f64::from(i % 20)).collect();
        let [low, high] = interval(400, mean(&many)).expect("an interval");
        assert!(high - low < 0.4 * (alone[1] - alone[0]), "400 values of 400 persons tell more");
    }

    #[test]
    fn there_is_no_interval_of_one_person_or_of_nothing() {
        assert_eq!(interval(1, |_| Some(1.0)), None);
        assert_eq!(interval(9, |_| None), None);
        assert_eq!(interval(9, |times| (times[0] == 0).then_some(2.0)), Some([2.0, 2.0]));
        assert_eq!(numbered([7, 3, 7, 9]), (vec![0, 1, 0, 2], 3));
    }
}
