//! LayerNorm over the last dimension.

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor, bail};
use candle_nn::{Init, VarBuilder};
use rayon::prelude::*;

use super::grads::give;
use super::simd::{LANES, multiversion};
use super::{as_rows, contiguous, ours};

/// Weight and bias of width `d`, and the variance floor.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// `weight` and `bias` under `vb`; fresh ones are 1 and 0.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn new(width: usize, eps: f64, vb: VarBuilder) -> Result<Self> {
        let weight = vb.get_with_hints(width, "weight", Init::Const(1.0))?;
        let bias = vb.get_with_hints(width, "bias", Init::Const(0.0))?;
        Ok(Self { weight, bias, eps })
    }

    /// Weight and bias.
    pub(super) fn parameters(&self) -> [&Tensor; 2] {
        [&self.weight, &self.bias]
    }

    /// The variance floor.
    pub(super) fn eps(&self) -> f64 {
        self.eps
    }

    /// That rows are of this norm's width.
    pub(super) fn check(&self, width: usize) -> Result<()> {
        match self.weight.dim(0)? {
            own if own == width => Ok(()),
            own => bail!("a norm of width {own} was given rows of {width}"),
        }
    }

    /// `[.., width]` -> the same shape and type.
    ///
    /// # Errors
    /// When the last dimension is not `width`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.dim(D::Minus1)? != self.weight.dim(0)? {
            bail!("a norm of width {} was given {:?}", self.weight.dim(0)?, x.shape());
        }
        if ours(x) {
            let op = NormOp { eps: self.eps as f32 };
            as_rows(x)?.apply_op3(&self.weight, &self.bias, op)?.reshape(x.shape())
        } else if [x, &self.weight, &self.bias].iter().all(|t| !t.track_op()) {
            // One kernel with sums in f32, but without a gradient.
            candle_nn::ops::layer_norm(&x.contiguous()?, &self.weight, &self.bias, self.eps as f32)
        } else {
            candle_nn::ops::layer_norm_slow(x, &self.weight, &self.bias, self.eps as f32)
        }
    }

    /// `forward(a + b)`: how every residual block of BERT ends.
    ///
    /// # Errors
    /// As [`LayerNorm::forward`].
    pub fn forward_residual(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        self.forward(&(a + b)?)
    }
}

/// Mean and inverse standard deviation of a row.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let d = x.len() as f32;
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for x in whole {
        (0..LANES).for_each(|l| lanes[l] += x[l]);
    }
    let mean = (lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()) / d;
    let mut lanes = [0f32; LANES];
    for x in whole {
        (0..LANES).for_each(|l| lanes[l] += (x[l] - mean) * (x[l] - mean));
    }
    let rest = rest.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>();
    (mean, 1.0 / ((lanes.iter().sum::<f32>() + rest) / d + eps).sqrt())
}

multiversion! {
    pub(super) fn norm_rows(x: &[f32], w: &[f32], b: &[f32], eps: f32, y: &mut [f32]) {
        let d = w.len();
        for (x, y) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)) {
            let (mean, inverse) = moments(x, eps);
            for (((x, y), w), b) in x.iter().zip(y).zip(w).zip(b) {
                *y = (*x - mean) * inverse * *w + *b;
            }
        }
    }
}

multiversion! {
    /// dx of some rows; `dw` and `db` are added to.
    pub(super) fn norm_grad_rows(
        x: &[f32], w: &[f32], g: &[f32], eps: f32, dx: &mut [f32], dw: &mut [f32], db: &mut [f32],
    ) {
        let d = w.len();
        let (dw, db) = (&mut dw[..d], &mut db[..d]);
        for ((x, g), dx) in x.chunks_exact(d).zip(g.chunks_exact(d)).zip(dx.chunks_exact_mut(d)) {
            let (mean, inverse) = moments(x, eps);
            let (mut s1, mut s2) = ([0f32; LANES], [0f32; LANES]);
            let ((xs, xr), (gs, gr), (ws, wr)) =
                (x.as_chunks::<LANES>(), g.as_chunks::<LANES>(), w.as_chunks::<LANES>());
            for ((x, g), w) in xs.iter().zip(gs).zip(ws) {
                for l in 0..LANES {
                    let gw = g[l] * w[l];
                    s1[l] += gw;
                    s2[l] += gw * ((x[l] - mean) * inverse);
                }
            }
            let (mut s1, mut s2) = (s1.iter().sum::<f32>(), s2.iter().sum::<f32>());
            for ((x, g), w) in xr.iter().zip(gr).zip(wr) {
                s1 += g * w;
                s2 += g * w * ((x - mean) * inverse);
            }
            let (s1, s2) = (s1 / d as f32, s2 / d as f32);
            let sums = dw.iter_mut().zip(db.iter_mut());
            for (((dx, x), (g, w)), (dw, db)) in dx.iter_mut().zip(x).zip(g.iter().zip(w)).zip(sums) {
                let hat = (*x - mean) * inverse;
                *dx = inverse * (*g * *w - s1 - hat * s2);
                *dw += *g * hat;
                *db += *g;
            }
        }
    }
}

struct NormOp {
    eps: f32,
}

/// Rows one task handles.
const GRAIN: usize = 32;

impl CustomOp3 for NormOp {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = contiguous("layer-norm", x, x_layout)?;
        let (w, b) = (contiguous("layer-norm", w, w_layout)?, contiguous("layer-norm", b, b_layout)?);
        let grain = w.len() * GRAIN;
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(grain).zip(x.par_chunks(grain)).for_each(|(y, x)| norm_rows(x, w, b, self.eps, y));
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        bias: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let ((xs, xl), (gs, gl)) = (x.storage_and_layout(), grad.storage_and_layout());
        let (candle_core::Storage::Cpu(xs), candle_core::Storage::Cpu(gs)) = (&*xs, &*gs) else {
            bail!("layer-norm's own backward runs on the CPU only");
        };
        let (xs, gs) = (contiguous("layer-norm", xs, xl)?, contiguous("layer-norm", gs, gl)?);
        let weight = w.to_vec1::<f32>()?;
        let (d, grain) = (weight.len(), weight.len() * GRAIN);
        let mut dx = vec![0f32; xs.len()];
        let zero = || (vec![0f32; d], vec![0f32; d]);
        let parts: Vec<_> = dx
            .par_chunks_mut(grain)
            .zip(xs.par_chunks(grain))
            .zip(gs.par_chunks(grain))
            .map(|((dx, x), g)| {
                let (mut dw, mut db) = zero();
                norm_grad_rows(x, &weight, g, self.eps, dx, &mut dw, &mut db);
                (dw, db)
            })
            .collect();
        // Summed in the order of the rows, so that the gradient does not depend on which thread was faster.
        let (dw, db) = parts.into_iter().fold(zero(), |(mut dw, mut db), (pw, pb)| {
            dw.iter_mut().zip(pw).for_each(|(a, b)| *a += b);
            db.iter_mut().zip(pb).for_each(|(a, b)| *a += b);
            (dw, db)
        });
        Ok((give(x, dx)?, give(w, dw)?, give(bias, db)?))
    }
}
