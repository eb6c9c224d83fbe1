//! `config.json` of a model folder: architecture, preprocessing, calibration, thresholds,
//! provenance.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Backbone;
use super::Calibration;
use super::WordHead;
use super::preprocess::Filter;
use crate::EmbedError;
use crate::kernel::MASKED;

/// Tokens plus patch rows of one decoder pass, at most: some 30 MB of activations at the published
/// size.
const ROWS_PER_PASS: usize = 4096;

/// Dimensions of CADA, under the names of the reference's exported configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Architecture {
    /// Height and width of the input in pixels.
    pub image_size: [usize; 2],
    /// Side of a square patch in pixels.
    pub patch_size: usize,
    /// Convolutional network that turns pixels into tokens of 16 x 16 pixels; absent for the linear
    /// patch embedding of ViT (paper, section 3.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backbone: Option<Backbone>,
    /// Colour channels.
    #[serde(default = "three")]
    pub in_chans: usize,
    /// Width of the vision transformer.
    pub vision_width: usize,
    /// Layers of the vision transformer.
    pub vision_depth: usize,
    /// Attention heads of the vision transformer.
    pub vision_heads: usize,
    /// Width of the vision transformer's feed-forward layers, as a multiple of its width.
    #[serde(default = "four")]
    pub vision_mlp_ratio: usize,
    /// Added to the variance in the vision transformer's norms.
    #[serde(default = "vision_eps")]
    pub vision_layer_norm_eps: f64,
    /// Width of the text transformer.
    pub text_hidden_size: usize,
    /// Layers of the text transformer.
    pub text_layers: usize,
    /// Attention heads of the text transformer.
    pub text_heads: usize,
    /// Width of the text transformer's feed-forward layers.
    pub text_intermediate: usize,
    /// Added to the variance in the text transformer's norms.
    #[serde(default = "text_eps")]
    pub text_layer_norm_eps: f64,
    /// Word pieces in the vocabulary, `[DEC]` and `[ENC]` included.
    pub vocab_size: usize,
    /// Learned positions of the text transformer.
    pub max_position_embeddings: usize,
    /// Id of `[PAD]`.
    #[serde(default)]
    pub pad_token_id: u32,
    /// Id of `[UNK]`.
    #[serde(default = "unk")]
    pub unk_token_id: u32,
    /// Id of `[CLS]`.
    #[serde(default = "cls")]
    pub cls_token_id: u32,
    /// Id of `[SEP]`.
    #[serde(default = "sep")]
    pub sep_token_id: u32,
    /// Id of `[MASK]`.
    #[serde(default = "mask")]
    pub mask_token_id: u32,
    /// Id of `[ENC]`, which takes position 0 in the fused pass.
    pub enc_token_id: u32,
    /// Pooling of a text's hidden states for the common space.
    #[serde(default, skip_serializing_if = "TextPooling::is_class")]
    pub text_pooling: TextPooling,
    /// Width of the common embedding space.
    pub embed_dim: usize,
    /// Tokens of a text with `[CLS]` and `[SEP]`; longer ones are cut.
    #[serde(default = "text_len")]
    pub max_text_len: usize,
}

fn three() -> usize {
    3
}
fn four() -> usize {
    4
}
fn vision_eps() -> f64 {
    1e-6
}
fn text_eps() -> f64 {
    1e-12
}
fn unk() -> u32 {
    100
}
fn cls() -> u32 {
    101
}
fn sep() -> u32 {
    102
}
fn mask() -> u32 {
    103
}
fn text_len() -> usize {
    73
}

/// How a text's hidden states are pooled into one for the common space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextPooling {
    /// The state of the first token (paper, section 3.1).
    #[default]
    Class,
    /// The mean over all tokens, `[CLS]` and `[SEP]` included, as sentence encoders such as MiniLM
    /// were trained.
    Mean,
}

impl TextPooling {
    fn is_class(&self) -> bool {
        *self == Self::Class
    }
}

/// Grid of the patches of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Number of rows, from the top.
    pub rows: usize,
    /// Number of columns, from the left.
    pub cols: usize,
}

impl Grid {
    /// Number of patches.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether the grid has no patch.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The square grid of `patches` patches; `None` if their number is not a square.
    pub fn square(patches: usize) -> Option<Self> {
        let side = patches.isqrt();
        (side * side == patches && side > 0).then_some(Self { rows: side, cols: side })
    }
}

