//! The training loop: batches, losses, optimiser steps, checkpoints and validation. A run that is
//! stopped or killed resumes from its last checkpoint with the same results.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use candle_core::backprop::GradStore;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::batch::{Batch, BatchBuilder, TokenMaker};
use super::finite::{non_finite_gradient, non_finite_parts, non_finite_variable};
use super::objective::loss;
use super::optimizer::{AdamW, AdamWConfig};
use super::record::Log;
use super::source::{BatchSequence, Source};
use super::validation::{CheckpointScore, Validation, ValidationScores};
use super::{Result, TrainError, atomic, checkpoint, record};
use crate::ops::backward;
use sightline_embed::model::Preprocess;
use sightline_embed::text::CaptionTokenizer;

pub use super::config::{RunConfig, UNLIMITED_STEPS};
use super::trainee::of_text_encoder;
pub use super::trainee::{Frozen, Trainee};

/// A run to start or to resume.
pub struct Run<'a> {
    /// Folder of the checkpoint, log and curves.
    pub folder: &'a Path,
    /// Settings.
    pub config: RunConfig,
    /// Model and variables to train.
    pub trainee: &'a Trainee,
    /// Training data.
    pub source: &'a dyn Source,
    /// Tokenizer of the captions.
    pub texts: &'a CaptionTokenizer,
    /// Mean and standard deviation of the pixels.
    pub prep: Preprocess,
    /// Computes the tokens of pictures, for a model with a backbone.
    pub tokens: Option<&'a TokenMaker>,
    /// Validation data that chooses the best checkpoint; `None` keeps no best checkpoint.
    pub validation: Option<&'a Validation>,
    /// Time between checkpoints.
    pub checkpoint_every: Duration,
    /// Time limit of the run, summed over all processes that worked on it. The learning rate starts
    /// to fall early enough to end within the limit.
    pub limit: Option<Duration>,
    /// Set by the caller to stop after the current step.
    pub stop: &'a AtomicBool,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Number of steps done.
    pub steps: usize,
    /// Whether `stop` was set before the last step.
    pub stopped: bool,
    /// Step and score of the best validation.
    pub best: Option<(usize, CheckpointScore)>,
}

/// State of a run that a checkpoint stores as JSON, in addition to variables and moments.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct RunState {
    /// Running time so far, over all processes.
    seconds: f64,
    /// Number of steps and length of the fall, once a time limit has fixed them.
    planned: Option<(usize, usize)>,
    /// Step and score of the weights in best/.
    best: Option<(usize, CheckpointScore)>,
}

static NEVER: AtomicBool = AtomicBool::new(false);

/// Number of recent steps whose mean time predicts the remaining time.
const WINDOW: usize = 50;

impl<'a> Run<'a> {
    /// Creates a run without validation, time limit or a way to stop it.
    pub fn new(
        folder: &'a Path,
        config: RunConfig,
        trainee: &'a Trainee,
        source: &'a dyn Source,
        texts: &'a CaptionTokenizer,
    ) -> Self {
        Self {
            folder,
            config,
            trainee,
            source,
            texts,
            prep: Preprocess::default(),
            tokens: None,
            validation: None,
            checkpoint_every: Duration::from_secs(180),
            limit: None,
            stop: &NEVER,
        }
    }

