//! `sightline-index`: the sink of the separate roles, from Kafka's topic `sightings` into vectors and gallery.
//!
//! ```text
//! topic sightings -> consumer (group sightline-index) -> decode -> Queue(2 batches) -> indexer -> gallery, vectors, coverage
//!                        ^ offsets up to the first open receipt <---------------- receipts --+
//!                    what can never be stored -> topic sightings.dead
//! ```
//!
//! Any number of them share the topic's partitions. Each keeps at most `bus.in_flight_bytes` of records open: when vectors
//! or gallery are away, it stops taking more, tries again for ever, and commits nothing that is not stored.

mod dead_letters;
mod poison;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sightline_core::Config;

/// Stores the sightings of Kafka's topic in the vector store and the gallery.
#[derive(Parser)]
#[command(name = "sightline-index", version)]
struct Arguments {
    /// Configuration; everything it leaves out has its default (see docker/sightline.toml).
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Store what comes, until SIGINT or SIGTERM (the default).
    Run,
    /// Records that could never be processed, of all stages.
    DeadLetters {
        #[command(subcommand)]
        action: dead_letters::Action,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = Config::load(arguments.config.as_deref()).map_err(anyhow::Error::from).and_then(|config| {
        match arguments.command.unwrap_or(Command::Run) {
            Command::Run => run::run(&config),
            Command::DeadLetters { action } => dead_letters::run(&config, &action),
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sightline-index: {error:#}");
            ExitCode::FAILURE
        }
    }
}
