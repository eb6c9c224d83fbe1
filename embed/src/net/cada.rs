//! CADA on the CPU: two encoders into one embedding space, and the decoder that matches a text
//! against one picture.

use std::ops::Range;

use super::weights::{PrefixedWeights, WeightSource};
use super::{AttentionMeasure, Bert, Dense, Norm, ShapeError, Vit, WordNet};
use crate::EmbedError;
use crate::kernel::{Buffer, Mat, Precision};
use crate::model::{Architecture, TextPooling, TokenBatch};

/// All parts that serving needs, with packed weights.
#[derive(Debug)]
pub struct Cada {
    arch: Architecture,
    visual_encoder: Vit,
    text_encoder: Bert,
    vision_proj: Dense,
    text_proj: Dense,
    itm_head: Dense,
    itm_local_head: Dense,
    words: Option<WordNet>,
}

impl Cada {
    /// Builds the networks from the tensors of `weights`, under the reference's names, and packs
    /// each weight for products in `precision`; no other copy of a weight is kept.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn new(arch: &Architecture, weights: &mut dyn WeightSource, precision: Precision) -> Result<Self, EmbedError> {
        Self::build(arch, weights, precision, false)
    }

    /// Builds the networks as [`Cada::new`] does; with `shapes_only` layers have no weights, and
    /// only the requested names and shapes count.
    pub(super) fn build(
        arch: &Architecture,
        weights: &mut dyn WeightSource,
        precision: Precision,
        shapes_only: bool,
    ) -> Result<Self, EmbedError> {
        let builder = Builder { precision, shapes_only };
        let mut weights = PrefixedWeights::new(weights);
        let (text, width) = (arch.text_hidden_size, arch.vision_width);
        Ok(Self {
            visual_encoder: Vit::build(arch, weights.below("visual_encoder"), &builder)?,
            text_encoder: Bert::build(arch, weights.below("text_encoder"), &builder)?,
            vision_proj: builder.dense(&mut weights.below("vision_proj"), arch.embed_dim, width)?,
            text_proj: builder.dense(&mut weights.below("text_proj"), arch.embed_dim, text)?,
            itm_head: builder.dense(&mut weights.below("itm_head"), 2, text)?,
            itm_local_head: builder.dense(&mut weights.below("itm_local_head"), 2, text)?,
            words: None,
            arch: arch.clone(),
        })
    }

    /// Adds `words`, which predicts masked words.
    #[must_use]
    pub fn with_words(mut self, words: WordNet) -> Self {
        self.words = Some(words);
        self
    }

    /// Scores of every word for masked tokens, see [`WordNet::scores`]; `None` without a word head.
    ///
    /// # Errors
    /// As [`WordNet::scores`].
    pub fn word_scores(
        &self,
        tokens: &TokenBatch,
        image_embeds: &[f32],
        positions: &[(usize, usize)],
    ) -> Result<Option<Vec<f32>>, ShapeError> {
        self.words.as_ref().map(|words| words.scores(&self.text_encoder, tokens, image_embeds, positions)).transpose()
    }

    /// Dimensions of the networks.
    #[must_use]
    pub fn arch(&self) -> &Architecture {
        &self.arch
    }

    /// The vision transformer.
    #[must_use]
    pub fn visual_encoder(&self) -> &Vit {
        &self.visual_encoder
    }

    /// The text transformer.
    #[must_use]
    pub fn text_encoder(&self) -> &Bert {
        &self.text_encoder
    }

    /// Normalised pixels `[batch, 3, height, width]` -> patch features
    /// `[batch, 1 + patches, vision width]`.
    ///
    /// # Errors
    /// Pixels of another size than the model's.
    pub fn image_embeds(&self, pixels: &[f32]) -> Result<Buffer, ShapeError> {
        self.visual_encoder.forward(pixels)
    }

    /// Class tokens of patch features, `[batch, vision width]` -> global image features
    /// `[batch, embed_dim]`, not normalised.
    ///
    /// # Errors
    /// Rows of another width.
    pub fn image_proj(&self, class_tokens: &[f32]) -> Result<Buffer, ShapeError> {
        self.vision_proj.forward(class_tokens)
    }

    /// Texts that begin with `[CLS]` -> hidden states without the image, one row per true token.
    ///
    /// # Errors
    /// As [`Bert::forward`].
    pub fn text_embeds(&self, tokens: &TokenBatch) -> Result<Buffer, ShapeError> {
        self.text_encoder.forward(tokens, None, false)
    }

    /// Pooled hidden states of each text ([`Cada::pool_text`]), `[batch, text width]` -> global
    /// text features `[batch, embed_dim]`, not normalised.
    ///
    /// # Errors
    /// Rows of another width.
    pub fn text_proj(&self, pooled: &[f32]) -> Result<Buffer, ShapeError> {
        self.text_proj.forward(pooled)
    }

    /// Decoder: pair i is text i (its first token becomes `[ENC]`) with patch features i of
    /// `[batch, 1 + patches, vision width]`. Returns hidden states, one row per true token.
    ///
    /// # Errors
    /// As [`Bert::forward`].
    pub fn fused(&self, tokens: &TokenBatch, image_embeds: &[f32]) -> Result<Buffer, ShapeError> {
        self.text_encoder.forward(&tokens.with_first(self.arch.enc_token_id), Some(image_embeds), false)
    }

    /// Cross-attention maps of the decoder ([`Cada::fused`]): how much each token attends to each
    /// patch. One vector per layer holds `[tokens, 1 + patches]` of every text, one after the
    /// other.
    ///
    /// # Errors
    /// As [`Bert::forward`].
    pub fn attention_maps(
        &self,
        tokens: &TokenBatch,
        image_embeds: &[f32],
        by: AttentionMeasure,
    ) -> Result<Vec<Vec<f32>>, ShapeError> {
        self.text_encoder.attention_maps(&tokens.with_first(self.arch.enc_token_id), image_embeds, by)
    }

    /// First rows of fused states, `[batch, text width]` -> `[batch, 2]`: "no match" and "match".
    ///
    /// # Errors
    /// Rows of another width.
    pub fn itm_logits(&self, first_rows: &[f32]) -> Result<Buffer, ShapeError> {
        self.itm_head.forward(first_rows)
    }

    /// Means of fused states over ranges of tokens, which are the same in every text, because all
    /// texts of the batch are equal: `[batch * ranges, text width]`, text by text.
    ///
    /// # Errors
    /// As [`TokenBatch::check_ranges`].
    pub fn range_means(
        &self,
        tokens: &TokenBatch,
        fused: &[f32],
        ranges: &[Range<usize>],
    ) -> Result<Vec<f32>, ShapeError> {
        tokens.check_ranges(ranges)?;
        let rows = self.text_encoder.rows(tokens);
        let width = rows.width;
        let mut means = vec![0.0; rows.items() * ranges.len() * width];
        for (i, mean) in means.chunks_exact_mut(width.max(1)).enumerate() {
            let (item, range) = (i / ranges.len(), &ranges[i % ranges.len()]);
            let own = &fused[(rows.before(item) + range.start) * width..][..range.len() * width];
            for row in own.chunks_exact(width) {
                mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x / range.len() as f32);
            }
        }
        Ok(means)
    }

    /// Group means of fused states, `[groups, text width]` -> `[groups, 2]`: the local half of ATP
    /// (paper, section 3.3).
    ///
    /// # Errors
    /// Rows of another width.
    pub fn itm_local_logits(&self, group_means: &[f32]) -> Result<Buffer, ShapeError> {
        self.itm_local_head.forward(group_means)
    }

    /// Pools the hidden states of each text for the common space, `[batch, text width]`: the first
    /// row or the mean.
    #[must_use]
    pub fn pool_text(&self, tokens: &TokenBatch, hidden: &[f32]) -> Vec<f32> {
        if self.arch.text_pooling == TextPooling::Class {
            return self.first_rows(tokens, hidden);
        }
        let rows = self.text_encoder.rows(tokens);
        let mut pooled = vec![0.0; rows.items() * rows.width];
        for (item, mean) in pooled.chunks_exact_mut(rows.width.max(1)).enumerate() {
            let own = &hidden[rows.before(item) * rows.width..][..rows.length(item) * rows.width];
            for row in own.chunks_exact(rows.width) {
                mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x);
            }
            mean.iter_mut().for_each(|mean| *mean /= rows.length(item) as f32);
        }
        pooled
    }

    /// The first row of every text of hidden states, `[batch, text width]`.
    #[must_use]
    pub fn first_rows(&self, tokens: &TokenBatch, hidden: &[f32]) -> Vec<f32> {
        let rows = self.text_encoder.rows(tokens);
        (0..rows.items()).flat_map(|item| &hidden[rows.before(item) * rows.width..][..rows.width]).copied().collect()
    }

    /// The class token of every picture of patch features, `[batch, vision width]`.
    #[must_use]
    pub fn class_tokens(&self, image_embeds: &[f32]) -> Vec<f32> {
        let width = self.arch.vision_width;
        image_embeds.chunks_exact(self.arch.patch_rows() * width).flat_map(|item| &item[..width]).copied().collect()
    }
}

