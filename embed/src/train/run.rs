//! The training loop.
//!
//! Learning rate: warm-up, constant, then a linear fall to zero over the last part. Nothing before the fall depends on
//! the number of steps, so a run may be resumed with more or fewer steps and equals one that had them from the start.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use rand::Rng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::attributes::Heads;
use super::batch::{self, Batch};
use super::checkpoint;
use super::objective::{Objective, loss};
use super::optimizer::{AdamW, AdamWConfig};
use super::pool::Pool;
use super::tagger::TaggedCaption;
use super::{Result, TrainError};
use crate::model::{Architecture, Cada, Decoder, Preprocess};
use crate::synth::stream;
use crate::text::CaptionTokenizer;

/// Everything that decides a run, with the pool's seed and size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    /// Seed of batches.
    pub seed: u64,
    /// Pairs a step.
    pub batch: usize,
    /// Steps in all.
    pub steps: usize,
    /// Steps of warm-up.
    pub warmup: usize,
    /// Steps of the final fall.
    pub fall: usize,
    /// Highest learning rate.
    pub lr: f64,
    /// Weight decay.
    pub decay: f64,
    /// Largest gradient norm.
    pub clip: f64,
    /// What is minimised.
    pub objective: Objective,
    /// Word embeddings stay as they came until this step.
    pub words_from: usize,
}

impl RunConfig {
    /// Learning rate of `step` (from 0).
    pub fn rate(&self, step: usize) -> f64 {
        let up = ((step + 1) as f64 / self.warmup.max(1) as f64).min(1.0);
        let down = (self.steps.saturating_sub(step) as f64 / self.fall.max(1) as f64).min(1.0);
        self.lr * up * down
    }
}

/// Model, heads and variables of a run.
pub struct Trainee {
    /// The model.
    pub model: Cada,
    /// The auxiliary heads.
    pub heads: Heads,
    /// All variables; the heads' begin with `attributes.`.
    pub variables: VarMap,
}

impl Trainee {
    /// Fresh variables drawn from `seed`: matrices as Glorot and Bengio, patch positions as waves.
    /// Training is far too short to grow either from the usual N(0, 0.02).
    ///
    /// # Errors
    /// When the architecture contradicts itself.
    pub fn new(arch: &Architecture, seed: u64) -> Result<Self> {
        Self::with_decoder(arch, Decoder::None, seed)
    }

    /// As [`Trainee::new`], with a word predictor for ARA.
    ///
    /// # Errors
    /// When the architecture contradicts itself.
    pub fn with_decoder(arch: &Architecture, decoder: Decoder, seed: u64) -> Result<Self> {
        let (model, variables) = crate::model::weights::trainable(arch, decoder, &Device::Cpu)?;
        let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let heads = Heads::new(arch.vision_width, vb.pp("attributes"))?;
        {
            let data = variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for (name, var) in data.iter().filter(|(_, var)| var.rank() >= 2) {
                let index = name.bytes().fold(0u64, |h, b| h.wrapping_mul(0x100_0000_01B3) ^ u64::from(b));
                let mut rng = stream(seed, 0x1417_0000, index);
                let (outputs, inputs) = (var.dim(0)?, var.elem_count() / var.dim(0)?);
                let table = name.contains("embeddings") || name.ends_with("cls_token");
                let spread = if table { 0.04 } else { (2.0 / (inputs + outputs) as f32).sqrt() };
                let mut values: Vec<f32> = (0..var.elem_count()).map(|_| spread * normal(&mut rng)).collect();
                if name.ends_with("pos_embed") {
                    values = places(arch, &mut rng);
                }
                var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
            }
        }
        Ok(Self { model, heads, variables })
    }

    /// The optimiser for all of them.
    pub fn optimizer(&self, decay: f64) -> AdamW {
        let data = self.variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let all = data.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
        AdamW::new(all, AdamWConfig { decay, ..AdamWConfig::default() })
    }
}

/// First patch positions: per row and column of the grid sines and cosines of four wavelengths and more, a little noise.
/// Where a colour is decides which garment has it, so places must differ from the first step on.
fn places(arch: &Architecture, rng: &mut StdRng) -> Vec<f32> {
    let (grid, width) = (arch.grid(), arch.vision_width);
    let quarter = width / 4;
    let mut values: Vec<f32> = (0..arch.patch_rows() * width).map(|_| 0.04 * normal(rng)).collect();
    for (patch, row) in values[width..].chunks_exact_mut(width).enumerate() {
        let (y, x) = ((patch / grid.cols) as f32, (patch % grid.cols) as f32);
        for (i, value) in row.iter_mut().enumerate() {
            let angle = |at: f32| at * 1.5 / 24f32.powf((i % quarter) as f32 / quarter as f32);
            *value += 0.3
                * match i / quarter.max(1) {
                    0 => angle(y).sin(),
                    1 => angle(y).cos(),
                    2 => angle(x).sin(),
                    _ => angle(x).cos(),
                };
        }
    }
    values
}

