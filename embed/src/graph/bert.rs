//! The text transformer as a graph: BERT with post-norm, whose layers also hold cross-attention to
//! the image. Without an image it encodes text; with one it is CADA's decoder. With a
//! word-prediction head it does masked attribute modelling (ARA).

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use super::layers::weighted_values;
use super::{Dropout, LayerNorm, Linear, attention_probs, embedding};
use crate::model::{Architecture, TokenBatch};
use crate::net::{AttentionMeasure, Mask};

/// Options of a forward pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pass<'a> {
    /// Patch features `[batch, rows, vision width]` to attend to; without them the cross-attention
    /// is skipped.
    pub image: Option<&'a Tensor>,
    /// Whether each token sees only itself and those before it (the reference's word prediction).
    pub causal: bool,
    /// Dropout, in training only.
    pub dropout: Option<&'a Dropout>,
}

/// `text_encoder`: embeddings and layers.
#[derive(Clone, Debug)]
pub struct Bert {
    /// Word embeddings, `[vocabulary, width]`.
    pub words: Tensor,
    /// Position embeddings, `[positions, width]`.
    pub positions: Tensor,
    /// Norm after the sum of both.
    pub norm: LayerNorm,
    /// Layers, first to last.
    pub layers: Vec<BertLayer>,
    /// Id of `[PAD]`, whose embedding gets no gradient.
    pub pad: u32,
}

/// Attention with its output projection, residual and norm: `attention` or `crossattention` of a
/// layer.
#[derive(Clone, Debug)]
pub struct AttentionBlock {
    /// Query projection of the text's rows.
    pub query: Linear,
    /// Key projection of the text's rows, or of the image's in cross-attention.
    pub key: Linear,
    /// Value projection of the same rows as the key.
    pub value: Linear,
    /// Output projection of the heads.
    pub dense: Linear,
    /// Norm after the residual.
    pub norm: LayerNorm,
    /// Number of heads.
    pub heads: usize,
}

/// Self-attention -> cross-attention -> feed-forward, each with residual and norm after it.
#[derive(Clone, Debug)]
pub struct BertLayer {
    /// Self-attention.
    pub attention: AttentionBlock,
    /// Cross-attention, used if there is an image.
    pub cross: AttentionBlock,
    /// Linear layer to the hidden width.
    pub intermediate: Linear,
    /// Linear layer back to the transformer's width.
    pub output: Linear,
    /// Norm after the feed-forward residual.
    pub norm: LayerNorm,
}

fn apply_dropout(x: Tensor, dropout: Option<&Dropout>) -> Result<Tensor> {
    match dropout {
        Some(d) => d.forward(&x),
        None => Ok(x),
    }
}

impl AttentionBlock {
    fn new(arch: &Architecture, key_width: usize, vb: VarBuilder) -> Result<Self> {
        let d = arch.text_hidden_size;
        let (own, output) = (vb.pp("self"), vb.pp("output"));
        Ok(Self {
            query: Linear::new(d, d, own.pp("query"))?,
            key: Linear::new(key_width, d, own.pp("key"))?,
            value: Linear::new(key_width, d, own.pp("value"))?,
            dense: Linear::new(d, d, output.pp("dense"))?,
            norm: LayerNorm::new(d, arch.text_layer_norm_eps, output.pp("LayerNorm"))?,
            heads: arch.text_heads,
        })
    }

    /// `x` `[batch, tokens, width]`, which attends to the rows of `other` -> the same shape. `keep`
    /// receives the probabilities `[batch, heads, tokens, rows]`, without dropout.
    fn forward(
        &self,
        x: &Tensor,
        other: &Tensor,
        mask: Option<&Mask>,
        dropout: Option<&Dropout>,
        keep: Option<&mut Vec<Tensor>>,
    ) -> Result<Tensor> {
        let (q, k, v) = (self.query.forward(x)?, self.key.forward(other)?, self.value.forward(other)?);
        let probabilities = attention_probs(&q, &k, self.heads, mask)?;
        if let Some(keep) = keep {
            keep.push(probabilities.clone());
        }
        let context = weighted_values(probabilities, &v, dropout)?;
        self.norm.forward(&(apply_dropout(self.dense.forward(&context)?, dropout)? + x)?)
    }

