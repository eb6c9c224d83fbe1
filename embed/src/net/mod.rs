//! CADA's networks on the CPU: the one forward path of serving and training.
//!
//! Rows of a batch lie one after the other without padding ([`Rows`]). Each sublayer ([`Layer`])
//! takes a chunk of rows through all of its steps while the chunk is in the second-level cache;
//! with fewer chunks than threads, the products are spread over the threads instead. Weights are
//! packed once, when a layer is built. In serving a sublayer saves nothing; the trainer asks it to
//! save the intermediates that its backward pass reads.
//!
//! Tensors are f32 in memory; products are in the [`crate::kernel::Precision`] that the layers were
//! built with.

mod attention;
mod backbone;
mod bert;
mod cada;
mod chunks;
mod dense;
mod feed_forward;
mod rows;
mod vit;
mod weights;
mod words;

pub use attention::{Attention, AttentionPlan, AttentionSaved};
pub use backbone::BackboneNet;
pub use bert::Bert;
pub use cada::Cada;
pub use chunks::{pieces, pieces_mut, rows_per_chunk};
pub use dense::{Dense, Norm};
pub use feed_forward::{FeedForward, FeedForwardSaved};
pub use rows::{Mask, Rows};
pub use vit::Vit;
pub(crate) use weights::to_f32;
pub use weights::{PrefixedWeights, WeightFile, WeightSource, required, save_tensors};
pub use words::WordNet;

use crate::kernel::{Buffer, KernelError};

/// Rows or weights that do not fit each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ShapeError(pub String);

impl From<KernelError> for ShapeError {
    fn from(error: KernelError) -> Self {
        Self(error.to_string())
    }
}

/// Position of the norm in a residual sublayer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// `x + branch(norm(x))`, as in ViT.
    Before,
    /// `norm(x + branch(x))`, as in BERT.
    After,
}

/// Measure of how much a token attends to a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMeasure {
    /// Attention probability, mean over heads.
    Probability,
    /// Length of the vector that the patch adds to the token: the sum over heads of probability
    /// times value, projected (Kobayashi et al. 2020, "Attention is not only a weight", equation
    /// 8).
    Contribution,
}

/// Other side of cross-attention: the rows that it attends to.
#[derive(Clone, Copy, Debug)]
pub struct Other<'a> {
    /// Layout of the rows.
    pub rows: &'a Rows,
    /// Numbers of all rows.
    pub values: &'a [f32],
}

/// Sublayer of a transformer.
#[derive(Debug)]
pub enum Layer {
    /// Self- or cross-attention with residual and norm.
    Attention(Attention),
    /// Two linear layers with GELU between them, residual and norm.
    FeedForward(FeedForward),
    /// A norm alone.
    Norm(Norm),
}

/// Intermediates that a sublayer saved for its backward pass.
#[derive(Debug)]
pub enum Saved {
    /// Saved by [`Layer::Attention`].
    Attention(AttentionSaved),
    /// Saved by [`Layer::FeedForward`].
    FeedForward(FeedForwardSaved),
    /// A norm saves nothing.
    Norm,
}

impl Layer {
    /// Passes `x` through the sublayer; with `save` it also returns the intermediates that the
    /// backward pass reads.
    ///
    /// `other` is what cross-attention attends to; `mask` is self-attention's.
    ///
    /// # Errors
    /// Rows that do not fit.
    pub fn forward(
        &self,
        at: &Rows,
        x: &[f32],
        other: Option<Other<'_>>,
        mask: Option<&Mask>,
        save: bool,
    ) -> Result<(Buffer, Option<Saved>), ShapeError> {
        match self {
            Self::Attention(layer) => {
                let mask = mask.filter(|_| layer.other.is_none());
                let (y, saved) = layer.forward(at, x, other, mask, save)?;
                Ok((y, saved.map(Saved::Attention)))
            }
            Self::FeedForward(layer) => {
                let (y, saved) = layer.forward(at, x, save)?;
                Ok((y, saved.map(Saved::FeedForward)))
            }
            Self::Norm(norm) => {
                norm.check(at.width)?;
                let mut y = Buffer::take(at.numbers());
                norm.forward_all(x, &mut y);
                Ok((y, save.then_some(Saved::Norm)))
            }
        }
    }
}

/// Passes `x` through `layers`, first to last, and saves nothing.
///
/// # Errors
/// Rows that do not fit.
pub(crate) fn forward<'a>(
    layers: impl IntoIterator<Item = &'a Layer>,
    at: &Rows,
    x: Buffer,
    other: Option<Other<'_>>,
    mask: Option<&Mask>,
) -> Result<Buffer, ShapeError> {
    if x.len() != at.numbers() {
        return Err(ShapeError(format!("{} numbers are not the rows of {at:?}", x.len())));
    }
    layers.into_iter().try_fold(x, |x, layer| Ok(layer.forward(at, &x, other, mask, false)?.0))
}
