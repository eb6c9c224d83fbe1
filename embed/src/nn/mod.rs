//! The layers CADA is made of, fast on CPU in both directions.
//!
//! candle's own fused ops (`softmax_last_dim`, `LayerNorm::forward`, flash attention) detach silently from autograd and
//! its composite ones walk memory many times, so training and inference here share custom ops that have a backward.
//! On any other device than the CPU every op falls back to candle's composite, which says the same with more kernels.
//!
//! All arithmetic is f32. Threads come from rayon, whose workers sleep when idle: spinning pools starve the video
//! decoders that run beside us.

mod attention;
mod dropout;
mod elementwise;
mod embedding;
mod gemm;
mod linear;
mod norm;
mod simd;

pub use attention::{MASKED, Mask, attention, attention_probs, self_attention};
pub use dropout::Dropout;
pub use elementwise::{gelu, softmax};
pub use embedding::{embedding, scatter_rows};
pub use linear::Linear;
pub use norm::LayerNorm;

use candle_core::{CpuStorage, Layout, Result, Tensor, bail};

/// The f32 values behind a contiguous layout.
fn contiguous<'a>(op: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("{op} needs a contiguous tensor"),
    }
}

/// `x` of shape `[.., d]` as a contiguous matrix `[rows, d]`.
fn as_rows(x: &Tensor) -> Result<Tensor> {
    let d = x.dim(candle_core::D::Minus1)?;
    x.contiguous()?.reshape((x.elem_count() / d.max(1), d))
}

/// L2-normalises the last dimension: `x / max(|x|, 1e-12)`, as the reference's `F.normalize`.
///
/// # Errors
/// When candle fails.
pub fn l2_normalize(x: &Tensor) -> Result<Tensor> {
    let norm = x.sqr()?.sum_keepdim(candle_core::D::Minus1)?.sqrt()?;
    x.broadcast_div(&norm.maximum(&norm.ones_like()?.affine(1e-12, 0.0)?)?)
}
