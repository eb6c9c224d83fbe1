//! Builds batches: the tensors of the chosen pairs.
//!
//! A batch depends on the seed and its number alone, so a resumed run sees the same batches as an
//! uninterrupted one.

use std::borrow::Cow;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::Result;
use super::attributes::Labels;
use super::augment::{Augment, drop_words};
use super::facts::{Description, Facts};
use super::source::{BatchSequence, Source};
use super::streams;
use sightline_embed::model::{Architecture, Preprocess, TokenBatch};
use sightline_embed::preprocess::normalize_all;
use sightline_embed::text::CaptionTokenizer;
use sightline_embed::text::phrases::{Spans, TaggedCaption};
use sightline_figures::stream;

/// One training batch of B pairs.
pub struct Batch {
    /// Normalised pixels `[B, 3, H, W]`, f32.
    pub pixels: Tensor,
    /// One caption per picture.
    pub tokens: TokenBatch,
    /// Positions of attribute words in each caption, for ARA.
    pub spans: Vec<Spans>,
    /// Identity of each pair, as the source numbers it.
    pub identities: Vec<u32>,
    /// Attributes of each picture, for the auxiliary heads.
    pub labels: Vec<Labels>,
    /// What is known of the person in each picture.
    pub facts: Vec<Option<Facts>>,
    /// What each caption states, where it was made of facts.
    pub stated: Vec<Option<Description>>,
}

/// Builds batch number 0, 1, 2 and so on.
pub struct BatchBuilder<'a> {
    /// Source of pictures and captions.
    pub source: &'a dyn Source,
    /// The pairs of each batch.
    pub sequence: BatchSequence<'a>,
    /// Augmentation of pictures.
    pub augment: Augment,
    /// Probability that a word of a caption is dropped.
    pub word_drop: f32,
    /// Architecture of the model.
    pub arch: &'a Architecture,
    /// Mean and standard deviation of the pixels.
    pub prep: &'a Preprocess,
    /// Tokenizer of the captions.
    pub texts: &'a CaptionTokenizer,
    /// Seed of all random choices.
    pub seed: u64,
}

impl BatchBuilder<'_> {
    /// Builds batch `index`.
    ///
    /// # Errors
    /// A picture that cannot be read any more, or a caption the tokenizer cannot take.
    pub fn build(&self, index: u64) -> Result<Batch> {
        let mut rng = stream(self.seed, streams::BATCH, index);
        let chosen = self.sequence.choose(index, &mut rng);
        let [h, w] = self.source.size();
        let size = chosen.len();
        let mut pixels = vec![0f32; size * 3 * h * w];
        let (mut ids, mut spans) = (Vec::with_capacity(size), Vec::with_capacity(size));
        let mut stated = Vec::with_capacity(size);
        // Drawing or decoding is most of the work, so it runs in parallel; none of it uses `rng`.
        let pictures: Vec<_> =
            chosen.par_iter().map(|choice| self.source.picture(choice.identity, choice.view)).collect();
        for ((choice, picture), out) in chosen.iter().zip(pictures).zip(pixels.chunks_exact_mut(3 * h * w)) {
            self.augment.apply(&picture?, [h, w], self.prep, out, &mut rng);
            let (text, description) = self.source.describe(choice.identity, choice.view, choice.caption, &mut rng);
            // A caption without a word of it no longer states the same.
            let text = if description.is_some() { text } else { drop_words(&text, self.word_drop, &mut rng) };
            stated.push(description);
            let tagged = TaggedCaption::new(self.texts, &text)?;
            ids.push(tagged.ids);
            spans.push(tagged.spans);
        }
        Ok(Batch {
            pixels: Tensor::from_vec(pixels, (size, 3, h, w), &Device::Cpu)?,
            tokens: TokenBatch::new(&ids, self.arch.pad_token_id, None),
            spans,
            identities: chosen.iter().map(|choice| choice.identity as u32).collect(),
            labels: chosen.iter().map(|choice| self.source.labels(choice.identity)).collect(),
            facts: chosen.iter().map(|choice| self.source.facts(choice.identity).map(Cow::into_owned)).collect(),
            stated,
        })
    }
}

/// Normalised pixels of pictures without augmentation: `[n, 3, H, W]`, f32. Each picture is RGB
/// bytes, row-major, `[H, W, 3]`.
///
/// # Errors
/// When candle fails.
pub fn normalised_pixels(pictures: &[&[u8]], [h, w]: [usize; 2], prep: &Preprocess) -> candle_core::Result<Tensor> {
    Tensor::from_vec(normalize_all(pictures, prep), (pictures.len(), 3, h, w), &Device::Cpu)
}