    /// Trains from the checkpoint in the folder, or from the current variables, to the last step.
    /// `report` is called with each line of the log.
    ///
    /// # Errors
    /// Invalid settings, a loss that is not finite, a picture that can no longer be read, or a
    /// checkpoint that cannot be written. The last checkpoint stays. If data cannot be read, a new
    /// checkpoint is written first.
    pub fn train(&self, mut report: impl FnMut(&Value)) -> Result<Outcome> {
        self.config.check()?;
        let RunConfig { decay, late_warmup, .. } = self.config;
        let mut optimizer = self.trainee.optimizer_with(AdamWConfig { decay, late_warmup, ..AdamWConfig::default() });
        let text_rate = self.config.text_rate;
        optimizer.scale_rates(|name| if of_text_encoder(name) { text_rate } else { 1.0 });
        let stored = checkpoint::load(self.folder, &self.trainee.variables, &mut optimizer)?;
        let mut state = self.read_state(stored.unwrap_or_default())?;
        // A stored plan stands unless another number of steps is given; a time limit then makes a
        // new one.
        let mut config = self.config.clone();
        match state.planned {
            Some((steps, fall)) if config.steps >= UNLIMITED_STEPS || config.steps == steps => {
                (config.steps, config.schedule) = (steps, config.schedule.with_fall(fall));
            }
            _ => state.planned = None,
        }
        let start = optimizer.steps();
        let log = Log::open(self.folder, start)?;
        if start > 0 {
            report(&json!({"resumed_at": start}));
        }
        let arch = self.trainee.model.arch();
        let batches = BatchBuilder {
            source: self.source,
            sequence: BatchSequence::new(self.source, self.config.order, self.config.seed, self.config.batch)?,
            augment: self.config.augment,
            word_drop: self.config.word_drop,
            arch,
            prep: &self.prep,
            texts: self.texts,
            truth: self.config.objective.truth,
            tokens: self.tokens,
            seed: self.config.seed,
        };
        let batches = &batches;
        std::thread::scope(|scope| {
            let first = (start * self.config.accumulate) as u64;
            // With n workers, worker w builds the batches w, w + n, w + 2n and so on; the loop
            // receives from them in turn.
            let workers = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 4).clamp(1, 8));
            let mut queues = Vec::new();
            for worker in 0..workers as u64 {
                let (send, receive) = sync_channel::<Result<Batch>>(2);
                queues.push(receive);
                scope.spawn(move || {
                    for index in (first + worker..).step_by(workers) {
                        let batch = batches.build(index);
                        let failed = batch.is_err();
                        if send.send(batch).is_err() || failed {
                            break;
                        }
                    }
                });
            }
            let mut turn = 0;
            let mut next = move || {
                let batch = queues[turn % workers].recv().map_err(|_| TrainError::Stopped)?;
                turn += 1;
                batch
            };
            let began = Instant::now();
            let mut running = RunInProgress {
                run: self,
                config,
                optimizer,
                log,
                earlier_seconds: state.seconds,
                state,
                began,
                saved: began,
                times: VecDeque::new(),
                report: &mut report,
            };
            running.steps(&mut next, start)
        })
    }

    /// Parses the state of a checkpoint. An unreadable state is an error: with a default instead,
    /// the next validation would count as the best and overwrite a better one.
    fn read_state(&self, state: Value) -> Result<RunState> {
        if state.is_null() {
            return Ok(RunState::default());
        }
        serde_json::from_value(state).map_err(|e| {
            let message = format!(
                "the time spent, the steps planned for a time limit and which validation was best cannot be read ({e}); \
                 without \"run\" in the file the run goes on and starts them afresh"
            );
            TrainError::content(&self.folder.join("checkpoint/state.json"), message)
        })
    }

    /// Whether the objective trains matching at `step`, so that the local protocol is meaningful.
    fn matches(&self, step: usize) -> bool {
        self.config.objective.atp.as_ref().is_some_and(|atp| atp.global && step >= atp.from)
    }
}

/// State of a run while it takes steps.
struct RunInProgress<'r, 'a> {
    run: &'r Run<'a>,
    /// Settings, with the planned number of steps under a time limit.
    config: RunConfig,
    optimizer: AdamW,
    log: Log,
    state: RunState,
    /// Running time of earlier processes, in seconds.
    earlier_seconds: f64,
    began: Instant,
    saved: Instant,
    times: VecDeque<Instant>,
    report: &'r mut dyn FnMut(&Value),
}

