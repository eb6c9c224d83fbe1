//! BatchBuilder: chosen pairs as tensors.
//!
//! A batch depends on the seed and its number alone, so that a resumed run sees what an uninterrupted one would.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::Result;
use super::attributes::Labels;
use super::augment::{Augment, drop_words};
use super::source::{BatchSequence, Source};
use super::streams;
use sightline_embed::model::{Architecture, Preprocess, TokenBatch};
use sightline_embed::preprocess::normalize_all;
use sightline_embed::text::CaptionTokenizer;
use sightline_embed::text::phrases::{Spans, TaggedCaption};
use sightline_figures::stream;

/// One training batch of B pairs.
pub struct Batch {
    /// Normalised pixels `[B, 3, H, W]`.
    pub pixels: Tensor,
    /// One caption per picture.
    pub tokens: TokenBatch,
    /// Where attributes stand in each caption, for masking.
    pub spans: Vec<Spans>,
    /// Identity per pair.
    pub identities: Vec<u32>,
    /// Attributes per picture, for the auxiliary heads.
    pub labels: Vec<Labels>,
}

/// Makes batch after batch.
pub struct BatchBuilder<'a> {
    /// Where pairs come from.
    pub source: &'a dyn Source,
    /// Which of them stand together.
    pub sequence: BatchSequence<'a>,
    /// How pictures are varied.
    pub augment: Augment,
    /// Probability of leaving out a word.
    pub word_drop: f32,
    /// Dimensions of the model.
    pub arch: &'a Architecture,
    /// Picture preparation.
    pub prep: &'a Preprocess,
    /// From words to ids.
    pub texts: &'a CaptionTokenizer,
    /// Seed of everything drawn.
    pub seed: u64,
}

impl BatchBuilder<'_> {
    /// Batch `index`.
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
        // Most of the work, where pictures are drawn or read for the first time, and none of it draws from `rng`.
        let pictures: Vec<_> =
            chosen.par_iter().map(|choice| self.source.picture(choice.identity, choice.view)).collect();
        for ((choice, picture), out) in chosen.iter().zip(pictures).zip(pixels.chunks_exact_mut(3 * h * w)) {
            self.augment.apply(&picture?, [h, w], self.prep, out, &mut rng);
            let text = self.source.caption(choice.identity, choice.view, choice.caption, &mut rng);
            let text = drop_words(&text, self.word_drop, &mut rng);
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
        })
    }
}

/// Pixels of pictures without variation: `[n, 3, H, W]`.
///
/// # Errors
/// When candle fails.
pub fn normalised_pixels(pictures: &[&[u8]], [h, w]: [usize; 2], prep: &Preprocess) -> candle_core::Result<Tensor> {
    Tensor::from_vec(normalize_all(pictures, prep), (pictures.len(), 3, h, w), &Device::Cpu)
}
