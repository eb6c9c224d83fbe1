//! Learning-rate schedules.

use serde::{Deserialize, Serialize};

/// Shape of the learning-rate curve, as a factor on the highest rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Warm-up, constant, then a linear fall to zero over the last part. Nothing before the fall
    /// depends on the number of steps, so a run may be resumed with more or fewer steps and equals
    /// a run that had that number from the start.
    Fall {
        /// Steps of warm-up.
        warmup: usize,
        /// Steps of the final fall.
        fall: usize,
    },
    /// The authors' code (specification, section 5): half a cosine over the epochs, constant within
    /// each, no warm-up: lr(e) = lr0 / 2 (1 + cos(pi e / E)).
    Cosine {
        /// Steps per epoch; 0 until the data are known.
        epoch: usize,
    },
}

impl Schedule {
    /// Factor on the highest rate at `step`, counted from 0, of `steps`.
    pub fn factor(self, step: usize, steps: usize) -> f64 {
        match self {
            Self::Fall { warmup, fall } => {
                let up = ((step + 1) as f64 / warmup.max(1) as f64).min(1.0);
                let down = (steps.saturating_sub(step) as f64 / fall.max(1) as f64).min(1.0);
                up * down
            }
            Self::Cosine { epoch } => {
                let epoch = epoch.max(1);
                let (now, all) = ((step / epoch) as f64, steps.div_ceil(epoch).max(1) as f64);
                0.5 * (1.0 + (std::f64::consts::PI * now / all).cos())
            }
        }
    }

    /// The schedule with a fall of `fall` steps; a cosine stays unchanged.
    pub fn with_fall(self, fall: usize) -> Self {
        match self {
            Self::Fall { warmup, .. } => Self::Fall { warmup, fall },
            Self::Cosine { .. } => self,
        }
    }

    /// Length of the final fall in steps; its start may be chosen during the run. `None` for a
    /// curve that depends on the number of steps from the start.
    pub fn fall(self) -> Option<usize> {
        match self {
            Self::Fall { fall, .. } => Some(fall),
            Self::Cosine { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn warm_up_constant_fall() {
        let s = Schedule::Fall { warmup: 10, fall: 20 };
        let at = |step| s.factor(step, 100);
        assert!((at(0) - 0.1).abs() < 1e-12 && at(9) == 1.0 && at(80) == 1.0);
        assert!((at(90) - 0.5).abs() < 1e-12 && (at(99) - 0.05).abs() < 1e-12);
        assert_eq!(at(50), s.factor(50, 4000), "nothing before the fall depends on the number of steps");
    }

    #[test]
    fn the_reference_cosine_is_constant_in_an_epoch() {
        let s = Schedule::Cosine { epoch: 7 };
        for epoch in 0..40 {
            let want = 0.5 * (1.0 + (std::f64::consts::PI * epoch as f64 / 40.0).cos());
            for step in [epoch * 7, epoch * 7 + 6] {
                assert!((s.factor(step, 280) - want).abs() < 1e-12);
            }
        }
    }

    proptest! {
        #[test]
        fn a_factor_of_0_to_1(step in 0usize..5000, steps in 1usize..5000, a in 0usize..600, b in 0usize..600) {
            for s in [Schedule::Fall { warmup: a, fall: b }, Schedule::Cosine { epoch: a }] {
                let f = s.factor(step.min(steps - 1), steps);
                prop_assert!((0.0..=1.0).contains(&f), "{s:?} {f}");
            }
        }
    }
}
