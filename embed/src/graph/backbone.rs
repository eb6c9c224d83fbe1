//! A convolutional backbone as a graph: pictures to the rows that the patch embedding reads, see
//! [`crate::net::BackboneNet`].
//!
//! Channels are the last dimension. A depthwise convolution is one multiplication and addition of
//! whole maps per position of its filter, because candle's own one loops over channels.

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::{Init, VarBuilder};

use super::Linear;
use crate::kernel::Window;
use crate::model::{Backbone, BlockShape};

/// The network of `visual_encoder.backbone`.
#[derive(Clone, Debug)]
pub struct BackboneGraph {
    kind: Backbone,
    /// `[32, 27]`, the 27 inputs in the order line, column, channel.
    stem: Linear,
    blocks: Vec<Block>,
    /// `[token width]`
    mean: Tensor,
    /// `[token width]`
    scale: Tensor,
}

#[derive(Clone, Debug)]
struct Block {
    shape: BlockShape,
    expand: Option<Linear>,
    depthwise: Depthwise,
    project: Linear,
}

/// Depthwise convolution: a filter of its own for each channel.
#[derive(Clone, Debug)]
struct Depthwise {
    /// `[side * side, channels]`
    weight: Tensor,
    /// `[channels]`
    bias: Tensor,
    window: Window,
}

impl BackboneGraph {
    /// Builds the network from the tensors under `vb`.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn new(kind: Backbone, vb: VarBuilder) -> Result<Self> {
        let stem = vb.pp("stem");
        let side = Window::STEM.side;
        let weight = stem.get_with_hints(&[Backbone::STEM, 3, side, side][..], "weight", FRESH)?;
        let weight = weight.permute([0, 2, 3, 1])?.contiguous()?.flatten_from(1)?;
        let stem = Linear::from_tensors(weight, stem.get_with_hints(Backbone::STEM, "bias", Init::Const(0.0))?)?;
        let blocks = kind.blocks().into_iter().enumerate();
        let blocks = blocks.map(|(i, shape)| Block::new(shape, vb.pp("blocks").pp(i))).collect::<Result<_>>()?;
        let (tokens, width) = (vb.pp("tokens"), kind.token_width());
        let mean = tokens.get_with_hints(width, "mean", Init::Const(0.0))?;
        let scale = tokens.get_with_hints(width, "scale", Init::Const(1.0))?;
        Ok(Self { kind, stem, blocks, mean, scale })
    }

    /// Normalised pixels `[batch, 3, height, width]` -> `[batch, tokens, token width]`.
    ///
    /// # Errors
    /// A size that is no multiple of [`Backbone::CELL`].
    pub fn tokens(&self, pixels: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = pixels.dims4()?;
        let cell = Backbone::CELL;
        if channels != 3 || !height.is_multiple_of(cell) || !width.is_multiple_of(cell) {
            bail!("a backbone takes 3 x height x width in whole cells of {cell}, got {:?}", pixels.shape());
        }
        let pixels = pixels.permute([0, 2, 3, 1])?.contiguous()?.to_dtype(self.mean.dtype())?;
        let windows = Tensor::cat(&taps(&pixels, Window::STEM)?, 3)?;
        let mut x = relu6(&self.stem.forward(&windows)?)?;
        let mut fine = None;
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x)?;
            if i == self.kind.fine_block() {
                fine = Some(x.clone());
            }
        }
        let Some(fine) = fine else { bail!("a backbone without a map at stride 16") };
        let (down, across) = (height / Backbone::TOKEN, width / Backbone::TOKEN);
        let [fine_width, coarse_width] = self.kind.map_channels();
        let coarse = x.reshape(&[batch, down / 2, 1, across / 2, 1, coarse_width][..])?;
        let coarse = coarse.broadcast_as(&[batch, down / 2, 2, across / 2, 2, coarse_width][..])?;
        let tokens = down * across;
        let coarse = coarse.contiguous()?.reshape((batch, tokens, coarse_width))?;
        let fine = fine.reshape((batch, tokens, fine_width))?;
        let part = Backbone::TOKEN / 4;
        let means = pixels.to_dtype(DType::F32)?;
        let means = means.reshape(&[batch, down * 4, part, across * 4, part, 3][..])?.mean(4)?.mean(2)?;
        let means = means.reshape(&[batch, down, 4, across, 4, 3][..])?.permute([0, 1, 3, 2, 4, 5])?;
        let means = means.reshape((batch, tokens, Backbone::PIXELS))?.to_dtype(fine.dtype())?;
        Tensor::cat(&[&fine, &coarse, &means], 2)?.broadcast_sub(&self.mean)?.broadcast_mul(&self.scale)
    }
}