    /// Lengths `[batch, tokens, rows]` of the vectors that each row of `other`
    /// `[batch, rows, width]` adds to each token, by `probabilities`
    /// `[batch, heads, tokens, rows]`; see [`AttentionMeasure::Contribution`].
    fn contributions(&self, probabilities: &Tensor, other: &Tensor) -> Result<Tensor> {
        let (batch, heads, tokens, rows) = probabilities.dims4()?;
        let values = self.value.forward(other)?;
        let width = values.dim(2)?;
        let split = |x: &Tensor, first: usize| x.reshape((first, heads, width / heads))?.transpose(0, 1)?.contiguous();
        // The head's columns of the output projection: `[heads, head width, width]`.
        let output = split(&self.dense.weight, width)?.transpose(1, 2)?.contiguous()?;
        let mut all = Vec::with_capacity(batch);
        for item in 0..batch {
            // `[heads, rows, width]`, and the sum over heads of probability times value:
            // `[tokens, rows, width]`.
            let values = split(&values.get(item)?, rows)?.matmul(&output)?;
            let mut sum = values.zeros_like()?.get(0)?.unsqueeze(0)?.repeat((tokens, 1, 1))?;
            for head in 0..heads {
                let p = probabilities.get(item)?.get(head)?.unsqueeze(2)?;
                sum = (sum + p.broadcast_mul(&values.get(head)?.unsqueeze(0)?)?)?;
            }
            all.push(sum.sqr()?.sum(2)?.sqrt()?);
        }
        Tensor::stack(&all, 0)
    }
}

impl BertLayer {
    fn new(arch: &Architecture, vb: VarBuilder) -> Result<Self> {
        let (d, hidden) = (arch.text_hidden_size, arch.text_intermediate);
        Ok(Self {
            attention: AttentionBlock::new(arch, d, vb.pp("attention"))?,
            cross: AttentionBlock::new(arch, arch.vision_width, vb.pp("crossattention"))?,
            intermediate: Linear::new(d, hidden, vb.pp("intermediate").pp("dense"))?,
            output: Linear::new(hidden, d, vb.pp("output").pp("dense"))?,
            norm: LayerNorm::new(d, arch.text_layer_norm_eps, vb.pp("output").pp("LayerNorm"))?,
        })
    }

    /// `[batch, tokens, width]` -> the same.
    ///
    /// # Errors
    /// When candle fails.
    pub fn forward(&self, x: &Tensor, mask: &Mask, pass: &Pass) -> Result<Tensor> {
        self.run(x, mask, pass, None)
    }

    /// [`BertLayer::forward`]; `keep` receives the probabilities of the cross-attention.
    fn run(&self, x: &Tensor, mask: &Mask, pass: &Pass, keep: Option<&mut Vec<Tensor>>) -> Result<Tensor> {
        let mut x = self.attention.forward(x, x, Some(mask), pass.dropout, None)?;
        if let Some(image) = pass.image {
            x = self.cross.forward(&x, image, None, pass.dropout, keep)?;
        }
        let y = self.output.forward(&self.intermediate.forward_gelu(&x)?)?;
        self.norm.forward(&(apply_dropout(y, pass.dropout)? + x)?)
    }
}

impl Bert {
    /// Builds the network from the tensors under `vb`, by the reference's names (`embeddings.*`,
    /// `encoder.layer.*`).
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn new(arch: &Architecture, vb: VarBuilder) -> Result<Self> {
        let (d, e, layers) = (arch.text_hidden_size, vb.pp("embeddings"), vb.pp("encoder").pp("layer"));
        let small = Init::Randn { mean: 0.0, stdev: 0.02 };
        Ok(Self {
            words: e.pp("word_embeddings").get_with_hints((arch.vocab_size, d), "weight", small)?,
            positions: e.pp("position_embeddings").get_with_hints(
                (arch.max_position_embeddings, d),
                "weight",
                small,
            )?,
            norm: LayerNorm::new(d, arch.text_layer_norm_eps, e.pp("LayerNorm"))?,
            layers: (0..arch.text_layers).map(|i| BertLayer::new(arch, layers.pp(i))).collect::<Result<_>>()?,
            pad: arch.pad_token_id,
        })
    }

    /// A transformer that shares every tensor with this one but has its own cross-attention under
    /// `vb` (the paper's form of the ARA decoder).
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn with_own_cross_attention(&self, arch: &Architecture, vb: VarBuilder) -> Result<Self> {
        let mut twin = self.clone();
        let layers = vb.pp("encoder").pp("layer");
        for (i, layer) in twin.layers.iter_mut().enumerate() {
            layer.cross = AttentionBlock::new(arch, arch.vision_width, layers.pp(i).pp("crossattention"))?;
        }
        Ok(twin)
    }

