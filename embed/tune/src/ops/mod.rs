//! CADA's layers with a backward pass, fast on a CPU.
//!
//! The forward pass of a stack of layers is the one used in serving ([`sightline_embed::net`]).
//! Here it also saves what the backward pass reads, and is one node of candle's graph. Embeddings,
//! patches and heads are separate small ops. On any other device, and with dropout, [`network`]
//! uses candle's plain graph ([`sightline_embed::graph`]) instead.

mod attention;
mod dense;
mod feed_forward;
mod grads;
mod inputs;
mod linear;
pub mod network;
mod padding;
mod stack;

pub use grads::backward;
pub use inputs::{class_and_positions, patches, text_input};
pub use linear::linear;
pub use padding::{drop_padding, restore_padding};
pub use stack::{Sublayer, stack, stack_without_padding};

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, bail};

/// Whether the ops of this module support `x`: f32 on the CPU.
fn is_supported(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// The f32 values behind a contiguous layout.
fn contiguous<'a>(op: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("{op} needs a contiguous tensor"),
    }
}

/// Calls `f` with the values of a contiguous f32 tensor on the CPU.
///
/// # Errors
/// A tensor on another device, of another type or not contiguous.
pub fn with_values<R>(x: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(s) => Ok(f(contiguous("reading", s, layout)?)),
        _ => bail!("only a tensor on the CPU can be read in place"),
    }
}

/// A copy of the values of a contiguous f32 tensor on the CPU.
fn values(x: &Tensor) -> Result<Vec<f32>> {
    with_values(x, <[f32]>::to_vec)
}

/// `x` of shape `[.., d]` as a contiguous matrix `[rows, d]`.
fn as_rows(x: &Tensor) -> Result<Tensor> {
    let d = x.dim(candle_core::D::Minus1)?;
    x.contiguous()?.reshape((x.elem_count() / d.max(1), d))
}
