//! `train`: trains a model and writes a run folder with checkpoints, log, curves and, at the end, a
//! model folder.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sightline_embed::model::ModelConfig;
use sightline_embed::text::CaptionTokenizer;
use sightline_embed::{DEFAULT_MODEL, resolve_model_folder};
use sightline_tune::backbone;
use sightline_tune::batch::TokenMaker;
use sightline_tune::folder::Card;
use sightline_tune::init::{self, TextInit};
use sightline_tune::recipe::Recipe;
use sightline_tune::run::{Run, Trainee};
use sightline_tune::schedule::Schedule;
use sightline_tune::source::{BatchSequence, Source};
use sightline_tune::token_cache::TokenCache;
use sightline_tune::vocabulary::{self, CutVocabulary};
use sightline_tune::{TrainError, atomic, checkpoint, record};

use crate::export;
use crate::report::{Reporter, print_stderr};
use crate::train_args::{TrainArgs, overridden};
use crate::train_data::{self, Data, ReadOptions};

/// run.json: the settings that re-create the run and that `export` needs.
#[derive(Clone, Serialize, Deserialize)]
pub struct RunRecord {
    /// Recipe of the run: data, objective, schedule and initial weights.
    pub recipe: Recipe,
    /// Configuration of the trained model.
    pub model: ModelConfig,
    /// Time limit in minutes, if one was given; the recipe has the resulting number of steps.
    pub minutes: Option<f64>,
}

impl RunRecord {
    /// Reads `run`/run.json, if there is one.
    pub fn read(run: &Path) -> Result<Option<Self>> {
        let path = run.join("run.json");
        match fs::read(&path) {
            Ok(text) => Ok(Some(
                serde_json::from_slice(&text).with_context(|| format!("{} is not a run's settings", path.display()))?,
            )),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
        }
    }

    fn write(&self, run: &Path) -> Result<()> {
        Ok(atomic::file(&run.join("run.json"), &serde_json::to_vec_pretty(self)?)?)
    }
}

/// Settings that may differ when a run resumes, because the run itself derives or changes them.
const DERIVED_SETTINGS: [&str; 3] = ["run.steps", "run.schedule.cosine.epoch", "epochs"];
/// A further such setting under a time limit.
const FALL_SETTING: &str = "run.schedule.fall.fall";

/// The recipe of the run: a new one from the preset and the flags, or that of the existing run.
fn resolve_recipe(args: &TrainArgs, before: Option<&RunRecord>) -> Result<Recipe> {
    let path = args.run.join("run.json");
    let Some(before) = before else {
        ensure!(!args.resume, "{} holds no run to go on with (no run.json)", args.run.display());
        let preset = Recipe::preset(&args.preset)
            .with_context(|| format!("--preset {}: it is {}", args.preset, Recipe::PRESETS.join(", ")))?;
        return overridden(preset, args);
    };
    let base =
        if args.resume { before.recipe.clone() } else { Recipe::preset(&args.preset).unwrap_or(before.recipe.clone()) };
    let mut asked = overridden(base, args)?;
    let (old, new) = (serde_json::to_value(&before.recipe)?, serde_json::to_value(&asked)?);
    let mut except = DERIVED_SETTINGS.to_vec();
    except.extend(before.minutes.map(|_| FALL_SETTING));
    let mut differences = record::differences(&old, &new, &except);
    if !args.resume {
        let steps = args.steps.filter(|steps| *steps != before.recipe.run.steps);
        differences.extend(
            steps.map(|steps| format!("run.steps: {}, now {steps} (--resume allows it)", before.recipe.run.steps)),
        );
        let epochs = args.epochs.filter(|epochs| before.recipe.epochs != Some(*epochs));
        let old = before.recipe.epochs.map_or_else(|| "none".to_owned(), |epochs| epochs.to_string());
        differences.extend(epochs.map(|epochs| format!("epochs: {old}, now {epochs} (--resume allows it)")));
    }
    if !differences.is_empty() {
        return Err(TrainError::OtherRun { path, differences }.into());
    }
    if !has_new_length(args) {
        (asked.run.steps, asked.epochs) = (before.recipe.run.steps, before.recipe.epochs);
    }
    asked.run.schedule = before.recipe.run.schedule;
    Ok(asked)
}

/// Whether a run is resumed with a number of steps or epochs.
fn has_new_length(args: &TrainArgs) -> bool {
    args.resume && (args.steps.is_some() || args.epochs.is_some())
}

/// Time limit of the run in minutes. A run that is resumed with a number of steps or epochs keeps
/// no earlier limit, which may be over already.
fn time_limit(args: &TrainArgs, before: Option<&RunRecord>) -> Option<f64> {
    let earlier = before.filter(|_| !has_new_length(args)).and_then(|record| record.minutes);
    args.minutes.or(earlier)
}

