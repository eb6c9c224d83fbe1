//! Linear layers: `y = x W^T + b`.
//!
//! On the CPU all three products, forward and backward, are [`kernel::matmul`](crate::kernel::matmul)'s, in the
//! precision that is current on the thread that runs the forward pass. Sums, the bias and its gradient are f32 in any.
//!
//! Weights that are no variables cannot change. In bf16 they are packed at their first use and kept so (half the size of
//! the f32 weights again), and GELU is applied while the product is still in the cache.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, DType, Error, Layout, Result, Shape, Storage, Tensor, bail};
use candle_nn::{Init, VarBuilder};

use super::grads::give;
use super::{as_rows, contiguous, gelu, matmul, ours};
use crate::kernel::{Engine, Epilogue, Mat, PackedWeights, Precision, column_sums, product};

/// Weight `[outputs, inputs]` and bias `[outputs]`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
    /// Packed at first use; `None` when the layer can be trained.
    packed: Option<Packed>,
}

/// Weights in the form of the bf16 kernels, shared by the clones of a layer.
type Packed = Arc<OnceLock<PackedWeights>>;

/// Standard deviation of fresh weights (BERT's and ViT's `initializer_range`).
const INIT_STDEV: f64 = 0.02;

impl Linear {
    /// `weight` and `bias` under `vb`; fresh ones are N(0, 0.02) and 0.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn new(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        Self::with_weight_shape((outputs, inputs), vb)
    }

    /// As [`Linear::new`] for a weight stored as `[outputs, ...]`, for example a patch-embedding convolution, which is
    /// a linear layer on flattened patches.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn with_weight_shape(shape: impl Into<Shape>, vb: VarBuilder) -> Result<Self> {
        let shape = shape.into();
        let outputs = shape.dims()[0];
        let weight = vb.get_with_hints(shape, "weight", Init::Randn { mean: 0.0, stdev: INIT_STDEV })?;
        let bias = vb.get_with_hints(outputs, "bias", Init::Const(0.0))?;
        Self::from_tensors(weight.flatten_from(1)?, bias)
    }

    /// From tensors at hand: `weight` `[outputs, inputs]`, `bias` `[outputs]`.
    ///
    /// # Errors
    /// When the shapes do not fit each other.
    pub fn from_tensors(weight: Tensor, bias: Tensor) -> Result<Self> {
        if bias.dims1()? != weight.dims2()?.0 {
            bail!("a linear layer with weight {:?} cannot have the bias {:?}", weight.shape(), bias.shape());
        }
        let fixed = !weight.track_op() && !bias.track_op();
        Ok(Self { weight, bias, packed: fixed.then(Packed::default) })
    }

    /// The weight, `[outputs, inputs]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias, `[outputs]`.
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }

    /// `[.., inputs]` -> `[.., outputs]`, in the type of `x`, which must be that of the weights.
    ///
    /// # Errors
    /// When the last dimension is not `inputs`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, false)
    }

    /// `gelu(forward(x))`: the first half of a feed-forward block.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_gelu(&self, x: &Tensor) -> Result<Tensor> {
        if self.packed().is_some() && ours(x) && !x.track_op() { self.run(x, true) } else { gelu(&self.forward(x)?) }
    }

    /// The packed weights, where they serve the current precision.
    fn packed(&self) -> Option<&Packed> {
        self.packed.as_ref().filter(|_| Engine::for_precision(Precision::current()) != Engine::Exact)
    }

    /// `gelu` only where no gradient is asked for.
    fn run(&self, x: &Tensor, gelu: bool) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let rows = as_rows(x)?;
        if let Some(last) = shape.last_mut() {
            *last = self.weight.dim(0)?;
        }
        let y = if ours(x) {
            let op = LinearOp { precision: Precision::current(), packed: self.packed().cloned(), gelu };
            rows.apply_op3(&self.weight.contiguous()?, &self.bias, op)?
        } else {
            elsewhere(&rows, &self.weight.t()?)?.broadcast_add(&self.bias)?
        };
        y.reshape(shape)
    }
}

/// The product where it is not ours. On a GPU f32 factors are rounded to the current precision, as on the CPU; the output
/// is then rounded to it as well, its sums are f32. Tensors that are in half precision stay so.
fn elsewhere(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let half = Precision::current().gpu_dtype();
    if x.dtype() != DType::F32 || half == DType::F32 || x.device().is_cpu() {
        return matmul(x, weight);
    }
    x.to_dtype(half)?.matmul(&weight.to_dtype(half)?)?.to_dtype(DType::F32)
}

