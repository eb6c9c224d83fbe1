//! Weighted random draws: an identity that shows something rare is drawn more often.

use rand::Rng;
use rand::rngs::StdRng;

/// Numbers from 0, each drawn in proportion to its weight.
pub(crate) struct WeightedDraw {
    /// Cumulative sums of the weights.
    cumulative: Vec<f64>,
}

impl WeightedDraw {
    /// Numbers `weights` from 0. There must be at least one weight, and all must be above 0.
    pub fn new(weights: impl IntoIterator<Item = f64>) -> Self {
        let mut sum = 0.0;
        let add = |weight| {
            sum += weight;
            sum
        };
        Self { cumulative: weights.into_iter().map(add).collect() }
    }

    /// Draws a number.
    pub fn draw(&self, rng: &mut StdRng) -> usize {
        let total = self.cumulative.last().copied().unwrap_or_default();
        let at = rng.random::<f64>() * total;
        self.cumulative.partition_point(|sum| *sum <= at).min(self.cumulative.len() - 1)
    }
}
