//! The layers CADA is made of, fast on CPU in both directions.
//!
//! candle's own fused ops (`softmax_last_dim`, `LayerNorm::forward`, flash attention) detach silently from autograd and
//! its composite ones walk memory many times, so training and inference here share custom ops that have a backward.
//! On any other device than the CPU, and for tensors in half precision on any device, every op falls back to candle's own,
//! which say the same with more kernels; those that detach are used only where no gradient is asked for.
//!
//! Our own arithmetic is f32. Threads come from rayon, whose workers sleep when idle: spinning pools starve the video
//! decoders that run beside us.

mod attention;
mod buffer;
mod dropout;
mod elementwise;
mod embedding;
mod gemm;
mod grads;
mod inputs;
mod linear;
mod norm;
mod packed;
pub(crate) mod simd;
mod small;
mod stack;

pub use attention::{MASKED, Mask, attention, attention_probs, self_attention};
pub use dropout::Dropout;
pub use elementwise::{gelu, softmax};
pub use embedding::{embedding, scatter_rows};
pub use grads::backward;
pub use inputs::{class_and_positions, patches, text_input};
pub use linear::Linear;
pub use norm::LayerNorm;
pub use packed::{pack, unpack};
pub use stack::{Attend, Feed, Layer, Place, stack, stack_packed, trains};

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, bail};

/// Whether our own ops serve `x`: on the CPU, in f32.
fn ours(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// `a b` by candle. Its CPU side knows no bf16: factors go through f32 there, which is what a GPU makes of them (products
/// and sums in f32, the result rounded), so that its path can be checked without one.
fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.device().is_cpu() && a.dtype() == DType::BF16 {
        return a.to_dtype(DType::F32)?.matmul(&b.to_dtype(DType::F32)?)?.to_dtype(DType::BF16);
    }
    a.matmul(b)
}

/// The f32 values behind a contiguous layout.
fn contiguous<'a>(op: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("{op} needs a contiguous tensor"),
    }
}

/// What `f` makes of the numbers of a contiguous f32 tensor on the CPU.
pub(crate) fn with_values<R>(x: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(s) => Ok(f(contiguous("reading", s, layout)?)),
        _ => bail!("only a tensor on the CPU can be read in place"),
    }
}

/// A copy of them.
fn values(x: &Tensor) -> Result<Vec<f32>> {
    with_values(x, <[f32]>::to_vec)
}

/// `x` of shape `[.., d]` as a contiguous matrix `[rows, d]`.
fn as_rows(x: &Tensor) -> Result<Tensor> {
    let d = x.dim(candle_core::D::Minus1)?;
    x.contiguous()?.reshape((x.elem_count() / d.max(1), d))
}

/// L2-normalises the last dimension: `x / max(|x|, 1e-12)`, as the reference's `F.normalize`, and with its gradient: that
/// of a row of zeros is the outer one times 1e12. The floor is below the root, whose own slope at 0 is infinite.
///
/// # Errors
/// When candle fails.
pub fn l2_normalize(x: &Tensor) -> Result<Tensor> {
    let squares = x.sqr()?.sum_keepdim(candle_core::D::Minus1)?;
    x.broadcast_div(&squares.maximum(&squares.ones_like()?.affine(1e-24, 0.0)?)?.sqrt()?)
}
