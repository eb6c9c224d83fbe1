//! Bench of a vector store with many sightings: insert rate, memory, disk, search times and recall.
//!
//! ```text
//! cargo bench -p sightline-search --bench million -- --points 1000000 --folder DIR
//! ```
//!
//! Stages: `truth` (the exact answers, by comparing all), `insert`, `index`, `measure`, `gallery`
//! (pictures beside the vectors), `retention` (deletes the oldest hundredth). Each runs in a
//! process of its own, so that its memory is measured alone, and records its progress in DIR: a
//! stopped run resumes. The result is a table on standard output and in `DIR/report.md`.
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
