//! Drawing, training and exporting.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use candle_core::DType;
use serde::{Deserialize, Serialize};
use sightline_embed::kernel::Precision;
use sightline_embed::model::{Architecture, ModelConfig, Preprocess};
use sightline_embed::synth::{Corpus, write};
use sightline_embed::text::CaptionTokenizer;
use sightline_embed::train::losses::{Groups, HardNegative, Ndf};
use sightline_embed::train::pool::Pool;
use sightline_embed::train::run::{RunConfig, Trainee};
use sightline_embed::train::vocabulary::{self, Cut};
use sightline_embed::train::{checkpoint, folder, run};

use crate::{ExportArgs, SynthArgs, TrainArgs};

/// Counted progress on standard error, with rate and what is left.
pub fn progress(what: &'static str, total: u64) -> impl Fn(u64) + Sync {
    let start = Instant::now();
    move |done| {
        if done % 200 == 0 || done == total {
            let rate = done as f64 / start.elapsed().as_secs_f64().max(1e-9);
            let left = total.saturating_sub(done) as f64 / rate;
            eprint!("\r{what}: {done}/{total}  {rate:.0}/s  {left:.0} s left   ");
            if done == total {
                eprintln!();
            }
            let _ = std::io::stderr().flush();
        }
    }
}

pub fn synth(args: &SynthArgs) -> Result<()> {
    ensure!(args.identities > 0 && args.views > 0, "nothing to draw: --identities and --views must be above 0");
    fs::create_dir_all(&args.out).with_context(|| format!("creating {}", args.out.display()))?;
    let told = progress("pictures", args.identities * args.views);
    write::write(&args.out, Corpus::new(args.seed), args.identities, args.views, told)
        .with_context(|| format!("writing {}", args.out.display()))
}

/// What `export` needs to know of a run, kept in its run.json.
#[derive(Serialize, Deserialize)]
struct Record {
    config: RunConfig,
    model: ModelConfig,
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
        ndf: match args.ndf.as_str() {
            "paper" => Ndf::Paper,
            "code" => Ndf::Code,
            other => bail!("--ndf {other}: it is paper or code"),
        },
        negative: match args.negatives.as_str() {
            "cosine" => HardNegative::Cosine,
            "code" => HardNegative::Code,
            "sampled" => HardNegative::Sampled,
            other => bail!("--negatives {other}: it is cosine, code or sampled"),
        },
        groups: Groups { size: 12, masked: true },
        atp_from: args.atp_from,
        atp_pairs: args.atp_pairs,
        attributes: args.attributes,
        words_from: args.words_from,
    })
}

pub fn train(args: &TrainArgs) -> Result<()> {
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
    let trainee = Trainee::new(&arch, args.seed)?;
    let parameters: usize = trainee.variables.all_vars().iter().map(|v| v.elem_count()).sum();
    eprintln!("{:.2} million parameters, {} word pieces", parameters as f64 / 1e6, cut.len());
    start_words(&trainee, &cut, &args.text_embeddings, args.width)?;
    let config = run_config(args)?;
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

pub fn export(args: &ExportArgs) -> Result<()> {
    let path = args.run.join("run.json");
    let record: Record =
        serde_json::from_slice(&fs::read(&path).with_context(|| format!("reading {}", path.display()))?)?;
    let trainee = Trainee::new(&record.model.architecture, 0)?;
    let mut optimizer = trainee.optimizer(0.0);
    checkpoint::load(&args.run, &trainee.variables, &mut optimizer)?
        .with_context(|| format!("{} has no checkpoint", args.run.display()))?;
    ensure!(args.match_weight > 0.0, "--match-weight must be above 0");
    for name in ["itm_head.weight", "itm_head.bias"] {
        let data = trainee.variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let var = data.get(name).with_context(|| format!("the model has no {name}"))?;
        var.set(&(var.as_tensor() * args.match_weight)?.detach())?;
    }
    let mut model = record.model;
    model.name = args.name.clone();
    model.provenance = serde_json::json!({
        "data": "persons drawn by sightline-finetune (level 1: procedural, no assets); no picture of a real person",
        "steps": optimizer.steps(),
        "match_weight": args.match_weight,
        "run": record.config,
    });
    let tokenizer = fs::read(args.run.join("tokenizer.json"))?;
    folder::write(&args.out, &model, &trainee.variables, DType::F16, &tokenizer)?;
    sightline_embed::write_self_test(&args.out)?;
    eprintln!("step {} written to {}", optimizer.steps(), args.out.display());
    Ok(())
}
