//! Validation during training, on persons the run does not learn from: it chooses the best
//! checkpoint.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::calibrate::{Method, fit};
use super::dataset::Entry;
use super::evaluate::{LocalScore, Ranks, Scores as GalleryScores, ranks, score_gallery};
use super::gallery::in_first_half;
use super::pool::Pool;
use super::{Result, TrainError};
use sightline_embed::EmbedError;
use sightline_embed::model::{Network, Preprocess};
use sightline_embed::preprocess::normalize_all;
use sightline_embed::text::CaptionTokenizer;

/// A validation gallery: decoded pictures and tokenised texts, with identities.
pub struct Validation {
    pictures: Vec<Vec<u8>>,
    image_ids: Vec<u32>,
    texts: Vec<Vec<u32>>,
    text_ids: Vec<u32>,
    /// Number of pictures per text that are re-ranked with the decoder.
    k: usize,
}

/// Ranks of one validation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ValidationScores {
    /// Ranks by the cosine of the global features.
    pub global: Ranks,
    /// Ranks with the top K re-ranked as in the authors' code; `None` before the run trains
    /// matching.
    pub local: Option<Ranks>,
    /// Ranks with the top K re-ranked by calibrated match probability, as in Sightline's search;
    /// `None` before the run trains matching, and while no calibration can be fitted.
    pub served: Option<Ranks>,
}

/// Order of checkpoints: fields are compared from first to last, and higher is better.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct CheckpointScore {
    /// Whether the run has trained matching; such a checkpoint is better than any without.
    pub local: bool,
    /// Rank-1 in per cent.
    pub rank1: f64,
    /// Mean average precision in per cent; it breaks ties.
    pub map: f64,
}

impl ValidationScores {
    /// The score that chooses the best checkpoint: the ranks of a search. The authors' local score
    /// adds raw logits to cosines, which a search never does; a model that searches well may rank
    /// badly by it.
    pub fn checkpoint_score(&self) -> CheckpointScore {
        let by = self.served.unwrap_or(self.global);
        CheckpointScore { local: self.local.is_some(), rank1: by.rank1, map: by.map }
    }

    /// The log line of this validation at `step`.
    pub fn line(&self, step: usize) -> Value {
        json!({"step": step, "validation": self})
    }
}

impl Validation {
    /// Builds a gallery of all pictures of `entries` at `size`, with all their captions as texts. A
    /// caption that several pictures of a person share is one text.
    ///
    /// # Errors
    /// No entry, a picture that cannot be decoded, or a caption that the tokenizer rejects.
    pub fn of_entries(entries: &[Entry], size: [usize; 2], texts: &CaptionTokenizer, k: usize) -> Result<Self> {
        if entries.is_empty() {
            return Err(TrainError::Usage("there is no picture to validate on".into()));
        }
        let (mut all, mut known) = (Self::empty(k), HashSet::new());
        for entry in entries {
            all.pictures.push(entry.pixels(size)?);
            all.image_ids.push(entry.identity);
            for caption in entry.captions.iter().filter(|caption| known.insert((entry.identity, *caption))) {
                all.texts.push(texts.encode(caption)?.ids);
                all.text_ids.push(entry.identity);
            }
        }
        Ok(all)
    }

    /// Builds a gallery of all pictures of drawn persons, with one caption of each person as text.
    ///
    /// # Errors
    /// A caption that the tokenizer rejects.
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

    /// Number of pictures and of texts.
    pub fn len(&self) -> (usize, usize) {
        (self.pictures.len(), self.texts.len())
    }

    /// Measures the ranks of `network`; with `local`, also by the local protocol.
    ///
    /// # Errors
    /// An error of the network.
    pub fn scores(&self, network: &Network, prep: &Preprocess, local: bool) -> Result<ValidationScores> {
        let pixels = |range: std::ops::Range<usize>| -> std::result::Result<Vec<f32>, EmbedError> {
            Ok(normalize_all(&self.pictures[range], prep))
        };
        let k = if local { self.k } else { 0 };
        let done = score_gallery(network, &self.texts, self.pictures.len(), pixels, k, None, |_, _, _| {})?;
        let global = ranks(&done.cosine, &self.text_ids, &self.image_ids);
        let (mut reference, mut served) = (None, None);
        if local {
            reference = Some(done.ranks(&LocalScore::Reference, &self.text_ids, &self.image_ids));
            served = served_ranks(&done, &self.text_ids, &self.image_ids);
        }
        Ok(ValidationScores { global, local: reference, served })
    }
}

