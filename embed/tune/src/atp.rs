//! ATP, the matching loss: the decoder tells a pair from the same text with a hard negative picture and from the same
//! picture with a hard negative text, as a whole and by groups of words.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarMap;
use serde::{Deserialize, Serialize};

use super::losses::{Groups, HardNegative, Negatives, match_loss};
use crate::ops::network;
use sightline_embed::graph::Cada;
use sightline_embed::graph::Dropout;
use sightline_embed::model::{Architecture, TokenBatch};

/// What the decoder's cross-attention starts from when matching begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CrossAttentionStart {
    /// Its weights as they are: right for weights that know how to match.
    #[default]
    Fresh,
    /// Queries from the text projection and keys from the image projection, which the global loss has brought into one
    /// space, and `[ENC]` from `[CLS]`: attention is then strong where text and picture agree. With random ones neither
    /// side alone says anything about a match, and matching stays at chance for a long time. Overwrites what was there.
    Projections,
}

/// How matching is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Atp {
    /// First step with it: matching has little to learn before features mean something.
    pub from: usize,
    /// Pairs of a batch it is taken of, all when `None`; negatives come from the whole batch.
    pub pairs: Option<usize>,
    /// What it starts from.
    #[serde(default)]
    pub start: CrossAttentionStart,
    /// Rule for hard negatives.
    pub negatives: HardNegative,
    /// Token groups of the local half.
    pub groups: Groups,
    /// The half on `[ENC]`: trains the head that ranks.
    pub global: bool,
    /// The half on groups of words.
    pub local: bool,
    /// Factor in the total.
    pub weight: f64,
}

/// Match logits of positives, and behind them of negatives: of B pairs with a negative picture and B pairs with a negative
/// text.
pub struct MatchLogits {
    /// `[pairs, 2]` of the `[ENC]` states.
    pub whole: Option<Tensor>,
    /// `[groups, 2]` of the group means, and the pair (row of `whole`) each belongs to.
    pub groups: Option<(Tensor, Vec<usize>)>,
    /// How many pairs are positives: the first ones.
    pub positives: usize,
}

/// Both halves of the loss.
pub struct MatchLoss {
    /// On `[ENC]`.
    pub whole: Option<Tensor>,
    /// On groups.
    pub groups: Option<Tensor>,
}

impl Atp {
    /// To be called before every step: makes the decoder ready when matching begins at `step`. A model with fewer common
    /// dimensions than its text transformer is wide repeats them.
    ///
    /// # Errors
    /// Variables of another model.
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
        }
        let words = var("text_encoder.embeddings.word_embeddings.weight")?;
        let mut rows: Vec<u32> = (0..arch.vocab_size as u32).collect();
        rows[arch.enc_token_id as usize] = arch.cls_token_id;
        let table = words.as_tensor().detach();
        words.set(&table.index_select(&Tensor::new(rows, table.device())?, 0)?)
    }

    /// Fused pass over the first pairs of the batch and their negatives, `images` `[B, 1 + patches, vision width]`.
    ///
    /// # Errors
    /// When candle fails.
    pub fn logits(
        &self,
        model: &Cada,
        images: &Tensor,
        tokens: &TokenBatch,
        negatives: &Negatives,
        dropout: Option<&Dropout>,
    ) -> Result<MatchLogits> {
        let n = self.pairs.unwrap_or(usize::MAX).min(tokens.batch());
        let (image_for_text, text_for_image) = (&negatives.image_for_text[..n], &negatives.text_for_image[..n]);
        let rows: Vec<usize> = (0..n).chain(0..n).chain(text_for_image.iter().copied()).collect();
        let pictures: Vec<u32> = (0..n).chain(image_for_text.iter().copied()).chain(0..n).map(|i| i as u32).collect();
        let images = images.index_select(&Tensor::new(pictures, images.device())?, 0)?;
        self.match_pairs(model, &tokens.select(&rows), &images, n, dropout)
    }

    /// Fused pass over pairs of `tokens` and `images`, of which the first `positives` match.
    ///
    /// # Errors
    /// When candle fails.
    pub fn match_pairs(
        &self,
        model: &Cada,
        tokens: &TokenBatch,
        images: &Tensor,
        positives: usize,
        dropout: Option<&Dropout>,
    ) -> Result<MatchLogits> {
        let mut tokens = tokens.clone();
        if self.local && !self.groups.masked {
            // Padding is part of the means, so its amount must not depend on the batch.
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
        Ok(MatchLogits { whole, groups, positives })
    }
}

impl MatchLogits {
    /// Mean cross-entropy of each half.
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
        Ok(MatchLoss { whole, groups })
    }
}
