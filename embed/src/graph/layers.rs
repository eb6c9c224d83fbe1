//! The layers of the graph, made of candle's operations.
//!
//! candle's fused operations (`softmax_last_dim`, `layer_norm`) give no gradient and no warning:
//! they are used only where no gradient is needed.

use candle_core::{D, DType, Result, Tensor, bail};
use candle_nn::{Init, VarBuilder};

use super::Dropout;
use crate::kernel::{MASKED, Precision};
use crate::net::Mask;

/// Standard deviation of initial weights (BERT's and ViT's `initializer_range`).
const INIT_STDEV: f64 = 0.02;

/// `y = x Wᵀ + b` with weight `[outputs, inputs]` and bias `[outputs]`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// Weight, `[outputs, inputs]`.
    pub weight: Tensor,
    /// Bias, `[outputs]`.
    pub bias: Tensor,
}

impl Linear {
    /// Builds the layer from `weight` and `bias` under `vb`; new ones begin as N(0, 0.02) and 0.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn new(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        Self::with_weight_shape(&[outputs, inputs], vb)
    }

    /// [`Linear::new`] for a weight stored as `[outputs, ...]`, for example a patch-embedding
    /// convolution, which is a linear layer on flattened patches.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn with_weight_shape(shape: &[usize], vb: VarBuilder) -> Result<Self> {
        let weight = vb.get_with_hints(shape, "weight", Init::Randn { mean: 0.0, stdev: INIT_STDEV })?;
        let bias = vb.get_with_hints(shape[0], "bias", Init::Const(0.0))?;
        Self::from_tensors(weight.flatten_from(1)?, bias)
    }

    /// Builds the layer from existing tensors: `weight` `[outputs, inputs]`, `bias` `[outputs]`.
    ///
    /// # Errors
    /// When the shapes do not fit each other.
    pub fn from_tensors(weight: Tensor, bias: Tensor) -> Result<Self> {
        if bias.dims1()? != weight.dims2()?.0 {
            bail!("a linear layer with weight {:?} cannot have the bias {:?}", weight.shape(), bias.shape());
        }
        Ok(Self { weight, bias })
    }

    /// `[.., inputs]` -> `[.., outputs]`, in the type of `x`, which must be that of the weights.
    ///
    /// On a GPU, f32 factors are rounded to [`Precision::current`] and sums are f32.
    ///
    /// # Errors
    /// When the last dimension is not `inputs`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let rows = x.contiguous()?.reshape((x.elem_count() / self.weight.dim(1)?.max(1), self.weight.dim(1)?))?;
        if let Some(last) = shape.last_mut() {
            *last = self.weight.dim(0)?;
        }
        product(&rows, &self.weight.t()?)?.broadcast_add(&self.bias)?.reshape(shape)
    }

    /// `gelu(forward(x))`: the first half of a feed-forward layer.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_gelu(&self, x: &Tensor) -> Result<Tensor> {
        self.forward(x)?.gelu_erf()
    }
}

/// Data type of a GPU's products at `precision`.
pub(crate) fn gpu_dtype(precision: Precision) -> DType {
    match precision {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
        Precision::F16 => DType::F16,
    }
}

fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let half = gpu_dtype(Precision::current());
    if x.dtype() != DType::F32 || half == DType::F32 || x.device().is_cpu() {
        return matmul(x, weight);
    }
    x.to_dtype(half)?.matmul(&weight.to_dtype(half)?)?.to_dtype(DType::F32)
}

/// `a b`. candle has no bf16 on a CPU: factors go through f32 there. A GPU computes the same
/// (products and sums in f32, the result rounded), so that its path can be tested without one.
fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.device().is_cpu() && a.dtype() == DType::BF16 {
        return a.to_dtype(DType::F32)?.matmul(&b.to_dtype(DType::F32)?)?.to_dtype(DType::BF16);
    }
    a.matmul(b)
}

/// Layer norm over the last dimension.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// Factor of every column, `[width]`.
    pub weight: Tensor,
    /// Summand of every column, `[width]`.
    pub bias: Tensor,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// Builds the norm from `weight` and `bias` under `vb`; new ones begin as 1 and 0.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn new(width: usize, eps: f64, vb: VarBuilder) -> Result<Self> {
        let weight = vb.get_with_hints(width, "weight", Init::Const(1.0))?;
        let bias = vb.get_with_hints(width, "bias", Init::Const(0.0))?;
        Ok(Self { weight, bias, eps })
    }

    /// `[.., width]` -> the same shape and type; sums are f32.
    ///
    /// # Errors
    /// When the last dimension is not `width`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.dim(D::Minus1)? != self.weight.dim(0)? {
            bail!("a norm of width {} was given {:?}", self.weight.dim(0)?, x.shape());
        }
        if [x, &self.weight, &self.bias].iter().all(|t| !t.track_op()) {
            candle_nn::ops::layer_norm(&x.contiguous()?, &self.weight, &self.bias, self.eps as f32)
        } else {
            candle_nn::ops::layer_norm_slow(x, &self.weight, &self.bias, self.eps as f32)
        }
    }
}

