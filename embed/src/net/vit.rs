//! The vision transformer (paper, section 3.1: ViT): pre-norm blocks, fused query, key and value,
//! learned positions, class token first, final norm.

use rayon::prelude::*;

use super::cada::Builder;
use super::weights::PrefixedWeights;
use super::{Attention, BackboneNet, Dense, FeedForward, Layer, NormPlace, Rows, ShapeError, forward};
use crate::EmbedError;
use crate::kernel::{Add, Buffer, Epilogue, Mat};
use crate::model::Architecture;

/// `visual_encoder`: pixels to one feature per patch, class token first.
#[derive(Debug)]
pub struct Vit {
    backbone: Option<BackboneNet>,
    patch: Dense,
    class_token: Vec<f32>,
    positions: Vec<f32>,
    layers: Vec<Layer>,
    arch: Architecture,
}

impl Vit {
    /// Builds the network from the tensors of `weights`, under the reference's names.
    pub(super) fn build(
        arch: &Architecture,
        mut weights: PrefixedWeights<'_>,
        builder: &Builder,
    ) -> Result<Self, EmbedError> {
        let (d, hidden) = (arch.vision_width, arch.vision_width * arch.vision_mlp_ratio);
        let eps = arch.vision_layer_norm_eps;
        let backbone = match arch.backbone {
            Some(kind) => Some(BackboneNet::build(kind, weights.below("backbone"), builder)?),
            None => None,
        };
        let patch = {
            let mut embed = weights.below("patch_embed.proj");
            let (side, width) = (arch.patch_size, arch.token_width());
            let shape: &[usize] = if backbone.is_some() { &[d, width] } else { &[d, arch.in_chans, side, side] };
            builder.dense_of_shape(&mut embed, shape)?
        };
        let class_token = weights.tensor("cls_token", &[1, 1, d])?;
        let positions = weights.tensor("pos_embed", &[1, arch.patch_rows(), d])?;
        let mut layers = Vec::with_capacity(2 * arch.vision_depth + 1);
        for i in 0..arch.vision_depth {
            let mut block = weights.below(format_args!("blocks.{i}"));
            layers.push(Layer::Attention(Attention {
                place: NormPlace::Before,
                norm: builder.norm(&mut block.below("norm1"), d, eps)?,
                own: builder.dense(&mut block.below("attn.qkv"), 3 * d, d)?,
                other: None,
                output: builder.dense(&mut block.below("attn.proj"), d, d)?,
                heads: arch.vision_heads,
            }));
            layers.push(Layer::FeedForward(FeedForward {
                place: NormPlace::Before,
                norm: builder.norm(&mut block.below("norm2"), d, eps)?,
                first: builder.dense(&mut block.below("mlp.fc1"), hidden, d)?,
                second: builder.dense(&mut block.below("mlp.fc2"), d, hidden)?,
            }));
        }
        layers.push(Layer::Norm(builder.norm(&mut weights.below("norm"), d, eps)?));
        Ok(Self { backbone, patch, class_token, positions, layers, arch: arch.clone() })
    }

    /// Numbers per picture: channels x height x width.
    fn picture(&self) -> usize {
        self.arch.in_chans * self.arch.image_size[0] * self.arch.image_size[1]
    }

    /// Layout of the rows of `pictures` pictures.
    fn rows(&self, pictures: usize) -> Rows {
        Rows::even(pictures, self.arch.patch_rows(), self.arch.vision_width)
    }

    /// Token rows before the linear layer: flattened patches, or the output of the backbone.
    /// Normalised pixels `[batch, 3, height, width]` -> `[batch, patches, token width]`.
    ///
    /// # Errors
    /// Pixels of another size than the model's.
    pub fn tokens(&self, pixels: &[f32]) -> Result<Buffer, ShapeError> {
        let picture = self.picture();
        if !pixels.len().is_multiple_of(picture) {
            let [height, width] = self.arch.image_size;
            return Err(ShapeError(format!(
                "{} numbers are not pictures of {} x {height} x {width}",
                pixels.len(),
                self.arch.in_chans
            )));
        }
        if let Some(backbone) = &self.backbone {
            return backbone.tokens(pixels, self.arch.image_size);
        }
        let mut tokens = Buffer::take(pixels.len());
        tokens.par_chunks_mut(picture).zip(pixels.par_chunks(picture)).for_each(|(out, pixels)| self.cut(pixels, out));
        Ok(tokens)
    }

    /// Class token and patches with their positions: the input of the first block.
    /// `[batch, 3, height, width]`, normalised -> `[batch, 1 + patches, width]`.
    ///
    /// # Errors
    /// As [`Vit::tokens`].
    pub fn embed(&self, pixels: &[f32]) -> Result<Buffer, ShapeError> {
        let tokens = self.tokens(pixels)?;
        let (each, d) = (self.arch.grid().len() * self.arch.token_width(), self.arch.vision_width);
        let pictures = tokens.len() / each.max(1);
        let mut x = Buffer::take(self.rows(pictures).numbers());
        if pictures == 0 {
            return Ok(x);
        }
        let (class_place, places) = self.positions.split_at(d);
        let epilogue = Epilogue { add: Add::Matrix(Mat::new(places, places.len() / d, d)?), ..self.patch.bias() };
        let threads = usize::from(pictures >= rayon::current_num_threads());
        x.par_chunks_mut(self.arch.patch_rows() * d).zip(tokens.par_chunks(each)).with_max_len(1).try_for_each(
            |(x, tokens)| {
                let (class, rows) = x.split_at_mut(d);
                for ((x, token), place) in class.iter_mut().zip(&self.class_token).zip(class_place) {
                    *x = token + place;
                }
                self.patch.apply(tokens, rows, epilogue, threads)
            },
        )?;
        Ok(x)
    }

    /// Cuts the pixels of one picture `[channels, height, width]` into rows of patches
    /// `[patches, channels * side * side]`, written to `out`.
    fn cut(&self, pixels: &[f32], out: &mut [f32]) {
        let ([height, width], side) = (self.arch.image_size, self.arch.patch_size);
        let (columns, patch) = (width / side, self.arch.in_chans * side * side);
        for (line, pixels) in pixels.chunks_exact(width).enumerate() {
            let (channel, y) = (line / height, line % height);
            let first = y / side * columns * patch + channel * side * side + y % side * side;
            for (column, run) in pixels.chunks_exact(side).enumerate() {
                out[first + column * patch..][..side].copy_from_slice(run);
            }
        }
    }

    /// Applies the first `layers` sublayers to the output of [`Vit::embed`]: two per block,
    /// attention first, and the final norm as the last.
    ///
    /// # Errors
    /// Rows of another size.
    pub fn through(&self, embedded: Buffer, layers: usize) -> Result<Buffer, ShapeError> {
        let rows = self.rows(embedded.len() / self.arch.vision_width / self.arch.patch_rows());
        forward(&self.layers[..layers.min(self.layers.len())], &rows, embedded, None, None)
    }

    /// Pixels `[batch, 3, height, width]` -> features after the final norm,
    /// `[batch, 1 + patches, width]`.
    ///
    /// # Errors
    /// As [`Vit::tokens`].
    pub fn forward(&self, pixels: &[f32]) -> Result<Buffer, ShapeError> {
        self.through(self.embed(pixels)?, self.layers.len())
    }
}
