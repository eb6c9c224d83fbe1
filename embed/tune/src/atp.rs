//! ATP, the matching loss (specification, section 4): the decoder classifies pairs of a text and a
//! picture as match or no match.
//!
//! Negatives are the same text with a hard negative picture, and the same picture with a hard
//! negative text. The global half classifies the `[ENC]` state, the local half the means of token
//! groups.

use std::ops::Range;

use candle_core::{D, Result, Tensor, bail};
use candle_nn::VarMap;
use candle_nn::ops::log_softmax;
use serde::{Deserialize, Serialize};

use super::facts::{Facts, Phrase};
use super::losses::{Groups, HardNegative, Negatives, match_loss};
use crate::ops::network;
use sightline_embed::graph::Cada;
use sightline_embed::graph::Dropout;
use sightline_embed::model::{Architecture, TokenBatch};

/// Weights of the decoder's cross-attention at the first step with ATP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CrossAttentionStart {
    /// Unchanged: right for pre-trained cross-attention.
    #[default]
    Fresh,
    /// Queries from the text projection and keys from the image projection, which the global loss
    /// has brought into one space, and `[ENC]` from `[CLS]`: attention is then strong where text
    /// and picture agree. From random weights, matching stays at chance for a long time. The old
    /// weights are overwritten.
    Projections,
    /// Like [`CrossAttentionStart::Projections`], but the output of cross-attention is scaled to a
    /// tenth: a trained text encoder is hardly disturbed at first, and learns to use what helps of
    /// the picture.
    Faint,
}

/// Factor on the output of cross-attention with [`CrossAttentionStart::Faint`].
const FAINT: f64 = 0.1;

/// Settings of the ATP loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Atp {
    /// First step that adds this loss: matching learns little before the features are useful.
    pub from: usize,
    /// Number of pairs per batch that the loss uses, counted from the first; `None` uses all.
    /// Negatives come from the whole batch.
    pub pairs: Option<usize>,
    /// Weights of the cross-attention at step `from`.
    #[serde(default)]
    pub start: CrossAttentionStart,
    /// Rule for hard negatives.
    pub negatives: HardNegative,
    /// Token groups of the local half.
    pub groups: Groups,
    /// Adds the global half, on `[ENC]`: it trains the head that ranks search results.
    pub global: bool,
    /// Adds the local half, on token groups.
    pub local: bool,
    /// Adds a loss on the truth of each phrase in captions that were generated from facts: the
    /// local head learns whether a phrase is true of the person, no matter whose caption it is in.
    #[serde(default)]
    pub phrases: bool,
    /// Weight of each half in the total loss.
    pub weight: f64,
}

/// A phrase of a pair's caption, and whether it is true of the pair's picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhraseGroup {
    /// Index of the pair.
    pub pair: usize,
    /// Range of the phrase's word pieces in the caption.
    pub pieces: Range<usize>,
    /// Whether the phrase is true of the person in the picture.
    pub is_true: bool,
}

/// Phrases that the captions of a batch state, and known facts about the persons in its pictures.
#[derive(Clone, Debug, Default)]
pub struct StatedPhrases {
    /// Phrases of each caption, each with the range of its word pieces; empty for captions that
    /// were not generated from facts.
    pub captions: Vec<Vec<(Range<usize>, Phrase)>>,
    /// Facts about the person in each picture; `None` where nothing is known.
    pub persons: Vec<Option<Facts>>,
}

impl StatedPhrases {
    /// Phrases whose truth is known, in the pairs of caption `captions[i]` and picture
    /// `pictures[i]`.
    fn groups(&self, captions: &[usize], pictures: &[u32]) -> Vec<PhraseGroup> {
        let mut all = Vec::new();
        for (pair, (caption, picture)) in captions.iter().zip(pictures).enumerate() {
            let Some(Some(facts)) = self.persons.get(*picture as usize) else { continue };
            for (pieces, phrase) in self.captions.get(*caption).into_iter().flatten() {
                all.extend(phrase.truth(facts).map(|is_true| PhraseGroup { pair, pieces: pieces.clone(), is_true }));
            }
        }
        all
    }
}