/// Softmax over the last dimension.
///
/// # Errors
/// When candle fails.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    if x.track_op() {
        candle_nn::ops::softmax(x, D::Minus1)
    } else {
        candle_nn::ops::softmax_last_dim(&x.contiguous()?)
    }
}

/// L2-normalises the last dimension: `x / max(|x|, 1e-12)`, as the reference's `F.normalize`, with
/// the same gradient: for a row of zeros, the incoming gradient times 1e12. The floor is below the
/// root, whose own slope at 0 is infinite.
///
/// # Errors
/// When candle fails.
pub fn l2_normalize(x: &Tensor) -> Result<Tensor> {
    let squares = x.sqr()?.sum_keepdim(D::Minus1)?;
    x.broadcast_div(&squares.maximum(&squares.ones_like()?.affine(1e-24, 0.0)?)?.sqrt()?)
}

/// softmax(q kᵀ / sqrt(head width) + mask) v for every head.
///
/// `q` `[batch, queries, width]`, `k` and `v` `[batch, keys, width]` -> `[batch, queries, width]`,
/// of one type; head h owns columns `h * width / heads ..`. `dropout` acts on the probabilities.
///
/// # Errors
/// Shapes that do not fit each other.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    mask: Option<&Mask>,
    dropout: Option<&Dropout>,
) -> Result<Tensor> {
    weighted_values(attention_probs(q, k, heads, mask)?, v, dropout)
}

/// The second half of [`attention`]: probabilities `p` `[batch, heads, queries, keys]` and values
/// `v` `[batch, keys, width]` -> `[batch, queries, width]`.
///
/// # Errors
/// Shapes that do not fit each other.
pub(super) fn weighted_values(p: Tensor, v: &Tensor, dropout: Option<&Dropout>) -> Result<Tensor> {
    let ((batch, heads, _, keys), (value_batch, value_keys, width)) = (p.dims4()?, v.dims3()?);
    if (value_batch, value_keys) != (batch, keys) || !width.is_multiple_of(heads.max(1)) {
        bail!("values {:?} for probabilities {:?}", v.shape(), p.shape());
    }
    let p = match dropout {
        Some(dropout) => dropout.forward(&p)?,
        None => p,
    };
    matmul(&p, &split_heads(v, heads)?)?.transpose(1, 2)?.contiguous()?.flatten_from(2)
}

/// Attention probabilities alone, `[batch, heads, queries, keys]`.
///
/// # Errors
/// Shapes that do not fit each other.
pub fn attention_probs(q: &Tensor, k: &Tensor, heads: usize, mask: Option<&Mask>) -> Result<Tensor> {
    let ((batch, queries, width), (key_batch, keys, key_width)) = (q.dims3()?, k.dims3()?);
    let fits = heads > 0 && width.is_multiple_of(heads.max(1)) && (key_batch, key_width) == (batch, width);
    if !fits || mask.is_some_and(|m| m.keys != keys || m.lengths.len() != batch) {
        bail!("attention of {heads} heads: q {:?}, k {:?}, mask {mask:?}", q.shape(), k.shape());
    }
    let q = (split_heads(q, heads)? / ((width / heads) as f64).sqrt())?;
    let scores = matmul(&q, &split_heads(k, heads)?.t()?)?;
    match mask {
        Some(mask) => softmax(&scores.broadcast_add(&additive(mask, queries, &scores)?)?),
        None => softmax(&scores),
    }
}

/// Additive form of a mask, `[batch, 1, queries, keys]`: 0 or [`MASKED`].
fn additive(mask: &Mask, queries: usize, like: &Tensor) -> Result<Tensor> {
    let batch = mask.lengths.len();
    let mut values = Vec::with_capacity(batch * queries * mask.keys);
    for item in 0..batch {
        for i in 0..queries {
            let seen = mask.visible(item, i);
            values.extend((0..mask.keys).map(|j| if j < seen { 0.0 } else { MASKED }));
        }
    }
    Tensor::from_vec(values, (batch, 1, queries, mask.keys), like.device())?.to_dtype(like.dtype())
}

fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, n, d) = x.dims3()?;
    x.reshape((b, n, heads, d / heads))?.transpose(1, 2)?.contiguous()
}

/// Rows `ids` of `table` `[rows, width]` -> `[ids, width]`. The row `padding` gets no gradient, as
/// with PyTorch's `padding_idx`: without that rule the row of `[PAD]` drifts and the losses leave
/// the reference's after one step.
///
/// # Errors
/// An id beyond the table.
pub fn embedding(table: &Tensor, ids: &[u32], padding: u32) -> Result<Tensor> {
    let rows = table.dim(0)?;
    if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
        bail!("id {id} is beyond the {rows} rows of the embedding");
    }
    let index = Tensor::new(ids, table.device())?;
    if !table.track_op() {
        return table.index_select(&index, 0);
    }
    // A padded position reads the detached table, so that no gradient flows back from it.
    let live = index.ne(padding)?.to_dtype(table.dtype())?.unsqueeze(1)?;
    let padded = live.affine(-1.0, 1.0)?;
    let live = table.index_select(&index, 0)?.broadcast_mul(&live)?;
    live + table.detach().index_select(&index, 0)?.broadcast_mul(&padded)?
}
