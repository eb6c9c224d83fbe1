//! The head that predicts masked words (ARA; paper, section 3.4), as a model folder keeps it: what it is, in `config.json`, and
//! its weights, in a file of their own, so that whatever happens to it leaves the embedding space, and what was indexed, alone.

use serde::{Deserialize, Serialize};

/// File of a model folder's word head.
pub const WORD_HEAD: &str = "word-head.safetensors";

/// Prefix of its tensors, under the reference's names.
pub const WORD_HEAD_PREFIX: &str = "text_decoder.";

/// Which transformer predicts masked words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WordPredictor {
    /// None: no words are predicted.
    #[default]
    None,
    /// A second transformer of its own, as in the authors' code.
    Own,
    /// The text encoder's weights with a cross-attention of its own, as in the paper.
    Shared,
    /// The text encoder as it is, cross-attention included (as in ALBEF, Li et al. 2021): what word prediction learns
    /// about where to look serves matching too.
    Tied,
}

/// What a model folder says of its word head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WordHead {
    /// The transformer under it. Those that are not tied hold a transformer in memory a second time.
    pub predictor: WordPredictor,
    /// Each word sees only those before it, as it was trained (the authors' code).
    #[serde(default)]
    pub causal: bool,
}

impl WordHead {
    /// Whether it can be built.
    pub(super) fn check(self) -> Result<(), String> {
        match self.predictor {
            WordPredictor::None => Err("word_head.predictor is none: leave word_head out".into()),
            _ => Ok(()),
        }
    }
}