/// Sets `stop` on SIGINT, SIGTERM or SIGHUP; a second signal ends the process at once.
pub fn on_signal(stop: Arc<AtomicBool>) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("signal handling")?;
    let _guard = runtime.enter();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hangup = signal(SignalKind::hangup())?;
    drop(_guard);
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, _ = hangup.recv() => {} }
                if stop.swap(true, Ordering::Relaxed) {
                    print_stderr("\nstopped at once; the last checkpoint stays");
                    std::process::exit(130);
                }
                print_stderr(
                    "\nstopping: the step under way is finished and a checkpoint written (again to end at once)",
                );
            }
        });
    });
    Ok(())
}

/// Writes the tokenizer of a new run to `run`/tokenizer.json. Returns the number of pieces, and the
/// cut vocabulary if there is one.
fn write_tokenizer(run: &Path, recipe: &Recipe, source: &dyn Source) -> Result<(usize, Option<CutVocabulary>)> {
    let out = run.join("tokenizer.json");
    if let Some(file) = &recipe.tokenizer {
        let file = if file.as_os_str() == DEFAULT_MODEL {
            resolve_model_folder(file)?.join("tokenizer.json")
        } else {
            file.clone()
        };
        return Ok((vocabulary::copy(&file, &out)?, None));
    }
    if let Some(folder) = &recipe.text_init {
        let cut = vocabulary::cut(folder, recipe.vocabulary, train_data::examples(source, recipe.run.seed), &out)?;
        return Ok((cut.len(), Some(cut)));
    }
    if let Some(folder) = recipe.init_folder() {
        return Ok((vocabulary::copy(&folder.join("tokenizer.json"), &out)?, None));
    }
    bail!(
        "a run needs words: --text-init DIR (vocab.txt and weights of a BERT-layout encoder such as MiniLM-L6), \
         --tokenizer FILE, --tokenizer default (that of the model in the repository), or --init MODEL_FOLDER"
    )
}

/// Loads initial weights from the sources that the recipe names.
fn initialise(
    trainee: &Trainee,
    recipe: &Recipe,
    cut: Option<&CutVocabulary>,
    source: &dyn Source,
    reporter: &Reporter,
) -> Result<()> {
    if let (Some(file), Some(kind)) = (&recipe.backbone_init, recipe.shape.backbone) {
        backbone::from_published(trainee, kind, file)?;
        let pixels = train_data::sample(recipe, source)?;
        recipe.precision().scope(|| backbone::standardise(trainee, &pixels, recipe.shape.image))?;
        reporter.note(&format!("from {}: {kind}", file.display()));
    } else if let (Some(kind), None) = (recipe.shape.backbone, &recipe.init) {
        bail!("a backbone is not trained from nothing: --backbone-init FILE, the published weights of {kind} (.pth)");
    }
    if let (Some(folder), Some(cut)) = (&recipe.text_init, cut) {
        let loaded = match init::from_text_encoder(trainee, folder, cut)? {
            TextInit::Layers(n) => format!("words, positions and {n} layers of the text side"),
            TextInit::Words => {
                "word embeddings alone, reduced to the model's width (the encoder's dimensions differ)".into()
            }
        };
        reporter.note(&format!("from {}: {loaded}", folder.display()));
    }
    if let Some(path) = &recipe.init {
        let kept = init::from_checkpoint(trainee, path)?;
        let fresh = if kept.is_empty() { String::new() } else { format!("; fresh: {}", kept.join(", ")) };
        reporter.note(&format!("from {}: every weight it has{fresh}", path.display()));
    }
    Ok(())
}

/// Creates the maker of tokens for a model with a backbone, with its cache in `folder`.
fn token_maker(trainee: &Trainee, recipe: &Recipe, data: &Data, folder: &Path) -> Result<Option<TokenMaker>> {
    let Some(network) = recipe.precision().scope(|| backbone::network(trainee))? else { return Ok(None) };
    let run = &recipe.run;
    let kind = network.kind();
    let content = json!([
        recipe.data,
        recipe.assets,
        data.files,
        recipe.mesh_share,
        run.seed,
        recipe.shape.image,
        run.augment,
        run.variants,
        recipe.f32,
        backbone::digest(trainee)?
    ]);
    let arch = trainee.model.arch();
    let grid = [arch.grid().rows, arch.grid().cols];
    let maker = TokenMaker::new(network, data.source.as_ref(), run.token_drop, &run.variants, |records| {
        TokenCache::open(folder, &content.to_string(), kind, grid, records)
    })?;
    let whole_from = run.whole_from.map_or(u64::MAX, |step| (step * run.accumulate) as u64);
    Ok(Some(maker.whole_from(whole_from)))
}

