//! Dropout without stored masks: a hash of (seed, i) decides whether element i survives, so that a
//! resumed run drops the same elements.

use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{Result, Tensor, bail};

/// Dropout for one forward pass after another; each call draws the next seed.
#[derive(Debug)]
pub struct Dropout {
    rate: f32,
    next: AtomicU64,
}

impl Dropout {
    /// Drops with probability `rate` (0 to below 1). Two sources with the same seed drop the same
    /// elements.
    ///
    /// # Errors
    /// A rate outside 0..1.
    pub fn new(rate: f32, seed: u64) -> Result<Self> {
        if !(0.0..1.0).contains(&rate) {
            bail!("a dropout rate of {rate} is not in 0..1");
        }
        Ok(Self { rate, next: AtomicU64::new(mix(seed)) })
    }

    /// Whether it drops nothing.
    pub fn is_off(&self) -> bool {
        self.rate == 0.0
    }

    /// `x` with elements dropped and the others scaled by 1 / (1 - rate); any shape and type.
    ///
    /// # Errors
    /// When candle fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let seed = mix(self.next.fetch_add(1, Ordering::Relaxed));
        if self.is_off() {
            return Ok(x.clone());
        }
        let factor = |i: usize| {
            let uniform = (mix(seed ^ i as u64) >> 40) as f32 / (1u64 << 24) as f32;
            if uniform < self.rate { 0.0 } else { 1.0 / (1.0 - self.rate) }
        };
        let factors: Vec<f32> = (0..x.elem_count()).map(factor).collect();
        x * Tensor::from_vec(factors, x.shape(), x.device())?.to_dtype(x.dtype())?
    }
}

/// SplitMix64's finaliser: a good hash of 64 bits to 64 bits.
#[inline]
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn keeps_the_mean_repeats_from_its_seed_and_differs_between_uses() {
        let x = Tensor::ones((100, 1000), candle_core::DType::F32, &Device::Cpu).expect("allocates");
        let run = |seed| {
            let d = Dropout::new(0.1, seed).expect("valid rate");
            (0..2).map(|_| d.forward(&x).and_then(|y| y.flatten_all()?.to_vec1::<f32>()).expect("runs")).collect()
        };
        let (a, b): (Vec<Vec<f32>>, Vec<Vec<f32>>) = (run(5), run(5));
        assert_eq!(a, b);
        assert_ne!(a[0], a[1]);
        let dropped = a[0].iter().filter(|v| **v == 0.0).count();
        assert!((9_000..11_000).contains(&dropped), "{dropped} of 100000 dropped at rate 0.1");
        let mean = a[0].iter().sum::<f32>() / 1e5;
        assert!((mean - 1.0).abs() < 0.01);
        assert!(Dropout::new(1.0, 0).is_err());
    }
}