impl RunInProgress<'_, '_> {
    fn steps(&mut self, next: &mut dyn FnMut() -> Result<Batch>, start: usize) -> Result<Outcome> {
        let (mut since, mut pairs, mut step) = (Instant::now(), 0usize, start);
        while step < self.config.steps {
            let at = Instant::now();
            let done = self.step(step, next);
            let (mut line, norm) = match done {
                Ok(done) => done,
                Err(e) => {
                    // Unreadable data do not harm the model, so its progress is saved.
                    if matches!(e, TrainError::Io { .. } | TrainError::Content { .. }) && step > start {
                        self.save()?;
                    }
                    return Err(e);
                }
            };
            pairs += self.config.pairs();
            step += 1;
            self.times.push_back(Instant::now());
            if self.times.len() > WINDOW {
                self.times.pop_front();
            }
            if step.is_multiple_of(20) || step <= start + 3 || step == self.config.steps {
                let per_second = pairs as f64 / since.elapsed().as_secs_f64().max(1e-9);
                line["step"] = json!(step);
                line["steps"] = json!((self.config.steps < UNLIMITED_STEPS).then_some(self.config.steps));
                line["ms"] = json!(at.elapsed().as_millis() as u64);
                line["norm"] = json!(norm);
                line["lr"] = json!(self.config.rate(step - 1));
                line["pairs_per_s"] = json!((per_second * 10.0).round() / 10.0);
                line["eta_min"] = json!(self.minutes_left(step, per_second));
                self.log(&line)?;
                (since, pairs) = (Instant::now(), 0);
            }
            let last = step == self.config.steps;
            let due = self.config.validate_every > 0 && step.is_multiple_of(self.config.validate_every);
            if due || last {
                self.validate(step)?;
                (since, pairs) = (Instant::now(), 0);
            }
            self.plan(step)?;
            let stopped = self.run.stop.load(Ordering::Relaxed) && !last;
            if last || stopped || self.saved.elapsed() >= self.run.checkpoint_every {
                self.save()?;
                record::curves(self.run.folder)?;
            }
            if stopped {
                (self.report)(&json!({"stopped_at": step}));
                return Ok(Outcome { steps: step, stopped: true, best: self.state.best });
            }
        }
        Ok(Outcome { steps: step, stopped: false, best: self.state.best })
    }

    /// Takes one optimiser step; returns the parts of the loss and the norm of the gradient.
    fn step(&mut self, step: usize, next: &mut dyn FnMut() -> Result<Batch>) -> Result<(Value, f64)> {
        if let Some(atp) = &self.config.objective.atp {
            atp.prepare(&self.run.trainee.variables, self.run.trainee.model.arch(), step)?;
        }
        let (mut grads, mut line) = (None::<GradStore>, Value::Null);
        let (count, mut total) = (self.config.accumulate, 0.0);
        for part in 0..count {
            let batch = next()?;
            let seed = self.config.seed ^ ((part as u64) << 40);
            let (loss, parts) = loss(self.run.trainee, &self.config.objective, &batch, step, seed)?;
            total += f64::from(self.finite(step, &loss, &parts)?) / count as f64;
            let more = backward(&if count > 1 { (loss / count as f64)? } else { loss })?;
            match &mut grads {
                Some(sum) => sum.extend(more)?,
                none => *none = Some(more),
            }
            if part == 0 {
                line = parts;
            }
        }
        line["loss"] = json!(total);
        let grads = grads.ok_or(TrainError::Stopped)?;
        Ok((line, self.apply(step, &grads)?))
    }

    /// The value of the loss, or [`TrainError::Diverged`] if it is not finite.
    fn finite(&self, step: usize, loss: &Tensor, parts: &Value) -> Result<f32> {
        let value = loss.to_scalar::<f32>()?;
        if value.is_finite() {
            return Ok(value);
        }
        Err(self.diverged(step, format!("the loss is {value}{}", non_finite_parts(parts))))
    }

    /// Updates the variables; returns the norm of the gradient.
    fn apply(&mut self, step: usize, grads: &GradStore) -> Result<f64> {
        let words_from = self.config.words_from;
        let frozen = |name: &str| step < words_from && name.ends_with("word_embeddings.weight");
        self.optimizer.step(grads, self.config.rate(step), self.config.clip, frozen).or_else(|e| {
            match non_finite_gradient(self.run.trainee, grads)? {
                Some(name) => Err(self.diverged(step, format!("the gradient of {name} is not finite"))),
                None => Err(e.into()),
            }
        })
    }

