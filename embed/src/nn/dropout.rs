//! Dropout without stored masks: whether element i survives is a hash of (seed, i), so the backward pass and a resumed
//! run compute the same mask again.

use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{contiguous, ours};

/// Source of dropout for one forward pass after another; each call draws the next seed.
#[derive(Debug)]
pub struct Dropout {
    rate: f32,
    next: AtomicU64,
}

impl Dropout {
    /// Drops with probability `rate` (0 to below 1). Two sources with the same seed drop the same elements.
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

    /// The mask of the next use.
    pub(super) fn draw(&self) -> Drop {
        Drop { seed: mix(self.next.fetch_add(1, Ordering::Relaxed)), rate: self.rate }
    }

    /// `x` with elements dropped and the others scaled by 1 / (1 - rate); any shape, f32.
    ///
    /// # Errors
    /// When candle fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let drop = self.draw();
        if self.rate == 0.0 {
            return Ok(x.clone());
        }
        if ours(x) {
            return x.contiguous()?.apply_op1(drop);
        }
        let factors: Vec<f32> = (0..x.elem_count()).map(|i| drop.factor(i)).collect();
        x * Tensor::from_vec(factors, x.shape(), x.device())?
    }
}

/// One dropout mask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drop {
    seed: u64,
    rate: f32,
}

impl Drop {
    /// 0 when element `i` is dropped, else 1 / (1 - rate).
    #[inline]
    pub(super) fn factor(&self, i: usize) -> f32 {
        let uniform = (mix(self.seed ^ i as u64) >> 40) as f32 / (1u64 << 24) as f32;
        if uniform < self.rate { 0.0 } else { 1.0 / (1.0 - self.rate) }
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

/// Elements one task handles.
const GRAIN: usize = 8192;

impl CustomOp1 for Drop {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = contiguous("dropout", x, layout)?.to_vec();
        y.par_chunks_mut(GRAIN).enumerate().for_each(|(part, y)| {
            for (i, y) in y.iter_mut().enumerate() {
                *y *= self.factor(part * GRAIN + i);
            }
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        grad.contiguous()?.apply_op1_no_bwd(self).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

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
