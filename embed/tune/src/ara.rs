//! ARA, masked attribute modelling (specification, section 4): the decoder predicts masked
//! attribute words of a caption from its other words and from the picture.
//!
//! Masks depend on the seed and the step alone. Vocabulary scores, the most expensive part, are
//! computed for masked positions only, about a tenth of all.

use candle_core::{Result, Tensor, bail};
use rand::Rng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::losses::word_loss;
use crate::ops::network;
use crate::streams;
use sightline_embed::graph::Dropout;
use sightline_embed::graph::{Cada, Pass, WordPredictor};
use sightline_embed::model::{Architecture, TokenBatch};
use sightline_embed::text::phrases::Spans;
use sightline_figures::stream;

/// Unit of masking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Masking {
    /// Masks whole attribute phrases `[adj]...[noun]`, at least one in each text that has any (the
    /// paper).
    Phrase,
    /// Masks each word piece of adjectives and nouns independently (the authors' code).
    Word,
}

/// Settings of the ARA loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ara {
    /// First step that adds this loss.
    pub from: usize,
    /// Number of pairs per batch that the loss uses, counted from the first; `None` uses all.
    pub pairs: Option<usize>,
    /// Unit of masking: whole phrases or single word pieces.
    pub masking: Masking,
    /// Probability that a phrase or word piece is masked: 0.8 in the paper, 0.4 in the authors'
    /// code.
    pub probability: f32,
    /// Causal self-attention: each word sees only the words before it (the authors' code).
    pub causal: bool,
    /// Transformer that predicts the masked words.
    pub decoder: WordPredictor,
    /// Allows `[SEP]` to be masked too, which repeats a mistake of the authors' code.
    pub mask_sep: bool,
    /// Weight in the total loss; 0.1 in the paper.
    pub weight: f64,
}

/// Texts with masked word pieces, and the pieces that were masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskedTexts {
    /// The texts, with `[MASK]` in place of the masked pieces.
    pub tokens: TokenBatch,
    /// Masked positions in ascending order, counted over the whole batch (row * tokens + position).
    pub positions: Vec<u32>,
    /// Id of the masked piece at each of `positions`.
    pub labels: Vec<u32>,
}

impl Ara {
    /// Masks words of the first `pairs` texts of a batch.
    pub fn mask(
        &self,
        tokens: &TokenBatch,
        spans: &[Spans],
        arch: &Architecture,
        seed: u64,
        step: usize,
    ) -> MaskedTexts {
        let n = self.pairs.unwrap_or(usize::MAX).min(tokens.batch()).min(spans.len());
        let tokens = tokens.select(&(0..n).collect::<Vec<_>>());
        let mut rng = stream(seed, streams::ARA_MASKS, step as u64);
        let mut positions = Vec::new();
        for (row, spans) in spans.iter().take(n).enumerate() {
            let length = tokens.lengths()[row].min(tokens.tokens());
            let hidden = self.positions_to_mask(spans, length, &mut rng);
            positions.extend(hidden.into_iter().map(|i| (row * tokens.tokens() + i) as u32));
        }
        let labels = positions.iter().map(|&position| tokens.ids()[position as usize]).collect();
        MaskedTexts { tokens: tokens.with_replaced(&positions, arch.mask_token_id), positions, labels }
    }

    /// Positions to mask in a text of `length` ids, ascending.
    fn positions_to_mask(&self, spans: &Spans, length: usize, rng: &mut StdRng) -> Vec<usize> {
        let mut drawn = |n: usize| (0..n).map(|_| rng.random::<f32>() < self.probability).collect::<Vec<_>>();
        let mut hidden: Vec<usize> = match self.masking {
            Masking::Phrase => {
                let mut take = drawn(spans.phrases.len());
                if !take.is_empty() && !take.contains(&true) {
                    let one = rng.random_range(0..take.len());
                    take[one] = true;
                }
                let taken = spans.phrases.iter().zip(take).filter(|(_, take)| *take);
                taken.flat_map(|(phrase, _)| phrase.clone()).collect()
            }
            Masking::Word => {
                let sep = self.mask_sep.then(|| length.saturating_sub(1));
                let candidates: Vec<usize> = spans.words.iter().copied().chain(sep).collect();
                let take = drawn(candidates.len());
                candidates.into_iter().zip(take).filter(|(_, take)| *take).map(|(i, _)| i).collect()
            }
        };
        hidden.retain(|&i| i > 0 && i < length);
        hidden
    }