/// Ranks of all texts against the whole gallery by calibrated match probability. The texts of each
/// half of the persons use a calibration fitted on the other half. `None` if one cannot be fitted.
fn served_ranks(scores: &GalleryScores, text_ids: &[u32], image_ids: &[u32]) -> Option<Ranks> {
    let texts =
        |first: bool| -> Vec<usize> { (0..text_ids.len()).filter(|&t| in_first_half(text_ids[t]) == first).collect() };
    let mut sums = [0.0; 4];
    for (fitting, ranked) in [(texts(true), texts(false)), (texts(false), texts(true))] {
        let (some, ids) = (scores.of_texts(&fitting), fitting.iter().map(|&t| text_ids[t]).collect::<Vec<_>>());
        let form = LocalScore::Sightline(fit(&some.pairs(&ids, image_ids), Method::Platt)?);
        let ids: Vec<u32> = ranked.iter().map(|&t| text_ids[t]).collect();
        let Ranks { rank1, rank5, rank10, map } = scores.of_texts(&ranked).ranks(&form, &ids, image_ids);
        let share = ranked.len() as f64 / text_ids.len() as f64;
        sums.iter_mut().zip([rank1, rank5, rank10, map]).for_each(|(sum, value)| *sum += share * value);
    }
    let [rank1, rank5, rank10, map] = sums;
    Some(Ranks { rank1, rank5, rank10, map })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching_counts_for_more_then_what_is_served_by_rank_and_precision() {
        let ranks = |rank1, map| Ranks { rank1, rank5: 90.0, rank10: 95.0, map };
        // The authors' local score orders them the other way round each time.
        let scores = |global, local, served| ValidationScores { global, local, served }.checkpoint_score();
        let order = [
            scores(ranks(80.0, 1.0), None, None),
            scores(ranks(10.0, 1.0), Some(ranks(90.0, 5.0)), None),
            scores(ranks(10.0, 1.0), Some(ranks(80.0, 5.0)), Some(ranks(20.0, 5.0))),
            scores(ranks(99.0, 1.0), Some(ranks(70.0, 6.0)), Some(ranks(20.0, 6.0))),
            scores(ranks(10.0, 1.0), Some(ranks(60.0, 1.0)), Some(ranks(30.0, 1.0))),
            scores(ranks(40.0, 1.0), Some(ranks(50.0, 1.0)), None),
        ];
        assert!(order.windows(2).all(|pair| pair[0] < pair[1]), "{order:?}");
    }

    /// Forty texts and as many images of forty persons: by cosine each text finds its own picture
    /// second, behind one of another person, unless the logits, which are `gain` times a small
    /// evidence in the right direction, correct it.
    fn judged(gain: f32) -> (GalleryScores, Vec<u32>) {
        let ids: Vec<u32> = (0..40).collect();
        let near = |text: usize, image: usize| match (image + 40 - text) % 40 {
            0 => 0.70,
            1 => 0.71,
            other => 0.6 - other as f32 / 100.0,
        };
        let cosine: Vec<Vec<f32>> = (0..40).map(|t| (0..40).map(|i| near(t, i)).collect()).collect();
        // Every fifth text's decoder is as wrong as the others' are right, so that the labels are
        // not separable.
        let logits = |text: usize, image: usize| {
            let right = f32::from(u8::from(text == image)) - f32::from(u8::from((image + 40 - text) % 40 == 1));
            [0.0, gain * if text.is_multiple_of(5) { -right } else { right }]
        };
        let top = |t: usize| (0..8).map(|i| ((t + i) % 40, logits(t, (t + i) % 40))).collect();
        (GalleryScores { cosine, top_k: (0..40).map(top).collect(), hubness: Vec::new(), half: false }, ids)
    }

    #[test]
    fn what_is_served_is_ranked_by_a_calibration_of_other_persons() {
        let (scores, ids) = judged(1.0);
        assert_eq!(ranks(&scores.cosine, &ids, &ids).rank1, 0.0);
        let served = served_ranks(&scores, &ids, &ids).expect("both halves can be fitted");
        assert_eq!((served.rank1, served.rank10), (80.0, 100.0), "four of five decoders are right");
        // A hundredfold logit is the same evidence to a calibration.
        assert_eq!(served_ranks(&judged(100.0).0, &ids, &ids), Some(served));
        assert_eq!(served_ranks(&judged(-1.0).0, &ids, &ids), None, "logits against matches are no evidence");
    }
}
