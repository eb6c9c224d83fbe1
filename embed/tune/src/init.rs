//! Initial weights of a run: from a CADA or BLIP checkpoint, a model folder, or a text encoder in
//! BERT layout.

use std::path::Path;

use candle_core::{DType, Device, IndexOp, Tensor};
use serde_json::Value;

use super::trainee::Trainee;
use super::vocabulary::CutVocabulary;
use super::{Result, TrainError};
use crate::pos_embed::resize_pos_embed;
use crate::weights::{self, Tensors};
use sightline_embed::model::{Architecture, Grid, ModelConfig, WORD_HEAD};

/// Prefixes of variables that a checkpoint may lack: BLIP has no local head, the auxiliary heads
/// exist only in training, and not every model has a word predictor.
const OPTIONAL: [&str; 4] = ["itm_local_head.", "attributes.", "truth.", "text_decoder."];
const POS_EMBED: &str = "visual_encoder.pos_embed";

/// Loads initial weights from `path`: a `.pth` or `.safetensors` file with CADA's or BLIP's tensor
/// names, or a model folder. Patch positions are resized to the model's grid. Returns the names of
/// variables that keep their random values.
///
/// # Errors
/// An unreadable file, a file that lacks more than the optional parts, or shapes of another
/// architecture.
pub fn from_checkpoint(trainee: &Trainee, path: &Path) -> Result<Vec<String>> {
    let (file, source) = if path.is_dir() {
        let config = ModelConfig::read(&path.join("config.json"))?;
        (path.join("model.safetensors"), Some(config.architecture.grid()))
    } else {
        (path.to_owned(), None)
    };
    let mut tensors = weights::read(&file)?;
    let words = path.join(WORD_HEAD);
    if words.is_file() {
        tensors.extend(weights::read(&words)?);
    }
    let arch = trainee.model.arch();
    if let Some(pos) = tensors.get(POS_EMBED) {
        let rows = pos.dim(1)?;
        let square = Grid::square(rows.saturating_sub(1));
        let from = source.filter(|grid| grid.len() + 1 == rows).or(square).unwrap_or_else(|| arch.grid());
        let resized = resize_pos_embed(pos, from, arch.grid()).map_err(|e| TrainError::content(&file, e))?;
        tensors.insert(POS_EMBED.into(), resized);
    }
    let kept = weights::assign(&trainee.variables, &tensors, &file.display().to_string())?;
    let lacking: Vec<&String> = kept.iter().filter(|n| !OPTIONAL.iter().any(|o| n.starts_with(o))).collect();
    if let Some(first) = lacking.first() {
        let message = format!("{} tensors of the architecture are not in it, for example {first}", lacking.len());
        return Err(TrainError::content(&file, message));
    }
    Ok(kept)
}

/// Which weights of a text encoder were loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextInit {
    /// Word embeddings, positions and this many layers.
    Layers(usize),
    /// Only word embeddings, reduced to the model's width by principal components.
    Words,
}

/// Loads a text encoder from `folder` (`model.safetensors` and `config.json` in Hugging Face BERT
/// layout): all of it if its widths and heads equal the model's and it has enough layers, otherwise
/// only its word embeddings. The embeddings have the rows of `cut`.
///
/// # Errors
/// An unreadable folder, a folder without BERT tensors, or embeddings narrower than the model's.
pub fn from_text_encoder(trainee: &Trainee, folder: &Path, cut: &CutVocabulary) -> Result<TextInit> {
    let arch = trainee.model.arch();
    let path = folder.join("model.safetensors");
    let all = weights::read(&path)?;
    let bare = |name: &str| name.strip_prefix("bert.").unwrap_or(name).to_owned();
    let all: Tensors = all.into_iter().map(|(name, tensor)| (bare(&name), tensor)).collect();
    let mut taken = Tensors::new();
    let layers = match matching_layers(&all, folder, arch) {
        Some(layers) => {
            take_all(&all, arch, cut, &mut taken).map_err(|e| TrainError::content(&path, e))?;
            TextInit::Layers(layers)
        }
        None => {
            let words = cut.embeddings(folder, arch.text_hidden_size)?;
            taken.insert("embeddings.word_embeddings.weight".into(), words);
            TextInit::Words
        }
    };
    let mut named = Tensors::new();
    for (name, tensor) in taken {
        named.insert(format!("text_decoder.bert.{name}"), tensor.clone());
        named.insert(format!("text_encoder.{name}"), tensor);
    }
    weights::assign(&trainee.variables, &named, &path.display().to_string())?;
    Ok(layers)
}

/// Number of layers of the model, if the encoder has the same widths and heads and at least as many
/// layers.
fn matching_layers(all: &Tensors, folder: &Path, arch: &Architecture) -> Option<usize> {
    let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).ok()?).ok()?;
    let is = |key: &str, want: usize| config[key].as_u64() == Some(want as u64);
    let last = format!("encoder.layer.{}.output.dense.weight", arch.text_layers - 1);
    let same = is("hidden_size", arch.text_hidden_size)
        && is("intermediate_size", arch.text_intermediate)
        && is("num_attention_heads", arch.text_heads)
        && all.get(&last).is_some_and(|t| t.dims() == [arch.text_hidden_size, arch.text_intermediate]);
    same.then_some(arch.text_layers)
}

/// Copies every tensor of the embeddings and layers to `taken`. The encoder's first token type is
/// added to its positions, because CADA has no token types.
fn take_all(all: &Tensors, arch: &Architecture, cut: &CutVocabulary, taken: &mut Tensors) -> candle_core::Result<()> {
    let get = |name: &str| all.get(name).ok_or_else(|| candle_core::Error::Msg(format!("there is no {name}")));
    let mut rows: Vec<u32> = cut.full_ids.iter().map(|id| *id as u32).collect();
    rows.extend([arch.cls_token_id; 2]);
    let words = get("embeddings.word_embeddings.weight")?;
    let words = words.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?.to_dtype(DType::F32)?;
    taken.insert("embeddings.word_embeddings.weight".into(), words);
    let mut positions = get("embeddings.position_embeddings.weight")?.i(..arch.max_position_embeddings)?;
    if let Some(types) = all.get("embeddings.token_type_embeddings.weight") {
        positions = positions.broadcast_add(&types.i(0..1)?)?;
    }
    taken.insert("embeddings.position_embeddings.weight".into(), positions.contiguous()?);
    for (name, tensor) in all {
        let layer = name.strip_prefix("encoder.layer.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        if layer.is_some_and(|layer| layer < arch.text_layers) || name.starts_with("embeddings.LayerNorm.") {
            taken.insert(name.clone(), tensor.clone());
        }
    }
    Ok(())
}
