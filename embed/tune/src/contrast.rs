//! Contrast: how many times higher than chance a measured value is, with an interval over persons.

use serde::Serialize;

use crate::bootstrap::interval;

/// One measured case of a person.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub person: usize,
    pub reached: f64,
    /// Value that chance reaches in the same case.
    pub chance: f64,
}

/// A measured value and what chance reaches, as means over cases.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Contrast {
    /// Number of cases.
    pub cases: usize,
    /// Mean of the measured values.
    pub reached: f64,
    /// Mean of the values that chance reaches.
    pub chance: f64,
    /// `reached` divided by `chance`; `None` where `chance` is 0.
    pub times: Option<f64>,
    /// Bootstrap interval of `times` (the middle 95 %) over persons.
    pub interval: Option<[f64; 2]>,
}

impl Contrast {
    /// Computes the contrast of `cases`, whose persons are numbered below `persons`.
    pub(crate) fn of(cases: &[Measured], persons: usize) -> Self {
        // Sums of each person: number of cases, reached, by chance.
        let mut sums = vec![[0.0; 3]; persons];
        for case in cases {
            let sum = &mut sums[case.person];
            *sum = [sum[0] + 1.0, sum[1] + case.reached, sum[2] + case.chance];
        }
        let total = |times: &[u32]| {
            sums.iter()
                .zip(times)
                .fold([0.0; 3], |total, (sum, times)| std::array::from_fn(|i| total[i] + sum[i] * f64::from(*times)))
        };
        let ratio = |[_, reached, chance]: [f64; 3]| (chance > 0.0).then(|| reached / chance);
        let all = total(&vec![1; persons]);
        Self {
            cases: cases.len(),
            reached: all[1] / all[0].max(1.0),
            chance: all[2] / all[0].max(1.0),
            times: ratio(all),
            interval: interval(persons, |times| ratio(total(times))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_of_means_and_its_interval_is_over_persons() {
        let case = |i: usize| Measured { person: i / 2, reached: if i % 4 < 2 { 0.6 } else { 0.2 }, chance: 0.1 };
        let cases: Vec<Measured> = (0..80).map(case).collect();
        let contrast = Contrast::of(&cases, 40);
        assert_eq!(contrast.cases, 80);
        assert!((contrast.reached - 0.4).abs() < 1e-9 && (contrast.chance - 0.1).abs() < 1e-9);
        assert!(contrast.times.is_some_and(|times| (times - 4.0).abs() < 1e-9));
        // The interval of a mean over 40 persons at 2 or 6: 4 +- 1.96 * 2 / sqrt(40).
        let [low, high] = contrast.interval.expect("forty persons");
        assert!((low - 3.38).abs() < 0.15 && (high - 4.62).abs() < 0.15, "{low} {high}");
    }

    #[test]
    fn nothing_is_a_multiple_of_nothing() {
        let none = Contrast::of(&[], 3);
        assert_eq!((none.cases, none.reached, none.times, none.interval), (0, 0.0, None, None));
        let flat = Contrast::of(&[Measured { person: 1, reached: 0.5, chance: 0.0 }], 3);
        assert_eq!((flat.reached, flat.times), (0.5, None));
    }
}