    /// Mean cross-entropy in nats of the masked words, a scalar f32. `images` are the batch's patch
    /// features `[B, 1 + patches, vision width]`, f32. `None` when no word is masked.
    ///
    /// # Errors
    /// A model without a word predictor.
    pub fn loss(
        &self,
        model: &Cada,
        images: &Tensor,
        masked: &MaskedTexts,
        dropout: Option<&Dropout>,
    ) -> Result<Option<Tensor>> {
        if masked.positions.is_empty() {
            return Ok(None);
        }
        let Some(decoder) = &model.text_decoder else { bail!("the model was built without a decoder for ARA") };
        let images = images.narrow(0, 0, masked.tokens.batch())?;
        let pass = Pass { image: Some(&images), causal: self.causal, dropout };
        let hidden = network::bert(&decoder.bert, &masked.tokens, &pass)?.flatten(0, 1)?;
        let hidden = hidden.index_select(&Tensor::new(masked.positions.as_slice(), hidden.device())?, 0)?;
        word_loss(&network::word_logits(decoder, &hidden)?, &masked.labels).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ara(masking: Masking, probability: f32) -> Ara {
        Ara {
            from: 0,
            pairs: None,
            masking,
            probability,
            causal: false,
            decoder: WordPredictor::Shared,
            mask_sep: false,
            weight: 0.1,
        }
    }

    fn batch() -> (TokenBatch, Vec<Spans>) {
        let texts: Vec<Vec<u32>> = (0..40).map(|i| [101, 7, 8, 9, 10 + i, 11, 102].to_vec()).collect();
        let spans = Spans { phrases: vec![1..3, 4..6], words: vec![1, 2, 4, 5] };
        (TokenBatch::new(&texts, 0, Some(9)), vec![spans; 40])
    }

    #[test]
    fn phrases_are_hidden_whole_and_at_least_one_of_them() {
        let (tokens, spans) = batch();
        let arch = Architecture::cada_base();
        for (probability, expected) in [(0.0, 80..=80), (0.5, 90..=130), (1.0, 160..=160)] {
            let masked = ara(Masking::Phrase, probability).mask(&tokens, &spans, &arch, 4, 2);
            assert!(expected.contains(&masked.positions.len()), "{probability}: {}", masked.positions.len());
            for row in 0..40u32 {
                let hidden: Vec<u32> = masked.positions.iter().filter(|p| **p / 9 == row).map(|p| p % 9).collect();
                assert!([&[1, 2][..], &[4, 5], &[1, 2, 4, 5]].contains(&hidden.as_slice()), "{hidden:?}");
            }
            for (position, label) in masked.positions.iter().zip(&masked.labels) {
                assert_eq!(masked.tokens.ids()[*position as usize], 103);
                assert_eq!(tokens.ids()[*position as usize], *label);
            }
            let changed = masked.tokens.ids().iter().zip(tokens.ids()).filter(|(a, b)| a != b).count();
            assert_eq!(changed, masked.positions.len());
        }
    }

    #[test]
    fn words_are_hidden_piece_by_piece_and_the_end_only_when_told() {
        let (tokens, spans) = batch();
        let arch = Architecture::cada_base();
        let word = ara(Masking::Word, 0.4);
        let masked = word.mask(&tokens, &spans, &arch, 4, 2);
        assert!((40..90).contains(&masked.positions.len()), "{}", masked.positions.len());
        assert!(masked.positions.iter().all(|p| [1, 2, 4, 5].contains(&(p % 9))));
        assert_eq!(masked, word.mask(&tokens, &spans, &arch, 4, 2));
        assert_ne!(masked, word.mask(&tokens, &spans, &arch, 4, 3));
        let mistaken = Ara { mask_sep: true, ..word.clone() }.mask(&tokens, &spans, &arch, 4, 2);
        assert!(mistaken.labels.contains(&102) && !masked.labels.contains(&102));
        let few = Ara { pairs: Some(3), ..word }.mask(&tokens, &spans, &arch, 4, 2);
        assert_eq!(few.tokens.batch(), 3);
    }
}
