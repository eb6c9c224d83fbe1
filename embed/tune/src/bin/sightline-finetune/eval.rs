//! `eval`: the paper's protocols on an annotated dataset or drawn persons.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::json;
use sightline_tune::dataset::Dataset;
use sightline_tune::evaluate::{LocalScore, Ranks, dump, ranks};

use crate::scorer::{DataArgs, Defaults, MachineArgs, Scorer};

#[derive(Args)]
#[command(after_help = "\
Examples:
  sightline-finetune eval --dataset cuhk-pedes --root CUHK-PEDES --preset reference
  sightline-finetune eval --model clip-vit-base-patch16 --dataset rstpreid --root RSTPReid --split val
  sightline-finetune eval --dataset synth --identities 1000 --json

global: every picture of the split ranked by the cosine of its global feature with the text's (CADA-G).
local: the first K of that order ranked anew by cosine + match score, the others behind them (CADA-L):
  sightline  calibrated match probability (it weighs logit, cosine and hubness), as `sightline serve` ranks (default)
  paper      cosine + match probability (softmax of both logits)
  reference  cosine + raw match logit, the others cosine - 100: the authors' code
A model with a query bank also gets a row for its cosine less the picture's hubness, without the decoder.
A folder of CLIP or SigLIP (Hugging Face layout) has no decoder for pairs: global protocol only.
The paper's ablation tables are another command: sightline-finetune ablate --help.")]
pub struct EvalArgs {
    /// Model folder, or "default" for the one in the repository; a CLIP or SigLIP folder in Hugging
    /// Face layout too.
    #[arg(long, default_value = "default")]
    model: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    /// Pictures per text that are re-ranked with the decoder.
    #[arg(long, default_value_t = 32)]
    k: usize,
    /// How the local score is made.
    #[arg(long, value_enum, default_value_t = Preset::Sightline)]
    preset: Preset,
    #[command(flatten)]
    machine: MachineArgs,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Write the score matrices (cosine_t2i, score_local: texts x images) with text_ids and
    /// image_ids, as safetensors.
    #[arg(long)]
    dump: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Preset {
    Sightline,
    Reference,
    Paper,
}

const DEFAULTS: Defaults = Defaults { dataset: "cuhk-pedes", split: "test", identities: 1000, seed: 999 };

/// What the paper reports for CADA-G and CADA-L (Rank-1, Rank-5, Rank-10, mAP), when the gallery is
/// the test split that it was measured on: by its layout, and by its numbers of texts and pictures.
fn published(dataset: Dataset, texts: usize, images: usize) -> Option<[[f64; 4]; 2]> {
    match (dataset, texts, images) {
        (Dataset::CuhkPedes, 6156, 3074) => Some([[73.48, 89.57, 94.10, 65.82], [78.37, 91.57, 94.58, 68.87]]),
        (Dataset::IcfgPedes, 19_848, 19_848) => Some([[62.54, 79.46, 85.14, 37.07], [67.81, 82.34, 87.14, 39.85]]),
        (Dataset::RstpReid, 2000, 1000) => Some([[61.50, 82.60, 89.15, 47.28], [69.60, 86.75, 92.40, 52.74]]),
        _ => None,
    }
}

pub fn run(args: &EvalArgs) -> Result<()> {
    ensure!(args.k > 0, "--k must be above 0");
    let scorer = Scorer::open(&args.model, &args.machine)?;
    let (gallery, name) = args.data.gallery(&DEFAULTS)?;
    let scores = scorer.scores(&gallery, args.k)?;
    if scores.half {
        eprintln!("the gallery is large: patch features were kept as f16, as Sightline stores them");
    }
    let rank = |scores: &[Vec<f32>]| ranks(scores, &gallery.text_ids, &gallery.image_ids);
    let local_score = match (&scorer, args.preset) {
        (Scorer::Cada(m), Preset::Sightline) => Some(LocalScore::Sightline(m.config.calibration.clone())),
        (Scorer::Cada(_), Preset::Reference) => Some(LocalScore::Reference),
        (Scorer::Cada(_), Preset::Paper) => Some(LocalScore::Paper),
        (Scorer::Baseline(..), _) => None,
    };
    let local =
        local_score.as_ref().map(|local_score| scores.ranks(local_score, &gallery.text_ids, &gallery.image_ids));
    let global = rank(&scores.cosine);
    let bank = scores.without_hubness().as_deref().map(rank);
    if let Some(path) = &args.dump {
        let matrix = local_score.as_ref().map(|local_score| scores.local(local_score));
        dump(path, &scores.cosine, matrix.as_deref(), &gallery.text_ids, &gallery.image_ids)?;
    }
    let (texts, images) = (gallery.captions.len(), gallery.len());
    if args.json {
        let result = json!({"global": global, "local": local, "global_query_bank": bank, "k": args.k,
                          "texts": texts, "images": images,
                          "model_id": scorer.id()});
        println!("{result}");
        return Ok(());
    }
    println!("model {} on {name}: {texts} texts, {images} images, K = {}\n", scorer.id(), args.k);
    table(&scorer, global, bank, local, args.preset);
    let paper = args.data.layout(&DEFAULTS).and_then(|dataset| published(dataset, texts, images));
    for (name, r) in ["published CADA-G", "published CADA-L"].into_iter().zip(paper.into_iter().flatten()) {
        row(name, r);
    }
    match (&scorer, args.preset) {
        (Scorer::Baseline(m, _), _) => println!("\n{} has no decoder for pairs: global protocol only.", m.kind),
        (Scorer::Cada(m), Preset::Sightline) if !m.config.calibration.calibrated => {
            println!("\nThe model is not calibrated: its match probability is the softmax of both logits.");
        }
        _ => {}
    }
    Ok(())
}

fn table(scorer: &Scorer, global: Ranks, bank: Option<Ranks>, local: Option<Ranks>, preset: Preset) {
    println!("| {:<28} | {:>6} | {:>6} | {:>7} | {:>6} |", "", "Rank-1", "Rank-5", "Rank-10", "mAP");
    println!("|{:-<30}|{:->8}|{:->8}|{:->9}|{:->8}|", "", ":", ":", ":", ":");
    let four = |r: Ranks| [r.rank1, r.rank5, r.rank10, r.map];
    match scorer {
        Scorer::Cada(_) => row("global (CADA-G)", four(global)),
        Scorer::Baseline(m, _) => row(&format!("{} (global)", m.kind), four(global)),
    }
    if let Some(bank) = bank {
        row("global, query bank", four(bank));
    }
    if let Some(local) = local {
        let name = match preset {
            Preset::Sightline => "local (CADA-L), sightline",
            Preset::Reference => "local (CADA-L), reference",
            Preset::Paper => "local (CADA-L), paper",
        };
        row(name, four(local));
    }
}

fn row(name: &str, [rank1, rank5, rank10, map]: [f64; 4]) {
    println!("| {name:<28} | {rank1:>6.2} | {rank5:>6.2} | {rank10:>7.2} | {map:>6.2} |");
}
