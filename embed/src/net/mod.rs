//! CADA's networks on the CPU: the one forward path of serving and training.
//!
//! Rows of a batch lie one behind the other without padding ([`Rows`]). Each sublayer ([`Layer`]) takes chunks of them
//! through all of its steps while they are in the second-level cache; where there are fewer chunks than threads, the
//! products are spread over the threads instead. Weights are packed once, when a layer is made. When serving, a sublayer
//! keeps nothing; the trainer asks it to save what its backward pass reads.
//!
//! Arithmetic is f32 in memory; products are in the [`crate::kernel::Precision`] the layers were made in.

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
pub use weights::{Named, WeightFile, WeightSource, required, save_tensors};
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

/// Where a residual sublayer has its norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// `x + branch(norm(x))`, as in ViT.
    Before,
    /// `norm(x + branch(x))`, as in BERT.
    After,
}

/// What counts as looking at a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookBy {
    /// The probability of attention, mean over heads.
    Probability,
    /// The length of what the patch adds to the token: of the sum over heads of probability times value, projected
    /// (Kobayashi et al. 2020, "Attention is not only a weight", equation 8).
    Contribution,
}

/// What cross-attention attends to.
#[derive(Clone, Copy, Debug)]
pub struct Other<'a> {
    /// Its rows.
    pub rows: &'a Rows,
    /// Their numbers.
    pub values: &'a [f32],
}

/// A sublayer.
#[derive(Debug)]
pub enum Layer {
    /// Self- or cross-attention with residual and norm.
    Attention(Attention),
    /// Two linear layers with GELU between them, residual and norm.
    FeedForward(FeedForward),
    /// A norm alone.
    Norm(Norm),
}

/// What a sublayer saved for its backward pass.
#[derive(Debug)]
pub enum Saved {
    /// Of [`Layer::Attention`].
    Attention(AttentionSaved),
    /// Of [`Layer::FeedForward`].
    FeedForward(FeedForwardSaved),
    /// A norm saves nothing.
    Norm,
}

impl Layer {
    /// `x` through the sublayer; what the backward pass reads is there when `save` is.
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

/// `x` through `layers`, first to last, keeping nothing.
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
