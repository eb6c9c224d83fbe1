//! Settings of a training run, apart from the model and the data.

use serde::{Deserialize, Serialize};

use super::augment::Augment;
use super::objective::Objective;
use super::optimizer::LATE_WARMUP;
use super::schedule::Schedule;
use super::source::Order;
use super::{Result, TrainError};

/// Number of steps that means "as many as the time limit allows", like any larger number.
pub const UNLIMITED_STEPS: usize = u32::MAX as usize;

/// Settings of a training run. Together with the model and the data they determine the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    /// Seed of the batches and of the objective's random choices.
    pub seed: u64,
    /// Pairs per batch. Losses that compare pairs with each other (NDF, hard negatives) see one
    /// batch.
    pub batch: usize,
    /// Batches whose gradients are averaged for one step (gradient accumulation). It equals one
    /// large batch for losses that are means over pairs; in-batch losses see each batch alone.
    pub accumulate: usize,
    /// Optimiser steps of the whole run.
    pub steps: usize,
    /// Curve of the learning rate.
    pub schedule: Schedule,
    /// Highest learning rate.
    pub lr: f64,
    /// Weight decay.
    pub decay: f64,
    /// Warm-up, in updates, of parameters whose first update comes after the run's first step:
    /// those of a loss that begins later, and word embeddings that are frozen at first. 0 for none.
    #[serde(default = "late_warmup")]
    pub late_warmup: usize,
    /// Gradients are clipped to this norm; `None` does not clip (the reference).
    pub clip: Option<f64>,
    /// The losses.
    pub objective: Objective,
    /// Word embeddings are frozen before this step.
    pub words_from: usize,
    /// Number of text transformer layers that stay frozen, counted from the lowest, together with
    /// the word embeddings; 0 freezes none.
    #[serde(default)]
    pub frozen_text_layers: usize,
    /// Factor on the learning rate of the unfrozen rest of a text encoder that was trained
    /// elsewhere.
    #[serde(default = "one")]
    pub text_rate: f64,
    /// Share of a picture's tokens that a step drops, at the same places for the whole batch; only
    /// with a backbone.
    #[serde(default)]
    pub token_drop: f32,
    /// First step that drops no tokens; `None` drops them until the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole_from: Option<usize>,
    /// Number of variants of each picture whose tokens are cached on disk, one per source or one
    /// for all. Empty: pictures are augmented anew in every step and nothing is cached. Only with a
    /// backbone.
    #[serde(default)]
    pub variants: Vec<usize>,
    /// How pairs are grouped into batches.
    pub order: Order,
    /// Augmentation of pictures.
    pub augment: Augment,
    /// Probability that a word of a caption is dropped.
    pub word_drop: f32,
    /// Steps between validations; 0 validates after the last step only.
    pub validate_every: usize,
}

fn one() -> f64 {
    1.0
}

fn late_warmup() -> usize {
    LATE_WARMUP
}

impl RunConfig {
    /// Settings of the default preset, with these four values set.
    pub fn new(seed: u64, batch: usize, steps: usize, objective: Objective) -> Self {
        Self {
            seed,
            batch,
            accumulate: 1,
            steps,
            schedule: Schedule::Fall { warmup: 200.min(steps / 10), fall: steps / 4 },
            lr: 5e-4,
            decay: 0.05,
            late_warmup: LATE_WARMUP,
            clip: Some(5.0),
            objective,
            words_from: 0,
            frozen_text_layers: 0,
            text_rate: 1.0,
            token_drop: 0.0,
            whole_from: None,
            variants: Vec::new(),
            order: Order::IDENTITIES,
            augment: Augment::Surveillance,
            word_drop: 0.0,
            validate_every: 0,
        }
    }

    /// Learning rate of `step`, counted from 0.
    pub fn rate(&self, step: usize) -> f64 {
        self.lr * self.schedule.factor(step, self.steps)
    }

    /// Pairs per step.
    pub(super) fn pairs(&self) -> usize {
        self.batch * self.accumulate
    }

    /// Pairs that a run has seen after `step` steps.
    pub fn pairs_until(&self, step: usize) -> usize {
        step * self.pairs()
    }

    /// Checks that every setting is valid.
    ///
    /// # Errors
    /// [`TrainError::Usage`], which names the setting.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |message: String| Err(TrainError::Usage(message));
        if self.batch < 2 || self.accumulate == 0 || self.steps == 0 {
            return wrong("a run needs batches of at least two pairs, and at least one step".into());
        }
        if !(self.lr > 0.0 && self.lr.is_finite() && self.decay >= 0.0 && self.clip.is_none_or(|c| c > 0.0)) {
            return wrong(format!(
                "learning rate {}, weight decay {} and clipping {:?} must be above 0",
                self.lr, self.decay, self.clip
            ));
        }
        if let Err(message) = self.objective.check() {
            return wrong(message);
        }
        if !(self.text_rate >= 0.0 && self.text_rate.is_finite() && (0.0..1.0).contains(&self.token_drop)) {
            return wrong(format!(
                "a factor {} on the text's learning rate must be 0 or more, and a share {} of tokens left out in 0..1",
                self.text_rate, self.token_drop
            ));
        }
        if self.variants.contains(&0) {
            return wrong("0 variants of a picture are none".into());
        }
        if !(0.0..1.0).contains(&self.word_drop) {
            return wrong(format!("a share {} of words left out is not in 0..1", self.word_drop));
        }
        Ok(())
    }
}
