//! `eval`: the paper's protocols on an annotated dataset or drawn persons, and what single phrases
//! separate.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::json;
use sightline_tune::dataset::Dataset;
use sightline_tune::evaluate::{LocalScore, dump};
use sightline_tune::ranks::{RankIntervals, Ranks, TextRank, text_ranks_by};

use crate::scorer::{DataArgs, Defaults, MachineArgs, Scorer};
use crate::{eval_attributes, eval_explain, eval_phrases, eval_served};

#[derive(Args)]
#[command(after_help = "\
Examples:
  sightline-finetune eval --dataset cuhk-pedes --root CUHK-PEDES --preset reference
  sightline-finetune eval --model clip-vit-base-patch16 --dataset rstpreid --root RSTPReid --split val
  sightline-finetune eval --dataset synth --identities 1000 --json
  sightline-finetune eval --explain --dataset synth --identities 200 --views 1
  sightline-finetune eval --phrases --dataset cuhk-pedes --root PEOPLE --split train

global: every picture of the split ranked by the cosine of its global feature with the text's (CADA-G).
local: the first K of that order ranked anew by cosine + match score, the others behind them (CADA-L):
  sightline  as `sightline serve` ranks (default): by the probability that all of the description is true, or with a model that
             judges no phrases by the calibrated match probability (it weighs logit, cosine and hubness)
  paper      cosine + match probability (softmax of both logits)
  reference  cosine + raw match logit, the others cosine - 100: the authors' code
In brackets: the middle 95 % when the persons looked for are drawn anew a thousand times, each with all of their texts; the
gallery stays. A text that several pictures of a person have in common is counted once.

