//! `export`: the model folder of a run.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use candle_core::DType;
use clap::Args;
use sightline_embed::train::run::Trainee;
use sightline_embed::train::{checkpoint, folder};

use crate::train::Record;

#[derive(Args)]
pub struct ExportArgs {
    /// Run folder.
    #[arg(long)]
    run: PathBuf,
    /// Model folder to write.
    #[arg(long)]
    out: PathBuf,
    /// Factor on the match logits, folded into the match head: how much they weigh beside the cosine when the two are
    /// added. Calibration takes it back for probabilities.
    #[arg(long, default_value_t = 1.0)]
    match_weight: f64,
    /// Name of the model.
    #[arg(long, default_value = "sightline-default")]
    name: String,
}

pub fn run(args: &ExportArgs) -> Result<()> {
    let path = args.run.join("run.json");
    let record: Record =
        serde_json::from_slice(&fs::read(&path).with_context(|| format!("reading {}", path.display()))?)?;
    let trainee = Trainee::new(&record.model.architecture, 0)?;
    let mut optimizer = trainee.optimizer(0.0);
    checkpoint::load(&args.run, &trainee.variables, &mut optimizer)?
        .with_context(|| format!("{} has no checkpoint", args.run.display()))?;
    ensure!(args.match_weight > 0.0, "--match-weight must be above 0");
    for name in ["itm_head.weight", "itm_head.bias"] {
        let data = trainee.variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let var = data.get(name).with_context(|| format!("the model has no {name}"))?;
        var.set(&(var.as_tensor() * args.match_weight)?.detach())?;
    }
    let mut model = record.model;
    model.name = args.name.clone();
    model.provenance = serde_json::json!({
        "data": "persons drawn by sightline-finetune (level 1: procedural, no assets); no picture of a real person",
        "steps": optimizer.steps(),
        "match_weight": args.match_weight,
        "run": record.config,
    });
    let tokenizer = fs::read(args.run.join("tokenizer.json"))?;
    folder::write(&args.out, &model, &trainee.variables, DType::F16, &tokenizer)?;
    sightline_embed::write_self_test(&args.out)?;
    eprintln!("step {} written to {}", optimizer.steps(), args.out.display());
    Ok(())
}
