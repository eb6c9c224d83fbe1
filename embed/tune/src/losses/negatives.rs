//! Chooses the hard negatives of a batch for matching (ATP; specification, section 4).

use std::str::FromStr;

use candle_core::{Result, Tensor};
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::MatchTargets;
use crate::streams;
use sightline_embed::graph::l2_normalize;
use sightline_figures::stream;

/// Temperature of the authors' rule.
const NEGATIVE_TEMPERATURE: f32 = 0.07;
/// Temperature of sampled negatives.
const SAMPLING_TEMPERATURE: f32 = 0.2;

/// Rule that chooses hard negatives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HardNegative {
    /// The highest cosine of another identity (the paper).
    Cosine,
    /// The highest product of un-normalised features over 0.07 (the authors' code), computed
    /// without its softmax, which underflows.
    Code,
    /// Sampled from a softmax of the cosines at temperature 0.2. It gives easy negatives too, from
    /// which matching can learn while features are poor.
    Sampled,
}

impl FromStr for HardNegative {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "cosine" => Ok(Self::Cosine),
            "code" => Ok(Self::Code),
            "sampled" => Ok(Self::Sampled),
            other => Err(format!("{other:?} is not cosine, code or sampled")),
        }
    }
}

/// Hard negatives of a batch: for each text an image, for each image a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negatives {
    /// Image index per text.
    pub image_for_text: Vec<usize>,
    /// Text index per image.
    pub text_for_image: Vec<usize>,
}

/// Chooses hard negatives from features `[B, embed_dim]`, f32, without a gradient, among the pairs
/// that do not match by `targets`. `None` if a text or a picture has none. Only
/// [`HardNegative::Sampled`] uses `seed`.
///
/// # Errors
/// When candle fails.
pub fn hard_negatives(
    image: &Tensor,
    text: &Tensor,
    targets: &MatchTargets,
    rule: HardNegative,
    seed: u64,
) -> Result<Option<Negatives>> {
    let n = targets.count();
    let has_negative = |is: &dyn Fn(usize, usize) -> bool| (0..n).all(|i| (0..n).any(|j| is(i, j)));
    if !has_negative(&|t, v| targets.is_negative(t, v)) || !has_negative(&|v, t| targets.is_negative(t, v)) {
        return Ok(None);
    }
    let (image, text) = (image.detach(), text.detach());
    let mut scores = match rule {
        HardNegative::Cosine | HardNegative::Sampled => {
            l2_normalize(&text)?.matmul(&l2_normalize(&image)?.t()?.contiguous()?)?
        }
        HardNegative::Code => (text.matmul(&image.t()?.contiguous()?)? / f64::from(NEGATIVE_TEMPERATURE))?,
    }
    .to_vec2::<f32>()?;
    if rule == HardNegative::Sampled {
        // Gumbel-max trick: the argmax of scores with Gumbel noise is a sample of their softmax.
        let mut rng = stream(seed, streams::SAMPLED_NEGATIVES, n as u64);
        for score in scores.iter_mut().flatten() {
            let u = rng.random::<f32>().clamp(1e-7, 1.0 - 1e-7);
            *score = *score / SAMPLING_TEMPERATURE - (-u.ln()).ln();
        }
    }
    let best = |score: &dyn Fn(usize, usize) -> Option<f32>| -> Vec<usize> {
        (0..n)
            .map(|i| {
                let others = (0..n).filter_map(|j| Some((j, score(i, j)?)));
                // Takes the first of equal scores, like argmax; every row has a negative.
                others.fold((0, f32::NEG_INFINITY), |best, other| if other.1 > best.1 { other } else { best }).0
            })
            .collect()
    };
    let score = |t: usize, v: usize| targets.is_negative(t, v).then(|| scores[t][v]);
    Ok(Some(Negatives { image_for_text: best(&score), text_for_image: best(&|v, t| score(t, v)) }))
}
