//! `synth`: draws persons and writes them as a dataset.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use sightline_embed::synth::{Corpus, write};

use crate::report::progress;

#[derive(Args)]
pub struct SynthArgs {
    /// Folder to write.
    #[arg(long)]
    out: PathBuf,
    /// Persons.
    #[arg(long, default_value_t = 1000)]
    identities: u64,
    /// Pictures of each.
    #[arg(long, default_value_t = 4)]
    views: u64,
    /// Everything follows from it.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(args: &SynthArgs) -> Result<()> {
    ensure!(args.identities > 0 && args.views > 0, "nothing to draw: --identities and --views must be above 0");
    fs::create_dir_all(&args.out).with_context(|| format!("creating {}", args.out.display()))?;
    let told = progress("pictures", args.identities * args.views);
    write::write(&args.out, Corpus::new(args.seed), args.identities, args.views, told)
        .with_context(|| format!("writing {}", args.out.display()))
}
