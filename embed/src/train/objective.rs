//! What training minimises: CADA's losses over one batch, weighed and summed.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Result;
use super::batch::Batch;
use super::losses::{Groups, HardNegative, Ndf, hard_negatives, match_loss, ndf};
use super::run::Trainee;

/// Which losses, in which form, with which weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// Form of the global loss.
    pub ndf: Ndf,
    /// Hard-negative rule.
    pub negative: HardNegative,
    /// Token groups of the local half of ATP.
    pub groups: Groups,
    /// First step with ATP: matching has nothing to learn before features mean something.
    pub atp_from: usize,
    /// Pairs that ATP is taken of; the negatives come from the whole batch.
    pub atp_pairs: usize,
    /// Weight of the auxiliary attribute heads.
    pub attributes: f64,
}

/// The loss of one batch at `step` and its parts by name. `seed` decides what is drawn (sampled negatives).
///
/// # Errors
/// When candle fails.
pub fn loss(trainee: &Trainee, config: &Objective, batch: &Batch, step: usize, seed: u64) -> Result<(Tensor, Value)> {
    let model = &trainee.model;
    let images = model.image_embeds(&batch.pixels)?;
    let texts = model.text_embeds(&batch.tokens, None)?;
    let (v, t) = (model.image_proj(&images)?, model.text_proj(&texts)?);
    let global = ndf(&v, &t, &batch.identities, config.ndf)?;
    let mut parts = json!({"ndf": global.to_scalar::<f32>()?});
    let mut total = global;
    if config.attributes > 0.0 {
        let cls = images.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
        let (attributes, right) = trainee.heads.loss(&cls, &batch.labels)?;
        parts["attributes"] = json!(attributes.to_scalar::<f32>()?);
        parts["right"] = json!(right.iter().map(|r| (r * 100.0).round()).collect::<Vec<_>>());
        total = (total + (attributes * config.attributes)?)?;
    }
    if step >= config.atp_from
        && config.atp_pairs > 0
        && let Some(negatives) = hard_negatives(&v, &t, &batch.identities, config.negative, seed ^ step as u64)?
    {
        let n = config.atp_pairs.min(batch.identities.len());
        let (image_for_text, text_for_image) = (&negatives.image_for_text[..n], &negatives.text_for_image[..n]);
        let rows: Vec<usize> = (0..n).chain(0..n).chain(text_for_image.iter().copied()).collect();
        let pictures: Vec<u32> = (0..n).chain(image_for_text.iter().copied()).chain(0..n).map(|i| i as u32).collect();
        let tokens = batch.tokens.select(&rows);
        let fused = model.fused(&tokens, &images.index_select(&Tensor::new(pictures, images.device())?, 0)?, None)?;
        let matched: Vec<bool> = (0..3 * n).map(|row| row < n).collect();
        let whole = match_loss(&model.itm_logits(&fused)?, &matched)?;
        let (means, owner) = config.groups.means(&fused, tokens.lengths())?;
        let owned: Vec<bool> = owner.iter().map(|&row| matched[row]).collect();
        let groups = match_loss(&model.itm_local_logits(&means)?, &owned)?;
        parts["atp"] = json!(whole.to_scalar::<f32>()?);
        parts["atp_local"] = json!(groups.to_scalar::<f32>()?);
        total = ((total + whole)? + groups)?;
    }
    Ok((total, parts))
}
