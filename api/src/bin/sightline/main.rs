//! `sightline`: every role in one process, and the commands of a running server.
//!
//! Results go to standard output, everything else to standard error. A failure prints one line and
//! exits with code 1.

#[path = "../shared/audit.rs"]
mod audit;
mod camera;
mod client;
mod detect;
mod erase;
mod gallery;
mod node;
#[path = "../shared/output.rs"]
mod output;
mod reindex;
mod search;
mod serve;
#[path = "../shared/token.rs"]
mod token;

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
        /// Configuration file; settings that it omits keep their defaults (docker/sightline.toml).
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Search a running Sightline.
    Search(search::Args),
    /// Add, list and remove cameras of a running Sightline.
    #[command(subcommand)]
    Camera(camera::Command),
    /// Erase people of a running Sightline, by camera, by camera and time, or by sighting.
    Erase(erase::Args),
    /// Find pictures that no index knows, and move them into quarantine
    #[command(long_about = gallery::HELP)]
    CheckGallery(gallery::Args),
    /// Create, list and revoke access tokens; the server need not run.
    #[command(subcommand)]
    Token(token::Command),
    /// Verify the audit trail; the server need not run.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Embed all stored pictures again, so that a new model finds everybody
    #[command(long_about = reindex::HELP)]
    Reindex(reindex::Args),
    /// Print (and draw) the people that the detector finds in pictures.
    Detect(detect::Args),
    /// Convert the published detector weights to safetensors.
    ConvertDetector {
        /// JSON file of the model.
        #[arg(long, value_name = "FILE")]
        json: PathBuf,
        /// Weights file of the model.
        #[arg(long, value_name = "FILE")]
        bin: PathBuf,
        /// Output file.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve { config } => serve::run(config.as_deref()),
        Command::Search(args) => search::run(&args),
        Command::Camera(command) => camera::run(&command),
        Command::Erase(args) => erase::run(&args),
        Command::CheckGallery(args) => gallery::run(&args),
        Command::Token(command) => token::run(&command),
        Command::Audit(command) => audit::run(&command),
        Command::Reindex(args) => return reindex::run(&args),
        Command::Detect(args) => return detect::run(&args),
        Command::ConvertDetector { json, bin, out } => {
            sightline_detect::convert::tfjs_to_safetensors(&json, &bin, &out).map_err(Into::into)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {}", output::one_line(&e));
            ExitCode::FAILURE
        }
    }
}
