//! Captions to token ids for training: the model's own cleaning and WordPiece.

use anyhow::{Result, anyhow};
use tokenizers::Tokenizer;

/// Tokenizer of a model folder, without padding.
pub struct Texts {
    tokenizer: Tokenizer,
    max_len: usize,
}

/// The reference's cleaning: lower case, some punctuation to spaces, at most 72 words.
pub fn clean(text: &str) -> String {
    let spaced: String = text.to_lowercase().chars().map(|c| if ".!\"()*#:;~".contains(c) { ' ' } else { c }).collect();
    spaced.split_whitespace().take(72).collect::<Vec<_>>().join(" ")
}

impl Texts {
    /// From the bytes of tokenizer.json.
    ///
    /// # Errors
    /// Bytes that are no tokenizer.
    pub fn new(json: &[u8], max_len: usize) -> Result<Self> {
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(|e| anyhow!("tokenizer.json: {e}"))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| anyhow!("tokenizer.json: {e}"))?;
        Ok(Self { tokenizer, max_len })
    }

    /// Ids with [CLS] and [SEP], at most the model's length.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode(clean(text), true).map_err(|e| anyhow!("{text:?}: {e}"))?;
        let mut ids = encoding.get_ids().to_vec();
        if ids.len() > self.max_len {
            let end = ids[ids.len() - 1];
            ids.truncate(self.max_len - 1);
            ids.push(end);
        }
        Ok(ids)
    }
}
