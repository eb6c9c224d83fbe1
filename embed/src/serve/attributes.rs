//! Attributes of a picture in words: the word head (ARA; paper, section 3.4 and figure 6) predicts
//! the masked words of a template that is read against the picture.

use sightline_core::PatchFeatures;

use super::model::{Model, f16_to_f32};
use crate::EmbedError;
use crate::model::TokenBatch;
use crate::text::is_judged;

/// Placeholder of a masked word in a template; upper and lower case are the same.
pub const MASK: &str = "[MASK]";

/// Words returned for each masked word.
const TOP_WORDS: usize = 3;

/// Prediction of one masked word of a template.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskedWord {
    /// Index among the word pieces of the template, `[CLS]` being 0.
    pub piece: usize,
    /// The three likeliest words, likeliest first, each with its probability among all word pieces.
    /// Parts of words, signs, and words for what is never judged (age, origin, mood, most of build)
    /// are left out.
    pub words: Vec<(String, f32)>,
}

impl Model {
    /// Predicts each [`MASK`] of `template` ("a person wearing a [MASK] jacket") for the person
    /// with patch features `patches`, in the template's order.
    ///
    /// # Errors
    /// A model without a word head, a template without a mask or longer than the model reads, patch
    /// features of another model, or damaged ones ([`EmbedError::NotFinite`]).
    pub fn attributes(&self, patches: &PatchFeatures, template: &str) -> Result<Vec<MaskedWord>, EmbedError> {
        self.check_patches(patches)?;
        let (ids, masked) = self.tokenizer().encode_template(template, MASK)?;
        let tokens = TokenBatch::new(&[ids], self.network().arch().pad_token_id, None);
        let values: Vec<f32> = f16_to_f32(&patches.data).collect();
        let positions: Vec<(usize, usize)> = masked.iter().map(|piece| (0, *piece)).collect();
        let scores = self.network().word_scores(&tokens, &values, &positions)?.ok_or(EmbedError::NoWordHead)?;
        if !scores.iter().all(|score| score.is_finite()) {
            return Err(EmbedError::NotFinite);
        }
        let of_mask = scores.chunks_exact(self.network().arch().vocab_size);
        Ok(masked.into_iter().zip(of_mask).map(|(piece, scores)| self.likeliest_words(piece, scores)).collect())
    }

    fn likeliest_words(&self, piece: usize, scores: &[f32]) -> MaskedWord {
        let largest = scores.iter().copied().fold(f32::MIN, f32::max);
        let sum: f32 = scores.iter().map(|score| (score - largest).exp()).sum();
        let mut order: Vec<u32> = (0..scores.len() as u32).collect();
        order.sort_unstable_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b)));
        let word = |id: u32| {
            let word = self.tokenizer().piece(id)?;
            let whole = word.len() > 1 && word.chars().all(char::is_alphabetic) && is_judged(&word);
            whole.then(|| (word, (scores[id as usize] - largest).exp() / sum))
        };
        MaskedWord { piece, words: order.into_iter().filter_map(word).take(TOP_WORDS).collect() }
    }
}
