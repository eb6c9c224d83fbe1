//! Chooses the pairs of each batch.

use std::sync::{Arc, Mutex, PoisonError};

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::Source;
use crate::{Result, TrainError, streams};
use sightline_figures::stream;

/// Rule that groups pairs into batches.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Random identities, so that an identity has the same weight whatever its number of pictures.
    Identities {
        /// Probability that a chosen identity adds another of its pictures; it is drawn again after
        /// each one.
        again: f32,
        /// Probability that the identity's sibling, if any, is added as a hard negative.
        siblings: f32,
        /// Look-alikes that are added with every chosen identity; `None` adds none.
        #[serde(default)]
        lookalikes: Option<Lookalikes>,
    },
    /// Every pair of picture and caption once per epoch, in a new random order (the authors' code).
    /// Pairs that do not fill a batch at the end of an epoch are left out.
    Epochs,
}

/// Look-alikes: identities that resemble a chosen one. They make negatives as hard as those in
/// re-ranking, which sees the top K of a gallery and never random pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookalikes {
    /// First batch that has them.
    pub from: u64,
    /// Number of look-alikes for each chosen identity.
    pub count: usize,
    /// Number of random identities that the most similar ones are chosen from.
    pub among: usize,
}

impl Lookalikes {
    /// `count` look-alikes from the first batch on, the most similar of 500 random identities.
    pub fn of(count: usize) -> Self {
        Self { from: 0, count, among: 500 }
    }
}

impl Order {
    /// The presets' rule: sometimes a second picture, often a sibling.
    pub const IDENTITIES: Self = Self::Identities { again: 0.12, siblings: 0.6, lookalikes: None };
}

/// One pair of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChosenPair {
    /// Number of the identity in the source.
    pub identity: usize,
    /// Picture of the identity.
    pub view: usize,
    /// Caption of the picture.
    pub caption: usize,
}

/// Number of an epoch, and the order of its pairs.
type Epoch = (u64, Arc<Vec<u32>>);

/// Chooses the pairs of batch 0, 1, 2 and so on.
pub struct BatchSequence<'a> {
    source: &'a dyn Source,
    order: Order,
    seed: u64,
    size: usize,
    /// All pairs of picture and caption for [`Order::Epochs`]; empty otherwise.
    pairs: Vec<ChosenPair>,
    epoch: Mutex<Option<Epoch>>,
}

impl<'a> BatchSequence<'a> {
    /// Chooses batches of `size` pairs from `source`.
    ///
    /// # Errors
    /// A source that does not fill one batch, or a probability outside 0..=1.
    pub fn new(source: &'a dyn Source, order: Order, seed: u64, size: usize) -> Result<Self> {
        let mut pairs = Vec::new();
        match order {
            Order::Identities { again, siblings, lookalikes } => {
                if let Some(Lookalikes { count, among, .. }) = lookalikes
                    && !(1..=among).contains(&count)
                {
                    return Err(TrainError::Usage(format!("{count} look-alikes cannot be chosen among {among}")));
                }
                // With `again` at 1 a batch could be one identity, which has no negatives.
                if !(0.0..1.0).contains(&again) || !(0.0..=1.0).contains(&siblings) {
                    return Err(TrainError::Usage(format!(
                        "the rates {again} of second pictures and {siblings} of siblings are not in 0 to 1"
                    )));
                }
                if source.identities() < 2 {
                    return Err(TrainError::Usage(
                        "at least two identities are needed to learn to tell them apart".into(),
                    ));
                }
            }
            Order::Epochs => {
                for identity in 0..source.identities() {
                    for view in 0..source.views(identity) {
                        let captions = source.captions(identity, view);
                        pairs.extend((0..captions).map(|caption| ChosenPair { identity, view, caption }));
                    }
                }
                if pairs.len() < size {
                    return Err(TrainError::Usage(format!("{} pairs do not fill a batch of {size}", pairs.len())));
                }
            }
        }
        Ok(Self { source, order, seed, size, pairs, epoch: Mutex::new(None) })
    }

    /// Number of batches in an epoch: one pass over all pairs of picture and caption.
    pub fn per_epoch(&self) -> usize {
        let pairs = if self.pairs.is_empty() {
            (0..self.source.identities()).map(|identity| self.source.views(identity)).sum()
        } else {
            self.pairs.len()
        };
        (pairs / self.size).max(1)
    }

    /// The pairs of batch `index`; `rng` is the random stream of the batch.
    pub fn choose(&self, index: u64, rng: &mut StdRng) -> Vec<ChosenPair> {
        match self.order {
            Order::Identities { again, siblings, lookalikes } => {
                self.by_identity(again, siblings, lookalikes.filter(|l| index >= l.from), rng)
            }
            Order::Epochs => {
                let per_epoch = self.per_epoch() as u64;
                let order = self.shuffled(index / per_epoch);
                let from = (index % per_epoch) as usize * self.size;
                order[from..from + self.size].iter().map(|pair| self.pairs[*pair as usize]).collect()
            }
        }
    }

    fn by_identity(
        &self,
        again: f32,
        siblings: f32,
        lookalikes: Option<Lookalikes>,
        rng: &mut StdRng,
    ) -> Vec<ChosenPair> {
        let source = self.source;
        let mut chosen = Vec::with_capacity(self.size + 16);
        while chosen.len() < self.size {
            let identity = source.draw(rng);
            let views = source.views(identity);
            let first = rng.random_range(0..views);
            let mut more = 0;
            loop {
                let view = (first + more) % views;
                let caption = rng.random_range(0..source.captions(identity, view));
                chosen.push(ChosenPair { identity, view, caption });
                more += 1;
                if more >= views || rng.random::<f32>() >= again {
                    break;
                }
            }
            if let Some(sibling) = source.sibling(identity).filter(|_| rng.random::<f32>() < siblings) {
                chosen.push(self.random_pair_of(sibling, rng));
            }
            for other in lookalikes.map(|rule| self.most_alike(identity, rule, rng)).unwrap_or_default() {
                chosen.push(self.random_pair_of(other, rng));
            }
        }
        chosen.truncate(self.size);
        chosen
    }

    /// A random picture and caption of `identity`.
    fn random_pair_of(&self, identity: usize, rng: &mut StdRng) -> ChosenPair {
        let view = rng.random_range(0..self.source.views(identity));
        let caption = rng.random_range(0..self.source.captions(identity, view));
        ChosenPair { identity, view, caption }
    }

    /// The most similar of `rule.among` random identities, by descending similarity to `identity`.
    fn most_alike(&self, identity: usize, rule: Lookalikes, rng: &mut StdRng) -> Vec<usize> {
        let mut others: Vec<(f32, usize)> = (0..rule.among)
            .map(|_| self.source.draw(rng))
            .filter(|&other| other != identity)
            .map(|other| (self.source.resemblance(identity, other), other))
            .collect();
        others.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        others.dedup_by_key(|(_, other)| *other);
        others.into_iter().take(rule.count).map(|(_, other)| other).collect()
    }

    fn shuffled(&self, epoch: u64) -> Arc<Vec<u32>> {
        let mut kept = self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((number, order)) if *number == epoch => Arc::clone(order),
            _ => {
                let mut order: Vec<u32> = (0..self.pairs.len() as u32).collect();
                order.shuffle(&mut stream(self.seed, streams::EPOCH_ORDER, epoch));
                let order = Arc::new(order);
                *kept = Some((epoch, Arc::clone(&order)));
                order
            }
        }
    }
}
