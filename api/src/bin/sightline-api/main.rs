//! `sightline-api`: the REST API and the page alone. Other processes run cameras, embedding and
//! indexing; this one encodes queries, searches the Qdrant server, re-ranks with the pictures of
//! the shared gallery and serves the page.
//!
//! Results go to standard output, everything else to standard error. A failure prints one line and
//! exits with code 1.

#[path = "../shared/audit.rs"]
mod audit;
#[path = "../shared/output.rs"]
mod output;
mod serve;
#[path = "../shared/token.rs"]
mod token;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// REST API and operator's page of Sightline, over a Qdrant server and a shared gallery.
#[derive(Parser)]
#[command(name = "sightline-api", version, propagate_version = true, args_conflicts_with_subcommands = true)]
struct Cli {
    /// Configuration file; settings that it omits keep their defaults (docker/sightline.toml).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Create, list and revoke access tokens; the server need not run.
    #[command(subcommand)]
    Token(token::Command),
    /// Verify the audit trail; the server need not run.
    #[command(subcommand)]
    Audit(audit::Command),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => serve::run(cli.config.as_deref()),
        Some(Command::Token(command)) => token::run(&command),
        Some(Command::Audit(command)) => audit::run(&command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {}", output::one_line(&e));
            ExitCode::FAILURE
        }
    }
}
