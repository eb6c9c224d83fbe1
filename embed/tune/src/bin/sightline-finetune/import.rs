//! `import`: converts a checkpoint of CADA's or BLIP's authors to a model folder.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use candle_core::DType;
use clap::{Args, ValueEnum};
use sightline_tune::import::{ImportOptions, ImportReport, import};

#[derive(Args)]
#[command(after_help = "\
Examples:
  sightline-finetune import --checkpoint best.pth --tokenizer tokenizer.json --out models/cada
  sightline-finetune import --checkpoint model_base.pth --tokenizer tokenizer.json --image 384x128 --out models/blip

A CADA checkpoint has every tensor of a model. BLIP's lacks the head for token groups (itm_local_head), which only
training needs: the head is initialised at random, and the report says so. Momentum copies (*_m), queues and temp are left
out, and so is text_decoder without --word-head.
The position embedding is resized (bicubic) if the picture has another size; any height and width are possible.")]
pub struct ImportArgs {
    /// Checkpoint to import: .pth as the authors write it, or .safetensors with the same tensor
    /// names.
    #[arg(long)]
    checkpoint: PathBuf,
    /// tokenizer.json of bert-base-uncased; `[DEC]` and `[ENC]` are added if it has neither.
    #[arg(long)]
    tokenizer: PathBuf,
    /// Configuration with the dimensions of the checkpoint (flat, or a model folder's config.json).
    /// Default: CADA as published.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Height and width of the model's input in pixels, for example 384x128. Default: that of
    /// --config or, without it, of the checkpoint.
    #[arg(long, value_parser = size)]
    image: Option<[usize; 2]>,
    /// Model folder to write.
    #[arg(long)]
    out: PathBuf,
    /// Name of the model. Default: the checkpoint's file name without its extension.
    #[arg(long)]
    name: Option<String>,
    /// Type of the stored weights; f16 halves the size of the folder.
    #[arg(long, value_enum, default_value_t = Weights::F32)]
    weights: Weights,
    /// Keep the word predictor (text_decoder) of a CADA checkpoint for `Model::attributes`, which
    /// predicts masked words; the text transformer is then in memory twice.
    #[arg(long)]
    word_head: bool,
    /// Replace an existing model folder.
    #[arg(long)]
    force: bool,
    /// Print one JSON object instead of the report.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Weights {
    F32,
    F16,
}

/// Parses `384x128` as height and width.
fn size(text: &str) -> Result<[usize; 2], String> {
    let side = |s: &str| s.trim().parse::<usize>().ok().filter(|n| *n > 0);
    let (h, w) = text.split_once(['x', 'X']).ok_or("it is HEIGHTxWIDTH, for example 384x128")?;
    side(h).zip(side(w)).map(|(h, w)| [h, w]).ok_or_else(|| "it is HEIGHTxWIDTH, for example 384x128".to_owned())
}

pub fn run(args: &ImportArgs) -> Result<()> {
    let stem = args.checkpoint.file_stem().map(|s| s.to_string_lossy().into_owned());
    let name = args.name.clone().or(stem).context("--checkpoint names no file")?;
    ensure!(!name.trim().is_empty(), "--name is empty");
    let done = import(&ImportOptions {
        checkpoint: args.checkpoint.clone(),
        tokenizer: args.tokenizer.clone(),
        config: args.config.clone(),
        image: args.image,
        word_head: args.word_head,
        dtype: match args.weights {
            Weights::F32 => DType::F32,
            Weights::F16 => DType::F16,
        },
        name,
        out: args.out.clone(),
        force: args.force,
    })?;
    if args.json {
        println!("{}", serde_json::to_string(&done)?);
    } else {
        print_report(&done);
        println!("written to {}", args.out.display());
    }
    Ok(())
}

fn print_report(done: &ImportReport) {
    let [h, w] = done.image_size;
    println!("{} checkpoint: {} tensors, {} parameters, pictures of {h}x{w}", done.form, done.mapped, done.parameters);
    if let Some([rows, cols]) = done.resized_from {
        println!("position embedding resized from {rows}x{cols} patches");
    }
    for (why, count) in &done.dropped {
        println!("left out: {count} tensor(s), {why}");
    }
    for name in &done.unused {
        println!("unused: {name}");
    }
    for name in &done.fresh {
        println!("drawn afresh, for the checkpoint lacks it (training only): {name}");
    }
    if !done.added_pieces.is_empty() {
        println!("added to the tokenizer: {}", done.added_pieces.join(" "));
    }
    println!("model {}", done.model_id);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_height_then_width() {
        assert_eq!(size("384x128"), Ok([384, 128]));
        for bad in ["384", "x", "0x16", "384x-1", ""] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }
}
