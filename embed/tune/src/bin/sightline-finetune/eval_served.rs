//! The local protocol with a model that judges phrases, as `sightline serve` ranks with it: by the
//! probability that all of the description is true, which the phrases, the decoder and the cosine
//! make together.

use anyhow::Result;
use sightline_embed::Model;
use sightline_embed::model::QueryBank;
use sightline_tune::evaluate::{EvalStage, Scores};
use sightline_tune::gallery::Gallery;
use sightline_tune::ranks::order;

use crate::report::staged;

/// Pictures that are decoded and embedded at a time.
const BATCH: usize = 16;

/// Scores of `gallery`, of which the first `k` pictures by cosine for each caption have the
/// probability that is served, as [`sightline_tune::evaluate::LocalScore::Served`] takes it. With a
/// `bank` the hubness of every picture is measured too.
pub fn scores(model: &Model, bank: Option<&QueryBank>, gallery: &Gallery, k: usize) -> Result<Scores> {
    let progress = staged();
    let (mut features, mut patches) = (Vec::new(), Vec::new());
    for from in (0..gallery.len()).step_by(BATCH) {
        let to = (from + BATCH).min(gallery.len());
        for picture in model.embed_images(&gallery.pictures(from..to)?)? {
            features.push(picture.feature);
            patches.push(picture.patches);
        }
        progress(EvalStage::Pictures, to, gallery.len());
    }
    let (mut cosine, mut top_k) = (Vec::new(), Vec::new());
    for (done, caption) in gallery.captions.iter().enumerate() {
        let query = model.encode_text(caption)?;
        let dot = |feature: &Vec<f32>| feature.iter().zip(&query.feature).map(|(a, b)| a * b).sum();
        let row: Vec<f32> = features.iter().map(dot).collect();
        let mut top = order(&row);
        top.truncate(k);
        let judged: Vec<_> = top.iter().map(|&picture| patches[picture].clone()).collect();
        let judged = model.match_scores(&query, &judged)?;
        // A search ranks a picture without a finite score behind the others; so does NaN.
        let probabilities = judged.into_iter().map(|score| [0.0, score.map_or(f32::NAN, |score| score.probability)]);
        top_k.push(top.into_iter().zip(probabilities).collect());
        cosine.push(row);
        progress(EvalStage::Pairs, done + 1, gallery.captions.len());
    }
    let hubness = match bank {
        Some(bank) => bank.hubness(&features.concat())?,
        None => Vec::new(),
    };
    Ok(Scores { cosine, top_k, hubness, half: false })
}
