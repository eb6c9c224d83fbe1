//! The paper's protocols: global (cosine) and local (cosine and match score of the top K), Rank-1/5/10 and mAP.

use std::cmp::Ordering;

use candle_core::{Result, Tensor};
use serde::Serialize;

use crate::model::{Cada, TokenBatch};
use crate::nn::l2_normalize;

/// Rank-1/5/10 and mean average precision, per cent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Ranks {
    pub rank1: f64,
    pub rank5: f64,
    pub rank10: f64,
    pub map: f64,
}

/// Ranks each text's row of `scores` (texts x images): hits are images of the text's identity. Equal scores keep the
/// order of the images.
pub fn ranks(scores: &[Vec<f32>], text_ids: &[u32], image_ids: &[u32]) -> Ranks {
    let (mut first, mut precision) = ([0usize; 3], 0f64);
    for (row, id) in scores.iter().zip(text_ids) {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| row[b].partial_cmp(&row[a]).unwrap_or(Ordering::Equal));
        let (mut hits, mut sum, mut best) = (0usize, 0f64, usize::MAX);
        for (rank, &image) in order.iter().enumerate() {
            if image_ids[image] == *id {
                hits += 1;
                sum += hits as f64 / (rank + 1) as f64;
                best = best.min(rank);
            }
        }
        precision += sum / hits.max(1) as f64;
        for (count, k) in first.iter_mut().zip([1, 5, 10]) {
            *count += usize::from(best < k);
        }
    }
    let percent = |n: f64| 100.0 * n / text_ids.len().max(1) as f64;
    Ranks {
        rank1: percent(first[0] as f64),
        rank5: percent(first[1] as f64),
        rank10: percent(first[2] as f64),
        map: percent(precision),
    }
}

/// Everything one evaluation computed.
pub struct Evaluation {
    /// Cosine of every text with every image.
    pub cosine: Vec<Vec<f32>>,
    /// Cosine plus match logit of the top K, cosine alone for the rest, which is always ranked behind.
    pub local: Vec<Vec<f32>>,
    /// (text, image, match logit minus no-match logit) of every pair the decoder saw.
    pub pairs: Vec<(usize, usize, f32)>,
}

/// Below any score of a re-ranked pair; kept small so that f32 makes no ties.
const BEHIND: f32 = 100.0;

/// Scores `texts` (token ids) against a gallery of `pictures`: `pixels(range)` gives normalised pixels of some of them.
/// Same texts are computed once.
///
/// # Errors
/// When candle fails.
pub fn evaluate(
    model: &Cada,
    texts: &[Vec<u32>],
    pictures: usize,
    pixels: impl Fn(std::ops::Range<usize>) -> Result<Tensor>,
    k: usize,
    progress: impl Fn(usize, usize),
) -> Result<Evaluation> {
    let pad = model.arch().pad_token_id;
    let (mut embeds, mut images) = (Vec::new(), Vec::new());
    for from in (0..pictures).step_by(16) {
        let e = model.image_embeds(&pixels(from..(from + 16).min(pictures))?)?.detach();
        images.push(l2_normalize(&model.image_proj(&e)?)?.detach());
        embeds.push(e);
    }
    let (embeds, images) = (Tensor::cat(&embeds, 0)?, Tensor::cat(&images, 0)?);
    let mut unique: Vec<&Vec<u32>> = texts.iter().collect();
    unique.sort();
    unique.dedup();
    let (mut cosine, mut local, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
    for (done, ids) in unique.iter().enumerate() {
        let tokens = TokenBatch::new(&[ids.as_slice()], pad, None);
        let feature = l2_normalize(&model.text_proj(&model.text_embeds(&tokens, None)?)?)?.detach();
        let row = feature.matmul(&images.t()?.contiguous()?)?.squeeze(0)?.to_vec1::<f32>()?;
        let mut order: Vec<usize> = (0..pictures).collect();
        order.sort_by(|&a, &b| row[b].partial_cmp(&row[a]).unwrap_or(Ordering::Equal));
        order.truncate(k);
        let mut scores: Vec<f32> = row.iter().map(|c| c - BEHIND).collect();
        for some in order.chunks(8) {
            let index = Tensor::new(some.iter().map(|i| *i as u32).collect::<Vec<_>>(), embeds.device())?;
            let fused = model.fused(&tokens.select(&vec![0; some.len()]), &embeds.index_select(&index, 0)?, None)?;
            let logits = model.itm_logits(&fused)?.detach().to_vec2::<f32>()?;
            for (&image, pair) in some.iter().zip(&logits) {
                scores[image] = row[image] + pair[1];
                pairs.push((done, image, pair[1] - pair[0]));
            }
        }
        cosine.push(row);
        local.push(scores);
        progress(done + 1, unique.len());
    }
    let place: Vec<usize> = texts.iter().map(|t| unique.binary_search(&t).unwrap_or(0)).collect();
    let spread = |rows: &[Vec<f32>]| place.iter().map(|&p| rows[p].clone()).collect::<Vec<_>>();
    let mut all = Vec::new();
    for (text, &p) in place.iter().enumerate() {
        all.extend(pairs.iter().filter(|pair| pair.0 == p).map(|pair| (text, pair.1, pair.2)));
    }
    Ok(Evaluation { cosine: spread(&cosine), local: spread(&local), pairs: all })
}
