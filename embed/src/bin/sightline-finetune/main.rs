//! `sightline-finetune`: the offline job that draws training persons, trains CADA on them, evaluates and calibrates.

mod calibrate;
mod eval;
mod export;
mod gallery;
mod import;
mod objective;
mod report;
mod synth;
mod train;

use anyhow::Result;
use clap::{Parser, Subcommand};

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
    Synth(synth::SynthArgs),
    /// Train a model on drawn persons; killed runs go on from their last checkpoint when started again.
    Train(train::TrainArgs),
    /// Make a model folder of a checkpoint of the authors of CADA or BLIP.
    Import(import::ImportArgs),
    /// Write the model folder of a run's last checkpoint.
    Export(export::ExportArgs),
    /// Rank-1/5/10 and mAP of a model folder on an annotated dataset, global and local protocol.
    Eval(eval::EvalArgs),
    /// Fit match probabilities on held-out drawn persons and write them into the model folder.
    Calibrate(calibrate::CalibrateArgs),
}

fn main() -> Result<()> {
    // candle's own threads spin between its ops and take the cores from ours; what is left to candle is small.
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    }
    match Cli::parse().command {
        Command::Synth(args) => synth::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
    }
}