/// Builds layers from named tensors.
pub(super) struct Builder {
    pub(super) precision: Precision,
    pub(super) shapes_only: bool,
}

impl Builder {
    /// Linear layer from `weight` `[outputs, inputs]` and `bias` `[outputs]`.
    pub(super) fn dense(
        &self,
        weights: &mut PrefixedWeights<'_>,
        outputs: usize,
        inputs: usize,
    ) -> Result<Dense, EmbedError> {
        self.dense_of_shape(weights, &[outputs, inputs])
    }

    /// [`Builder::dense`] for a weight stored as `[outputs, ...]`, for example a patch-embedding
    /// convolution, which is a linear layer on flattened patches.
    pub(super) fn dense_of_shape(
        &self,
        weights: &mut PrefixedWeights<'_>,
        shape: &[usize],
    ) -> Result<Dense, EmbedError> {
        let outputs = shape[0];
        let weight = weights.tensor("weight", shape)?;
        let bias = weights.tensor("bias", &[outputs])?;
        self.pack(&weight, bias, outputs, shape[1..].iter().product())
    }

    /// One layer in place of several on the same input: the outputs of `names` side by side.
    pub(super) fn side_by_side(
        &self,
        weights: &mut PrefixedWeights<'_>,
        names: &[&str],
        outputs: usize,
        inputs: usize,
    ) -> Result<Dense, EmbedError> {
        let (mut all, mut biases) = (Vec::new(), Vec::new());
        for name in names {
            let mut layer = weights.below(name);
            all.append(&mut layer.tensor("weight", &[outputs, inputs])?);
            biases.append(&mut layer.tensor("bias", &[outputs])?);
        }
        self.pack(&all, biases, names.len() * outputs, inputs)
    }

    fn pack(&self, weight: &[f32], bias: Vec<f32>, outputs: usize, inputs: usize) -> Result<Dense, EmbedError> {
        let weight = if self.shapes_only { Mat::new(&[], 0, 0) } else { Mat::new(weight, outputs, inputs) };
        let weight = weight.map_err(ShapeError::from)?;
        Ok(Dense::new(weight, bias, self.precision)?)
    }

    pub(super) fn norm(&self, weights: &mut PrefixedWeights<'_>, width: usize, eps: f64) -> Result<Norm, EmbedError> {
        Ok(Norm {
            weight: weights.tensor("weight", &[width])?,
            bias: weights.tensor("bias", &[width])?,
            eps: eps as f32,
        })
    }
}