struct LinearOp {
    precision: Precision,
    packed: Option<Packed>,
    gelu: bool,
}

impl LinearOp {
    /// `epilogue(a b)` on all threads of the pool we are in.
    fn product(&self, a: Mat<'_>, b: Mat<'_>, epilogue: Epilogue<'_>) -> Result<Vec<f32>> {
        product(a, b, self.precision, epilogue, 0).map_err(Error::wrap)
    }
}

/// A contiguous `[rows, cols]` tensor's numbers as a matrix.
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
        let (x, w) = (matrix(x, x_layout)?, matrix(w, w_layout)?);
        let epilogue = Epilogue { gelu: self.gelu, ..Epilogue::bias(Some(bias)) };
        let out = match &self.packed {
            Some(packed) => {
                let weights = packed.get_or_init(|| PackedWeights::new(w, self.precision));
                weights.product(x, epilogue, 0).map_err(Error::wrap)?
            }
            None => self.product(x, w.t(), epilogue)?,
        };
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
        // Nothing that can be trained lies behind pixels.
        let dx = if x.track_op() { give(x, self.product(gm, wm, Epilogue::default())?)? } else { None };
        let dw = self.product(gm.t(), xm, Epilogue::default())?;
        let db = column_sums(contiguous("linear", gs, gl)?, gm.cols());
        Ok((dx, give(weight, dw)?, give(bias, db)?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::{Device, Var};

    use super::*;

    /// Output and the gradients of x, weight and bias for a loss that weighs every output differently.
    fn run(f: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>, (m, n, k): (usize, usize, usize)) -> Vec<Vec<f32>> {
        let var = |shape: &[usize], seed: u32| {
            let len: usize = shape.iter().product();
            // The top bits of a multiplicative hash, in -1..1: without pattern, so that sums do not cancel.
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

    #[test]
    fn fixed_weights_give_what_variables_give() {
        let tensor = |shape: &[usize]| {
            let len = shape.iter().product::<usize>() as u32;
            let values = (0..len).map(|i| (i.wrapping_mul(0x9e37_79b9) as f32 / (1u32 << 31) as f32) - 1.0);
            Tensor::from_iter(values, &Device::Cpu).unwrap().reshape(shape).unwrap()
        };
        let (x, w, b) = (tensor(&[2, 37, 48]), tensor(&[70, 48]), tensor(&[70]));
        let fixed = Linear::from_tensors(w.clone(), b.clone()).unwrap();
        let var = |t: &Tensor| Var::from_tensor(t).unwrap().into_inner();
        let trained = Linear::from_tensors(var(&w), var(&b)).unwrap();
        assert!(fixed.packed.is_some() && trained.packed.is_none());
        let flat = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for precision in [Precision::F32, Precision::Bf16] {
            precision.scope(|| {
                // Twice, so that packed weights are also used again.
                for _ in 0..2 {
                    assert_eq!(flat(fixed.forward(&x).unwrap()), flat(trained.forward(&x).unwrap()));
                    let (got, want) = (fixed.forward_gelu(&x).unwrap(), trained.forward_gelu(&x).unwrap());
                    assert!(distance(&flat(got), &flat(want)) <= 1e-6);
                }
            });
        }
        assert_eq!(fixed.clone().packed.unwrap().get().is_some(), Engine::best() != Engine::Exact);
        // What lies before fixed weights can still be trained.
        let input = Var::from_tensor(&x).unwrap();
        let gradient = |layer: &Linear| {
            let y = Precision::Bf16.scope(|| layer.forward_gelu(&input)).unwrap();
            flat(y.sum_all().unwrap().backward().unwrap().get(&input).unwrap().clone())
        };
        assert_eq!(gradient(&fixed), gradient(&trained));
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
            // bf16 keeps 8 bits of each factor: a relative error of at most 2^-8 each, a third of that on average.
            for (precision, tolerance) in [(Precision::F32, 1e-6), (Precision::Bf16, 4e-3)] {
                let ours =
                    run(|x, w, b| precision.scope(|| Linear::from_tensors(w.clone(), b.clone())?.forward(x)), shape);
                for (part, (got, want)) in ["y", "dx", "dw", "db"].iter().zip(ours.iter().zip(&composite)) {
                    let distance = distance(got, want);
                    assert!(distance <= tolerance, "{part} of {shape:?} at {precision:?} is off by {distance}");
                }
            }
        }
    }
}