/// Runs the command; returns the exit code.
pub fn run(args: &TrainArgs) -> Result<u8> {
    let reporter = Reporter::new(args.json);
    let stop = Arc::new(AtomicBool::new(false));
    on_signal(Arc::clone(&stop))?;
    let before = RunRecord::read(&args.run)?;
    let mut recipe = resolve_recipe(args, before.as_ref())?;
    ensure!(!recipe.data.is_empty(), "there is nothing to learn from: --data SOURCE");
    fs::create_dir_all(&args.run).with_context(|| format!("creating {}", args.run.display()))?;
    sightline_embed::keep_large_buffers();
    let options = ReadOptions { size: recipe.shape.image, skip_bad: args.skip_bad, memory: args.memory << 20 };
    let data = train_data::sources(&recipe, &options, &reporter)?;
    let source: &dyn Source = data.source.as_ref();
    let resumes = checkpoint::step(&args.run).is_some();
    let (pieces, cut) = match &before {
        Some(record) if resumes => (record.model.architecture.vocab_size, None),
        _ => write_tokenizer(&args.run, &recipe, source)?,
    };
    let arch = recipe.shape.architecture(pieces).map_err(|e| anyhow!(e))?;
    let texts = CaptionTokenizer::load(&args.run.join("tokenizer.json"), &arch)?;
    let per_epoch = BatchSequence::new(source, recipe.run.order, recipe.run.seed, recipe.run.batch)?.per_epoch()
        / recipe.run.accumulate.max(1);
    if let Some(epochs) = recipe.epochs.filter(|_| before.is_none() || has_new_length(args)) {
        recipe.run.steps = epochs * per_epoch.max(1);
    }
    if before.is_none()
        && let Schedule::Cosine { epoch } = &mut recipe.run.schedule
    {
        *epoch = per_epoch.max(1);
    }
    let trainee = Trainee::with_frozen(&arch, recipe.run.objective.decoder(), recipe.run.seed, recipe.frozen())?;
    let parameters: usize = trainee.variables.all_vars().iter().map(|v| v.elem_count()).sum();
    reporter.note(&format!(
        "{:.2} million parameters, {pieces} word pieces; {} identities, {per_epoch} steps an epoch",
        parameters as f64 / 1e6,
        source.identities()
    ));
    if !resumes {
        initialise(&trainee, &recipe, cut.as_ref(), source, &reporter)?;
    } else if arch.backbone.is_some() {
        // The run restores all of its state later, but its backbone computes tokens before.
        checkpoint::load_variables(&args.run, &trainee.variables)?;
    }
    let minutes = time_limit(args, before.as_ref());
    let mut model = ModelConfig::new("", arch);
    model.preprocess = recipe.preprocess();
    let mut record = RunRecord { recipe: recipe.clone(), model, minutes };
    record.write(&args.run)?;
    let validation = data.validation(&recipe, &texts, &options, &reporter)?;
    let tokens = token_maker(&trainee, &recipe, &data, args.token_cache.as_deref().unwrap_or(&args.run))?;
    let run = Run {
        prep: recipe.preprocess(),
        tokens: tokens.as_ref(),
        validation: validation.as_ref(),
        checkpoint_every: Duration::from_secs(args.checkpoint_s),
        limit: minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0)),
        stop: &stop,
        ..Run::new(&args.run, recipe.run.clone(), &trainee, source, &texts)
    };
    let mut planned = None;
    let outcome = recipe.precision().scope(|| {
        run.train(|line| {
            if let Some(steps) = line["planned_steps"].as_u64() {
                let fall = line["fall"].as_u64().unwrap_or_default() as usize;
                let run = &mut record.recipe.run;
                (run.steps, run.schedule) = (steps as usize, run.schedule.with_fall(fall));
                planned = Some(record.write(&args.run));
            }
            reporter.line(line);
        })
    })?;
    planned.unwrap_or(Ok(()))?;
    if outcome.stopped {
        reporter.end(&format!(
            "stopped after step {}; resume with: sightline-finetune train --run {} --resume",
            outcome.steps,
            args.run.display()
        ));
        return Ok(130);
    }
    let best = outcome.best.is_some();
    let model = args.run.join("model");
    let written = export::model(&args.run, &record, &trainee, best, 1.0, ("sightline", &Card::default()), &model)?;
    reporter.value(&json!({"model": model, "of_step": written, "best": best}));
    reporter.end(&format!("model folder of step {written} written to {}", model.display()));
    Ok(0)
}
