//! Row-wise arithmetic of sublayers: norms, sums over rows.

use candle_core::Result;
use rayon::prelude::*;

use super::super::buffer::Buffer;
use super::super::norm::{norm_grad_rows, norm_rows};
use super::super::simd::multiversion;
use super::super::{LayerNorm, values};
use super::{CHUNK_ROWS, total};

/// A norm's numbers.
pub(super) struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    eps: f32,
}

impl Norm {
    pub(super) fn read(norm: &LayerNorm) -> Result<Self> {
        let [weight, bias] = norm.parameters();
        Ok(Self { weight: values(weight)?, bias: values(bias)?, eps: norm.eps() as f32 })
    }

    /// `y = norm(x)` of whole rows.
    pub(super) fn forward(&self, x: &[f32], y: &mut [f32]) {
        norm_rows(x, &self.weight, &self.bias, self.eps, y);
    }

    /// Room for the gradients of weight and bias.
    pub(super) fn zeros(&self) -> [Vec<f32>; 2] {
        [vec![0.0; self.weight.len()], vec![0.0; self.weight.len()]]
    }

    /// Writes the gradient of `x` and adds those of weight and bias to `sums`.
    pub(super) fn backward(&self, x: &[f32], g: &[f32], dx: &mut [f32], sums: &mut [Vec<f32>; 2]) {
        let [dw, db] = sums;
        norm_grad_rows(x, &self.weight, g, self.eps, dx, dw, db);
    }

    fn grain(&self) -> usize {
        CHUNK_ROWS * self.weight.len().max(1)
    }

    /// All rows, on all threads.
    pub(super) fn forward_all(&self, x: &[f32]) -> Buffer {
        let mut y = Buffer::take(x.len());
        y.par_chunks_mut(self.grain()).zip(x.par_chunks(self.grain())).for_each(|(y, x)| self.forward(x, y));
        y
    }

    /// As [`Norm::forward_all`]: the gradients of `x`, and of weight and bias.
    pub(super) fn backward_all(&self, x: &[f32], g: &[f32]) -> (Buffer, Vec<Vec<f32>>) {
        let mut dx = Buffer::take(x.len());
        let grain = self.grain();
        let parts = (dx.par_chunks_mut(grain), x.par_chunks(grain), g.par_chunks(grain)).into_par_iter();
        let sums = parts.map(|(dx, x, g)| {
            let mut sums = self.zeros();
            self.backward(x, g, dx, &mut sums);
            sums.into()
        });
        let sums = total(sums.collect());
        (dx, sums)
    }
}

multiversion! {
    /// `x += y`
    pub(super) fn add(x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x += *y;
        }
    }
}

multiversion! {
    /// Sums of the columns of whole rows of `cols` numbers.
    pub(super) fn column_sums(x: &[f32], cols: usize) -> Vec<f32> {
        let mut sums = vec![0.0; cols];
        for row in x.chunks_exact(cols) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += *x;
            }
        }
        sums
    }
}
