//! A convolutional backbone on the CPU: pictures to the rows that the patch embedding reads.
//!
//! Channels lie side by side, so that 1 x 1 convolutions, most of the arithmetic, are matrix
//! products. The import of the weights has folded batch norms into the convolutions. A thread takes
//! one picture through the whole backbone.

use rayon::prelude::*;

use super::cada::Builder;
use super::weights::{PrefixedWeights, WeightSource};
use super::{Dense, ShapeError};
use crate::EmbedError;
use crate::kernel::{Buffer, Precision, Window, depthwise_relu6, relu6};
use crate::model::{Backbone, BlockShape};

/// Rows (pixels) that a 1 x 1 convolution handles at once, so that its output is clamped while it
/// is in the second-level cache.
const CHUNK: usize = 256;

/// The networks of `visual_encoder.backbone`.
#[derive(Debug)]
pub struct BackboneNet {
    kind: Backbone,
    stem: Dense,
    blocks: Vec<Block>,
    /// Mean of each number of a token's row, over the pictures that the backbone was made for.
    mean: Vec<f32>,
    /// One over the standard deviation of each number.
    scale: Vec<f32>,
}

#[derive(Debug)]
struct Block {
    shape: BlockShape,
    expand: Option<Dense>,
    /// `[side * side, channels]`
    depthwise: Vec<f32>,
    depthwise_bias: Vec<f32>,
    project: Dense,
}

impl BackboneNet {
    /// Builds the backbone alone, without the transformer behind it, from the tensors of `weights`
    /// whose names begin with `prefix`.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn new(
        kind: Backbone,
        prefix: &str,
        weights: &mut dyn WeightSource,
        precision: Precision,
    ) -> Result<Self, EmbedError> {
        let builder = Builder { precision, shapes_only: false };
        let prefix = prefix.trim_end_matches('.');
        Self::build(kind, PrefixedWeights::new(weights).below(prefix), &builder)
    }

    pub(super) fn build(
        kind: Backbone,
        mut weights: PrefixedWeights<'_>,
        builder: &Builder,
    ) -> Result<Self, EmbedError> {
        let stem = builder
            .dense_of_shape(&mut weights.below("stem"), &[Backbone::STEM, 3, Window::STEM.side, Window::STEM.side])?;
        let mut blocks = Vec::new();
        for (i, shape) in kind.blocks().into_iter().enumerate() {
            let mut block = weights.below(format_args!("blocks.{i}"));
            let (inner, side) = (shape.expanded, shape.side);
            let expand = match inner == shape.inputs {
                true => None,
                false => Some(builder.dense_of_shape(&mut block.below("expand"), &[inner, shape.inputs, 1, 1])?),
            };
            let mut own = block.below("depthwise");
            let filters = own.tensor("weight", &[inner, 1, side, side])?;
            let depthwise_bias = own.tensor("bias", &[inner])?;
            let depthwise = (0..filters.len()).map(|i| filters[i % inner * side * side + i / inner]).collect();
            let project = builder.dense_of_shape(&mut block.below("project"), &[shape.outputs, inner, 1, 1])?;
            blocks.push(Block { shape, expand, depthwise, depthwise_bias, project });
        }
        let mut tokens = weights.below("tokens");
        let width = kind.token_width();
        Ok(Self {
            kind,
            stem,
            blocks,
            mean: tokens.tensor("mean", &[width])?,
            scale: tokens.tensor("scale", &[width])?,
        })
    }

    /// Kind of the backbone.
    #[must_use]
    pub fn kind(&self) -> Backbone {
        self.kind
    }

    /// Normalised pixels of pictures `[batch, 3, height, width]` -> rows of tokens
    /// `[batch, tokens, token width]`, standardised: (number - mean) * scale. One picture per
    /// thread.
    ///
    /// # Errors
    /// Pixels that are not whole pictures, or a size that is no multiple of [`Backbone::CELL`].
    pub fn tokens(&self, pixels: &[f32], size: [usize; 2]) -> Result<Buffer, ShapeError> {
        let ([height, width], cell) = (size, Backbone::CELL);
        let picture = 3 * height * width;
        if picture == 0
            || !height.is_multiple_of(cell)
            || !width.is_multiple_of(cell)
            || !pixels.len().is_multiple_of(picture)
        {
            return Err(ShapeError(format!(
                "{} numbers are not pictures of 3 x {height} x {width} in whole cells of {cell}",
                pixels.len()
            )));
        }
        let tokens = height / Backbone::TOKEN * (width / Backbone::TOKEN) * self.kind.token_width();
        let mut out = Buffer::take(pixels.len() / picture * tokens);
        out.par_chunks_mut(tokens).zip(pixels.par_chunks(picture)).with_max_len(1).try_for_each(|(out, pixels)| {
            let (fine, coarse) = self.maps(pixels, size)?;
            self.rows(pixels, size, &fine, &coarse, out);
            Ok::<(), ShapeError>(())
        })?;
        Ok(out)
    }

    /// Maps of one picture at strides 16 and 32, `[height / stride, width / stride, channels]`.
    fn maps(&self, pixels: &[f32], [height, width]: [usize; 2]) -> Result<(Buffer, Buffer), ShapeError> {
        let mut size = [Window::STEM.outputs(height), Window::STEM.outputs(width)];
        let mut x = Buffer::take(size[0] * size[1] * Backbone::STEM);
        let windows = stem_windows(pixels, [height, width]);
        pointwise(&self.stem, &windows, &mut x)?;
        drop(windows);
        let mut fine = Buffer::default();
        for (i, block) in self.blocks.iter().enumerate() {
            (x, size) = block.forward(x, size)?;
            if i == self.kind.fine_block() {
                fine = Buffer::take(x.len());
                fine.copy_from_slice(&x);
            }
        }
        Ok((fine, x))
    }

    /// Writes the standardised rows of one picture's tokens to `out`.
    fn rows(&self, pixels: &[f32], [height, width]: [usize; 2], fine: &[f32], coarse: &[f32], out: &mut [f32]) {
        let [fine_width, coarse_width] = self.kind.map_channels();
        let columns = width / Backbone::TOKEN;
        let (plane, part) = (height * width, Backbone::TOKEN / 4);
        for (token, row) in out.chunks_exact_mut(self.kind.token_width()).enumerate() {
            let (y, x) = (token / columns, token % columns);
            let (maps, means) = row.split_at_mut(fine_width + coarse_width);
            maps[..fine_width].copy_from_slice(&fine[token * fine_width..][..fine_width]);
            let cell = y / 2 * (columns / 2) + x / 2;
            maps[fine_width..].copy_from_slice(&coarse[cell * coarse_width..][..coarse_width]);
            for (i, mean) in means.iter_mut().enumerate() {
                let (down, across, channel) = (i / 12, i / 3 % 4, i % 3);
                let first =
                    channel * plane + (y * Backbone::TOKEN + down * part) * width + x * Backbone::TOKEN + across * part;
                let sum: f32 = (0..part).flat_map(|line| &pixels[first + line * width..][..part]).sum();
                *mean = sum / (part * part) as f32;
            }
            for ((value, mean), scale) in row.iter_mut().zip(&self.mean).zip(&self.scale) {
                *value = (*value - mean) * scale;
            }
        }
    }
}

