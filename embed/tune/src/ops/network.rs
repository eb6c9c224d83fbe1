//! CADA's forward passes for training. Each uses our own ops on a CPU, and candle's graph
//! elsewhere.
//!
//! The stack has no dropout, so a text with dropout uses candle's graph on a CPU too.

use candle_core::{DType, Result, Tensor};
use sightline_embed::graph::{AttentionBlock, Bert, BertLayer, Cada, Dropout, MlmDecoder, Pass, Vit, VitBlock};
use sightline_embed::model::TokenBatch;
use sightline_embed::net::NormPlace;

use super::attention::AttentionTensors;
use super::feed_forward::FeedForwardTensors;
use super::{
    Sublayer, class_and_positions, drop_padding, is_supported, linear, patches, restore_padding, stack,
    stack_without_padding, text_input,
};

/// Encodes normalised pixels `[batch, 3, height, width]` as patch features `[batch, 1 + patches,
/// vision width]`.
///
/// # Errors
/// Pixels of another size than the model's.
pub fn image_embeds(cada: &Cada, pixels: &Tensor) -> Result<Tensor> {
    vit(&cada.visual_encoder, pixels, cada.arch().patch_size)
}

/// Encodes tokens of a backbone `[batch, places, token width]` at `places` of the grid as features
/// of the class token and of these patches, `[batch, 1 + places, vision width]`.
///
/// # Errors
/// Places beyond the grid, or tokens of another width.
pub fn image_embeds_of_tokens(cada: &Cada, tokens: &Tensor, places: &[u32]) -> Result<Tensor> {
    let vit = &cada.visual_encoder;
    let positions = if places.len() + 1 == vit.positions.dim(1)? {
        vit.positions.clone()
    } else {
        let rows: Vec<u32> = std::iter::once(0).chain(places.iter().map(|place| place + 1)).collect();
        vit.positions.index_select(&Tensor::new(rows, vit.positions.device())?, 1)?
    };
    let rows = linear(&vit.patch, tokens)?;
    if !is_supported(tokens) || !is_supported(&vit.class_token) {
        return vit.through(vit.with_class(&rows, &positions)?);
    }
    stack(&class_and_positions(&rows, &vit.class_token, &positions)?, None, None, vit_layers(vit))
}

/// Projects patch features to global image features `[batch, embed_dim]`, not normalised.
///
/// # Errors
/// When candle fails.
pub fn image_proj(cada: &Cada, image_embeds: &Tensor) -> Result<Tensor> {
    linear(&cada.vision_proj, &first(image_embeds)?)?.to_dtype(DType::F32)
}

/// Encodes texts that begin with `[CLS]` as hidden states `[batch, tokens, text width]`, without
/// the image.
///
/// # Errors
/// An id beyond the vocabulary or more tokens than positions.
pub fn text_embeds(cada: &Cada, tokens: &TokenBatch, dropout: Option<&Dropout>) -> Result<Tensor> {
    bert(&cada.text_encoder, tokens, &Pass { dropout, ..Pass::default() })
}

/// Projects hidden states of texts to global text features `[batch, embed_dim]`, not normalised.
///
/// # Errors
/// When candle fails.
pub fn text_proj(cada: &Cada, tokens: &TokenBatch, text_embeds: &Tensor) -> Result<Tensor> {
    linear(&cada.text_proj, &cada.pool_text(tokens, text_embeds)?)?.to_dtype(DType::F32)
}

/// Runs the decoder on texts and images, see [`Cada::fused`].
///
/// # Errors
/// The errors of [`text_embeds`], and images of another count or width.
pub fn fused(cada: &Cada, tokens: &TokenBatch, image: &Tensor, dropout: Option<&Dropout>) -> Result<Tensor> {
    let pass = Pass { image: Some(image), causal: false, dropout };
    bert(&cada.text_encoder, &tokens.with_first(cada.arch().enc_token_id), &pass)
}

/// Match logits `[batch, 2]` of fused states: "no match" and "match".
///
/// # Errors
/// When candle fails.
pub fn itm_logits(cada: &Cada, fused: &Tensor) -> Result<Tensor> {
    linear(&cada.itm_head, &first(fused)?)
}

/// Match logits `[groups, 2]` of group means `[groups, text width]` of fused states (the local half
/// of ATP).
///
/// # Errors
/// When candle fails.
pub fn itm_local_logits(cada: &Cada, group_means: &Tensor) -> Result<Tensor> {
    linear(&cada.itm_local_head, group_means)
}

