//! Numbers that look random and follow from a seed (SplitMix64).

/// The generator.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// In 0 (included) to 1 (not included).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn exponential(&mut self, mean: f64) -> f64 {
        -(1.0 - self.uniform()).ln() * mean
    }

    /// 1, 2, ... with this mean.
    pub fn geometric(&mut self, mean: f64) -> usize {
        if mean <= 1.0 {
            return 1;
        }
        1 + ((1.0 - self.uniform()).ln() / (1.0 - 1.0 / mean).ln()) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn means_are_as_asked_for_and_the_seed_decides() {
        let mut random = Random::new(1);
        let n = 200_000;
        let exponential = (0..n).map(|_| random.exponential(3.0)).sum::<f64>() / f64::from(n);
        let geometric = (0..n).map(|_| random.geometric(2.5) as f64).sum::<f64>() / f64::from(n);
        assert!((exponential - 3.0).abs() < 0.03 && (geometric - 2.5).abs() < 0.03, "{exponential} {geometric}");
        assert_eq!(random.geometric(1.0), 1);
        assert_eq!(Random::new(9).uniform(), Random::new(9).uniform());
    }
}
