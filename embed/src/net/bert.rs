//! The text transformer: BERT with post-norm, whose layers also hold cross-attention to the image.
//! Without an image it encodes text; with one it is CADA's decoder (paper, section 3.1).

use super::cada::Builder;
use super::weights::PrefixedWeights;
use super::{
    Attention, AttentionMeasure, AttentionSaved, FeedForward, Layer, Mask, NormPlace, Other, Rows, Saved, ShapeError,
};
use crate::EmbedError;
use crate::kernel::{Buffer, Epilogue, Mat, MatMut, Precision, matmul};
use crate::model::{Architecture, TokenBatch};

/// `text_encoder`: embeddings and layers.
#[derive(Debug)]
pub struct Bert {
    words: Vec<f32>,
    positions: Vec<f32>,
    norm: Layer,
    layers: Vec<BertLayer>,
    width: usize,
    image_width: usize,
}

/// Self-attention, cross-attention, feed-forward, each with residual and norm after it.
#[derive(Debug)]
struct BertLayer {
    attention: Layer,
    cross: Layer,
    feed_forward: Layer,
}

impl Bert {
    /// Builds the network from the tensors of `weights`, under the reference's names
    /// (`embeddings.*`, `encoder.layer.*`).
    pub(super) fn build(
        arch: &Architecture,
        mut weights: PrefixedWeights<'_>,
        builder: &Builder,
    ) -> Result<Self, EmbedError> {
        let (d, hidden, eps) = (arch.text_hidden_size, arch.text_intermediate, arch.text_layer_norm_eps);
        let mut embeddings = weights.below("embeddings");
        let words = embeddings.below("word_embeddings").tensor("weight", &[arch.vocab_size, d])?;
        let positions = embeddings.below("position_embeddings").tensor("weight", &[arch.max_position_embeddings, d])?;
        let norm = builder.norm(&mut embeddings.below("LayerNorm"), d, eps)?;
        let attention = |block: &mut PrefixedWeights<'_>, keys: usize, cross: bool| -> Result<Layer, EmbedError> {
            let (own, other) = {
                let mut own = block.below("self");
                if cross {
                    let query = builder.dense(&mut own.below("query"), d, d)?;
                    (query, Some(builder.side_by_side(&mut own, &["key", "value"], d, keys)?))
                } else {
                    (builder.side_by_side(&mut own, &["query", "key", "value"], d, keys)?, None)
                }
            };
            let mut output = block.below("output");
            Ok(Layer::Attention(Attention {
                place: NormPlace::After,
                norm: builder.norm(&mut output.below("LayerNorm"), d, eps)?,
                own,
                other,
                output: builder.dense(&mut output.below("dense"), d, d)?,
                heads: arch.text_heads,
            }))
        };
        let mut layers = Vec::with_capacity(arch.text_layers);
        for i in 0..arch.text_layers {
            let mut layer = weights.below(format_args!("encoder.layer.{i}"));
            layers.push(BertLayer {
                attention: attention(&mut layer.below("attention"), d, false)?,
                cross: attention(&mut layer.below("crossattention"), arch.vision_width, true)?,
                feed_forward: Layer::FeedForward(FeedForward {
                    place: NormPlace::After,
                    norm: builder.norm(&mut layer.below("output.LayerNorm"), d, eps)?,
                    first: builder.dense(&mut layer.below("intermediate.dense"), hidden, d)?,
                    second: builder.dense(&mut layer.below("output.dense"), d, hidden)?,
                }),
            });
        }
        Ok(Self { words, positions, norm: Layer::Norm(norm), layers, width: d, image_width: arch.vision_width })
    }

    /// Word + position embeddings, normed: the input of the first layer, one row per true token.
    ///
    /// # Errors
    /// An id beyond the vocabulary or more tokens than positions.
    pub fn embed(&self, tokens: &TokenBatch) -> Result<Buffer, ShapeError> {
        let (d, rows) = (self.width, self.rows(tokens));
        let mut sums = Buffer::take(rows.numbers());
        for (item, ids) in tokens.ids().chunks_exact(tokens.tokens()).enumerate() {
            for (i, id) in ids[..rows.length(item)].iter().enumerate() {
                let word = self.words.get(*id as usize * d..(*id as usize + 1) * d);
                let place = self.positions.get(i * d..(i + 1) * d);
                let (Some(word), Some(place)) = (word, place) else {
                    return Err(ShapeError(format!(
                        "id {id} in place {i}: there are {} words and {} positions",
                        self.words.len() / d,
                        self.positions.len() / d
                    )));
                };
                let row = &mut sums[(rows.before(item) + i) * d..][..d];
                for ((sum, word), place) in row.iter_mut().zip(word).zip(place) {
                    *sum = word + place;
                }
            }
        }
        Ok(self.norm.forward(&rows, &sums, None, None, false)?.0)
    }

    /// Layout of the rows of a batch: one row per true token.
    #[must_use]
    pub fn rows(&self, tokens: &TokenBatch) -> Rows {
        Rows::new(tokens.lengths().iter().copied(), self.width)
    }

    /// Hidden states after the first `layers` layers, one row per true token, texts one after the
    /// other. `image` is one item of patch features per text, `[batch, rows, vision width]`;
    /// without it cross-attention is skipped. With `causal` each token sees only itself and those
    /// before it.
    ///
    /// # Errors
    /// As [`Bert::embed`], and images of another count or width.
    pub fn through(
        &self,
        tokens: &TokenBatch,
        image: Option<&[f32]>,
        causal: bool,
        layers: usize,
    ) -> Result<Buffer, ShapeError> {
        self.run(tokens, image, causal, layers, None)
    }

    /// Hidden states after the last layer, see [`Bert::through`].
    ///
    /// # Errors
    /// As [`Bert::through`].
    pub fn forward(&self, tokens: &TokenBatch, image: Option<&[f32]>, causal: bool) -> Result<Buffer, ShapeError> {
        self.through(tokens, image, causal, self.layers.len())
    }

    /// Cross-attention probabilities: which patch each token attends to. One vector per layer holds
    /// `[heads, tokens, patch rows]` of every text, one after the other.
    ///
    /// # Errors
    /// As [`Bert::through`].
    pub fn cross_attention(&self, tokens: &TokenBatch, image: &[f32]) -> Result<Vec<Vec<f32>>, ShapeError> {
        Ok(self.cross_layers(tokens, image)?.into_iter().map(|saved| saved.probabilities.to_vec()).collect())
    }

    /// Cross-attention maps: how much each token attends to each patch, measured `by`. One vector
    /// per layer holds `[tokens, patch rows]` of every text, one after the other.
    ///
    /// # Errors
    /// As [`Bert::through`].
    pub fn attention_maps(
        &self,
        tokens: &TokenBatch,
        image: &[f32],
        by: AttentionMeasure,
    ) -> Result<Vec<Vec<f32>>, ShapeError> {
        let rows = self.image_rows(image, tokens.batch())?.length(0);
        let mut all = Vec::with_capacity(self.layers.len());
        for (layer, saved) in self.layers.iter().zip(self.cross_layers(tokens, image)?) {
            let Layer::Attention(layer) = &layer.cross else { continue };
            all.push(match by {
                AttentionMeasure::Probability => {
                    mean_of_heads(&saved.probabilities, layer.heads, tokens.lengths(), rows)
                }
                AttentionMeasure::Contribution => self.contributions(layer, &saved, tokens.lengths(), rows)?,
            });
        }
        Ok(all)
    }

    /// Maps of one layer by [`AttentionMeasure::Contribution`], `[tokens, patch rows]` of every
    /// text.
    fn contributions(
        &self,
        layer: &Attention,
        saved: &AttentionSaved,
        lengths: &[usize],
        rows: usize,
    ) -> Result<Vec<f32>, ShapeError> {
        let (d, heads) = (self.width, layer.heads);
        let head_width = d / heads;
        // One row per patch and head, 0 in the columns of the other heads: `[rows, heads, d]`.
        let (mut apart, mut from) = (vec![0.0; rows * heads * d], 0);
        let mut projected = vec![0.0; rows * heads * d];
        let mut all = Vec::new();
        for (item, length) in lengths.iter().enumerate() {
            for (row, kv) in saved.other[item * rows * 2 * d..][..rows * 2 * d].chunks_exact(2 * d).enumerate() {
                for head in 0..heads {
                    let own = head * head_width..(head + 1) * head_width;
                    apart[(row * heads + head) * d..][own.clone()].copy_from_slice(&kv[d..][own]);
                }
            }
            layer.output.apply(&apart, &mut projected, Epilogue::bias(None), 0)?;
            let probabilities = &saved.probabilities[from..from + heads * length * rows];
            from += probabilities.len();
            for token in 0..*length {
                for (row, values) in projected.chunks_exact(heads * d).enumerate() {
                    let mut sum = vec![0.0f32; d];
                    for (head, value) in values.chunks_exact(d).enumerate() {
                        let p = probabilities[(head * length + token) * rows + row];
                        sum.iter_mut().zip(value).for_each(|(sum, x)| *sum += p * x);
                    }
                    all.push(sum.iter().map(|x| x * x).sum::<f32>().sqrt());
                }
            }
        }
        Ok(all)
    }

    /// Intermediates that the cross-attention of every layer saved.
    fn cross_layers(&self, tokens: &TokenBatch, image: &[f32]) -> Result<Vec<AttentionSaved>, ShapeError> {
        let mut all = Vec::with_capacity(self.layers.len());
        let mut keep = |saved: Saved| {
            if let Saved::Attention(saved) = saved {
                all.push(saved);
            }
        };
        self.run(tokens, Some(image), false, self.layers.len(), Some(&mut keep))?;
        Ok(all)
    }

    /// [`Bert::through`]; `keep` is called with the intermediates that the cross-attention of every
    /// layer saved.
    fn run(
        &self,
        tokens: &TokenBatch,
        image: Option<&[f32]>,
        causal: bool,
        layers: usize,
        mut keep: Option<&mut dyn FnMut(Saved)>,
    ) -> Result<Buffer, ShapeError> {
        let (rows, mask) = (self.rows(tokens), Mask::new(tokens.lengths(), tokens.tokens(), causal));
        let image_rows = image.map(|values| self.image_rows(values, tokens.batch())).transpose()?;
        let other = image_rows.as_ref().zip(image).map(|(rows, values)| Other { rows, values });
        let mut x = self.embed(tokens)?;
        for layer in self.layers.iter().take(layers) {
            x = layer.attention.forward(&rows, &x, None, Some(&mask), false)?.0;
            if other.is_some() {
                let (y, saved) = layer.cross.forward(&rows, &x, other, None, keep.is_some())?;
                x = y;
                if let (Some(keep), Some(saved)) = (&mut keep, saved) {
                    keep(saved);
                }
            }
            x = layer.feed_forward.forward(&rows, &x, None, None, false)?.0;
        }
        Ok(x)
    }

    /// Hidden states `[rows, width]` -> scores of every word `[rows, vocabulary]`: their products
    /// with the word embeddings, plus `bias`, one number per word.
    ///
    /// # Errors
    /// Rows of another width, or a bias of another length.
    pub(super) fn word_scores(&self, hidden: &[f32], bias: &[f32]) -> Result<Vec<f32>, ShapeError> {
        let (words, rows) = (self.words.len() / self.width, hidden.len() / self.width);
        let mut scores = vec![0.0; rows * words];
        matmul(
            Mat::new(hidden, rows, self.width)?,
            Mat::new(&self.words, words, self.width)?.t(),
            MatMut::new(&mut scores, rows, words)?,
            Precision::F32,
            Epilogue::bias(Some(bias)),
            0,
        )?;
        Ok(scores)
    }

    /// Layout of the patch features of `texts` pictures.
    fn image_rows(&self, values: &[f32], texts: usize) -> Result<Rows, ShapeError> {
        let each = values.len() / self.image_width.max(1) / texts.max(1);
        if each * texts * self.image_width != values.len() {
            return Err(ShapeError(format!(
                "{} numbers are not patch features of width {} for {texts} texts",
                values.len(),
                self.image_width
            )));
        }
        Ok(Rows::even(texts, each, self.image_width))
    }
}

/// Mean over heads of the probabilities `[heads, tokens, rows]` of every text, texts of `lengths`
/// tokens -> `[tokens, rows]`.
fn mean_of_heads(probabilities: &[f32], heads: usize, lengths: &[usize], rows: usize) -> Vec<f32> {
    let mut all = Vec::with_capacity(probabilities.len() / heads);
    let mut rest = probabilities;
    for length in lengths {
        let (item, behind) = rest.split_at(heads * length * rows);
        rest = behind;
        let mut mean = vec![0.0; length * rows];
        for head in item.chunks_exact(mean.len().max(1)) {
            mean.iter_mut().zip(head).for_each(|(mean, p)| *mean += p / heads as f32);
        }
        all.append(&mut mean);
    }
    all
}
