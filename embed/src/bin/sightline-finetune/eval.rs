//! `eval`: the paper's protocols on an annotated dataset.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;
use serde_json::json;
use sightline_embed::train::evaluate::{Ranks, ranks};

use crate::gallery::{drawn_gallery, load, read_gallery, score};

#[derive(Args)]
pub struct EvalArgs {
    /// Model folder, or "default" for the one in the repository.
    #[arg(long, default_value = "default")]
    model: PathBuf,
    /// Layout of the dataset; "synth" draws persons instead of reading any.
    #[arg(long, default_value = "cuhk-pedes")]
    dataset: String,
    /// Folder with imgs/ and the annotation file.
    #[arg(long)]
    root: Option<PathBuf>,
    /// Split to evaluate.
    #[arg(long, default_value = "test")]
    split: String,
    /// Pictures per text that the decoder judges.
    #[arg(long, default_value_t = 32)]
    k: usize,
    /// With --dataset synth: persons.
    #[arg(long, default_value_t = 1000)]
    identities: u64,
    /// With --dataset synth: seed (not the training's).
    #[arg(long, default_value_t = 999)]
    seed: u64,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &EvalArgs) -> Result<()> {
    ensure!(args.k > 0, "--k must be above 0");
    let loaded = load(&args.model)?;
    let size = loaded.config.architecture.image_size;
    let gallery = match (args.dataset.as_str(), &args.root) {
        ("cuhk-pedes", Some(root)) => read_gallery(root, &args.split, size)?,
        ("cuhk-pedes", None) => bail!("--dataset cuhk-pedes needs --root"),
        ("synth", _) => drawn_gallery(args.seed, args.identities, size),
        (other, _) => bail!("--dataset {other}: it is cuhk-pedes or synth"),
    };
    let done = score(&loaded, &gallery, args.k)?;
    let rank = |scores: &[Vec<f32>]| ranks(scores, &gallery.text_ids, &gallery.image_ids);
    let (global, local) = (rank(&done.cosine), rank(&done.local));
    if args.json {
        println!(
            "{}",
            json!({"global": global, "local": local, "k": args.k, "texts": gallery.captions.len(), "images": gallery.pictures.len(), "model_id": loaded.id})
        );
    } else {
        println!("{} texts, {} images, K = {}\n", gallery.captions.len(), gallery.pictures.len(), args.k);
        println!("{:<8} {:>7} {:>7} {:>7} {:>7}", "", "Rank-1", "Rank-5", "Rank-10", "mAP");
        let line = |name: &str, r: Ranks| {
            println!("{name:<8} {:>7.2} {:>7.2} {:>7.2} {:>7.2}", r.rank1, r.rank5, r.rank10, r.map)
        };
        line("global", global);
        line("local", local);
    }
    Ok(())
}
