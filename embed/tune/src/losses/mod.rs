//! CADA's losses on features and logits: the global loss over the whole batch, hard negatives, matching, words.
//!
//! Paper and authors' code differ; each form is an option and both are held against reference data. All ops have a
//! gradient.

mod global;
mod groups;
mod negatives;

use candle_core::{D, Result, Tensor};
use candle_nn::ops::log_softmax;

pub use global::{GlobalLoss, NdfVariant, cmpm, global_loss, ndf};
pub use groups::Groups;
pub use negatives::{HardNegative, Negatives, hard_negatives};

/// Mean cross-entropy of logits `[rows, 2]` against which of the rows match.
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

/// Mean cross-entropy of logits `[rows, words]` against the right word of each row.
///
/// # Errors
/// Not as many labels as rows, or a label beyond the words.
pub fn word_loss(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    candle_nn::loss::cross_entropy(logits, &Tensor::new(labels, logits.device())?)
}
