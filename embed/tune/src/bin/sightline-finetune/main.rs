//! `sightline-finetune`: the offline job that draws training persons, trains CADA on them,
//! evaluates and calibrates.

mod ablate;
mod calibrate;
mod calibrate_phrases;
mod eval;
mod eval_attributes;
mod eval_explain;
mod eval_phrases;
mod eval_served;
mod export;
mod import;
mod objective;
mod report;
mod scorer;
mod synth;
mod train;
mod train_args;
mod train_data;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Trains and evaluates Sightline's models.
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
    /// Train a model on drawn persons or datasets; a killed run resumes from its last checkpoint
    /// when started again.
    #[command(long_about = train_args::HELP)]
    Train(Box<train_args::TrainArgs>),
    /// Convert a checkpoint of CADA's or BLIP's authors to a model folder.
    Import(import::ImportArgs),
    /// Write the model folder of a run: its best checkpoint by validation, or its last.
    Export(export::ExportArgs),
    /// Measure Rank-1/5/10 and mAP of a model folder (or a CLIP or SigLIP folder) on an annotated
    /// dataset or drawn persons.
    Eval(eval::EvalArgs),
    /// Fit match probabilities on labelled pairs, measure them on other pairs and write them into
    /// the model folder.
    Calibrate(calibrate::CalibrateArgs),
    /// Fit the probability that a phrase is true of a person on labelled people, and write it into
    /// the model folder.
    CalibratePhrases(calibrate_phrases::CalibratePhrasesArgs),
    /// Fill the paper's ablation tables: train every variant and evaluate it on persons it has not
    /// seen (resumable).
    Ablate(Box<ablate::AblateArgs>),
}

fn main() -> Result<ExitCode> {
    // candle's threads spin between operations and take cores from rayon's threads, although little
    // work is left to candle.
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    }
    match Cli::parse().command {
        Command::Train(args) => return Ok(ExitCode::from(train::run(&args)?)),
        Command::Ablate(args) => return Ok(ExitCode::from(ablate::run(&args)?)),
        Command::Synth(args) => synth::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::CalibratePhrases(args) => calibrate_phrases::run(&args),
    }?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command of README.md must be accepted as it stands there. None is run: training takes
    /// minutes at least, and most read data that is not in the repository.
    #[test]
    fn the_commands_of_the_readme_are_valid() {
        let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
        let readme = std::fs::read_to_string(readme).expect("README.md of the repository");
        let mut checked = 0;
        for line in readme.lines().map(str::trim_start).filter(|l| l.starts_with("sightline-finetune ")) {
            let command = line.split(" #").next().unwrap_or(line).trim_end_matches([' ', '&', '\\']);
            if let Err(error) = Cli::try_parse_from(command.split_whitespace()) {
                panic!("README.md: {line}\n{error}");
            }
            checked += 1;
        }
        assert!(checked >= 5, "README.md shows {checked} commands of the fine-tuner");
    }
}
