//! CADA as a graph: two encoders into one embedding space, and the decoder that matches a text
//! against one picture.

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::{Bert, Dropout, Linear, MlmDecoder, Pass, Vit};
use crate::model::{Architecture, TextPooling, TokenBatch, WordPredictor};
use crate::net::AttentionMeasure;

/// All parts, under the reference's names.
#[derive(Clone, Debug)]
pub struct Cada {
    arch: Architecture,
    /// The vision transformer.
    pub visual_encoder: Vit,
    /// The text transformer, also the decoder.
    pub text_encoder: Bert,
    /// Projection of a picture's class token to the common space.
    pub vision_proj: Linear,
    /// Projection of a text's pooled hidden state to the common space.
    pub text_proj: Linear,
    /// Head from the first fused state to "no match" and "match".
    pub itm_head: Linear,
    /// Head from group means of fused states to the same two classes (the local half of ATP).
    pub itm_local_head: Linear,
    /// The word predictor, when one was built.
    pub text_decoder: Option<MlmDecoder>,
}

impl Cada {
    /// Builds the networks from the tensors of `vb`: plain tensors for inference, variables of a
    /// `VarMap` for training.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn new(arch: &Architecture, decoder: WordPredictor, vb: VarBuilder) -> Result<Self> {
        let (text, width) = (arch.text_hidden_size, arch.vision_width);
        let text_encoder = Bert::new(arch, vb.pp("text_encoder"))?;
        let d = vb.pp("text_decoder");
        let text_decoder = match decoder {
            WordPredictor::None => None,
            WordPredictor::Own => Some(MlmDecoder::new(arch, Bert::new(arch, d.pp("bert"))?, d)?),
            WordPredictor::Tied => Some(MlmDecoder::new(arch, text_encoder.clone(), d)?),
            WordPredictor::Shared => {
                Some(MlmDecoder::new(arch, text_encoder.with_own_cross_attention(arch, d.pp("bert"))?, d)?)
            }
        };
        Ok(Self {
            arch: arch.clone(),
            visual_encoder: Vit::new(arch, vb.pp("visual_encoder"))?,
            text_encoder,
            vision_proj: Linear::new(width, arch.embed_dim, vb.pp("vision_proj"))?,
            text_proj: Linear::new(text, arch.embed_dim, vb.pp("text_proj"))?,
            itm_head: Linear::new(text, 2, vb.pp("itm_head"))?,
            itm_local_head: Linear::new(text, 2, vb.pp("itm_local_head"))?,
            text_decoder,
        })
    }

    /// Data type of the tensors: f32, or half precision on a GPU. Features and logits are always
    /// f32.
    pub fn dtype(&self) -> DType {
        self.vision_proj.weight.dtype()
    }

    /// Dimensions of the networks.
    pub fn arch(&self) -> &Architecture {
        &self.arch
    }

    /// Normalised pixels `[batch, 3, height, width]` -> patch features
    /// `[batch, 1 + patches, vision width]` in the type of the weights.
    ///
    /// # Errors
    /// Pixels of another size than the model's.
    pub fn image_embeds(&self, pixels: &Tensor) -> Result<Tensor> {
        self.visual_encoder.forward(pixels)
    }

    /// Patch features -> global image feature `[batch, embed_dim]`, not normalised.
    ///
    /// # Errors
    /// When candle fails.
    pub fn image_proj(&self, image_embeds: &Tensor) -> Result<Tensor> {
        self.vision_proj.forward(&first(image_embeds)?.to_dtype(self.dtype())?)?.to_dtype(DType::F32)
    }

    /// Texts that begin with `[CLS]` -> hidden states `[batch, tokens, text width]`, without the
    /// image.
    ///
    /// # Errors
    /// As [`Bert::forward`].
    pub fn text_embeds(&self, tokens: &TokenBatch, dropout: Option<&Dropout>) -> Result<Tensor> {
        self.text_encoder.forward(tokens, &Pass { dropout, ..Pass::default() })
    }

    /// Pools the hidden states `[batch, tokens, text width]` of `tokens` for the common space,
    /// `[batch, text width]`: the first state or the mean.
    ///
    /// # Errors
    /// Hidden states of another batch.
    pub fn pool_text(&self, tokens: &TokenBatch, text_embeds: &Tensor) -> Result<Tensor> {
        pool_text(self.arch.text_pooling, tokens, text_embeds)
    }

    /// Hidden states of texts -> global text feature `[batch, embed_dim]`, not normalised.
    ///
    /// # Errors
    /// As [`Cada::pool_text`].
    pub fn text_proj(&self, tokens: &TokenBatch, text_embeds: &Tensor) -> Result<Tensor> {
        self.text_proj.forward(&self.pool_text(tokens, text_embeds)?)?.to_dtype(DType::F32)
    }

    /// Decoder: pair i is text i (its first token becomes `[ENC]`) with patch features i of
    /// `[batch, 1 + patches, vision width]`. Returns `[batch, tokens, text width]`.
    ///
    /// # Errors
    /// As [`Bert::forward`].
    pub fn fused(&self, tokens: &TokenBatch, image_embeds: &Tensor, dropout: Option<&Dropout>) -> Result<Tensor> {
        let image = image_embeds.to_dtype(self.dtype())?;
        let pass = Pass { image: Some(&image), causal: false, dropout };
        self.text_encoder.forward(&tokens.with_first(self.arch.enc_token_id), &pass)
    }

    /// Cross-attention maps of the decoder: how much each token attends to each patch,
    /// `[batch, tokens, 1 + patches]` per layer; rows of padding hold values without meaning.
    ///
    /// # Errors
    /// As [`Bert::forward`].
    pub fn attention_maps(
        &self,
        tokens: &TokenBatch,
        image_embeds: &Tensor,
        by: AttentionMeasure,
    ) -> Result<Vec<Tensor>> {
        let image = image_embeds.to_dtype(self.dtype())?;
        self.text_encoder.attention_maps(&tokens.with_first(self.arch.enc_token_id), &image, by)
    }

    /// Fused states -> `[batch, 2]`: "no match" and "match".
    ///
    /// # Errors
    /// When candle fails.
    pub fn itm_logits(&self, fused: &Tensor) -> Result<Tensor> {
        self.itm_head.forward(&first(fused)?)?.to_dtype(DType::F32)
    }

    /// Group means `[batch, text width]` of fused states -> `[batch, 2]`: the local half of ATP.
    ///
    /// # Errors
    /// When candle fails.
    pub fn itm_local_logits(&self, group_mean: &Tensor) -> Result<Tensor> {
        self.itm_local_head.forward(group_mean)?.to_dtype(DType::F32)
    }
}

fn pool_text(pooling: TextPooling, tokens: &TokenBatch, hidden: &Tensor) -> Result<Tensor> {
    if pooling == TextPooling::Class {
        return first(hidden);
    }
    let (batch, n, _) = hidden.dims3()?;
    if batch != tokens.batch() || n != tokens.tokens() {
        bail!("hidden states {:?} of {} texts of {} tokens", hidden.shape(), tokens.batch(), tokens.tokens());
    }
    let weights = tokens
        .lengths()
        .iter()
        .flat_map(|length| (0..n).map(move |place| if place < *length { 1.0 / *length as f32 } else { 0.0 }));
    let weights = Tensor::from_iter(weights, hidden.device())?.reshape((batch, n, 1))?.to_dtype(hidden.dtype())?;
    hidden.broadcast_mul(&weights)?.sum(1)
}

/// Position 0 of `[batch, tokens, width]`, `[batch, width]`.
fn first(x: &Tensor) -> Result<Tensor> {
    x.narrow(1, 0, 1)?.squeeze(1)
}
