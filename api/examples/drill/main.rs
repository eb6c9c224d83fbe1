//! Drills: fault and speed tests of the whole topology on this machine.
//!
//! ```text
//! drill chaos   kills roles and broker at random moments, and cuts a camera node off from the broker; afterwards the
//!               index must hold what an undisturbed run holds
//! drill crowd   many camera nodes share many cameras; some of the nodes are killed
//! drill outage  takes broker, then vector store, away for minutes: bounded memory, counted drops, catching up
//! drill scale   one worker against two, and a rebalance in mid-stream
//! drill lag     from the frame to the index, for live cameras
//! ```
//!
//! Every drill starts real processes with `docker/local.sh` and stops them again. Results go to
//! standard output.

mod chaos;
mod crowd;
mod footage;
mod index;
mod lag;
mod outage;
mod partition;
mod scale;
mod topology;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Drills over the whole topology
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    drill: Drill,
}

/// Arguments of all drills
#[derive(clap::Args)]
pub struct Common {
    /// Folder for data and logs; emptied first
    #[arg(long, default_value = "data/drill")]
    dir: PathBuf,
    /// Recordings that the cameras play in turn
    #[arg(long = "video", default_values_os_t = footage::samples())]
    videos: Vec<PathBuf>,
}

#[derive(Subcommand)]
enum Drill {
    /// Kill processes at random
    Chaos(chaos::Args),
    /// Kill a part of many camera nodes that share many cameras
    Crowd(crowd::Args),
    /// Stop the broker, then the vector store, for minutes
    Outage(outage::Args),
    /// Compare one worker with two
    Scale(scale::Args),
    /// Measure the lag from frame to index
    Lag(lag::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.drill {
        Drill::Chaos(args) => chaos::run(&cli.common, args),
        Drill::Crowd(args) => crowd::run(&cli.common, args),
        Drill::Outage(args) => outage::run(&cli.common, args),
        Drill::Scale(args) => scale::run(&cli.common, args),
        Drill::Lag(args) => lag::run(&cli.common, args),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::from(2)
        }
    }
}
