//! `export`: writes the model folder of a run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::DType;
use clap::Args;
use serde_json::Value;
use sightline_embed::model::WordHead;
use sightline_tune::folder::{self, Card};
use sightline_tune::run::Trainee;
use sightline_tune::{TrainError, atomic, checkpoint};

use crate::train::RunRecord;

#[derive(Args)]
pub struct ExportArgs {
    /// Folder of the run.
    #[arg(long)]
    run: PathBuf,
    /// Model folder to write.
    #[arg(long)]
    out: PathBuf,
    /// Replace an existing model folder.
    #[arg(long)]
    force: bool,
    /// Export the last checkpoint instead of the best one by validation.
    #[arg(long)]
    last: bool,
    /// Factor on the match logits, folded into the match head. It sets their weight relative to the
    /// cosine when the two are added; calibration removes it from probabilities.
    #[arg(long, default_value_t = 1.0)]
    match_weight: f64,
    /// Name of the model.
    #[arg(long, default_value = "sightline-default")]
    name: String,
    /// JSON file with statements that only a person can make (trained_on, quality, licences,
    /// limits); they replace those from the run's record.
    #[arg(long, value_name = "FILE")]
    card: Option<PathBuf>,
}

pub fn run(args: &ExportArgs) -> Result<()> {
    ensure!(args.match_weight > 0.0, "--match-weight must be above 0");
    ensure!(args.force || !args.out.exists(), "{} exists already; --force replaces it", args.out.display());
    let record =
        RunRecord::read(&args.run)?.with_context(|| format!("{} is no run folder: no run.json", args.run.display()))?;
    let predictor = record.recipe.run.objective.decoder();
    let trainee = Trainee::with_frozen(&record.model.architecture, predictor, 0, record.recipe.frozen())?;
    let best = !args.last && args.run.join("best/best.json").is_file();
    if !best {
        checkpoint::load(&args.run, &trainee.variables, &mut trainee.optimizer(0.0))?
            .with_context(|| format!("{} has no checkpoint", args.run.display()))?;
    }
    let card = args.card.as_deref().map(Card::read).transpose()?.unwrap_or_default();
    let step = model(&args.run, &record, &trainee, best, args.match_weight, (&args.name, &card), &args.out)?;
    eprintln!("step {step} written to {}", args.out.display());
    Ok(())
}

/// Writes the model folder `out`, with the weights of the run's best validation if `best`,
/// otherwise those of `trainee`. Returns their step.
pub fn model(
    run: &Path,
    record: &RunRecord,
    trainee: &Trainee,
    best: bool,
    match_weight: f64,
    (name, card): (&str, &Card),
    out: &Path,
) -> Result<usize> {
    let mut validation = Value::Null;
    let mut step = checkpoint::step(run).unwrap_or_default();
    if best {
        let file = run.join("best/best.json");
        let stored: Value =
            serde_json::from_slice(&fs::read(&file).with_context(|| format!("reading {}", file.display()))?)?;
        checkpoint::variables(&run.join("best/variables.safetensors"), &trainee.variables)?;
        step = stored["step"].as_u64().unwrap_or_default() as usize;
        validation = stored["scores"].clone();
    }
    if match_weight != 1.0 {
        for name in ["itm_head.weight", "itm_head.bias"] {
            let data = trainee.variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let var = data.get(name).with_context(|| format!("the model has no {name}"))?;
            var.set(&(var.as_tensor() * match_weight)?.detach())?;
        }
    }
    let mut config = record.model.clone();
    config.name = name.to_owned();
    config.provenance = folder::provenance(&record.recipe, step, &validation, match_weight);
    card.apply_to(&mut config.provenance);
    // A word head whose training never began is left out.
    let trained = record.recipe.run.objective.ara.as_ref().filter(|ara| step >= ara.from);
    config.word_head = trained.map(|ara| WordHead { predictor: ara.decoder, causal: ara.causal });
    let tokenizer = fs::read(run.join("tokenizer.json"))?;
    atomic::folder(out, true, |part| {
        folder::write(part, &config, &trainee.variables, DType::F16, &tokenizer)?;
        sightline_embed::write_self_test(part).map_err(TrainError::from)
    })?;
    Ok(step)
}
