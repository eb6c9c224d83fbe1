//! Token batch: texts of different lengths, padded to one length.

use std::ops::Range;

use crate::net::{Mask, ShapeError};

/// Token ids `[batch, tokens]`, right-padded, with the true length of every text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    ids: Vec<u32>,
    lengths: Vec<usize>,
    tokens: usize,
    /// Whether layers must compute the padding like words, see [`TokenBatch::padded`].
    padding_counts: bool,
}

impl TokenBatch {
    /// Pads `texts` (ids without padding) with `pad` to the longest of them, or to `tokens` when
    /// given (longer texts are then cut). An empty text becomes one padding token that attends to
    /// itself.
    pub fn new<T: AsRef<[u32]>>(texts: &[T], pad: u32, tokens: Option<usize>) -> Self {
        let longest = texts.iter().map(|t| t.as_ref().len()).max().unwrap_or(0);
        let tokens = tokens.unwrap_or(longest).max(1);
        let mut ids = Vec::with_capacity(texts.len() * tokens);
        let mut lengths = Vec::with_capacity(texts.len());
        for text in texts {
            let text = text.as_ref();
            let text = &text[..text.len().min(tokens)];
            ids.extend_from_slice(text);
            ids.resize(ids.len() + tokens - text.len(), pad);
            lengths.push(text.len().max(1));
        }
        Self { ids, lengths, tokens, padding_counts: false }
    }

    /// All ids, row by row.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// True length of every text.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Number of texts.
    pub fn batch(&self) -> usize {
        self.lengths.len()
    }

    /// Padded length in tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The same texts with `id` in position 0; `[ENC]` there makes a fused pass.
    pub fn with_first(&self, id: u32) -> Self {
        let mut batch = self.clone();
        batch.ids.iter_mut().step_by(self.tokens).for_each(|first| *first = id);
        batch
    }

    /// The same texts with `id` at `places`, counted over the whole batch (row * tokens +
    /// position).
    ///
    /// # Panics
    /// When a place is beyond the batch.
    pub fn with_replaced(&self, places: &[u32], id: u32) -> Self {
        let mut batch = self.clone();
        places.iter().for_each(|&place| batch.ids[place as usize] = id);
        batch
    }

    /// The same texts padded with `pad` to at least `tokens`; layers compute this padding like
    /// words.
    pub fn padded(&self, tokens: usize, pad: u32) -> Self {
        let tokens = tokens.max(self.tokens);
        let mut ids = Vec::with_capacity(self.batch() * tokens);
        for text in self.ids.chunks_exact(self.tokens) {
            ids.extend_from_slice(text);
            ids.resize(ids.len() + tokens - self.tokens, pad);
        }
        Self { ids, lengths: self.lengths.clone(), tokens, padding_counts: true }
    }

    /// The texts `rows`, in that order; repetitions are allowed, so that pairs can be built.
    pub fn select(&self, rows: &[usize]) -> Self {
        let ids = rows.iter().flat_map(|r| &self.ids[r * self.tokens..][..self.tokens]).copied().collect();
        Self {
            ids,
            lengths: rows.iter().map(|r| self.lengths[*r]).collect(),
            tokens: self.tokens,
            padding_counts: self.padding_counts,
        }
    }

    /// Checks that each of `ranges` holds at least one token, and in every text true tokens only.
    ///
    /// # Errors
    /// The first range that is empty or reaches beyond a text, into its padding or further.
    pub fn check_ranges(&self, ranges: &[Range<usize>]) -> Result<(), ShapeError> {
        for range in ranges {
            if range.is_empty() {
                return Err(ShapeError(format!("tokens {range:?}: the range is empty")));
            }
            if let Some(length) = self.lengths.iter().find(|length| range.end > **length) {
                return Err(ShapeError(format!("tokens {range:?} of a text of {length}")));
            }
        }
        Ok(())
    }

    /// Whether layers may skip the rows of padding.
    pub fn may_pack(&self) -> bool {
        !self.padding_counts && self.lengths.iter().any(|l| *l < self.tokens)
    }

    /// Mask of self-attention; with `causal` a token sees none after itself.
    pub fn mask(&self, causal: bool) -> Mask {
        Mask::new(&self.lengths, self.tokens, causal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_cuts_replaces_and_selects() {
        let b = TokenBatch::new(&[vec![1, 2, 3], vec![4]], 0, None);
        assert_eq!((b.ids(), b.lengths(), b.tokens()), (&[1, 2, 3, 4, 0, 0][..], &[3, 1][..], 3));
        assert_eq!(b.with_first(9).ids(), &[9, 2, 3, 9, 0, 0]);
        let s = b.select(&[1, 1, 0]);
        assert_eq!((s.ids(), s.lengths()), (&[4, 0, 0, 4, 0, 0, 1, 2, 3][..], &[1, 1, 3][..]));
        assert_eq!(b.with_replaced(&[1, 3], 7).ids(), &[1, 7, 3, 7, 0, 0]);
        let p = b.padded(4, 0);
        assert_eq!((p.ids(), p.lengths(), p.tokens()), (&[1, 2, 3, 0, 4, 0, 0, 0][..], &[3, 1][..], 4));
        assert_eq!(b.padded(2, 0).ids(), b.ids());
        assert!(b.may_pack() && !p.may_pack() && !p.select(&[1]).may_pack());
        let cut = TokenBatch::new(&[vec![1, 2, 3]], 0, Some(2));
        assert_eq!((cut.ids(), cut.lengths()), (&[1, 2][..], &[2][..]));
    }

    #[test]
    fn ranges_hold_true_tokens_of_every_text() {
        let b = TokenBatch::new(&[vec![1, 2, 3, 4, 5], vec![1, 2, 3]], 0, None);
        for batch in [b.padded(9, 0), b] {
            assert_eq!(batch.check_ranges(&[]), Ok(()));
            assert_eq!(batch.check_ranges(&[0..1, 1..3]), Ok(()));
            for wrong in [0..0, 2..2, 1..4, 4..5, 1..6] {
                let e = batch.check_ranges(&[0..1, wrong.clone()]).expect_err("refused").to_string();
                assert!(e.contains(&format!("{wrong:?}")), "{e}");
            }
        }
    }
}
