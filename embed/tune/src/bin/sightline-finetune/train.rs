//! `train`: from data to a run folder with checkpoints, log, curves and, at its end, a model folder.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sightline_embed::model::{ModelConfig, Preprocess};
use sightline_embed::text::CaptionTokenizer;
use sightline_embed::{DEFAULT_MODEL, resolve_model_folder};
use sightline_tune::folder::Card;
use sightline_tune::init::{self, Taken};
use sightline_tune::recipe::Recipe;
use sightline_tune::run::{Run, Trainee};
use sightline_tune::schedule::Schedule;
use sightline_tune::source::{Sequence, Source};
use sightline_tune::vocabulary::{self, Cut};
use sightline_tune::{TrainError, atomic, checkpoint, record};

use crate::export;
use crate::report::{Teller, person};
use crate::train_args::{TrainArgs, overridden};
use crate::train_data::{self, Reading};

/// run.json: what re-creates the run, and what `export` needs to know.
#[derive(Clone, Serialize, Deserialize)]
pub struct Record {
    /// How it is trained, and on what.
    pub recipe: Recipe,
    /// What is trained.
    pub model: ModelConfig,
    /// Time limit in minutes, when one was given; the steps it led to are in the recipe.
    pub minutes: Option<f64>,
}

impl Record {
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

/// Settings that may differ when a run goes on: they are found out or changed while it does.
const FOUND_OUT: [&str; 3] = ["run.steps", "run.schedule.cosine.epoch", "epochs"];
/// Found out too under a time limit.
const FALL: &str = "run.schedule.fall.fall";

/// What to do in the run folder: a new run, or the one that is there.
fn settle(args: &TrainArgs, before: Option<&Record>) -> Result<Recipe> {
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
    let mut except = FOUND_OUT.to_vec();
    except.extend(before.minutes.map(|_| FALL));
    let mut differences = record::differences(&old, &new, &except);
    if !args.resume && args.steps.is_some_and(|steps| steps != before.recipe.run.steps) {
        let steps = args.steps.unwrap_or_default();
        differences.push(format!("run.steps: {}, now {steps} (--resume allows it)", before.recipe.run.steps));
    }
    if !differences.is_empty() {
        return Err(TrainError::OtherRun { path, differences }.into());
    }
    if args.steps.is_none() {
        asked.run.steps = before.recipe.run.steps;
    }
    asked.run.schedule = before.recipe.run.schedule;
    asked.epochs = before.recipe.epochs;
    Ok(asked)
}

/// Sets the flag when the process is asked to stop; a second time it ends at once.
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
                    person("\nstopped at once; the last checkpoint stays");
                    std::process::exit(130);
                }
                person("\nstopping: the step under way is finished and a checkpoint written (again to end at once)");
            }
        });
    });
    Ok(())
}

