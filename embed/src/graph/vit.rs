//! The vision transformer as a graph: pre-norm blocks, fused query, key and value, learned
//! positions, class token first, final norm.

use candle_core::{Result, Tensor, bail};
use candle_nn::{Init, VarBuilder};

use super::{BackboneGraph, LayerNorm, Linear, attention};
use crate::model::Architecture;

/// `visual_encoder`: pixels to one feature per patch, class token first.
#[derive(Clone, Debug)]
pub struct Vit {
    /// Backbone that turns pixels into tokens; `None` for plain patches.
    pub backbone: Option<BackboneGraph>,
    /// Linear layer on tokens, `[vision width, token width]`.
    pub patch: Linear,
    /// Class token, `[1, 1, width]`.
    pub class_token: Tensor,
    /// Learned positions, `[1, 1 + patches, width]`.
    pub positions: Tensor,
    /// Blocks, first to last.
    pub blocks: Vec<VitBlock>,
    /// Norm after the last block.
    pub norm: LayerNorm,
    arch: Architecture,
}

/// One pre-norm transformer block.
#[derive(Clone, Debug)]
pub struct VitBlock {
    /// Norm before attention.
    pub norm1: LayerNorm,
    /// Projection to query, key and value side by side.
    pub qkv: Linear,
    /// Output projection of the heads.
    pub proj: Linear,
    /// Norm before the feed-forward layers.
    pub norm2: LayerNorm,
    /// Linear layer to the hidden width.
    pub fc1: Linear,
    /// Linear layer back to the transformer's width.
    pub fc2: Linear,
    /// Number of heads.
    pub heads: usize,
}

impl Vit {
    /// Builds the network from the tensors under `vb`, by the reference's names.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn new(arch: &Architecture, vb: VarBuilder) -> Result<Self> {
        let (width, patch) = (arch.vision_width, arch.patch_size);
        let small = Init::Randn { mean: 0.0, stdev: 0.02 };
        let blocks = vb.pp("blocks");
        let backbone = arch.backbone.map(|kind| BackboneGraph::new(kind, vb.pp("backbone"))).transpose()?;
        let patches: &[usize] =
            if backbone.is_some() { &[width, arch.token_width()] } else { &[width, arch.in_chans, patch, patch] };
        Ok(Self {
            backbone,
            patch: Linear::with_weight_shape(patches, vb.pp("patch_embed").pp("proj"))?,
            class_token: vb.get_with_hints((1, 1, width), "cls_token", small)?,
            positions: vb.get_with_hints((1, arch.patch_rows(), width), "pos_embed", small)?,
            blocks: (0..arch.vision_depth).map(|i| VitBlock::new(arch, blocks.pp(i))).collect::<Result<_>>()?,
            norm: LayerNorm::new(width, arch.vision_layer_norm_eps, vb.pp("norm"))?,
            arch: arch.clone(),
        })
    }

    /// Pixels `[batch, channels, height, width]` -> token rows before the linear layer,
    /// `[batch, patches, token width]`: flattened patches, or the output of the backbone.
    ///
    /// # Errors
    /// Pixels of another size than the model's.
    pub fn tokens(&self, pixels: &Tensor) -> Result<Tensor> {
        let (a, side) = (&self.arch, self.arch.patch_size);
        let (batch, channels, h, w) = pixels.dims4()?;
        if [h, w] != a.image_size || channels != a.in_chans {
            bail!("the model takes {} x {:?} pixels, got {channels} x [{h}, {w}]", a.in_chans, a.image_size);
        }
        if let Some(backbone) = &self.backbone {
            return backbone.tokens(pixels);
        }
        let (rows, cols) = (h / side, w / side);
        let cut = pixels.reshape(&[batch, channels, rows, side, cols, side][..])?.permute([0, 2, 4, 1, 3, 5])?;
        cut.reshape((batch, rows * cols, channels * side * side))?.to_dtype(self.class_token.dtype())
    }

    /// Class token and patches with their positions: the input of the first block,
    /// `[batch, 1 + patches, width]`.
    ///
    /// # Errors
    /// As [`Vit::tokens`].
    pub fn embed(&self, pixels: &Tensor) -> Result<Tensor> {
        self.with_class(&self.patch.forward(&self.tokens(pixels)?)?, &self.positions)
    }

    /// Puts the class token before the rows of patches `[batch, patches, width]` and adds
    /// `positions` `[1, 1 + patches, width]`.
    ///
    /// # Errors
    /// Another number of positions.
    pub fn with_class(&self, patches: &Tensor, positions: &Tensor) -> Result<Tensor> {
        let class = self.class_token.broadcast_as((patches.dim(0)?, 1, patches.dim(2)?))?;
        Tensor::cat(&[&class, patches], 1)?.broadcast_add(positions)
    }

    /// Pixels `[batch, channels, height, width]` -> features after the final norm,
    /// `[batch, 1 + patches, width]`.
    ///
    /// # Errors
    /// As [`Vit::tokens`].
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        self.through(self.embed(pixels)?)
    }

    /// Passes rows `[batch, rows, width]` through the blocks and the final norm.
    ///
    /// # Errors
    /// When candle fails.
    pub fn through(&self, rows: Tensor) -> Result<Tensor> {
        self.norm.forward(&self.blocks.iter().try_fold(rows, |x, block| block.forward(&x))?)
    }
}

impl VitBlock {
    fn new(arch: &Architecture, vb: VarBuilder) -> Result<Self> {
        let (d, eps) = (arch.vision_width, arch.vision_layer_norm_eps);
        let hidden = d * arch.vision_mlp_ratio;
        let (attn, mlp) = (vb.pp("attn"), vb.pp("mlp"));
        Ok(Self {
            norm1: LayerNorm::new(d, eps, vb.pp("norm1"))?,
            qkv: Linear::new(d, 3 * d, attn.pp("qkv"))?,
            proj: Linear::new(d, d, attn.pp("proj"))?,
            norm2: LayerNorm::new(d, eps, vb.pp("norm2"))?,
            fc1: Linear::new(d, hidden, mlp.pp("fc1"))?,
            fc2: Linear::new(hidden, d, mlp.pp("fc2"))?,
            heads: arch.vision_heads,
        })
    }

    /// The attention branch without its residual, `[batch, tokens, width]` -> the same.
    ///
    /// # Errors
    /// When candle fails.
    pub fn attend(&self, x: &Tensor) -> Result<Tensor> {
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?;
        let width = x.dim(2)?;
        let [q, k, v] = [0, 1, 2].map(|i| qkv.narrow(2, i * width, width));
        self.proj.forward(&attention(&q?, &k?, &v?, self.heads, None, None)?)
    }

    /// The whole block, `[batch, tokens, width]` -> the same.
    ///
    /// # Errors
    /// When candle fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = (x + self.attend(x)?)?;
        let hidden = self.fc1.forward_gelu(&self.norm2.forward(&x)?)?;
        x + self.fc2.forward(&hidden)?
    }
}
