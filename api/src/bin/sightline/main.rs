//! `sightline`: every role in one process, and the commands around it.
//!
//! Results go to standard output, everything else to standard error. A failure is one line and exit code 1.

mod camera;
mod client;
mod detect;
mod node;
mod reindex;
mod search;
mod serve;
#[path = "../shared/token.rs"]
mod token;
#[path = "../shared/words.rs"]
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Find a person in live camera footage by describing them.
#[derive(Parser)]
#[command(name = "sightline", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything: cameras, search, REST API and the operator's page.
    Serve {
        /// Configuration; what it leaves out keeps its default (docker/sightline.toml).
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Search a running Sightline.
    Search(search::Args),
    /// Add, list and remove cameras of a running Sightline.
    #[command(subcommand)]
    Camera(camera::Command),
    /// Create, list and revoke access tokens; the server need not run.
    #[command(subcommand)]
    Token(token::Command),
    /// Embed the stored pictures anew, so that a new model answers over everybody
    #[command(long_about = reindex::HELP)]
    Reindex(reindex::Args),
    /// Print (and draw) the people the detector sees in pictures.
    Detect(detect::Args),
    /// Convert the published detector weights to safetensors.
    ConvertDetector {
        /// The model's JSON.
        #[arg(long, value_name = "FILE")]
        json: PathBuf,
        /// The model's weights.
        #[arg(long, value_name = "FILE")]
        bin: PathBuf,
        /// The file to write.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve { config } => serve::run(config.as_deref()),
        Command::Search(args) => search::run(&args),
        Command::Camera(command) => camera::run(&command),
        Command::Token(command) => token::run(&command),
        Command::Reindex(args) => return reindex::run(&args),
        Command::Detect(args) => return detect::run(&args),
        Command::ConvertDetector { json, bin, out } => {
            sightline_detect::convert::tfjs_to_safetensors(&json, &bin, &out).map_err(Into::into)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {}", words::one_line(&e));
            ExitCode::FAILURE
        }
    }
}