impl Block {
    fn forward(&self, x: Buffer, size: [usize; 2]) -> Result<(Buffer, [usize; 2]), ShapeError> {
        let window = Window { side: self.shape.side, stride: self.shape.stride };
        let to = size.map(|length| window.outputs(length));
        let inner = self.shape.expanded;
        let mut filtered = Buffer::take(to[0] * to[1] * inner);
        {
            let mut wide = Buffer::default();
            let input: &[f32] = match &self.expand {
                Some(expand) => {
                    wide = Buffer::take(size[0] * size[1] * inner);
                    pointwise(expand, &x, &mut wide)?;
                    &wide
                }
                None => &x,
            };
            depthwise_relu6(input, size, window, &self.depthwise, &self.depthwise_bias, &mut filtered);
            drop(wide);
        }
        let mut out = Buffer::take(to[0] * to[1] * self.shape.outputs);
        let epilogue = if self.shape.residual { self.project.bias_plus(&x)? } else { self.project.bias() };
        self.project.apply(&filtered, &mut out, epilogue, 1)?;
        Ok((out, to))
    }
}

/// A 1 x 1 convolution on the calling thread, clamped to 0 and 6.
fn pointwise(layer: &Dense, x: &[f32], out: &mut [f32]) -> Result<(), ShapeError> {
    for (x, out) in x.chunks(CHUNK * layer.inputs()).zip(out.chunks_mut(CHUNK * layer.outputs())) {
        layer.apply(x, out, layer.bias(), 1)?;
        relu6(out);
    }
    Ok(())
}

/// The pixels under each position of the first filter, `[outputs, 3 * side * side]`; zeros beyond
/// the edges.
fn stem_windows(pixels: &[f32], [height, width]: [usize; 2]) -> Buffer {
    let (down, across, side) = (Window::STEM.outputs(height), Window::STEM.outputs(width), Window::STEM.side);
    let ((top, _), (left, _)) = (Window::STEM.padding(height), Window::STEM.padding(width));
    let each = 3 * side * side;
    let mut out = Buffer::zeros(down * across * each);
    for (place, window) in out.chunks_exact_mut(each).enumerate() {
        let (y, x) = (place / across * Window::STEM.stride, place % across * Window::STEM.stride);
        for channel in 0..3 {
            for dy in 0..side {
                let Some(line) = (y + dy).checked_sub(top).filter(|line| *line < height) else { continue };
                for dx in 0..side {
                    if let Some(column) = (x + dx).checked_sub(left).filter(|column| *column < width) {
                        window[(channel * side + dy) * side + dx] = pixels[(channel * height + line) * width + column];
                    }
                }
            }
        }
    }
    out
}