/// Means of `fused` `[rows, tokens, width]`, f32, over ranges of tokens of its rows: returns
/// `[ranges, width]`.
///
/// # Errors
/// A range outside the row, or an empty range.
pub fn phrase_means(fused: &Tensor, ranges: impl Iterator<Item = (usize, Range<usize>)>) -> Result<Tensor> {
    let (rows, tokens, width) = fused.dims3()?;
    let (mut weights, mut count) = (Vec::new(), 0);
    for (row, range) in ranges {
        if row >= rows || range.is_empty() || range.end > tokens {
            bail!("tokens {range:?} of text {row} among {rows} texts of {tokens}");
        }
        let mut own = vec![0f32; rows * tokens];
        own[row * tokens + range.start..row * tokens + range.end].fill(1.0 / range.len() as f32);
        weights.extend(own);
        count += 1;
    }
    Tensor::from_vec(weights, (count, rows * tokens), fused.device())?.matmul(&fused.reshape((rows * tokens, width))?)
}

/// Cross-entropy of logits `[rows, 2]`, f32; all true rows together weigh as much as all false
/// rows.
fn balanced_loss(logits: &Tensor, truth: &[bool]) -> Result<Tensor> {
    let count = |side: bool| truth.iter().filter(|is_true| **is_true == side).count().max(1) as f32;
    let mut pick = vec![0f32; truth.len() * 2];
    for (pair, is_true) in pick.chunks_exact_mut(2).zip(truth) {
        pair[usize::from(*is_true)] = -0.5 / count(*is_true);
    }
    let pick = Tensor::from_vec(pick, (truth.len(), 2), logits.device())?;
    (log_softmax(logits, D::Minus1)? * pick)?.sum_all()
}

/// Match logits (columns: no match, match) of B positive pairs, then of B pairs with a negative
/// picture and B pairs with a negative text.
pub struct MatchLogits {
    /// Logits `[pairs, 2]`, f32, from the `[ENC]` states.
    pub whole: Option<Tensor>,
    /// Logits `[groups, 2]`, f32, from the group means, and the pair (row of `whole`) of each
    /// group.
    pub groups: Option<(Tensor, Vec<usize>)>,
    /// Logits `[phrases, 2]`, f32, from the phrase means, and whether each phrase is true of the
    /// picture in its pair.
    pub phrases: Option<(Tensor, Vec<bool>)>,
    /// Number of positive pairs, which come first.
    pub positives: usize,
}

/// Parts of the ATP loss, each a scalar f32 in nats; `None` where a part is off.
pub struct MatchLoss {
    /// The global half, on `[ENC]`.
    pub whole: Option<Tensor>,
    /// The local half, on token groups.
    pub groups: Option<Tensor>,
    /// The loss on the truth of phrases.
    pub phrases: Option<Tensor>,
}

impl Atp {
    /// Sets the cross-attention weights if matching begins at `step`; call it before every step.
    /// Where the common space has fewer dimensions than the text transformer, rows of the
    /// projections are repeated.
    ///
    /// # Errors
    /// A variable that is missing or has another shape.
    pub fn prepare(&self, variables: &VarMap, arch: &Architecture, step: usize) -> Result<()> {
        if self.start == CrossAttentionStart::Fresh || step != self.from {
            return Ok(());
        }
        let data = variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let var = |name: &str| match data.get(name) {
            Some(var) => Ok(var),
            None => bail!("there is no variable {name}"),
        };
        for layer in 0..arch.text_layers {
            for (to, from) in [("query", "text_proj"), ("key", "vision_proj")] {
                for kind in ["weight", "bias"] {
                    let to = var(&format!("text_encoder.encoder.layer.{layer}.crossattention.self.{to}.{kind}"))?;
                    let from = var(&format!("{from}.{kind}"))?.as_tensor().detach();
                    let rows: Vec<u32> = (0..to.dim(0)?).map(|row| (row % arch.embed_dim) as u32).collect();
                    to.set(&from.index_select(&Tensor::new(rows, from.device())?, 0)?)?;
                }
            }
            if self.start == CrossAttentionStart::Faint {
                for kind in ["weight", "bias"] {
                    let name = format!("text_encoder.encoder.layer.{layer}.crossattention.output.dense.{kind}");
                    let output = var(&name)?;
                    output.set(&(output.as_tensor().detach() * FAINT)?)?;
                }
            }
        }
        let words = var("text_encoder.embeddings.word_embeddings.weight")?;
        let mut rows: Vec<u32> = (0..arch.vocab_size as u32).collect();
        rows[arch.enc_token_id as usize] = arch.cls_token_id;
        let table = words.as_tensor().detach();
        words.set(&table.index_select(&Tensor::new(rows, table.device())?, 0)?)
    }

