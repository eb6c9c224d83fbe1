//! Draws by weight: the rarer what an identity shows, the more often it comes.

use rand::Rng;
use rand::rngs::StdRng;

/// Numbers from 0, each drawn in proportion to its weight.
pub(crate) struct WeightedDraw {
    /// Sums of the weights up to each.
    cumulative: Vec<f64>,
}

impl WeightedDraw {
    /// One number for each of `weights`, of which there is at least one; all are above 0.
    pub fn new(weights: impl IntoIterator<Item = f64>) -> Self {
        let mut sum = 0.0;
        let add = |weight| {
            sum += weight;
            sum
        };
        Self { cumulative: weights.into_iter().map(add).collect() }
    }

    /// The next number.
    pub fn draw(&self, rng: &mut StdRng) -> usize {
        let total = self.cumulative.last().copied().unwrap_or_default();
        let at = rng.random::<f64>() * total;
        self.cumulative.partition_point(|sum| *sum <= at).min(self.cumulative.len() - 1)
    }
}