impl Architecture {
    /// CADA as published: ViT-B/16 at 224 x 224, BERT-base, 256 common dimensions (361,335,104
    /// parameters).
    pub fn cada_base() -> Self {
        Self {
            image_size: [224, 224],
            patch_size: 16,
            backbone: None,
            in_chans: 3,
            vision_width: 768,
            vision_depth: 12,
            vision_heads: 12,
            vision_mlp_ratio: 4,
            vision_layer_norm_eps: 1e-6,
            text_hidden_size: 768,
            text_layers: 12,
            text_heads: 12,
            text_intermediate: 3072,
            text_layer_norm_eps: 1e-12,
            vocab_size: 30_524,
            max_position_embeddings: 512,
            pad_token_id: 0,
            unk_token_id: 100,
            cls_token_id: 101,
            sep_token_id: 102,
            mask_token_id: 103,
            enc_token_id: 30_523,
            text_pooling: TextPooling::Class,
            embed_dim: 256,
            max_text_len: 73,
        }
    }

    /// Grid of the patches of an input picture.
    pub fn grid(&self) -> Grid {
        Grid { rows: self.image_size[0] / self.patch_size, cols: self.image_size[1] / self.patch_size }
    }

    /// Width of a token before the linear layer that projects it to the transformer's width: the
    /// pixels of a patch, or the output of the backbone.
    pub fn token_width(&self) -> usize {
        self.backbone.map_or(self.in_chans * self.patch_size * self.patch_size, Backbone::token_width)
    }

    /// Rows of the patch features: one per patch and the class token.
    pub fn patch_rows(&self) -> usize {
        self.grid().len() + 1
    }

    /// Number of pairs, of a text of `tokens` tokens and a picture, in one decoder pass.
    pub fn pairs_per_pass(&self, tokens: usize) -> usize {
        (ROWS_PER_PASS / (tokens + self.patch_rows())).max(1)
    }

    /// Checks that the dimensions fit each other.
    ///
    /// # Errors
    /// A message that names those which do not.
    pub fn check(&self) -> Result<(), String> {
        let positive = [
            ("patch_size", self.patch_size),
            ("in_chans", self.in_chans),
            ("vision_width", self.vision_width),
            ("vision_depth", self.vision_depth),
            ("vision_heads", self.vision_heads),
            ("vision_mlp_ratio", self.vision_mlp_ratio),
            ("text_hidden_size", self.text_hidden_size),
            ("text_layers", self.text_layers),
            ("text_heads", self.text_heads),
            ("text_intermediate", self.text_intermediate),
            ("embed_dim", self.embed_dim),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, v)| *v == 0) {
            return Err(format!("{name} is 0"));
        }
        let [h, w] = self.image_size;
        if h == 0 || w == 0 || !h.is_multiple_of(self.patch_size) || !w.is_multiple_of(self.patch_size) {
            return Err(format!("image_size {h}x{w} is not a multiple of patch_size {}", self.patch_size));
        }
        if let Some(backbone) = self.backbone {
            let whole = h.is_multiple_of(Backbone::CELL) && w.is_multiple_of(Backbone::CELL);
            if self.patch_size != Backbone::TOKEN || self.in_chans != 3 || !whole {
                return Err(format!(
                    "{backbone} needs patch_size {}, in_chans 3 and an image_size in multiples of {}; here are {}, {} and \
                     {h}x{w}",
                    Backbone::TOKEN,
                    Backbone::CELL,
                    self.patch_size,
                    self.in_chans
                ));
            }
        }
        if !self.vision_width.is_multiple_of(self.vision_heads)
            || !self.text_hidden_size.is_multiple_of(self.text_heads)
        {
            return Err("a transformer's width is not a multiple of its heads".into());
        }
        if self.max_text_len < 3 || self.max_text_len > self.max_position_embeddings {
            return Err(format!(
                "max_text_len {} is not in 3..={} (max_position_embeddings)",
                self.max_text_len, self.max_position_embeddings
            ));
        }
        let ids = [
            self.pad_token_id,
            self.unk_token_id,
            self.cls_token_id,
            self.sep_token_id,
            self.mask_token_id,
            self.enc_token_id,
        ];
        match ids.iter().find(|id| **id as usize >= self.vocab_size) {
            Some(id) => Err(format!("token id {id} is beyond vocab_size {}", self.vocab_size)),
            None => Ok(()),
        }
    }
}

/// Preprocessing of a picture: resized to the input size without keeping its aspect (bilinear with
/// antialiasing), scaled to 0..1, then (value - mean) / std per channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Preprocess {
    pub mean: [f32; 3],
    pub std: [f32; 3],
    #[serde(default)]
    pub filter: Filter,
}

impl Default for Preprocess {
    /// Values of the reference (those of CLIP).
    fn default() -> Self {
        Self {
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
            filter: Filter::Bilinear,
        }
    }
}

