//! WordPiece tokenizer: the model folder's `tokenizer.json`, checked against the architecture.

use std::ops::Range;
use std::path::Path;

use tokenizers::{Encoding, Tokenizer};

use super::clean;
use crate::EmbedError;
use crate::model::Architecture;

/// A cleaned and tokenised text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caption {
    /// The cleaned text.
    pub text: String,
    /// `[CLS]`, word pieces, `[SEP]`; no padding.
    pub ids: Vec<u32>,
    /// Whether words or word pieces were cut off.
    pub truncated: bool,
    /// Number of pieces that are known words (letters or digits), not `[UNK]`.
    pub words: usize,
}

fn failed(text: &str, e: tokenizers::Error) -> EmbedError {
    EmbedError::Tokenizer { path: "tokenizer.json".into(), message: format!("cannot encode {text:?}: {e}") }
}

/// Turns captions and queries into ids.
#[derive(Clone, Debug)]
pub struct CaptionTokenizer {
    inner: Tokenizer,
    max_len: usize,
    cls: u32,
    sep: u32,
    mask: u32,
    unk: u32,
}

/// Range of the word pieces that lie at `bytes` of a text; `None` if none does. `pieces` are the
/// byte ranges that [`CaptionTokenizer::encode_with_offsets`] gives.
pub fn pieces_at(pieces: &[Range<usize>], bytes: &Range<usize>) -> Option<Range<usize>> {
    let inside = |p: &Range<usize>| p.start < p.end && p.start < bytes.end && bytes.start < p.end;
    Some(pieces.iter().position(inside)?..pieces.iter().rposition(inside)? + 1)
}

impl CaptionTokenizer {
    /// Reads `tokenizer.json` and checks that its special tokens have the ids of `arch`.
    ///
    /// # Errors
    /// An unreadable file, or special tokens or a size that `arch` does not have.
    pub fn load(path: &Path, arch: &Architecture) -> Result<Self, EmbedError> {
        let bad = |message: String| EmbedError::Tokenizer { path: path.to_owned(), message };
        let mut inner = Tokenizer::from_file(path).map_err(|e| bad(e.to_string()))?;
        let special = [
            ("[PAD]", arch.pad_token_id),
            ("[UNK]", arch.unk_token_id),
            ("[CLS]", arch.cls_token_id),
            ("[SEP]", arch.sep_token_id),
            ("[MASK]", arch.mask_token_id),
            ("[ENC]", arch.enc_token_id),
        ];
        for (token, id) in special {
            if inner.token_to_id(token) != Some(id) {
                let found = inner.token_to_id(token);
                return Err(bad(format!("{token} should have id {id} (config.json), it has {found:?}")));
            }
        }
        let size = inner.get_vocab_size(true);
        if size > arch.vocab_size {
            return Err(bad(format!("it has {size} entries, the model's vocab_size is {}", arch.vocab_size)));
        }
        // Truncation and padding are done here and in batches, because callers need to know about a
        // cut.
        inner.with_truncation(None).map_err(|e| bad(e.to_string()))?;
        inner.with_padding(None);
        Ok(Self {
            inner,
            max_len: arch.max_text_len,
            cls: arch.cls_token_id,
            sep: arch.sep_token_id,
            mask: arch.mask_token_id,
            unk: arch.unk_token_id,
        })
    }

    /// Cleans and tokenises; at most `max_text_len` ids, the last of them `[SEP]`.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode(&self, raw: &str) -> Result<Caption, EmbedError> {
        let (text, truncated) = clean(raw);
        let encoding = self.inner.encode_fast(text.as_str(), true).map_err(|e| failed(&text, e))?;
        Ok(self.caption(text, &encoding, truncated))
    }

    /// Ids of each of `texts`, as [`CaptionTokenizer::encode`] gives them.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn ids(&self, texts: &[String]) -> Result<Vec<Vec<u32>>, EmbedError> {
        texts.iter().map(|text| Ok(self.encode(text)?.ids)).collect()
    }

    /// [`CaptionTokenizer::encode`] with the byte range of every id in the cleaned text; empty for
    /// `[CLS]` and `[SEP]`.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode_with_offsets(&self, raw: &str) -> Result<(Caption, Vec<Range<usize>>), EmbedError> {
        let (text, truncated) = clean(raw);
        let encoding = self.inner.encode(text.as_str(), true).map_err(|e| failed(&text, e))?;
        let mut offsets: Vec<Range<usize>> = encoding.get_offsets().iter().map(|&(from, to)| from..to).collect();
        let caption = self.caption(text, &encoding, truncated);
        offsets.truncate(caption.ids.len());
        for end in [0, caption.ids.len().saturating_sub(1)] {
            if let Some(offset) = offsets.get_mut(end) {
                *offset = 0..0;
            }
        }
        Ok((caption, offsets))
    }

    /// Ids of `template` from `[CLS]` to `[SEP]`, with `[MASK]` for each `mask` in it (upper and
    /// lower case are the same), and the positions of the masks among the ids. The text between
    /// masks is cleaned like a caption.
    ///
    /// # Errors
    /// [`EmbedError::Template`] without a mask, or when the template is longer than the model
    /// reads.
    pub fn encode_template(&self, template: &str, mask: &str) -> Result<(Vec<u32>, Vec<usize>), EmbedError> {
        let (lower, mask) = (template.to_ascii_lowercase(), mask.to_ascii_lowercase());
        let (mut ids, mut masked, mut truncated) = (vec![self.cls], Vec::new(), false);
        for (i, part) in lower.split(mask.as_str()).enumerate() {
            if i > 0 {
                masked.push(ids.len());
                ids.push(self.mask);
            }
            let (text, cut) = clean(part);
            let encoding = self.inner.encode_fast(text.as_str(), false).map_err(|e| failed(&text, e))?;
            ids.extend_from_slice(encoding.get_ids());
            truncated |= cut;
        }
        ids.push(self.sep);
        let wrong = |message: String| EmbedError::Template { template: template.to_owned(), message };
        if masked.is_empty() {
            return Err(wrong(format!("it has no {}", mask.to_uppercase())));
        }
        if truncated || ids.len() > self.max_len {
            return Err(wrong(format!("it is longer than the model reads, {} word pieces", self.max_len)));
        }
        Ok((ids, masked))
    }

    fn caption(&self, text: String, encoding: &Encoding, mut truncated: bool) -> Caption {
        let mut ids = encoding.get_ids().to_vec();
        if ids.len() > self.max_len {
            ids.truncate(self.max_len - 1);
            ids.push(self.sep);
            truncated = true;
        }
        let pieces = ids.get(1..ids.len().saturating_sub(1)).unwrap_or_default();
        let words = pieces.iter().filter(|id| self.is_word(**id)).count();
        Caption { text, ids, truncated, words }
    }

    /// [`CaptionTokenizer::encode`] for a query.
    ///
    /// # Errors
    /// [`EmbedError::EmptyQuery`] when no known word is left: nothing, punctuation only, emoji
    /// only.
    pub fn encode_query(&self, raw: &str) -> Result<Caption, EmbedError> {
        let caption = self.encode(raw)?;
        if caption.words == 0 { Err(EmbedError::EmptyQuery) } else { Ok(caption) }
    }

    /// Id of a word piece, for tests and tools.
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.inner.token_to_id(piece)
    }

    /// The word piece of an id.
    pub fn piece(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    fn is_word(&self, id: u32) -> bool {
        id != self.unk && self.inner.id_to_token(id).is_some_and(|t| t.chars().any(char::is_alphanumeric))
    }
}