/// Scores of every word, `[.., vocabulary]`, for hidden states `[.., width]`.
///
/// # Errors
/// When candle fails.
pub fn word_logits(decoder: &MlmDecoder, hidden: &Tensor) -> Result<Tensor> {
    let transformed = linear(&decoder.transform, hidden)?.gelu_erf()?;
    linear(&decoder.output, &decoder.norm.forward(&transformed)?)
}

/// Position 0 of `[batch, tokens, width]`: returns `[batch, width]`.
fn first(x: &Tensor) -> Result<Tensor> {
    x.narrow(1, 0, 1)?.squeeze(1)
}

fn vit(vit: &Vit, pixels: &Tensor, side: usize) -> Result<Tensor> {
    if !is_supported(pixels) || !is_supported(&vit.class_token) || vit.backbone.is_some() {
        return vit.forward(pixels);
    }
    // `patches` checks the size, and rejects pixels that track a gradient.
    let rows = linear(&vit.patch, &patches(pixels, side)?)?;
    let x = class_and_positions(&rows, &vit.class_token, &vit.positions)?;
    stack(&x, None, None, vit_layers(vit))
}

fn vit_layers(vit: &Vit) -> Vec<Sublayer> {
    vit.blocks.iter().flat_map(vit_block).chain([Sublayer::Norm(vit.norm.clone())]).collect()
}

fn vit_block(block: &VitBlock) -> [Sublayer; 2] {
    let attention = AttentionTensors {
        place: NormPlace::Before,
        norm: block.norm1.clone(),
        own: vec![block.qkv.clone()],
        other: Vec::new(),
        output: block.proj.clone(),
        heads: block.heads,
    };
    let (first, second) = (block.fc1.clone(), block.fc2.clone());
    let feed_forward = FeedForwardTensors { place: NormPlace::Before, norm: block.norm2.clone(), first, second };
    [Sublayer::Attention(attention), Sublayer::FeedForward(feed_forward)]
}

/// Hidden states `[batch, tokens, width]` after the last layer. Rows of padding hold meaningless
/// values or zeros.
///
/// # Errors
/// The errors of [`text_embeds`], and images of another count or width.
pub fn bert(bert: &Bert, tokens: &TokenBatch, pass: &Pass) -> Result<Tensor> {
    if !is_supported(&bert.words) || pass.dropout.is_some_and(|d| !d.is_off()) {
        return bert.forward(tokens, pass);
    }
    let mask = tokens.mask(pass.causal);
    let sums = text_input(&bert.words, &bert.positions, tokens.ids(), tokens.tokens(), bert.pad)?;
    let layers = bert.layers.iter().flat_map(|layer| bert_layer(layer, pass.image.is_some()));
    let layers: Vec<Sublayer> = [Sublayer::Norm(bert.norm.clone())].into_iter().chain(layers).collect();
    if !tokens.may_pack() {
        return stack(&sums, pass.image, Some(&mask), layers);
    }
    let lengths = tokens.lengths();
    let rows = stack_without_padding(&drop_padding(&sums, lengths)?, lengths, pass.image, Some(&mask), layers)?;
    restore_padding(&rows, lengths, tokens.tokens())
}

fn bert_layer(layer: &BertLayer, with_image: bool) -> impl Iterator<Item = Sublayer> {
    let (first, second, norm) = (layer.intermediate.clone(), layer.output.clone(), layer.norm.clone());
    let feed_forward = FeedForwardTensors { place: NormPlace::After, norm, first, second };
    let cross = with_image.then(|| attention_block(&layer.cross, true));
    [attention_block(&layer.attention, false)].into_iter().chain(cross).chain([Sublayer::FeedForward(feed_forward)])
}

/// Converts the block to a sublayer; with `cross`, its keys and values come from the other side.
fn attention_block(block: &AttentionBlock, cross: bool) -> Sublayer {
    let (query, rest) = (block.query.clone(), vec![block.key.clone(), block.value.clone()]);
    let (own, other) = match cross {
        true => (vec![query], rest),
        false => ([vec![query], rest].concat(), Vec::new()),
    };
    let (norm, output) = (block.norm.clone(), block.dense.clone());
    Sublayer::Attention(AttentionTensors { place: NormPlace::After, norm, own, other, output, heads: block.heads })
}