/// The whole `config.json` of a model folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Name of the model for people.
    #[serde(default)]
    pub name: String,
    /// Dimensions of the networks.
    pub architecture: Architecture,
    /// Preprocessing of pictures.
    #[serde(default)]
    pub preprocess: Preprocess,
    /// Calibration of match probabilities.
    #[serde(default)]
    pub calibration: Calibration,
    /// Head that predicts masked words; `None` if the folder has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub word_head: Option<WordHead>,
    /// Decision thresholds measured for this model, by name.
    #[serde(default)]
    pub thresholds: Value,
    /// Origin of the weights: data, licences, numbers, command.
    #[serde(default)]
    pub provenance: Value,
}

impl ModelConfig {
    /// A configuration of `architecture` with everything else at its default.
    pub fn new(name: impl Into<String>, architecture: Architecture) -> Self {
        Self {
            name: name.into(),
            architecture,
            preprocess: Preprocess::default(),
            calibration: Calibration::default(),
            word_head: None,
            thresholds: Value::Null,
            provenance: Value::Null,
        }
    }

    /// Reads `path`; see [`ModelConfig::parse`].
    ///
    /// # Errors
    /// An unreadable file, or one that [`ModelConfig::parse`] refuses.
    pub fn read(path: &Path) -> Result<Self, EmbedError> {
        let text = std::fs::read_to_string(path).map_err(EmbedError::io(path))?;
        Self::parse(&text).map_err(|message| EmbedError::Config { path: path.to_owned(), message })
    }

    /// Parses a configuration in the form of a model folder (dimensions under `architecture`) or in
    /// the reference's flat form (dimensions at the top, with `norm_mean` and `norm_std` beside
    /// them).
    ///
    /// # Errors
    /// A message that names what is missing, mistyped or contradictory.
    pub fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let flat = value.get("architecture").is_none();
        let config = if flat { Self::from_flat(&value)? } else { serde_json::from_value(value).map_err(message_of)? };
        config.architecture.check()?;
        if !config.preprocess.std.iter().all(|s| *s > 0.0) {
            return Err("preprocess.std must be above 0".into());
        }
        config.calibration.check(config.architecture.embed_dim)?;
        config.word_head.map_or(Ok(()), WordHead::check)?;
        Ok(config)
    }

    fn from_flat(value: &Value) -> Result<Self, String> {
        let is = |key: &str, expected: &dyn Fn(&Value) -> bool, says: &str| match value.get(key) {
            Some(v) if !expected(v) => Err(format!("{key} = {v} is not supported, only {says}")),
            _ => Ok(()),
        };
        is("hidden_act", &|v| v.as_str().is_some_and(|s| s.starts_with("gelu")), "gelu (erf)")?;
        is("self_attention_mask_value", &|v| v.as_f64() == Some(f64::from(MASKED)), "-10000")?;
        is("vision_qkv_bias", &|v| v.as_bool() == Some(true), "true")?;
        is("type_vocab_size_used", &|v| v.as_u64() == Some(0), "0")?;
        let mut config = Self::new("", serde_json::from_value(value.clone()).map_err(message_of)?);
        let triple = |key: &str, default: [f32; 3]| match value.get(key) {
            Some(v) => serde_json::from_value(v.clone()).map_err(|e| format!("{key}: {e}")),
            None => Ok(default),
        };
        config.preprocess.mean = triple("norm_mean", config.preprocess.mean)?;
        config.preprocess.std = triple("norm_std", config.preprocess.std)?;
        Ok(config)
    }
}

fn message_of(e: serde_json::Error) -> String {
    e.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_form_round_trips() {
        let c = ModelConfig::new("base", Architecture::cada_base());
        let text = serde_json::to_string(&c).expect("serialises");
        assert_eq!(ModelConfig::parse(&text), Ok(c));
    }

    #[test]
    fn a_pass_of_the_decoder_is_bounded_and_never_empty() {
        let base = Architecture::cada_base();
        assert_eq!(base.patch_rows(), 197);
        assert_eq!((base.pairs_per_pass(8), base.pairs_per_pass(73)), (19, 15));
        assert_eq!(base.pairs_per_pass(5000), 1);
    }

    #[test]
    fn contradictions_are_named() {
        let refusal = |change: &dyn Fn(&mut Architecture)| {
            let mut a = Architecture::cada_base();
            change(&mut a);
            ModelConfig::parse(&serde_json::to_string(&ModelConfig::new("x", a)).expect("serialises"))
                .expect_err("refused")
        };
        assert!(refusal(&|a| a.image_size = [224, 100]).contains("224x100"));
        assert!(refusal(&|a| a.vision_heads = 7).contains("heads"));
        assert!(refusal(&|a| a.enc_token_id = 40_000).contains("40000"));
        assert!(refusal(&|a| a.max_text_len = 600).contains("max_text_len"));
        assert!(ModelConfig::parse("{}").expect_err("refused").contains("image_size"));
        assert!(ModelConfig::parse("{\"image_size\":").is_err());
    }
}
