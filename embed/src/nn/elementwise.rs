//! Exact (erf) GELU and softmax over the last dimension.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::simd::{exp, multiversion, normal_cdf, softmax_grad_row, softmax_row};
use super::{contiguous, ours};

/// Elements one task handles: 64 KiB, so that what it reads and writes stays in the second-level cache.
const GRAIN: usize = 16_384;

/// `x * Phi(x)`, any shape. Within 1e-6 of the erf form on the CPU.
///
/// # Errors
/// When candle fails.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if ours(x) { x.contiguous()?.apply_op1(Gelu) } else { x.gelu_erf() }
}

/// Softmax over the last dimension.
///
/// # Errors
/// When candle fails.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    match (ours(x), x.track_op()) {
        (true, _) => x.contiguous()?.apply_op1(Softmax),
        (false, true) => candle_nn::ops::softmax(x, D::Minus1),
        // One kernel with sums in f32, but without a gradient.
        (false, false) => candle_nn::ops::softmax_last_dim(&x.contiguous()?),
    }
}

multiversion! {
    fn gelu_slice(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = *x * normal_cdf(*x);
        }
    }
}

multiversion! {
    fn gelu_grad_slice(x: &[f32], g: &[f32], y: &mut [f32]) {
        const DENSITY_AT_0: f32 = 0.398_942_3;
        for ((y, x), g) in y.iter_mut().zip(x).zip(g) {
            *y = *g * (normal_cdf(*x) + *x * DENSITY_AT_0 * exp(-0.5 * *x * *x));
        }
    }
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous("gelu", x, layout)?;
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(GRAIN).zip(x.par_chunks(GRAIN)).for_each(|(y, x)| gelu_slice(x, y));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(x.apply_op2_no_bwd(&grad.contiguous()?, &GeluGrad)?))
    }
}

struct GeluGrad;

impl CustomOp2 for GeluGrad {
    fn name(&self) -> &'static str {
        "gelu-grad"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, g: &CpuStorage, lg: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, g) = (contiguous("gelu-grad", x, lx)?, contiguous("gelu-grad", g, lg)?);
        let mut y = vec![0f32; x.len()];
        let parts = y.par_chunks_mut(GRAIN).zip(x.par_chunks(GRAIN)).zip(g.par_chunks(GRAIN));
        parts.for_each(|((y, x), g)| gelu_grad_slice(x, g, y));
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }
}

struct Softmax;

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = contiguous("softmax", x, layout)?.to_vec();
        let d = layout.dims().last().copied().unwrap_or(1).max(1);
        y.par_chunks_mut(d).with_min_len(GRAIN / d + 1).for_each(|row| softmax_row(row, 1.0));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(result.apply_op2_no_bwd(&grad.contiguous()?, &SoftmaxGrad)?))
    }
}

struct SoftmaxGrad;

impl CustomOp2 for SoftmaxGrad {
    fn name(&self) -> &'static str {
        "softmax-grad"
    }

    fn cpu_fwd(&self, p: &CpuStorage, lp: &Layout, g: &CpuStorage, lg: &Layout) -> Result<(CpuStorage, Shape)> {
        let p = contiguous("softmax-grad", p, lp)?;
        let mut y = contiguous("softmax-grad", g, lg)?.to_vec();
        let d = lp.dims().last().copied().unwrap_or(1).max(1);
        let rows = y.par_chunks_mut(d).zip(p.par_chunks(d)).with_min_len(GRAIN / d + 1);
        rows.for_each(|(y, p)| softmax_grad_row(p, y, 1.0));
        Ok((CpuStorage::F32(y), lp.shape().clone()))
    }
}
