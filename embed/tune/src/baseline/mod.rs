//! CLIP and SigLIP as baselines for CADA, from folders in Hugging Face layout: config.json,
//! model.safetensors, tokenizer.json (CLIP also vocab.json with merges.txt), and
//! preprocessor_config.json when there is one.
//!
//! The networks come from candle-transformers. Neither has a decoder for pairs, so there is only a
//! global protocol. Pictures are squashed to the model's square, like CADA's: the centre crop that
//! these models were trained with would cut off heads and feet.

mod tokenizer;

use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::clip::text_model::{Activation, ClipTextConfig};
use candle_transformers::models::clip::vision_model::ClipVisionConfig;
use candle_transformers::models::clip::{ClipConfig, ClipModel};
use candle_transformers::models::siglip;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::evaluate::{EvalStage, Scores};
use super::{Result, TrainError};
use sightline_embed::graph::l2_normalize;
use sightline_embed::model::Preprocess;
use sightline_embed::preprocess::Filter;
use tokenizer::BaselineTokenizer;

enum Network {
    Clip(Box<ClipModel>),
    Siglip(Box<siglip::Model>),
}

/// A loaded CLIP or SigLIP model.
pub struct Baseline {
    network: Network,
    tokenizer: BaselineTokenizer,
    device: Device,
    /// "clip" or "siglip".
    pub kind: &'static str,
    /// Side of the model's square input in pixels.
    pub image_size: usize,
    /// Preprocessing of pictures for the model.
    pub preprocess: Preprocess,
    /// First 16 hexadecimal digits of a SHA-256 over configuration, weights and tokenizer.
    pub id: String,
}

/// Number of pictures or texts per pass.
const BATCH: usize = 16;

/// The `model_type` in `folder`/config.json; `None` unless it is that of a baseline.
pub fn kind(folder: &Path) -> Option<&'static str> {
    let text = std::fs::read_to_string(folder.join("config.json")).ok()?;
    let config: Value = serde_json::from_str(&text).ok()?;
    ["clip", "siglip"].into_iter().find(|kind| config["model_type"] == *kind)
}

impl Baseline {
    /// Opens `folder` on `device`.
    ///
    /// # Errors
    /// A file that is missing or damaged, a configuration that candle's models cannot run, or
    /// weights that do not fit it.
    pub fn open(folder: &Path, device: &Device) -> Result<Self> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(TrainError::io(&path))?;
        let config: Value = serde_json::from_str(&text).map_err(|e| TrainError::content(&path, e))?;
        let kind =
            kind(folder).ok_or_else(|| TrainError::content(&path, "model_type is neither \"clip\" nor \"siglip\""))?;
        let weights = folder.join("model.safetensors");
        let vb = load_weights(&weights, device)?;
        let unfit = |e: candle_core::Error| {
            TrainError::content(&weights, format!("the weights do not fit {}: {e}", path.display()))
        };
        let (network, image_size, text_len, pad) = if kind == "clip" {
            let c = clip(&config).map_err(|message| TrainError::content(&path, message))?;
            let network = ClipModel::new(vb, &c).map_err(unfit)?;
            // CLIP ignores tokens after the end of a text, so any padding id will do.
            (Network::Clip(Box::new(network)), c.image_size, c.text_config.max_position_embeddings, Some(0))
        } else {
            let c: siglip::Config = serde_json::from_value(config).map_err(|e| TrainError::content(&path, e))?;
            let network = siglip::Model::new(&c, vb).map_err(unfit)?;
            let (size, length) = (c.vision_config.image_size, c.text_config.max_position_embeddings);
            (Network::Siglip(Box::new(network)), size, length, None)
        };
        let tokenizer = BaselineTokenizer::open(folder, kind, text_len, pad)?;
        let preprocess = read_preprocess(folder, kind)?;
        let id = content_id(&[path, weights, tokenizer.path.clone()])?;
        Ok(Self { network, tokenizer, device: device.clone(), kind, image_size, preprocess, id })
    }

    /// Encodes normalised pixels `[n, 3, side, side]` as L2-normalised features `[n, width]`.
    ///
    /// # Errors
    /// When candle fails.
    pub fn images(&self, pixels: &Tensor) -> Result<Tensor> {
        let features = match &self.network {
            Network::Clip(m) => m.get_image_features(pixels)?,
            Network::Siglip(m) => m.get_image_features(pixels)?,
        };
        Ok(l2_normalize(&features.contiguous()?)?)
    }

    /// Encodes texts as L2-normalised features `[n, width]`.
    ///
    /// # Errors
    /// A text that the tokenizer rejects, or when candle fails.
    pub fn texts(&self, texts: &[String]) -> Result<Tensor> {
        let ids: Vec<Vec<u32>> = texts.iter().map(|t| self.tokenizer.ids(t)).collect::<Result<_>>()?;
        let ids = Tensor::new(ids, &self.device)?;
        let features = match &self.network {
            Network::Clip(m) => m.get_text_features(&ids)?,
            Network::Siglip(m) => m.get_text_features(&ids)?,
        };
        Ok(l2_normalize(&features.contiguous()?)?)
    }

    /// Cosines of `texts` with a gallery of `pictures`. `pixels(range)` returns normalised pixels
    /// `[n, 3, side, side]`, f32.
    ///
    /// # Errors
    /// An error of `pixels`, a text that the tokenizer rejects, or when candle fails.
    pub fn score_gallery(
        &self,
        texts: &[String],
        pictures: usize,
        pixels: impl Fn(Range<usize>) -> Result<Tensor>,
        progress: impl Fn(EvalStage, usize, usize),
    ) -> Result<Scores> {
        let mut features = Vec::new();
        for from in (0..pictures).step_by(BATCH) {
            let to = (from + BATCH).min(pictures);
            features.push(self.images(&pixels(from..to)?)?);
            progress(EvalStage::Pictures, to, pictures);
        }
        let mut cosine = Vec::with_capacity(texts.len());
        if !features.is_empty() {
            let images = Tensor::cat(&features, 0)?.t()?.contiguous()?;
            for some in texts.chunks(BATCH) {
                cosine.extend(self.texts(some)?.matmul(&images)?.to_vec2::<f32>()?);
                progress(EvalStage::Texts, cosine.len(), texts.len());
            }
        }
        let top_k = vec![Vec::new(); cosine.len()];
        Ok(Scores { cosine, top_k, hubness: Vec::new(), half: false })
    }
}

