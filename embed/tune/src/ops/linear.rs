//! Linear layers outside the stacks: `y = x Wᵀ + b` with a backward pass, in the current precision
//! of the thread that runs the forward pass. Sums, the bias and its gradient are f32 in every
//! precision.

use candle_core::{CpuStorage, CustomOp3, Error, Layout, Result, Shape, Storage, Tensor, bail};
use sightline_embed::graph::Linear;
use sightline_embed::kernel::{Epilogue, Mat, Precision, column_sums, product};

use super::grads::pass_gradient;
use super::{as_rows, contiguous, is_supported};

/// `x Wᵀ + b` of `x` `[.., inputs]`: `[.., outputs]`, f32.
///
/// # Errors
/// When the last dimension is not the layer's number of inputs.
pub fn linear(layer: &Linear, x: &Tensor) -> Result<Tensor> {
    if !is_supported(x) {
        return layer.forward(x);
    }
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = layer.weight.dim(0)?;
    }
    let op = LinearOp { precision: Precision::current() };
    as_rows(x)?.apply_op3(&layer.weight.contiguous()?, &layer.bias, op)?.reshape(shape)
}

struct LinearOp {
    precision: Precision,
}

impl LinearOp {
    /// Computes `epilogue(a b)` on all threads of the current pool.
    fn product(&self, a: Mat<'_>, b: Mat<'_>, epilogue: Epilogue<'_>) -> Result<Vec<f32>> {
        product(a, b, self.precision, epilogue, 0).map_err(Error::wrap)
    }
}

/// Views a contiguous `[rows, cols]` tensor as a matrix.
fn matrix<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<Mat<'a>> {
    let (rows, cols) = layout.shape().dims2()?;
    Mat::new(contiguous("linear", storage, layout)?, rows, cols).map_err(Error::wrap)
}

impl CustomOp3 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
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
        let ((m, k), (n, inputs)) = (x_layout.shape().dims2()?, w_layout.shape().dims2()?);
        if k != inputs {
            bail!("a linear layer of {inputs} inputs was given {k}");
        }
        let bias = contiguous("linear", b, b_layout)?;
        let out = self.product(matrix(x, x_layout)?, matrix(w, w_layout)?.t(), Epilogue::bias(Some(bias)))?;
        Ok((CpuStorage::F32(out), (m, n).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (grad, w) = (grad.contiguous()?, weight.contiguous()?);
        let guards = [x, &w, &grad].map(Tensor::storage_and_layout);
        let [(Storage::Cpu(xs), xl), (Storage::Cpu(ws), wl), (Storage::Cpu(gs), gl)] =
            [0, 1, 2].map(|i| (&*guards[i].0, guards[i].1))
        else {
            bail!("linear's own backward runs on the CPU only");
        };
        let (xm, wm, gm) = (matrix(xs, xl)?, matrix(ws, wl)?, matrix(gs, gl)?);
        // Pixels track no gradient, so their product is skipped.
        let dx = if x.track_op() { pass_gradient(x, self.product(gm, wm, Epilogue::default())?)? } else { None };
        let dw = self.product(gm.t(), xm, Epilogue::default())?;
        let db = column_sums(contiguous("linear", gs, gl)?, gm.cols());
        Ok((dx, pass_gradient(weight, dw)?, pass_gradient(bias, db)?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::{Device, Var};

    use super::*;

    /// Output and the gradients of x, weight and bias for a loss that weighs every output
    /// differently.
    fn run(f: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>, (m, n, k): (usize, usize, usize)) -> Vec<Vec<f32>> {
        let var = |shape: &[usize], seed: u32| {
            let len: usize = shape.iter().product();
            // The top bits of a multiplicative hash, in -1..1: without pattern, so that sums do not
            // cancel.
            let hash = |i: u32| ((i ^ seed).wrapping_mul(0x9e37_79b9) ^ (i >> 3)).wrapping_mul(0x85eb_ca6b);
            let values: Vec<f32> = (0..len as u32).map(|i| (hash(i) as f32 / (1u32 << 31) as f32) - 1.0).collect();
            Var::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        let (x, w, b, mix) = (var(&[m, k], 0x1111), var(&[n, k], 0x7a31), var(&[n], 0x30f3), var(&[m, n], 0x4999));
        let y = f(x.as_tensor(), w.as_tensor(), b.as_tensor()).unwrap();
        let grads = (&y * mix.as_tensor().detach()).unwrap().sum_all().unwrap().backward().unwrap();
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mut all = vec![flat(&y)];
        all.extend([&x, &w, &b].map(|v| flat(grads.get(v).unwrap())));
        all
    }

    /// The distance of two vectors over the length of the second.
    fn distance(a: &[f32], b: &[f32]) -> f32 {
        let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|x| x * x).sum::<f32>().sqrt();
        norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
    }

    #[test]
    fn both_precisions_equal_the_composite_forward_and_backward() {
        for shape in [(73, 96, 64), (40, 33, 130), (1, 5, 7)] {
            let composite = run(|x, w, b| x.matmul(&w.t()?)?.broadcast_add(b), shape);
            // bf16 keeps 8 bits of each factor: a relative error of at most 2^-8 each, a third of
            // that on average.
            for (precision, tolerance) in [(Precision::F32, 1e-6), (Precision::Bf16, 4e-3)] {
                let ours =
                    run(|x, w, b| precision.scope(|| linear(&Linear::from_tensors(w.clone(), b.clone())?, x)), shape);
                for (part, (got, want)) in ["y", "dx", "dw", "db"].iter().zip(ours.iter().zip(&composite)) {
                    let distance = distance(got, want);
                    assert!(distance <= tolerance, "{part} of {shape:?} at {precision:?} is off by {distance}");
                }
            }
        }
    }
}