    /// Logits of the first `pairs` pairs of the batch and of their negatives. `images` are patch
    /// features `[B, 1 + patches, vision width]`, f32; `stated` holds the known facts about
    /// captions and persons; the default is empty.
    ///
    /// # Errors
    /// When candle fails.
    pub fn logits(
        &self,
        model: &Cada,
        images: &Tensor,
        tokens: &TokenBatch,
        stated: &StatedPhrases,
        negatives: &Negatives,
        dropout: Option<&Dropout>,
    ) -> Result<MatchLogits> {
        let n = self.pairs.unwrap_or(usize::MAX).min(tokens.batch());
        let (image_for_text, text_for_image) = (&negatives.image_for_text[..n], &negatives.text_for_image[..n]);
        let rows: Vec<usize> = (0..n).chain(0..n).chain(text_for_image.iter().copied()).collect();
        let pictures: Vec<u32> = (0..n).chain(image_for_text.iter().copied()).chain(0..n).map(|i| i as u32).collect();
        let chosen = images.index_select(&Tensor::new(&pictures[..], images.device())?, 0)?;
        let groups = if self.phrases { stated.groups(&rows, &pictures) } else { Vec::new() };
        self.match_pairs(model, &tokens.select(&rows), &chosen, &groups, n, dropout)
    }

    /// Logits of the pairs (`tokens[i]`, `images[i]`) and of `phrases` in them; the first
    /// `positives` pairs match. `images` are patch features `[pairs, 1 + patches, vision width]`,
    /// f32.
    ///
    /// # Errors
    /// When candle fails.
    pub fn match_pairs(
        &self,
        model: &Cada,
        tokens: &TokenBatch,
        images: &Tensor,
        phrases: &[PhraseGroup],
        positives: usize,
        dropout: Option<&Dropout>,
    ) -> Result<MatchLogits> {
        let mut tokens = tokens.clone();
        if self.local && !self.groups.masked {
            // Unmasked means include padding, so the padded length must not depend on the batch.
            tokens = tokens.padded(model.arch().max_text_len, model.arch().pad_token_id);
        }
        let fused = network::fused(model, &tokens, images, dropout)?;
        let whole = if self.global { Some(network::itm_logits(model, &fused)?) } else { None };
        let groups = if self.local {
            let (means, owner) = self.groups.means(&fused, tokens.lengths())?;
            Some((network::itm_local_logits(model, &means)?, owner))
        } else {
            None
        };
        let phrases = if phrases.is_empty() {
            None
        } else {
            let means = phrase_means(&fused, phrases.iter().map(|phrase| (phrase.pair, phrase.pieces.clone())))?;
            Some((network::itm_local_logits(model, &means)?, phrases.iter().map(|phrase| phrase.is_true).collect()))
        };
        Ok(MatchLogits { whole, groups, phrases, positives })
    }
}

impl MatchLogits {
    /// Mean cross-entropy of each half (specification, section 4).
    ///
    /// # Errors
    /// When candle fails.
    pub fn loss(&self) -> Result<MatchLoss> {
        let matched = |row: usize| row < self.positives;
        let whole = match &self.whole {
            Some(logits) => Some(match_loss(logits, &(0..logits.dim(0)?).map(matched).collect::<Vec<_>>())?),
            None => None,
        };
        let groups = match &self.groups {
            Some((logits, owner)) => {
                Some(match_loss(logits, &owner.iter().map(|&row| matched(row)).collect::<Vec<_>>())?)
            }
            None => None,
        };
        let phrases = match &self.phrases {
            Some((logits, truth)) => Some(balanced_loss(logits, truth)?),
            None => None,
        };
        Ok(MatchLoss { whole, groups, phrases })
    }
}
