//! Linear layers: `y = x W^T + b`.
//!
//! The bias is written into the result first and the product accumulated onto it, so it costs no pass of its own; its
//! gradient is a matrix product with a row of ones, many times faster than candle's strided reduction.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
use candle_nn::{Init, VarBuilder};
use rayon::prelude::*;

use super::gemm::{At, product, threads};
use super::{as_rows, contiguous, gelu};

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
        let dx = grad.matmul(w)?;
        let dw = grad.t()?.matmul(x)?;
        Ok((Some(dx), Some(dw), Some(ones.matmul(&grad)?.squeeze(0)?)))
    }
}
