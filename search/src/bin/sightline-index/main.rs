//! `sightline-index`: the sink of the separate roles; it reads Kafka's topic `sightings` and writes
//! vectors and gallery.
//!
//! ```text
//! topic sightings -> consumer (group sightline-index) -> decode -> Queue(2 batches) -> indexer -> gallery, vectors, coverage
//!                        ^ offsets up to the first open receipt <---------------- receipts --+
//!                    what can never be stored -> topic sightings.dead
//! ```
//!
//! Any number of workers share the topic's partitions. Each keeps at most `bus.in_flight_bytes` of
//! records in flight. When vectors or gallery are unreachable it stops reading, retries without
//! limit, and commits no offset of a record that is not stored.

mod dead_letters;
mod in_flight;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sightline_core::Config;

/// Stores the sightings of Kafka's topic in the vector store and the gallery.
#[derive(Parser)]
#[command(name = "sightline-index", version)]
struct Arguments {
    /// Configuration file; settings that it omits keep their defaults (see docker/sightline.toml).
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Store incoming sightings until SIGINT or SIGTERM (the default).
    Run,
    /// List and replay the dead letters of all stages.
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
