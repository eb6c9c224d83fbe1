//! What decides a run, given model and source.

use serde::{Deserialize, Serialize};

use super::augment::Augment;
use super::objective::Objective;
use super::optimizer::LATE_WARMUP;
use super::schedule::Schedule;
use super::source::Order;
use super::{Result, TrainError};

/// So many steps or more mean: as many as the time limit allows.
pub const UNLIMITED_STEPS: usize = u32::MAX as usize;

/// Everything that decides a run, given model and source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    /// Seed of batches and of what the objective draws.
    pub seed: u64,
    /// Pairs of a batch. Losses that compare pairs with each other (NDF, the choice of hard negatives) see one batch.
    pub batch: usize,
    /// BatchBuilder whose gradients are averaged for one step. The same as one large batch for losses that are means over
    /// pairs; in-batch losses still see the small ones.
    pub accumulate: usize,
    /// Steps in all, apart from those of a second stage.
    pub steps: usize,
    /// Learning rate over the steps.
    pub schedule: Schedule,
    /// Highest learning rate.
    pub lr: f64,
    /// Weight decay.
    pub decay: f64,
    /// Updates over which the learning rate of a parameter rises that starts after the run's first step: those of a loss
    /// that begins later, and the word embeddings when they are frozen at first. 0 for none.
    #[serde(default = "late_warmup")]
    pub late_warmup: usize,
    /// Largest gradient norm; none in the reference.
    pub clip: Option<f64>,
    /// What is minimised.
    pub objective: Objective,
    /// Word embeddings stay as they came until this step.
    pub words_from: usize,
    /// Which pairs stand together.
    pub order: Order,
    /// How pictures are varied.
    pub augment: Augment,
    /// Probability of leaving out a word of a caption.
    pub word_drop: f32,
    /// Steps between validations; 0 for none but the last.
    pub validate_every: usize,
}

fn late_warmup() -> usize {
    LATE_WARMUP
}

impl RunConfig {
    /// `objective` on batches of `batch` pairs over `steps` steps, everything else as the default preset has it.
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
            order: Order::IDENTITIES,
            augment: Augment::Surveillance,
            word_drop: 0.0,
            validate_every: 0,
        }
    }

    /// Learning rate of `step` (from 0).
    pub fn rate(&self, step: usize) -> f64 {
        self.lr * self.schedule.factor(step, self.steps)
    }

    /// Pairs of picture and text in a step.
    pub(super) fn pairs(&self) -> usize {
        self.batch * self.accumulate
    }

    /// Pairs of picture and text that a run has seen after `step` steps.
    pub fn pairs_until(&self, step: usize) -> usize {
        step * self.pairs()
    }

    /// Whether every number is one a run can use.
    ///
    /// # Errors
    /// Says which is not.
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
        if !(0.0..1.0).contains(&self.word_drop) {
            return wrong(format!("a share {} of words left out is not in 0..1", self.word_drop));
        }
        Ok(())
    }
}