/// Initial weights; a backbone is always loaded, so their spread does not matter.
const FRESH: Init = Init::Randn { mean: 0.0, stdev: 0.02 };

impl Block {
    fn new(shape: BlockShape, vb: VarBuilder) -> Result<Self> {
        let (inner, side) = (shape.expanded, shape.side);
        let expand = match inner == shape.inputs {
            true => None,
            false => Some(Linear::with_weight_shape(&[inner, shape.inputs, 1, 1], vb.pp("expand"))?),
        };
        let own = vb.pp("depthwise");
        let weight = own.get_with_hints(&[inner, 1, side, side][..], "weight", FRESH)?;
        let weight = weight.reshape((inner, side * side))?.t()?.contiguous()?;
        let bias = own.get_with_hints(inner, "bias", Init::Const(0.0))?;
        let window = Window { side, stride: shape.stride };
        let project = Linear::with_weight_shape(&[shape.outputs, inner, 1, 1], vb.pp("project"))?;
        Ok(Self { shape, expand, depthwise: Depthwise { weight, bias, window }, project })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let wide = match &self.expand {
            Some(expand) => relu6(&expand.forward(x)?)?,
            None => x.clone(),
        };
        let out = self.project.forward(&self.depthwise.forward(&wide)?)?;
        if self.shape.residual { out + x } else { Ok(out) }
    }
}

impl Depthwise {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut sum = None::<Tensor>;
        for (place, tap) in taps(x, self.window)?.into_iter().enumerate() {
            let part = tap.broadcast_mul(&self.weight.get(place)?)?;
            sum = Some(match sum {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
        match sum {
            Some(sum) => relu6(&sum.broadcast_add(&self.bias)?),
            None => bail!("a filter without a place"),
        }
    }
}

fn relu6(x: &Tensor) -> Result<Tensor> {
    x.clamp(0f32, 6f32)
}

/// The map that each position of the filter sees of `x` `[batch, height, width, channels]`, line by
/// line: `side * side` maps of the output's size.
fn taps(x: &Tensor, window: Window) -> Result<Vec<Tensor>> {
    let (batch, height, width, channels) = x.dims4()?;
    let (down, across) = (window.outputs(height), window.outputs(width));
    let ((top, bottom), (left, right)) = (window.padding(height), window.padding(width));
    let stride = window.stride;
    // Both sides are filled up to multiples of the stride, so that a strided map is a slice of a
    // reshaped one.
    let more = |length: usize| length.next_multiple_of(stride) - length;
    let (high, wide) = (top + height + bottom, left + width + right);
    let x = x.pad_with_zeros(1, top, bottom + more(high))?.pad_with_zeros(2, left, right + more(wide))?;
    let (high, wide) = ((high + more(high)) / stride, (wide + more(wide)) / stride);
    let x = x.reshape(&[batch, high, stride, wide, stride, channels][..])?;
    let mut all = Vec::with_capacity(window.side * window.side);
    for dy in 0..window.side {
        for dx in 0..window.side {
            let map = x.narrow(2, dy % stride, 1)?.squeeze(2)?.narrow(3, dx % stride, 1)?.squeeze(3)?;
            all.push(map.narrow(1, dy / stride, down)?.narrow(2, dx / stride, across)?.contiguous()?);
        }
    }
    Ok(all)
}