    fn diverged(&self, step: usize, what: String) -> TrainError {
        let run = self.run.folder.to_owned();
        TrainError::Diverged { step: step + 1, what, kept: checkpoint::step(&run), run }
    }

    fn log(&mut self, line: &Value) -> Result<()> {
        self.log.write(line)?;
        (self.report)(line);
        Ok(())
    }

    fn seconds(&self) -> f64 {
        self.earlier_seconds + self.began.elapsed().as_secs_f64()
    }

    fn minutes_left(&self, step: usize, pairs_per_second: f64) -> f64 {
        let per_step = self.config.pairs() as f64 / pairs_per_second.max(1e-9);
        let by_steps = (self.config.steps - step) as f64 * per_step;
        let by_clock = self.run.limit.map_or(f64::INFINITY, |limit| (limit.as_secs_f64() - self.seconds()).max(0.0));
        let left = if self.state.planned.is_some() { by_steps } else { by_steps.min(by_clock) };
        (left / 6.0).round() / 10.0
    }

    /// Under a time limit, fixes the number of steps once the remaining time is no longer than the
    /// fall.
    fn plan(&mut self, step: usize) -> Result<()> {
        let (Some(limit), None, Some(fall)) = (self.run.limit, self.state.planned, self.config.schedule.fall()) else {
            return Ok(());
        };
        let (Some(first), Some(last)) = (self.times.front(), self.times.back()) else { return Ok(()) };
        if self.times.len() < 2 || step >= self.config.steps {
            return Ok(());
        }
        let per_step = last.duration_since(*first).as_secs_f64() / (self.times.len() - 1) as f64;
        // Two per cent are left for the last validation and the model folder.
        let left = ((limit.as_secs_f64() * 0.98 - self.seconds()) / per_step.max(1e-9)).max(0.0) as usize;
        // Pictures are drawn or decoded at first use, so the first steps are slow. The plan waits
        // until half of the time is over; otherwise a fall as long as the whole run would begin at
        // once.
        if left > fall || self.seconds() < limit.as_secs_f64() * 0.5 {
            return Ok(());
        }
        // The fall takes all remaining steps, so it begins now. A run with this fall and number of
        // steps from its start gives the same model.
        let fall = left.max(1).min(self.config.steps - step);
        (self.config.steps, self.config.schedule) = (step + fall, self.config.schedule.with_fall(fall));
        self.state.planned = Some((step + fall, fall));
        self.log(&json!({"step": step, "planned_steps": step + fall, "fall": fall}))
    }

    /// Validates, and stores the weights in best/ if they are the best so far.
    fn validate(&mut self, step: usize) -> Result<()> {
        let Some(validation) = self.run.validation else { return Ok(()) };
        let scores = validation.scores(&self.run.trainee.network()?, &self.run.prep, self.run.matches(step - 1))?;
        self.log(&scores.line(step))?;
        let score = scores.checkpoint_score();
        if self.state.best.is_some_and(|(_, best)| best >= score) {
            return Ok(());
        }
        self.state.best = Some((step, score));
        self.keep(step, &scores)
    }

    fn keep(&self, step: usize, scores: &ValidationScores) -> Result<()> {
        let variables = &self.run.trainee.variables;
        atomic::folder(&self.run.folder.join("best"), true, |folder| {
            let file = folder.join("variables.safetensors");
            variables.save(&file).map_err(|e| TrainError::content(&file, e))?;
            let text = json!({"step": step, "scores": scores}).to_string();
            let file = folder.join("best.json");
            std::fs::write(&file, text).map_err(TrainError::io(&file))
        })
    }

    fn save(&mut self) -> Result<()> {
        let variables = &self.run.trainee.variables;
        let step = self.optimizer.steps();
        if let Some(name) = non_finite_variable(self.run.trainee)? {
            return Err(self.diverged(step - 1, format!("the weights {name} are not finite")));
        }
        let state = RunState { seconds: self.seconds(), ..self.state.clone() };
        let value = serde_json::to_value(&state).map_err(|e| TrainError::content(self.run.folder, e))?;
        checkpoint::save(self.run.folder, variables, &self.optimizer, &value)?;
        self.saved = Instant::now();
        Ok(())
    }
}
