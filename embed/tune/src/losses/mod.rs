//! CADA's losses on features and logits: global loss, hard negatives, matching and words
//! (specification, section 4).
//!
//! The paper and the authors' code differ; both variants are options, and tests compare both with
//! reference data. All losses are differentiable.

mod global;
mod groups;
mod negatives;
mod truth;

use candle_core::{D, Result, Tensor};
use candle_nn::ops::log_softmax;

pub use global::{GlobalLoss, MatchTargets, NdfVariant, cmpm, global_loss, ndf, ndf_to};
pub use groups::Groups;
pub use negatives::{HardNegative, Negatives, hard_negatives};
pub use truth::{PhraseTruth, TruthHead};

/// Mean cross-entropy of logits `[rows, 2]` (no match, match), f32, against the labels `is_match`:
/// a scalar f32 in nats.
///
/// # Errors
/// When candle fails.
pub fn match_loss(logits: &Tensor, is_match: &[bool]) -> Result<Tensor> {
    let rows = is_match.len();
    let mut pick = vec![0f32; rows * 2];
    for (pair, matched) in pick.chunks_exact_mut(2).zip(is_match) {
        pair[usize::from(*matched)] = -1.0 / rows.max(1) as f32;
    }
    let pick = Tensor::from_vec(pick, (rows, 2), logits.device())?;
    (log_softmax(logits, D::Minus1)? * pick)?.sum_all()
}

/// Mean cross-entropy of logits `[rows, vocabulary]`, f32, against the word id of each row: a
/// scalar f32 in nats.
///
/// # Errors
/// A number of labels other than the rows, or a label outside the vocabulary.
pub fn word_loss(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    candle_nn::loss::cross_entropy(logits, &Tensor::new(labels, logits.device())?)
}