/// One draw of the standard normal distribution (Box and Muller).
fn normal(rng: &mut StdRng) -> f32 {
    let (u, v) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}

/// A number of steps in `run`/steps overrides the plan while the run goes on: write it when the time left is known.
fn planned_steps(run: &Path) -> Option<usize> {
    std::fs::read_to_string(run.join("steps")).ok()?.trim().parse().ok()
}

/// Trains from the checkpoint in `run`, or from the variables as they are, to the last step. `told` hears each logged
/// line; `pause` is called after every checkpoint with the step.
///
/// # Errors
/// A loss that is not finite (the last checkpoint stays), or a checkpoint that cannot be written.
#[allow(clippy::too_many_arguments)]
pub fn train(
    run: &Path,
    config: &RunConfig,
    trainee: &Trainee,
    pool: &Pool,
    prep: &Preprocess,
    texts: &CaptionTokenizer,
    checkpoint_every: Duration,
    mut told: impl FnMut(&Value),
) -> Result<()> {
    let arch = trainee.model.arch().clone();
    let mut optimizer = trainee.optimizer(config.decay);
    checkpoint::load(run, &trainee.variables, &mut optimizer)?;
    let start = optimizer.steps();
    if start > 0 {
        told(&json!({"resumed_at": start}));
    }
    let file = run.join("log.jsonl");
    let mut log = OpenOptions::new().create(true).append(true).open(&file).map_err(TrainError::io(&file))?;
    let tokenize = |text: &str| TaggedCaption::new(texts, text).unwrap_or_default();
    std::thread::scope(|scope| -> Result<()> {
        let (send, receive) = sync_channel::<candle_core::Result<Batch>>(2);
        scope.spawn(move || {
            for step in start.. {
                if send
                    .send(batch::build(pool, &arch, prep, &tokenize, config.seed, step as u64, config.batch))
                    .is_err()
                {
                    break;
                }
            }
        });
        let (mut saved, mut since, mut pairs) = (Instant::now(), Instant::now(), 0usize);
        let mut config = config.clone();
        let mut step = start;
        while step < config.steps {
            let batch = receive.recv().map_err(|_| TrainError::Stopped)??;
            let began = Instant::now();
            let (loss, mut parts) = loss(trainee, &config.objective, &batch, step, config.seed)?;
            let value = loss.to_scalar::<f32>()?;
            if !value.is_finite() {
                return Err(TrainError::Diverged { step, value, run: run.to_owned() });
            }
            let forward = began.elapsed();
            let grads = crate::nn::backward(&loss)?;
            let backward = began.elapsed() - forward;
            let frozen = |name: &str| step < config.words_from && name.ends_with("word_embeddings.weight");
            let norm = optimizer.step(&grads, config.rate(step), Some(config.clip), frozen)?;
            pairs += config.batch;
            if (step + 1).is_multiple_of(20) || step < start + 3 || step + 1 == config.steps {
                parts["step"] = json!(step + 1);
                parts["loss"] = json!(value);
                parts["ms"] = json!([
                    forward.as_millis() as u64,
                    backward.as_millis() as u64,
                    began.elapsed().as_millis() as u64
                ]);
                parts["norm"] = json!(norm);
                parts["lr"] = json!(config.rate(step));
                let per_second = pairs as f64 / since.elapsed().as_secs_f64();
                parts["pairs_per_s"] = json!((per_second * 10.0).round() / 10.0);
                parts["eta_min"] = json!(((config.steps - step - 1) * config.batch) as f64 / per_second / 60.0);
                writeln!(log, "{parts}").map_err(TrainError::io(&file))?;
                told(&parts);
                (since, pairs) = (Instant::now(), 0);
            }
            if (step + 1).is_multiple_of(10) {
                config.steps = planned_steps(run).unwrap_or(config.steps);
            }
            if saved.elapsed() >= checkpoint_every || step + 1 == config.steps {
                let recorded = serde_json::to_value(&config).map_err(|e| TrainError::content(run, e))?;
                checkpoint::save(run, &trainee.variables, &optimizer, &recorded)?;
                saved = Instant::now();
            }
            step += 1;
        }
        Ok(())
    })
}
