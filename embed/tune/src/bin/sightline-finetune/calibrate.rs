//! `calibrate`: fits match probabilities from logits, cosines and hubness, and writes the
//! calibration into the model folder.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;
use sightline_embed::QUERY_BANK;
use sightline_embed::model::{Calibration, QueryBank};
use sightline_tune::calibrate::{Method, Pair, Quality, fit, for_prior, prior};
use sightline_tune::folder::Card;
use sightline_tune::gallery::{Gallery, QUERY_BANK_TEXTS};
use sightline_tune::{TrainError, atomic, plot};

use crate::report::print_stderr;
use crate::scorer::{DataArgs, Defaults, LoadedModel, MachineArgs};

#[derive(Args)]
#[command(after_help = "\
Examples:
  sightline-finetune calibrate --model models/mine --method isotonic
  sightline-finetune calibrate --model models/mine --dataset cuhk-pedes --root CUHK-PEDES --split val --prior 0.01

The persons are divided in two: probabilities are fitted on the pairs of one half and measured on the pairs of the other.
A pair is a text and one of its top K pictures by cosine; these are the pictures that the decoder re-ranks in a search.

A query bank of texts about other persons measures how near every picture is to texts in general (its hubness): a picture that
is near to all of them is a weaker match for any. The bank is written to query-bank.safetensors if it helps.