    /// Word + position embeddings, normed: the input of the first layer, `[batch, tokens, width]`.
    ///
    /// # Errors
    /// An id beyond the vocabulary or more tokens than positions.
    pub fn embed(&self, tokens: &TokenBatch) -> Result<Tensor> {
        let (n, width) = (tokens.tokens(), self.words.dim(1)?);
        let words = embedding(&self.words, tokens.ids(), self.pad)?.reshape((tokens.batch(), n, width))?;
        self.norm.forward(&words.broadcast_add(&self.positions.narrow(0, 0, n)?)?)
    }

    /// Hidden states `[batch, tokens, width]` after the last layer. Rows of padding hold values
    /// without meaning.
    ///
    /// # Errors
    /// As [`Bert::embed`], and images of another count or width.
    pub fn forward(&self, tokens: &TokenBatch, pass: &Pass) -> Result<Tensor> {
        self.run(tokens, pass, None)
    }

    /// [`Bert::forward`]; `keep` receives the probabilities of every layer's cross-attention.
    fn run(&self, tokens: &TokenBatch, pass: &Pass, mut keep: Option<&mut Vec<Tensor>>) -> Result<Tensor> {
        let mask = tokens.mask(pass.causal);
        let mut x = apply_dropout(self.embed(tokens)?, pass.dropout)?;
        for layer in &self.layers {
            x = layer.run(&x, &mask, pass, keep.as_deref_mut())?;
        }
        Ok(x)
    }

    /// Cross-attention probabilities of every layer, `[batch, heads, tokens, patch rows]` each:
    /// which patch each word attends to.
    ///
    /// # Errors
    /// As [`Bert::forward`].
    pub fn cross_attention(&self, tokens: &TokenBatch, image: &Tensor) -> Result<Vec<Tensor>> {
        let mut all = Vec::with_capacity(self.layers.len());
        self.run(tokens, &Pass { image: Some(image), ..Pass::default() }, Some(&mut all))?;
        Ok(all)
    }

    /// Cross-attention maps of every layer, `[batch, tokens, patch rows]` each: how much each token
    /// attends to each patch, measured `by`.
    ///
    /// # Errors
    /// As [`Bert::forward`].
    pub fn attention_maps(&self, tokens: &TokenBatch, image: &Tensor, by: AttentionMeasure) -> Result<Vec<Tensor>> {
        let map = |(layer, probabilities): (&BertLayer, &Tensor)| match by {
            AttentionMeasure::Probability => probabilities.mean(1),
            AttentionMeasure::Contribution => layer.cross.contributions(probabilities, image),
        };
        self.layers.iter().zip(&self.cross_attention(tokens, image)?).map(map).collect()
    }
}

/// `text_decoder`: a transformer with a head that predicts words; its output embedding is tied to
/// the input's.
#[derive(Clone, Debug)]
pub struct MlmDecoder {
    /// Transformer under the head.
    pub bert: Bert,
    /// Linear layer on hidden states, before GELU.
    pub transform: Linear,
    /// Norm after GELU.
    pub norm: LayerNorm,
    /// Linear layer to the vocabulary; its weight is the word embedding.
    pub output: Linear,
}

impl MlmDecoder {
    /// Builds the decoder on `bert`, with the head's tensors under `vb` (`cls.predictions.*`).
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn new(arch: &Architecture, bert: Bert, vb: VarBuilder) -> Result<Self> {
        let (d, vb) = (arch.text_hidden_size, vb.pp("cls").pp("predictions"));
        let transform = vb.pp("transform");
        let bias = vb.get_with_hints(arch.vocab_size, "bias", Init::Const(0.0))?;
        Ok(Self {
            transform: Linear::new(d, d, transform.pp("dense"))?,
            norm: LayerNorm::new(d, arch.text_layer_norm_eps, transform.pp("LayerNorm"))?,
            output: Linear::from_tensors(bert.words.clone(), bias)?,
            bert,
        })
    }

    /// Hidden states `[.., width]` -> scores of every word, `[.., vocabulary]`.
    ///
    /// # Errors
    /// When candle fails.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.output.forward(&self.norm.forward(&self.transform.forward_gelu(hidden)?)?)
    }
}