--phrases asks short phrases (\"wearing jeans\", \"carrying a backpack\") of every picture, and tells how well the score separates
the persons of whom the phrase is true from the others. The truth comes from labels.json below --root, or of drawn persons.

--explain tests the maps from words to patches on drawn persons: does the map of \"red jacket\" point at the jacket, and does the
model believe it less without the patches that the map highlights? Each method is held against chance.

--attributes masks each attribute word of a caption and tells how often the model's word head names it among its first three,
beside how often it does with the picture of somebody else.

A model with a query bank also gets a row for its cosine less the picture's hubness, without the decoder.
A folder of CLIP or SigLIP (Hugging Face layout) has no decoder for pairs: global protocol only.
The paper's ablation tables are another command: sightline-finetune ablate --help.")]
pub struct EvalArgs {
    /// Model folder, or "default" for the one in the repository; a CLIP or SigLIP folder in Hugging
    /// Face layout too.
    #[arg(long, default_value = "default")]
    pub model: PathBuf,
    #[command(flatten)]
    pub data: DataArgs,
    /// Pictures per text that are re-ranked with the decoder.
    #[arg(long, default_value_t = 32)]
    k: usize,
    /// How the local score is made.
    #[arg(long, value_enum, default_value_t = Preset::Sightline)]
    preset: Preset,
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Single phrases instead of descriptions: how well they separate those of whom they are true.
    /// --k is not used; every picture is judged.
    #[arg(long)]
    phrases: bool,
    /// Tests of the explanations, on drawn persons (--dataset synth).
    #[arg(long, conflicts_with = "phrases")]
    explain: bool,
    /// Masked words of captions: does the word head name them by the picture?
    #[arg(long, conflicts_with_all = ["phrases", "explain"])]
    attributes: bool,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Write the score matrices (cosine_t2i, score_local: texts x images) with text_ids and
    /// image_ids, as safetensors.
    #[arg(long)]
    pub dump: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Preset {
    Sightline,
    Reference,
    Paper,
}

pub const DEFAULTS: Defaults = Defaults { dataset: "cuhk-pedes", split: "test", identities: 1000, seed: 999 };

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
    if args.explain {
        return eval_explain::run(args);
    }
    if args.attributes {
        return eval_attributes::run(args);
    }
    ensure!(args.k > 0, "--k must be above 0");
    let scorer = Scorer::open(&args.model, &args.machine)?;
    let (gallery, name) = args.data.gallery(&DEFAULTS)?;
    let local_score = match (&scorer, args.preset) {
        (Scorer::Cada(m), Preset::Sightline) => Some(LocalScore::Sightline(m.config.calibration.clone())),
        (Scorer::Cada(_), Preset::Reference) => Some(LocalScore::Reference),
        (Scorer::Cada(_), Preset::Paper) => Some(LocalScore::Paper),
        (Scorer::Baseline(..), _) => None,
    };
    if args.phrases {
        let truths = args.data.truths(&gallery)?;
        return eval_phrases::run(args, &scorer, &gallery, &name, &truths, local_score.as_ref());
    }
    let (scores, local_score) = match (&scorer, args.preset) {
        (Scorer::Cada(m), Preset::Sightline) if m.config.calibration.phrases.is_some() => {
            let model = args.machine.model(&m.path)?;
            (eval_served::scores(&model, m.bank.as_ref(), &gallery, args.k)?, Some(LocalScore::Served))
        }
        _ => (scorer.scores(&gallery, args.k)?, local_score),
    };
    if scores.half {
        eprintln!("the gallery is large: patch features were kept as f16, as Sightline stores them");
    }
    let (text_ids, image_ids) = (&gallery.text_ids, &gallery.image_ids);
    let local = local_score
        .as_ref()
        .map(|local_score| Found::of(&scores.text_ranks(local_score, text_ids, image_ids), text_ids));
    let global = Found::of(&text_ranks_by(&scores.cosine, text_ids, image_ids), text_ids);
    let bank = scores.bank_ranks(text_ids, image_ids).map(|texts| Found::of(&texts, text_ids));
    if let Some(path) = &args.dump {
        let matrix = local_score.as_ref().map(|local_score| scores.local(local_score));
        dump(path, &scores.cosine, matrix.as_deref(), text_ids, image_ids)?;
    }
    let (texts, images, repeated) = (gallery.captions.len(), gallery.len(), gallery.repeated);
    if args.json {
        let ranks = |found: &Option<Found>| found.as_ref().map(|found| found.ranks);
        let interval = |found: &Option<Found>| found.as_ref().and_then(|found| found.intervals);
        let result = json!({"global": global.ranks, "local": ranks(&local), "global_query_bank": ranks(&bank),
                          "intervals": {"global": global.intervals, "local": interval(&local),
                                        "global_query_bank": interval(&bank)},
                          "k": args.k, "texts": texts, "repeated_texts": repeated, "images": images,
                          "model_id": scorer.id()});
        println!("{result}");
        return Ok(());
    }
    let again = if repeated > 0 { format!(" ({repeated} more are repeated and not counted)") } else { String::new() };
    println!("model {} on {name}: {texts} texts{again}, {images} images, K = {}\n", scorer.id(), args.k);
    table(&scorer, &global, bank.as_ref(), local.as_ref(), args.preset);
    let paper = args.data.layout(&DEFAULTS).and_then(|dataset| published(dataset, texts + repeated, images));
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

/// Ranks with their intervals over persons.
struct Found {
    ranks: Ranks,
    intervals: Option<RankIntervals>,
}

impl Found {
    fn of(texts: &[TextRank], text_ids: &[u32]) -> Self {
        Self { ranks: Ranks::of(texts), intervals: RankIntervals::of(texts, text_ids) }
    }
}

fn table(scorer: &Scorer, global: &Found, bank: Option<&Found>, local: Option<&Found>, preset: Preset) {
    println!("| {:<28} | {:>13} | {:>13} | {:>13} | {:>13} |", "", "Rank-1", "Rank-5", "Rank-10", "mAP");
    println!("|{:-<30}|{:->15}|{:->15}|{:->15}|{:->15}|", "", ":", ":", ":", ":");
    match scorer {
        Scorer::Cada(_) => found("global (CADA-G)", global),
        Scorer::Baseline(m, _) => found(&format!("{} (global)", m.kind), global),
    }
    if let Some(bank) = bank {
        found("global, query bank", bank);
    }
    if let Some(local) = local {
        let name = match preset {
            Preset::Sightline => "local (CADA-L), sightline",
            Preset::Reference => "local (CADA-L), reference",
            Preset::Paper => "local (CADA-L), paper",
        };
        found(name, local);
    }
}

/// A row of ranks, and one of their intervals.
fn found(name: &str, Found { ranks, intervals }: &Found) {
    row(name, [ranks.rank1, ranks.rank5, ranks.rank10, ranks.map]);
    if let Some(of) = intervals {
        let cell = |[low, high]: [f64; 2]| format!("[{low:.1}, {high:.1}]");
        cells("", [of.rank1, of.rank5, of.rank10, of.map].map(cell));
    }
}

fn row(name: &str, ranks: [f64; 4]) {
    cells(name, ranks.map(|rank| format!("{rank:.2}")));
}

fn cells(name: &str, [rank1, rank5, rank10, map]: [String; 4]) {
    println!("| {name:<28} | {rank1:>13} | {rank5:>13} | {rank10:>13} | {map:>13} |");
}
