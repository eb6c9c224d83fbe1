//! Ranks during training, on persons the run does not learn from: how a checkpoint is chosen.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::dataset::Entry;
use super::evaluate::{Ranks, evaluate, ranks};
use super::pool::Pool;
use super::{Result, TrainError};
use sightline_embed::EmbedError;
use sightline_embed::model::{Network, Preprocess};
use sightline_embed::preprocess::normalize_all;
use sightline_embed::text::CaptionTokenizer;

/// A gallery with texts, ready to be ranked again and again.
pub struct Validation {
    pictures: Vec<Vec<u8>>,
    image_ids: Vec<u32>,
    texts: Vec<Vec<u32>>,
    text_ids: Vec<u32>,
    /// Pictures per text that the decoder judges.
    k: usize,
}

/// What one validation gave.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scores {
    /// Ranked by the cosine of the global features.
    pub global: Ranks,
    /// The first K ranked again by the matching score; none before a run learns to match.
    pub local: Option<Ranks>,
}

/// By what a checkpoint is better than another.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Merit {
    /// By the local protocol, which counts for more than any global result.
    pub local: bool,
    /// Rank-1 in per cent.
    pub rank1: f64,
    /// Mean average precision in per cent, among equals.
    pub map: f64,
}

impl Scores {
    /// By what a checkpoint with these scores is chosen.
    pub fn merit(&self) -> Merit {
        let by = self.local.unwrap_or(self.global);
        Merit { local: self.local.is_some(), rank1: by.rank1, map: by.map }
    }

    /// As a line of the log.
    pub fn line(&self, step: usize) -> Value {
        json!({"step": step, "validation": self})
    }
}

impl Validation {
    /// All pictures of `entries` at `size` as gallery, all their captions as texts.
    ///
    /// # Errors
    /// No entry, a picture that cannot be decoded, or a caption the tokenizer cannot take.
    pub fn of_entries(entries: &[Entry], size: [usize; 2], texts: &CaptionTokenizer, k: usize) -> Result<Self> {
        if entries.is_empty() {
            return Err(TrainError::Usage("there is no picture to validate on".into()));
        }
        let mut all = Self::empty(k);
        for entry in entries {
            all.pictures.push(entry.pixels(size)?);
            all.image_ids.push(entry.identity);
            for caption in &entry.captions {
                all.texts.push(texts.encode(caption)?.ids);
                all.text_ids.push(entry.identity);
            }
        }
        Ok(all)
    }

    /// All pictures of drawn persons as gallery, one caption of each person as text.
    ///
    /// # Errors
    /// A caption the tokenizer cannot take.
    pub fn of_drawn(pool: &Pool, texts: &CaptionTokenizer, k: usize) -> Result<Self> {
        let mut all = Self::empty(k);
        pool.draw_all(|_| {});
        for index in 0..pool.identities {
            for view in 0..pool.views {
                all.pictures.push(pool.picture(index, view).to_vec());
                all.image_ids.push(index as u32);
            }
            all.texts.push(texts.encode(&pool.corpus.caption(pool.first + index, 5))?.ids);
            all.text_ids.push(index as u32);
        }
        Ok(all)
    }

    fn empty(k: usize) -> Self {
        let (pictures, image_ids, texts, text_ids) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { pictures, image_ids, texts, text_ids, k }
    }

    /// Pictures and texts in it.
    pub fn len(&self) -> (usize, usize) {
        (self.pictures.len(), self.texts.len())
    }

    /// Ranks of `network`, by the local protocol too where `local` says.
    ///
    /// # Errors
    /// What the network says.
    pub fn scores(&self, network: &Network, prep: &Preprocess, local: bool) -> Result<Scores> {
        let pixels = |range: std::ops::Range<usize>| -> std::result::Result<Vec<f32>, EmbedError> {
            Ok(normalize_all(&self.pictures[range], prep))
        };
        let k = if local { self.k } else { 0 };
        let done = evaluate(network, &self.texts, self.pictures.len(), pixels, k, |_, _| {})?;
        let of = |scores: &[Vec<f32>]| ranks(scores, &self.text_ids, &self.image_ids);
        Ok(Scores { global: of(&done.cosine), local: local.then(|| of(&done.local)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_counts_for_more_then_rank_then_precision() {
        let ranks = |rank1, map| Ranks { rank1, rank5: 90.0, rank10: 95.0, map };
        let scores = |global, local| Scores { global, local }.merit();
        let order = [
            scores(ranks(80.0, 1.0), None),
            scores(ranks(10.0, 1.0), Some(ranks(20.0, 5.0))),
            scores(ranks(99.0, 1.0), Some(ranks(20.0, 6.0))),
            scores(ranks(10.0, 1.0), Some(ranks(30.0, 1.0))),
        ];
        assert!(order.windows(2).all(|pair| pair[0] < pair[1]), "{order:?}");
    }
}
