//! `sightline-finetune`: the offline job that draws training persons, trains CADA on them, evaluates and calibrates.

mod commands;
mod evaluation;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

/// Makes and judges Sightline's models.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Draw persons with captions and write them in CUHK-PEDES layout (imgs/ and reid_raw.json).
    Synth(SynthArgs),
    /// Train a model on drawn persons; killed runs go on from their last checkpoint when started again.
    Train(TrainArgs),
    /// Write the model folder of a run's last checkpoint.
    Export(ExportArgs),
    /// Rank-1/5/10 and mAP of a model folder on an annotated dataset, global and local protocol.
    Eval(EvalArgs),
    /// Fit match probabilities on held-out drawn persons and write them into the model folder.
    Calibrate(CalibrateArgs),
}

#[derive(Args)]
struct SynthArgs {
    /// Folder to write.
    #[arg(long)]
    out: PathBuf,
    /// Persons.
    #[arg(long, default_value_t = 1000)]
    identities: u64,
    /// Pictures of each.
    #[arg(long, default_value_t = 4)]
    views: u64,
    /// Everything follows from it.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Args, Clone)]
struct TrainArgs {
    /// Run folder: checkpoints, log, configuration.
    #[arg(long)]
    run: PathBuf,
    /// Folder with vocab.txt and model.safetensors of a BERT-layout text encoder (for example MiniLM-L6).
    #[arg(long)]
    text_embeddings: PathBuf,
    /// Pieces of the vocabulary cut from it.
    #[arg(long, default_value_t = 7000)]
    vocabulary: usize,
    /// Drawn persons.
    #[arg(long, default_value_t = 20_000)]
    identities: u64,
    /// Pictures of each.
    #[arg(long, default_value_t = 4)]
    views: u64,
    /// Everything follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Steps in all; may be changed when a run is resumed before its fall.
    #[arg(long, default_value_t = 6000)]
    steps: usize,
    /// Steps of the final fall of the learning rate.
    #[arg(long, default_value_t = 1500)]
    fall: usize,
    /// Steps of warm-up.
    #[arg(long, default_value_t = 200)]
    warmup: usize,
    /// Pairs a step.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Highest learning rate.
    #[arg(long, default_value_t = 5e-4)]
    lr: f64,
    /// First step with the matching loss.
    #[arg(long, default_value_t = 1000)]
    atp_from: usize,
    /// Pairs of a batch that the matching loss is taken of; its negatives come from the whole batch.
    #[arg(long, default_value_t = 32)]
    atp_pairs: usize,
    /// Word embeddings are frozen before this step.
    #[arg(long, default_value_t = 1500)]
    words_from: usize,
    /// Weight of the auxiliary attribute heads.
    #[arg(long, default_value_t = 1.0)]
    attributes: f64,
    /// Global loss: paper or code.
    #[arg(long, default_value = "paper")]
    ndf: String,
    /// Hard negatives of the matching loss: cosine (hardest), code (the authors' rule) or sampled.
    #[arg(long, default_value = "sampled")]
    negatives: String,
    /// Side of a patch in pixels; it must divide 192 and 96.
    #[arg(long, default_value_t = 24)]
    patch: usize,
    /// Width of both transformers.
    #[arg(long, default_value_t = 256)]
    width: usize,
    /// Layers of the vision transformer.
    #[arg(long, default_value_t = 6)]
    vision_depth: usize,
    /// Layers of the text transformer.
    #[arg(long, default_value_t = 4)]
    text_layers: usize,
    /// Matrix products in single precision instead of bfloat16 factors with single-precision sums.
    #[arg(long)]
    f32: bool,
    /// Seconds between checkpoints.
    #[arg(long, default_value_t = 180)]
    checkpoint_s: u64,
}

#[derive(Args)]
struct ExportArgs {
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

#[derive(Args)]
struct EvalArgs {
    /// Model folder, or "default" for the one in the repository.
    #[arg(long, default_value = "default")]
    model: PathBuf,
    /// Layout of the dataset; "synth" draws persons instead of reading any.
    #[arg(long, default_value = "cuhk-pedes")]
    dataset: String,
    /// Folder with imgs/ and the annotation file.
    #[arg(long)]
    root: Option<PathBuf>,
    /// Split to evaluate.
    #[arg(long, default_value = "test")]
    split: String,
    /// Pictures per text that the decoder judges.
    #[arg(long, default_value_t = 32)]
    k: usize,
    /// With --dataset synth: persons.
    #[arg(long, default_value_t = 1000)]
    identities: u64,
    /// With --dataset synth: seed (not the training's).
    #[arg(long, default_value_t = 999)]
    seed: u64,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct CalibrateArgs {
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

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Synth(args) => commands::synth(&args),
        Command::Train(args) => commands::train(&args),
        Command::Export(args) => commands::export(&args),
        Command::Eval(args) => evaluation::eval(&args),
        Command::Calibrate(args) => evaluation::calibrate(&args),
    }
}
