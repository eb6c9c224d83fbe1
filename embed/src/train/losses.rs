//! CADA's losses: NDF over the whole batch, ATP over hard negatives.
//!
//! Paper and authors' code differ in both; each form is an option and both are held against reference data. All ops have
//! a gradient.

use candle_core::{D, Result, Tensor, bail};
use candle_nn::ops::log_softmax;
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::nn::l2_normalize;
use crate::synth::stream;

/// 1 / temperature of the global similarity.
pub const LOGIT_SCALE: f64 = 50.0;
/// Temperature of the reference's hard-negative rule.
const NEGATIVE_TEMPERATURE: f32 = 0.07;
/// Temperature of drawn negatives.
const SAMPLING_TEMPERATURE: f32 = 0.2;
/// Floor inside the logarithm of the target distribution.
const EPS: f64 = 1e-8;

/// Which form of the global loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ndf {
    /// KL in both directions as distributions (CADA, "norm-aware distribution fitting" as published).
    Paper,
    /// As the authors' code: element means, plus the cross-entropy against the targets.
    Code,
}

/// How a hard negative is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HardNegative {
    /// The highest cosine of another identity (the paper).
    Cosine,
    /// The highest product of un-normalised features over 0.07 (the authors' code), computed without its softmax, which
    /// underflows.
    Code,
    /// Drawn with a probability that grows with the cosine (softmax at temperature 0.2): easy ones too, from which
    /// matching starts to learn when features are still poor.
    Sampled,
}

/// Target distribution `[B, B]`: equal weight on every pair of one identity.
fn targets(identities: &[u32], like: &Tensor) -> Result<Tensor> {
    let n = identities.len();
    let mut q = vec![0f32; n * n];
    for (row, id) in q.chunks_exact_mut(n).zip(identities) {
        let same = identities.iter().filter(|other| *other == id).count() as f32;
        row.iter_mut().zip(identities).filter(|(_, other)| *other == id).for_each(|(v, _)| *v = 1.0 / same);
    }
    Tensor::from_vec(q, (n, n), like.device())
}

/// NDF of B pairs: `image` and `text` `[B, embed_dim]`, not necessarily normalised -> a scalar.
///
/// # Errors
/// Shapes that do not fit each other.
pub fn ndf(image: &Tensor, text: &Tensor, identities: &[u32], form: Ndf) -> Result<Tensor> {
    if image.dims() != text.dims() || image.dim(0)? != identities.len() {
        bail!("NDF of {:?} images, {:?} texts and {} identities", image.dims(), text.dims(), identities.len());
    }
    let logits = (l2_normalize(image)?.matmul(&l2_normalize(text)?.t()?.contiguous()?)? * LOGIT_SCALE)?;
    let q = targets(identities, &logits)?;
    let log_q = (&q + EPS)?.log()?;
    let one = |s: &Tensor| -> Result<Tensor> {
        let log_p = log_softmax(s, D::Minus1)?;
        let p_q = (log_p.exp()? * (&log_p - &log_q)?)?;
        let q_p = (&q * (&log_q - &log_p)?)?;
        match form {
            Ndf::Paper => (p_q + q_p)?.sum(D::Minus1)?.mean_all(),
            Ndf::Code => {
                let ce = (&q * &log_p)?.sum(D::Minus1)?.mean_all()?.neg()?;
                (p_q.mean_all()? + q_p.mean_all()?)? + ce
            }
        }
    };
    (one(&logits)? + one(&logits.t()?.contiguous()?)?)? * 0.5
}

/// Hard negatives of a batch: for each text an image, for each image a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negatives {
    /// Image index per text.
    pub image_for_text: Vec<usize>,
    /// Text index per image.
    pub text_for_image: Vec<usize>,
}

/// Chooses them from features `[B, embed_dim]`; nothing when the batch holds one identity only. No gradient. `seed` is of
/// use to [`HardNegative::Sampled`] alone.
///
/// # Errors
/// When candle fails.
pub fn hard_negatives(
    image: &Tensor,
    text: &Tensor,
    identities: &[u32],
    rule: HardNegative,
    seed: u64,
) -> Result<Option<Negatives>> {
    if identities.windows(2).all(|pair| pair[0] == pair[1]) {
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
    let n = identities.len();
    if rule == HardNegative::Sampled {
        // The largest of scores with Gumbel noise is a draw from their softmax.
        let mut rng = stream(seed, 0x4E65_6761, n as u64);
        for score in scores.iter_mut().flatten() {
            let u = rng.random::<f32>().clamp(1e-7, 1.0 - 1e-7);
            *score = *score / SAMPLING_TEMPERATURE - (-u.ln()).ln();
        }
    }
    let best = |score: &dyn Fn(usize, usize) -> f32| -> Vec<usize> {
        (0..n)
            .map(|i| {
                let others = (0..n).filter(|&j| identities[j] != identities[i]);
                // The first of equals, as argmax; every row has another identity in it.
                others
                    .fold((0, f32::NEG_INFINITY), |best, j| if score(i, j) > best.1 { (j, score(i, j)) } else { best })
                    .0
            })
            .collect()
    };
    Ok(Some(Negatives { image_for_text: best(&|t, v| scores[t][v]), text_for_image: best(&|v, t| scores[t][v]) }))
}

/// Mean cross-entropy of logits `[rows, 2]` against `match_rows` leading rows that match and the rest that do not.
///
/// # Errors
/// When candle fails.
pub fn match_loss(logits: &Tensor, is_match: &[bool]) -> Result<Tensor> {
    let rows = is_match.len();
    let mut pick = vec![0f32; rows * 2];
    for (pair, matched) in pick.chunks_exact_mut(2).zip(is_match) {
        pair[usize::from(*matched)] = -1.0 / rows.max(1) as f32;
    }
    let pick = Tensor::from_vec(pick, (rows, 2), logits.device())?;
    (log_softmax(logits, D::Minus1)? * pick)?.sum_all()
}

/// Means of consecutive groups of tokens, for the local half of ATP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// Tokens in a group; the first group starts at token 1.
    pub size: usize,
    /// Leave padding out of the means, and groups of nothing but padding out of the loss. The reference does neither.
    pub masked: bool,
}

impl Groups {
    /// `fused` `[rows, tokens, width]` with true `lengths` -> the means `[means, width]` and the row each came from.
    ///
    /// # Errors
    /// When candle fails.
    pub fn means(&self, fused: &Tensor, lengths: &[usize]) -> Result<(Tensor, Vec<usize>)> {
        let (rows, tokens, width) = fused.dims3()?;
        let groups = (tokens - 1).div_ceil(self.size);
        let mut weights = vec![0f32; rows * groups * tokens];
        let mut kept = Vec::new();
        let mut owner = Vec::new();
        for (row, length) in lengths.iter().enumerate().take(rows) {
            let end = if self.masked { tokens.min(*length) } else { tokens };
            for group in 0..groups {
                let (from, to) = (1 + group * self.size, (1 + (group + 1) * self.size).min(end));
                if from >= to {
                    continue;
                }
                let at = (row * groups + group) * tokens;
                weights[at + from..at + to].fill(1.0 / (to - from) as f32);
                kept.push((row * groups + group) as u32);
                owner.push(row);
            }
        }
        let weights = Tensor::from_vec(weights, (rows, groups, tokens), fused.device())?;
        let all = weights.matmul(fused)?.reshape((rows * groups, width))?;
        let kept = Tensor::new(kept, fused.device())?;
        Ok((all.index_select(&kept, 0)?, owner))
    }
}
