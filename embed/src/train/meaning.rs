//! What single words mean to a pre-trained text encoder: its whole network run on the word, alone and in
//! short descriptions of persons.
//!
//! Input embeddings of MiniLM put colour words near each other, but not a shade near its colour; what its last layer makes
//! of a word does, for that is what it was trained for.

use std::path::Path;

use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::VarBuilder;
use serde_json::Value;
use tokenizers::Tokenizer;

use super::vocabulary::{self, Cut};
use super::{Result, TrainError};
use crate::model::weights::{self, Tensors};
use crate::model::{Architecture, Bert, Pass, TokenBatch};

/// What a word is shown in: alone it may be a drink or a place, before a garment it is a colour.
pub const CONTEXTS: [(&str, &str); 3] = [("", ""), ("a person in a ", " jacket"), ("a person with a ", "")];

/// Words in one pass.
const BATCH: usize = 64;

/// A text encoder in BERT layout and its vocabulary.
pub struct Encoder {
    bert: Bert,
    tokens: Tokenizer,
    pieces: Vec<String>,
    pad: u32,
}

impl Encoder {
    /// Opens `folder`: vocab.txt, config.json and model.safetensors in Hugging Face BERT layout.
    ///
    /// # Errors
    /// A file that is missing, or one that is not of such an encoder.
    pub fn open(folder: &Path) -> Result<Self> {
        let pieces = vocabulary::read(&folder.join("vocab.txt"))?;
        let json = Cut::whole(&pieces)?.tokenizer_json(Architecture::cada_base().max_text_len);
        let wrong = |e: tokenizers::Error| TrainError::content(&folder.join("vocab.txt"), e);
        let mut tokens = Tokenizer::from_bytes(json.to_string().as_bytes()).map_err(wrong)?;
        tokens.with_truncation(None).map_err(wrong)?;
        tokens.with_padding(None);
        let path = folder.join("model.safetensors");
        let all = weights::read(&path)?;
        let bare = |name: &str| name.strip_prefix("bert.").unwrap_or(name).to_owned();
        let mut all: Tensors = all.into_iter().map(|(name, tensor)| (bare(&name), tensor)).collect();
        let arch = architecture(folder, &all)?;
        let bert = build(&mut all, &arch).map_err(|e| TrainError::content(&path, e))?;
        Ok(Self { bert, tokens, pieces, pad: arch.pad_token_id })
    }

    /// Words that are one piece of its vocabulary.
    pub fn whole_words(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().map(String::as_str).filter(|piece| vocabulary::is_word(piece))
    }

    /// One vector per word: what the last layer makes of its pieces in each of [`CONTEXTS`] (the mean over them), one context
    /// behind the other.
    ///
    /// # Errors
    /// A word the tokenizer cannot take, or when candle fails.
    pub fn vectors<T: AsRef<str>>(&self, words: &[T]) -> Result<Vec<Vec<f32>>> {
        let mut all = vec![Vec::new(); words.len()];
        for (before, after) in CONTEXTS {
            let mut texts = Vec::with_capacity(words.len());
            for word in words {
                let word = word.as_ref();
                let wrong = |e: tokenizers::Error| TrainError::Usage(format!("{word:?} cannot be encoded: {e}"));
                let text = self.tokens.encode(format!("{before}{word}{after}"), true).map_err(wrong)?;
                let (from, to) = (before.len(), before.len() + word.len());
                let inside = |&(start, end): &(usize, usize)| start >= from && end <= to && end > start;
                let first = text.get_offsets().iter().position(inside).unwrap_or(0);
                let count = text.get_offsets().iter().filter(|place| inside(place)).count().max(1);
                texts.push((text.get_ids().to_vec(), first, count));
            }
            // By length, so that a batch holds hardly any padding.
            let mut order: Vec<usize> = (0..texts.len()).collect();
            order.sort_by_key(|&i| texts[i].0.len());
            for some in order.chunks(BATCH) {
                let ids: Vec<&Vec<u32>> = some.iter().map(|&i| &texts[i].0).collect();
                let hidden = self.bert.forward(&TokenBatch::new(&ids, self.pad, None), &Pass::default())?;
                for (row, &i) in some.iter().enumerate() {
                    let (_, first, count) = texts[i];
                    all[i].extend(hidden.i((row, first..first + count))?.mean(0)?.to_vec1::<f32>()?);
                }
            }
        }
        Ok(all)
    }
}

/// Dimensions from config.json and the tensors. Cross-attention, which such an encoder has not, is as small as can be.
fn architecture(folder: &Path, all: &Tensors) -> Result<Architecture> {
    let path = folder.join("config.json");
    let text = std::fs::read(&path).map_err(TrainError::io(&path))?;
    let config: Value = serde_json::from_slice(&text).map_err(|e| TrainError::content(&path, e))?;
    let number = |key: &str| match config[key].as_u64() {
        Some(n) if n > 0 => Ok(n as usize),
        _ => Err(TrainError::content(&path, format!("{key} is no number"))),
    };
    let words = all.get("embeddings.word_embeddings.weight");
    let words = words.ok_or_else(|| TrainError::content(&path, "there are no BERT word embeddings beside it"))?;
    Ok(Architecture {
        text_hidden_size: number("hidden_size")?,
        text_layers: number("num_hidden_layers")?,
        text_heads: number("num_attention_heads")?,
        text_intermediate: number("intermediate_size")?,
        text_layer_norm_eps: config["layer_norm_eps"].as_f64().unwrap_or(1e-12),
        max_position_embeddings: number("max_position_embeddings")?,
        vocab_size: words.dim(0)?,
        vision_width: 1,
        ..Architecture::cada_base()
    })
}

/// The encoder; its first token type becomes part of its positions, since CADA has none.
fn build(all: &mut Tensors, arch: &Architecture) -> candle_core::Result<Bert> {
    let (d, cpu) = (arch.text_hidden_size, &Device::Cpu);
    let positions = "embeddings.position_embeddings.weight";
    if let (Some(types), Some(table)) = (all.get("embeddings.token_type_embeddings.weight"), all.get(positions)) {
        let sum = table.broadcast_add(&types.i(0..1)?)?;
        all.insert(positions.into(), sum);
    }
    for layer in 0..arch.text_layers {
        let at = format!("encoder.layer.{layer}.crossattention");
        for (name, inputs) in [("self.query", d), ("self.key", 1), ("self.value", 1), ("output.dense", d)] {
            all.insert(format!("{at}.{name}.weight"), Tensor::zeros((d, inputs), DType::F32, cpu)?);
            all.insert(format!("{at}.{name}.bias"), Tensor::zeros(d, DType::F32, cpu)?);
        }
        for name in ["weight", "bias"] {
            all.insert(format!("{at}.output.LayerNorm.{name}"), Tensor::zeros(d, DType::F32, cpu)?);
        }
    }
    Bert::new(arch, VarBuilder::from_tensors(std::mem::take(all), DType::F32, cpu))
}
