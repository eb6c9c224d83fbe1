//! Head that predicts masked words (ARA; paper, section 3.4), as a model folder stores it: its kind
//! in `config.json`, its weights in a file of their own. With a separate file, a change of the head
//! leaves the embedding space, and with it the index, as they are.

use serde::{Deserialize, Serialize};

/// File name of the word head in a model folder.
pub const WORD_HEAD: &str = "word-head.safetensors";

/// Prefix of the head's tensor names, as in the reference.
pub const WORD_HEAD_PREFIX: &str = "text_decoder.";

/// Transformer that predicts masked words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WordPredictor {
    /// No transformer: words are not predicted.
    #[default]
    None,
    /// A second, separate transformer, as in the authors' code.
    Own,
    /// The text encoder's weights with separate cross-attention, as in the paper.
    Shared,
    /// The text encoder itself, cross-attention included (as in ALBEF, Li et al. 2021), so that
    /// matching profits from the attention that word prediction learns.
    Tied,
}

/// Description of the word head in `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WordHead {
    /// Transformer under the head. `Own` and `Shared` keep a second transformer in memory.
    pub predictor: WordPredictor,
    /// Whether each token attends only to itself and the tokens before it, as the head was trained
    /// (the authors' code).
    #[serde(default)]
    pub causal: bool,
}

impl WordHead {
    /// Checks that the head can be built.
    pub(super) fn check(self) -> Result<(), String> {
        match self.predictor {
            WordPredictor::None => Err("word_head.predictor is none: leave word_head out".into()),
            _ => Ok(()),
        }
    }
}
