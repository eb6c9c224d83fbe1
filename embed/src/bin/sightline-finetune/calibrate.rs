//! `calibrate`: from match logits and cosines to a probability, written into the model folder.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use sightline_embed::model::Calibration;
use sightline_embed::train::calibrate::fit;

use crate::gallery::{drawn_gallery, load, score};

#[derive(Args)]
pub struct CalibrateArgs {
    /// Model folder; its config.json is rewritten.
    #[arg(long)]
    model: PathBuf,
    /// Held-out drawn persons.
    #[arg(long, default_value_t = 400)]
    identities: u64,
    /// Seed of them (not the training's).
    #[arg(long, default_value_t = 555)]
    seed: u64,
    /// Pictures per text that the decoder judges.
    #[arg(long, default_value_t = 32)]
    k: usize,
}

pub fn run(args: &CalibrateArgs) -> Result<()> {
    let mut loaded = load(&args.model)?;
    let gallery = drawn_gallery(args.seed, args.identities, loaded.config.architecture.image_size);
    let done = score(&loaded, &gallery, args.k)?;
    // How much the cosine weighs beside the match logits is chosen by likelihood, with the scaling fitted anew for each.
    let evidence = |weight: f32| -> Vec<(f32, bool)> {
        let pair = |&(text, image, logit): &(usize, usize, f32)| {
            (logit + weight * done.cosine[text][image], gallery.text_ids[text] == gallery.image_ids[image])
        };
        done.pairs.iter().map(pair).collect()
    };
    let (similarity, fit) = [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
        .into_iter()
        .filter_map(|weight| Some((weight, fit(&evidence(weight))?)))
        .min_by(|a, b| a.1.log_loss.total_cmp(&b.1.log_loss))
        .context("the pairs do not allow a fit: the model does not tell matches from mismatches")?;
    loaded.config.calibration = Calibration {
        temperature: fit.temperature as f32,
        bias: fit.bias as f32,
        similarity,
        version: format!("platt-both-synth-seed{}-n{}", args.seed, args.identities),
        calibrated: true,
    };
    if !loaded.config.provenance.is_object() {
        loaded.config.provenance = json!({});
    }
    loaded.config.provenance["calibration"] = serde_json::to_value(fit)?;
    fs::write(loaded.folder.join("config.json"), serde_json::to_vec_pretty(&loaded.config)?)?;
    println!("{}", serde_json::to_string(&fit)?);
    Ok(())
}
