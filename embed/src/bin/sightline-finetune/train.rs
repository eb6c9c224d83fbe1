//! `train`: a run from drawn persons to checkpoints.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use sightline_embed::kernel::Precision;
use sightline_embed::model::{Architecture, ModelConfig, Preprocess};
use sightline_embed::synth::Corpus;
use sightline_embed::text::CaptionTokenizer;
use sightline_embed::train::pool::Pool;
use sightline_embed::train::run::{self, RunConfig, Trainee};
use sightline_embed::train::vocabulary::{self, Cut};

use crate::objective::ObjectiveArgs;

#[derive(Args, Clone)]
pub struct TrainArgs {
    /// Run folder: checkpoints, log, configuration.
    #[arg(long)]
    run: PathBuf,
    /// Folder with vocab.txt and model.safetensors of a BERT-layout text encoder (for example MiniLM-L6).
    #[arg(long)]
    text_embeddings: PathBuf,
    /// Pieces of the vocabulary cut from it.
    #[arg(long, default_value_t = 7000)]
    vocabulary: usize,
    /// Drawn persons.
    #[arg(long, default_value_t = 20_000)]
    identities: u64,
    /// Pictures of each.
    #[arg(long, default_value_t = 4)]
    views: u64,
    /// Everything follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Steps in all; may be changed when a run is resumed before its fall.
    #[arg(long, default_value_t = 6000)]
    steps: usize,
    /// Steps of the final fall of the learning rate.
    #[arg(long, default_value_t = 1500)]
    fall: usize,
    /// Steps of warm-up.
    #[arg(long, default_value_t = 200)]
    warmup: usize,
    /// Pairs a step.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Highest learning rate.
    #[arg(long, default_value_t = 5e-4)]
    lr: f64,
    /// Word embeddings are frozen before this step.
    #[arg(long, default_value_t = 1500)]
    words_from: usize,
    #[command(flatten)]
    objective: ObjectiveArgs,
    /// Side of a patch in pixels; it must divide 192 and 96.
    #[arg(long, default_value_t = 24)]
    patch: usize,
    /// Width of both transformers.
    #[arg(long, default_value_t = 256)]
    width: usize,
    /// Layers of the vision transformer.
    #[arg(long, default_value_t = 6)]
    vision_depth: usize,
    /// Layers of the text transformer.
    #[arg(long, default_value_t = 4)]
    text_layers: usize,
    /// Matrix products in single precision instead of bfloat16 factors with single-precision sums.
    #[arg(long)]
    f32: bool,
    /// Seconds between checkpoints.
    #[arg(long, default_value_t = 180)]
    checkpoint_s: u64,
}

/// What `export` needs to know of a run, kept in its run.json.
#[derive(Serialize, Deserialize)]
pub struct Record {
    /// How it was trained.
    pub config: RunConfig,
    /// What is trained.
    pub model: ModelConfig,
}

fn architecture(args: &TrainArgs, vocab: usize) -> Architecture {
    Architecture {
        image_size: [192, 96],
        patch_size: args.patch,
        vision_width: args.width,
        vision_depth: args.vision_depth,
        vision_heads: args.width / 64,
        text_hidden_size: args.width,
        text_layers: args.text_layers,
        text_heads: args.width / 64,
        text_intermediate: 4 * args.width,
        vocab_size: vocab,
        max_position_embeddings: 73,
        enc_token_id: vocab as u32 - 1,
        embed_dim: 256,
        ..Architecture::cada_base()
    }
}

fn run_config(args: &TrainArgs) -> Result<RunConfig> {
    Ok(RunConfig {
        seed: args.seed,
        batch: args.batch,
        steps: args.steps,
        warmup: args.warmup,
        fall: args.fall,
        lr: args.lr,
        decay: 0.05,
        clip: 5.0,
        objective: args.objective.objective()?,
        words_from: args.words_from,
    })
}

pub fn run(args: &TrainArgs) -> Result<()> {
    ensure!(args.width.is_multiple_of(64) && args.width > 0, "--width {} is not a multiple of 64", args.width);
    ensure!(args.patch > 0 && 96usize.is_multiple_of(args.patch), "--patch {} does not divide 192 and 96", args.patch);
    ensure!(
        args.batch >= 2 && args.identities >= 4,
        "a batch needs at least two pairs, and there must be four persons"
    );
    fs::create_dir_all(&args.run).with_context(|| format!("creating {}", args.run.display()))?;
    sightline_embed::keep_large_buffers();
    let precision = if args.f32 { Precision::F32 } else { Precision::Bf16 };
    let full = vocabulary::read(&args.text_embeddings.join("vocab.txt"))?;
    let corpus = Corpus::new(args.seed);
    let cut = Cut::new(&full, args.vocabulary, (0..4000).map(|i| corpus.caption(i, 77)))?;
    let arch = architecture(args, cut.len());
    let tokenizer = serde_json::to_vec(&cut.tokenizer_json(arch.max_text_len))?;
    fs::write(args.run.join("tokenizer.json"), &tokenizer)?;
    let texts = CaptionTokenizer::load(&args.run.join("tokenizer.json"), &arch)?;
    let config = run_config(args)?;
    let trainee = Trainee::with_decoder(&arch, config.objective.decoder(), args.seed)?;
    let parameters: usize = trainee.variables.all_vars().iter().map(|v| v.elem_count()).sum();
    eprintln!("{:.2} million parameters, {} word pieces", parameters as f64 / 1e6, cut.len());
    start_words(&trainee, &cut, &args.text_embeddings, args.width)?;
    let record = Record { config: config.clone(), model: ModelConfig::new("", arch.clone()) };
    fs::write(args.run.join("run.json"), serde_json::to_vec_pretty(&record)?)?;
    let pool = Pool::new(corpus, 0, args.identities, args.views, arch.image_size);
    let every = Duration::from_secs(args.checkpoint_s);
    let done = precision.scope(|| {
        run::train(&args.run, &config, &trainee, &pool, &Preprocess::default(), &texts, every, |line| {
            eprintln!("{line}")
        })
    });
    Ok(done?)
}

/// Word embeddings from the pre-trained encoder.
fn start_words(trainee: &Trainee, cut: &Cut, encoder: &Path, width: usize) -> Result<()> {
    let words = cut.embeddings(encoder, width)?;
    let data = trainee.variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let var = data.get("text_encoder.embeddings.word_embeddings.weight").context("the model has no word embeddings")?;
    Ok(var.set(&words)?)
}
