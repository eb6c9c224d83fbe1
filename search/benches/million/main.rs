//! Insert rate, memory, disk, search times and recall of a vector store with many sightings.
//!
//! ```text
//! cargo bench -p sightline-search --bench million -- --points 1000000 --folder DIR
//! ```
//!
//! Stages: `truth` (the exact answers, by comparing all), `insert`, `index`, `measure`, `gallery` (pictures beside the
//! vectors), `retention` (the oldest hundredth is deleted). Each runs in a process of its own, so that memory is that of the stage, and notes in DIR what it has
//! done: a run that was stopped goes on where it was. The result is a table on standard output and in `DIR/report.md`.
#![allow(missing_docs, clippy::print_stdout)]

mod args;
mod host;
mod people;
mod stages;

use std::process::Command;

use args::Args;

const STAGES: [&str; 6] = ["truth", "insert", "index", "measure", "gallery", "retention"];

fn main() -> anyhow::Result<()> {
    let args = Args::parse()?;
    std::fs::create_dir_all(&args.folder)?;
    if let Some(stage) = &args.stage {
        return stages::run(stage, &args);
    }
    for stage in STAGES.iter().filter(|s| args.store.is_none() || !matches!(**s, "gallery" | "retention")) {
        let given = std::env::args().skip(1);
        let folder = args.folder.clone();
        let status = Command::new(std::env::current_exe()?)
            .args(given)
            .args(["--stage", stage, "--folder"])
            .arg(folder)
            .status()?;
        anyhow::ensure!(status.success(), "stage {stage} ended with {status}");
    }
    print!("{}", std::fs::read_to_string(args.folder.join("report.md"))?);
    Ok(())
}
