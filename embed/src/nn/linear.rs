//! Linear layers: `y = x W^T + b`.
//!
//! The bias is written into the result first and the product accumulated onto it, so it costs no pass of its own; its
//! gradient is a matrix product with a row of ones, many times faster than candle's strided reduction.

use candle_core::{CpuStorage, CustomOp3, DType, Error, Layout, Result, Shape, Storage, Tensor, bail};
use candle_nn::{Init, VarBuilder};
use rayon::prelude::*;

use super::gemm::{At, product, threads};
use super::precision::precision;
use super::{as_rows, contiguous, gelu};
use crate::kernel::{Epilogue, Mat, MatMut, Precision, matmul};

/// Weight `[outputs, inputs]` and bias `[outputs]`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
}

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
        Ok(Self { weight, bias })
    }

    /// The weight, `[outputs, inputs]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias, `[outputs]`.
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }

    /// `[.., inputs]` -> `[.., outputs]`, f32.
    ///
    /// # Errors
    /// When the last dimension is not `inputs`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let rows = as_rows(x)?;
        if let Some(last) = shape.last_mut() {
            *last = self.weight.dim(0)?;
        }
        let y = if x.device().is_cpu() {
            rows.apply_op3(&self.weight.contiguous()?, &self.bias, LinearOp)?
        } else {
            rows.matmul(&self.weight.t()?)?.broadcast_add(&self.bias)?
        };
        y.reshape(shape)
    }

    /// `gelu(forward(x))`: the first half of a feed-forward block.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_gelu(&self, x: &Tensor) -> Result<Tensor> {
        gelu(&self.forward(x)?)
    }
}

struct LinearOp;

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
        let (x, w) = (contiguous("linear", x, x_layout)?, contiguous("linear", w, w_layout)?);
        let bias = contiguous("linear", b, b_layout)?;
        let mut out = vec![0f32; m * n];
        if precision() == Precision::Bf16 {
            let (x, w) = (Mat::new(x, m, k).map_err(Error::wrap)?, Mat::new(w, n, k).map_err(Error::wrap)?);
            let c = MatMut::new(&mut out, m, n).map_err(Error::wrap)?;
            matmul(x, w.t(), c, Precision::Bf16, Epilogue::bias(Some(bias)), 0).map_err(Error::wrap)?;
            return Ok((CpuStorage::F32(out), (m, n).into()));
        }
        out.par_chunks_mut(n * 64).for_each(|rows| {
            for row in rows.chunks_exact_mut(n) {
                row.copy_from_slice(bias);
            }
        });
        let dst = At::new(out.as_mut_ptr(), n, 1);
        // SAFETY: x is m x k, w is n x k (read transposed), out is m x n, all contiguous and checked above.
        unsafe {
            product((m, n, k), dst, At::new(x.as_ptr(), k, 1), At::new(w.as_ptr(), 1, k), 1.0, true, threads());
        }
        Ok((CpuStorage::F32(out), (m, n).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _bias: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let ones = Tensor::ones((1, grad.dim(0)?), DType::F32, grad.device())?;
        // Images carry no gradient; only the patch embedding sees them, so its dx is not worth skipping specially.
        let (dx, dw) = if grad.device().is_cpu() && precision() == Precision::Bf16 {
            (rounded_product(&grad, w, false)?, rounded_product(&grad, x, true)?)
        } else {
            (grad.matmul(w)?, grad.t()?.matmul(x)?)
        };
        Ok((Some(dx), Some(dw), Some(ones.matmul(&grad)?.squeeze(0)?)))
    }
}

/// `a b`, or `a^T b` when `transposed`, of contiguous matrices with bfloat16 factors.
fn rounded_product(a: &Tensor, b: &Tensor, transposed: bool) -> Result<Tensor> {
    let ((ar, ac), (br, bc)) = (a.dims2()?, b.dims2()?);
    let b = b.contiguous()?;
    let ((sa, la), (sb, lb)) = (a.storage_and_layout(), b.storage_and_layout());
    let (Storage::Cpu(pa), Storage::Cpu(pb)) = (&*sa, &*sb) else { bail!("rounded products run on the CPU only") };
    let left = Mat::new(contiguous("linear", pa, la)?, ar, ac).map_err(Error::wrap)?;
    let left = if transposed { left.t() } else { left };
    let right = Mat::new(contiguous("linear", pb, lb)?, br, bc).map_err(Error::wrap)?;
    let mut out = vec![0f32; left.rows() * bc];
    let rows = left.rows();
    let c = MatMut::new(&mut out, rows, bc).map_err(Error::wrap)?;
    matmul(left, right, c, Precision::Bf16, Epilogue::bias(None), 0).map_err(Error::wrap)?;
    Tensor::from_vec(out, (rows, bc), a.device())
}