A probability is right for a search for one person among as many persons as here. A search adjusts it to the number of tracks
that it covers: the odds are divided by how many times more there are. With --prior P, probabilities are adjusted to galleries
where the share P of the re-ranked pictures match, and a search does not change them
(one of 32 re-ranked pictures: 0.03).")]
pub struct CalibrateArgs {
    /// Model folder. The command rewrites its config.json and writes calibration.svg to it.
    #[arg(long)]
    model: PathBuf,
    /// Method of the fit. platt: logistic regression on logits, cosine and hubness. temperature:
    /// the logits divided by one number. isotonic: a monotone curve, for many pairs.
    #[arg(long, default_value = "platt")]
    method: Method,
    #[command(flatten)]
    data: DataArgs,
    /// Number of pictures per text that are re-ranked with the decoder.
    #[arg(long, default_value_t = 32)]
    k: usize,
    /// Number of texts in the query bank, from drawn persons or from the dataset's split train; 0
    /// leaves hubness out.
    #[arg(long, default_value_t = QUERY_BANK_TEXTS)]
    bank: usize,
    /// Share of the re-ranked pictures that will match in the galleries to search. Default: the
    /// share among the pairs of the fit.
    #[arg(long)]
    prior: Option<f64>,
    /// JSON file with statements that only a person can make (trained_on, quality, licences,
    /// limits), to be added to config.json.
    #[arg(long, value_name = "FILE")]
    card: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArgs,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

const DEFAULTS: Defaults = Defaults { dataset: "synth", split: "val", identities: 800, seed: 555 };

pub fn run(args: &CalibrateArgs) -> Result<()> {
    ensure!(args.k > 0, "--k must be above 0");
    if let Some(p) = args.prior {
        ensure!(p > 0.0 && p < 1.0, "--prior {p} is not between 0 and 1");
    }
    let card = args.card.as_deref().map(Card::read).transpose()?.unwrap_or_default();
    let mut loaded = LoadedModel::open(&args.model, &args.machine)?;
    let (all, name) = args.data.gallery(&DEFAULTS)?;
    let (one, other) = all.halves();
    loaded.take_bank(&args.data.query_bank_texts(&DEFAULTS, args.bank)?)?;
    if loaded.bank.is_none() && args.bank > 0 {
        print_stderr("the dataset has no split train to make a query bank of: hubness is left out");
    }
    let pairs = |gallery: &Gallery| -> Result<Vec<Pair>> {
        ensure!(!gallery.is_empty(), "there are too few persons in {name} to fit on one half and measure on the other");
        Ok(loaded.scores(gallery, args.k)?.pairs(&gallery.text_ids, &gallery.image_ids))
    };
    let (fitting, fresh) = (pairs(&one)?, pairs(&other)?);
    let share = prior(&fitting);
    let fitted = fit(&fitting, args.method).with_context(|| {
        format!(
            "{} pairs of {name}, of which {:.2} % match, do not allow a fit: the decoder does not tell them apart",
            fitting.len(),
            100.0 * share
        )
    })?;
    let (before, after) = (Quality::of(&Calibration::default(), &fresh), Quality::of(&fitted, &fresh));
    let method = serde_json::to_value(args.method)?;
    let method = method.as_str().unwrap_or_default();
    let moved = args.prior.map_or_else(|| fitted.clone(), |p| for_prior(&fitted, share, p));
    let version = format!("{method}-{name}-k{}", args.k);
    let version = args.prior.map_or(version.clone(), |p| format!("{version}-prior{p}"));
    // With --prior the caller knows the galleries, so a search must not rescale for their size.
    let persons = if args.prior.is_some() { 0 } else { one.identities() };
    // The calibration that calibrate-phrases fitted stays.
    let phrases = loaded.config.calibration.phrases.take();
    loaded.config.calibration = Calibration { version, persons: persons as f32, phrases, ..moved };
    let record = json!({
        "method": method,
        "data": name,
        "k": args.k,
        "bank": loaded.bank.as_ref().filter(|_| fitted.hubness != 0.0).map_or(0, QueryBank::len),
        "fitted_on": {"pairs": fitting.len(), "prior": share, "persons": one.identities()},
        "measured_on": {"pairs": fresh.len(), "prior": prior(&fresh), "persons": "others"},
        "ece_before": before.ece, "ece_after": after.ece,
        "log_loss_before": before.log_loss, "log_loss_after": after.log_loss,
        "brier_before": before.brier, "brier_after": after.brier,
        "moved_to_prior": args.prior,
        "plot": "calibration.svg",
    });
    if !loaded.config.provenance.is_object() {
        loaded.config.provenance = json!({});
    }
    loaded.config.provenance["calibration"] = record.clone();
    card.apply_to(&mut loaded.config.provenance);
    let title = format!("{method} on other persons: ECE {:.4} (softmax {:.4})", after.ece, before.ece);
    let sets = [("softmax".to_owned(), before.bins.clone()), (method.to_owned(), after.bins.clone())];
    plot::reliability(&loaded.path.join("calibration.svg"), &title, &sets)?;
    keep_bank(&loaded)?;
    atomic::file(&loaded.path.join("config.json"), &serde_json::to_vec_pretty(&loaded.config)?)?;
    if args.json {
        println!("{record}");
        return Ok(());
    }
    println!(
        "{name}: fitted on {} pairs ({:.2} % match), measured on {} others\n",
        fitting.len(),
        100.0 * share,
        fresh.len()
    );
    println!("{:<10} {:>8} {:>10} {:>8}", "", "ECE", "log loss", "Brier");
    for (name, q) in [("softmax", &before), (method, &after)] {
        println!("{name:<10} {:>8.4} {:>10.4} {:>8.4}", q.ece, q.log_loss, q.brier);
    }
    let (c, bank) = (&loaded.config.calibration, loaded.bank.as_ref().map_or(0, QueryBank::len));
    if c.hubness != 0.0 {
        println!("\nhubness from a bank of {bank} texts weighs {:.2} of the cosine", -c.hubness / c.similarity);
    }
    println!("\nwritten to {}", loaded.path.join("config.json").display());
    Ok(())
}

/// Writes the query bank, if the calibration uses it, before config.json refers to it.
fn keep_bank(loaded: &LoadedModel) -> Result<()> {
    let path = loaded.path.join(QUERY_BANK);
    match &loaded.bank {
        Some(bank) if loaded.config.calibration.hubness != 0.0 => {
            Ok(atomic::with(&path, |part| bank.save(part).map_err(TrainError::from))?)
        }
        _ => Ok(()),
    }
}
