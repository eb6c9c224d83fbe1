//! The vision transformer: pre-norm blocks, fused qkv, learned positions, class token first, final norm.

use candle_core::{Result, Tensor, bail};
use candle_nn::{Init, VarBuilder};

use super::Architecture;
use crate::nn::{
    Attend, Feed, Layer, LayerNorm, Linear, Place, class_and_positions, patches, self_attention, stack, trains,
};

/// `visual_encoder`: pixels -> one feature per patch, class token first.
#[derive(Clone, Debug)]
pub struct Vit {
    patch: Linear,
    cls_token: Tensor,
    pos_embed: Tensor,
    blocks: Vec<VitBlock>,
    norm: LayerNorm,
    arch: Architecture,
}

/// One pre-norm transformer block.
#[derive(Clone, Debug)]
pub struct VitBlock {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
}

impl Vit {
    /// Tensors under `vb` by the reference's names.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn new(arch: &Architecture, vb: VarBuilder) -> Result<Self> {
        let (width, patch) = (arch.vision_width, arch.patch_size);
        let small = Init::Randn { mean: 0.0, stdev: 0.02 };
        let blocks = vb.pp("blocks");
        Ok(Self {
            patch: Linear::with_weight_shape((width, arch.in_chans, patch, patch), vb.pp("patch_embed").pp("proj"))?,
            cls_token: vb.get_with_hints((1, 1, width), "cls_token", small)?,
            pos_embed: vb.get_with_hints((1, arch.patch_rows(), width), "pos_embed", small)?,
            blocks: (0..arch.vision_depth).map(|i| VitBlock::new(arch, blocks.pp(i))).collect::<Result<_>>()?,
            norm: LayerNorm::new(width, arch.vision_layer_norm_eps, vb.pp("norm"))?,
            arch: arch.clone(),
        })
    }

    /// Patches alone: pixels `[batch, channels, height, width]`, normalised -> `[batch, patches, width]` in the type of the weights.
    ///
    /// # Errors
    /// Pixels of another size than the model's.
    pub fn patch_embed(&self, pixels: &Tensor) -> Result<Tensor> {
        let (a, p) = (&self.arch, self.arch.patch_size);
        let (_, channels, h, w) = pixels.dims4()?;
        if [h, w] != a.image_size || channels != a.in_chans {
            bail!("the model takes {} x {:?} pixels, got {channels} x [{h}, {w}]", a.in_chans, a.image_size);
        }
        self.patch.forward(&patches(&pixels.to_dtype(self.cls_token.dtype())?, p)?)
    }

    /// Class token and patches with their positions: the input of the first block, `[batch, 1 + patches, width]`.
    ///
    /// # Errors
    /// As [`Vit::patch_embed`].
    pub fn embed(&self, pixels: &Tensor) -> Result<Tensor> {
        class_and_positions(&self.patch_embed(pixels)?, &self.cls_token, &self.pos_embed)
    }

    /// The blocks, first to last.
    pub fn blocks(&self) -> &[VitBlock] {
        &self.blocks
    }

    /// Pixels `[batch, channels, height, width]` -> features after the final norm, `[batch, 1 + patches, width]`.
    ///
    /// # Errors
    /// As [`Vit::patch_embed`].
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let mut x = self.embed(pixels)?;
        let layers: Vec<Layer> =
            self.blocks.iter().flat_map(VitBlock::layers).chain([Layer::Norm(self.norm.clone())]).collect();
        if trains(&x, &layers) {
            return stack(&x, None, layers);
        }
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        self.norm.forward(&x)
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

    /// Its two halves, for training.
    fn layers(&self) -> [Layer; 2] {
        let attend = Attend {
            place: Place::Before,
            norm: self.norm1.clone(),
            own: vec![self.qkv.clone()],
            other: Vec::new(),
            dense: self.proj.clone(),
            heads: self.heads,
            mask: None,
        };
        let (first, second) = (self.fc1.clone(), self.fc2.clone());
        let feed = Feed { place: Place::Before, norm: self.norm2.clone(), first, second };
        [Layer::Attend(attend), Layer::Feed(feed)]
    }

    /// The attention branch without its residual, `[batch, tokens, width]` -> the same.
    ///
    /// # Errors
    /// When candle fails.
    pub fn attend(&self, x: &Tensor) -> Result<Tensor> {
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?;
        self.proj.forward(&self_attention(&qkv, self.heads)?)
    }

    /// The whole block.
    ///
    /// # Errors
    /// When candle fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = (x + self.attend(x)?)?;
        let hidden = self.fc1.forward_gelu(&self.norm2.forward(&x)?)?;
        x + self.fc2.forward(&hidden)?
    }
}