/// The tokenizer of a new run in `run`/tokenizer.json, and the pieces it was cut from.
fn vocabulary(run: &Path, recipe: &Recipe, source: &dyn Source) -> Result<(usize, Option<Cut>)> {
    let out = run.join("tokenizer.json");
    if let Some(file) = &recipe.tokenizer {
        let file = if file.as_os_str() == DEFAULT_MODEL {
            resolve_model_folder(Path::new(DEFAULT_MODEL))?.join("tokenizer.json")
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

/// Fresh weights, from wherever the recipe says.
fn start(trainee: &Trainee, recipe: &Recipe, cut: Option<&Cut>, tell: &Teller) -> Result<()> {
    if let (Some(folder), Some(cut)) = (&recipe.text_init, cut) {
        let said = match init::from_text_encoder(trainee, folder, cut)? {
            Taken::Layers(n) => format!("words, positions and {n} layers of the text side"),
            Taken::Words => {
                "word embeddings alone, reduced to the model's width (the encoder's dimensions differ)".into()
            }
        };
        tell.note(&format!("from {}: {said}", folder.display()));
    }
    if let Some(path) = &recipe.init {
        let kept = init::from_checkpoint(trainee, path)?;
        let fresh = if kept.is_empty() { String::new() } else { format!("; fresh: {}", kept.join(", ")) };
        tell.note(&format!("from {}: every weight it has{fresh}", path.display()));
    }
    Ok(())
}

/// Runs the command; gives the exit code.
pub fn run(args: &TrainArgs) -> Result<u8> {
    let tell = Teller::new(args.json);
    let stop = Arc::new(AtomicBool::new(false));
    on_signal(Arc::clone(&stop))?;
    let before = Record::read(&args.run)?;
    let mut recipe = settle(args, before.as_ref())?;
    ensure!(!recipe.data.is_empty(), "there is nothing to learn from: --data SOURCE");
    fs::create_dir_all(&args.run).with_context(|| format!("creating {}", args.run.display()))?;
    sightline_embed::keep_large_buffers();
    let reading = Reading { size: recipe.shape.image, skip_bad: args.skip_bad, memory: args.memory << 20 };
    let data = train_data::sources(&recipe, &reading, &tell)?;
    let source: &dyn Source = data.source.as_ref();
    let goes_on = checkpoint::step(&args.run).is_some();
    let (pieces, cut) = match &before {
        Some(record) if goes_on => (record.model.architecture.vocab_size, None),
        _ => vocabulary(&args.run, &recipe, source)?,
    };
    let arch = recipe.shape.architecture(pieces).map_err(|e| anyhow!(e))?;
    let texts = CaptionTokenizer::load(&args.run.join("tokenizer.json"), &arch)?;
    let per_epoch = Sequence::new(source, recipe.run.order, recipe.run.seed, recipe.run.batch)?.per_epoch()
        / recipe.run.accumulate.max(1);
    if before.is_none() {
        if let Some(epochs) = recipe.epochs {
            recipe.run.steps = epochs * per_epoch.max(1);
        }
        if let Schedule::Cosine { epoch } = &mut recipe.run.schedule {
            *epoch = per_epoch.max(1);
        }
    }
    let trainee = Trainee::with_decoder(&arch, recipe.run.objective.decoder(), recipe.run.seed)?;
    let parameters: usize = trainee.variables.all_vars().iter().map(|v| v.elem_count()).sum();
    tell.note(&format!(
        "{:.2} million parameters, {pieces} word pieces; {} identities, {per_epoch} steps an epoch",
        parameters as f64 / 1e6,
        source.identities()
    ));
    if !goes_on {
        start(&trainee, &recipe, cut.as_ref(), &tell)?;
    }
    let minutes = args.minutes.or(before.as_ref().and_then(|record| record.minutes));
    let mut record = Record { recipe: recipe.clone(), model: ModelConfig::new("", arch), minutes };
    record.write(&args.run)?;
    let validation = data.validation(&recipe, &texts, &reading, &tell)?;
    let run = Run {
        prep: Preprocess::default(),
        validation: validation.as_ref(),
        checkpoint_every: Duration::from_secs(args.checkpoint_s),
        limit: minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0)),
        stop: &stop,
        ..Run::new(&args.run, recipe.run.clone(), &trainee, source, &texts)
    };
    let mut planned = None;
    let outcome = recipe.precision().scope(|| {
        run.go(|line| {
            if let Some(steps) = line["planned_steps"].as_u64() {
                let fall = line["fall"].as_u64().unwrap_or_default() as usize;
                let run = &mut record.recipe.run;
                (run.steps, run.schedule) = (steps as usize, run.schedule.with_fall(fall));
                planned = Some(record.write(&args.run));
            }
            tell.line(line);
        })
    })?;
    planned.unwrap_or(Ok(()))?;
    if outcome.stopped {
        tell.end(&format!(
            "stopped after step {}; resume with: sightline-finetune train --run {} --resume",
            outcome.steps,
            args.run.display()
        ));
        return Ok(130);
    }
    let best = outcome.best.is_some();
    let model = args.run.join("model");
    let written = export::model(&args.run, &record, &trainee, best, 1.0, ("sightline", &Card::default()), &model)?;
    tell.value(&json!({"model": model, "of_step": written, "best": best}));
    tell.end(&format!("model folder of step {written} written to {}", model.display()));
    Ok(0)
}