fn load_weights(path: &Path, device: &Device) -> Result<VarBuilder<'static>> {
    if !path.is_file() {
        return Err(TrainError::content(path, "there is no such file (weights in several parts are not read)"));
    }
    let tensors = candle_core::safetensors::load(path, device).map_err(|e| TrainError::content(path, e))?;
    Ok(VarBuilder::from_tensors(tensors, DType::F32, device))
}

/// Reads the dimensions of a CLIP model from its config.json.
fn clip(config: &Value) -> std::result::Result<ClipConfig, String> {
    let side = |part: &'static str| {
        let value = &config[part];
        let number = move |key: &'static str, default: Option<usize>| -> std::result::Result<usize, String> {
            match value.get(key) {
                Some(v) => v.as_u64().map(|v| v as usize).ok_or_else(|| format!("{part}.{key} = {v} is no number")),
                None => default.ok_or_else(|| format!("{part}.{key} is missing")),
            }
        };
        match value["hidden_act"].as_str() {
            None | Some("quick_gelu") => Ok(number),
            Some(other) => Err(format!("{part}.hidden_act = {other:?}: candle's CLIP computes quick_gelu only")),
        }
    };
    let projection = config["projection_dim"].as_u64().unwrap_or(512) as usize;
    let (text, vision) = (side("text_config")?, side("vision_config")?);
    let text_config = ClipTextConfig {
        vocab_size: text("vocab_size", Some(49_408))?,
        embed_dim: text("hidden_size", Some(512))?,
        activation: Activation::QuickGelu,
        intermediate_size: text("intermediate_size", Some(2048))?,
        max_position_embeddings: text("max_position_embeddings", Some(77))?,
        pad_with: None,
        num_hidden_layers: text("num_hidden_layers", Some(12))?,
        num_attention_heads: text("num_attention_heads", Some(8))?,
        projection_dim: projection,
    };
    let vision_config = ClipVisionConfig {
        embed_dim: vision("hidden_size", Some(768))?,
        activation: Activation::QuickGelu,
        intermediate_size: vision("intermediate_size", Some(3072))?,
        num_hidden_layers: vision("num_hidden_layers", Some(12))?,
        num_attention_heads: vision("num_attention_heads", Some(12))?,
        projection_dim: projection,
        num_channels: vision("num_channels", Some(3))?,
        image_size: vision("image_size", Some(224))?,
        patch_size: vision("patch_size", Some(32))?,
    };
    let image_size = vision_config.image_size;
    Ok(ClipConfig { text_config, vision_config, logit_scale_init_value: 2.6592, image_size })
}

/// Reads mean, standard deviation and filter from preprocessor_config.json; the defaults are those
/// of the published models.
fn read_preprocess(folder: &Path, kind: &str) -> Result<Preprocess> {
    let mut prep = Preprocess { filter: Filter::Bicubic, ..Preprocess::default() };
    if kind == "siglip" {
        (prep.mean, prep.std) = ([0.5; 3], [0.5; 3]);
    }
    let path = folder.join("preprocessor_config.json");
    if !path.is_file() {
        return Ok(prep);
    }
    let text = std::fs::read_to_string(&path).map_err(TrainError::io(&path))?;
    let wrong = |what: &str| TrainError::content(&path, what);
    let stored: Value = serde_json::from_str(&text).map_err(|e| TrainError::content(&path, e))?;
    for (key, place) in [("image_mean", &mut prep.mean), ("image_std", &mut prep.std)] {
        if let Some(value) = stored.get(key) {
            *place =
                serde_json::from_value(value.clone()).map_err(|_| wrong(&format!("{key} is not three numbers")))?;
        }
    }
    if !prep.std.iter().all(|s| *s > 0.0) {
        return Err(wrong("image_std must be above 0"));
    }
    if stored["resample"] == 2 {
        prep.filter = Filter::Bilinear;
    }
    Ok(prep)
}

fn content_id(paths: &[PathBuf]) -> Result<String> {
    let mut hash = Sha256::new();
    for path in paths {
        let mut file = std::fs::File::open(path).map_err(TrainError::io(path))?;
        let bytes = std::io::copy(&mut file, &mut hash).map_err(TrainError::io(path))?;
        hash.update(bytes.to_le_bytes());
    }
    Ok(hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect())
}
