//! Imports checkpoints of CADA's and BLIP's authors (`.pth` or safetensors) as model folders
//! (specification, section 7).
//!
//! Both use the tensor names of [`sightline_embed::graph::Cada`]. A BLIP checkpoint also holds
//! momentum copies, queues and a temperature, and lacks the head for token groups. The word
//! predictor (`text_decoder`) is kept on request. The report lists every tensor that is left out. A
//! checkpoint with missing tensors or wrong shapes is an error that names them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use rand::Rng;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokenizers::{AddedToken, Tokenizer};

use super::{Result, TrainError, atomic};
use crate::pos_embed::resize_pos_embed;
use crate::streams;
use crate::weights::{self, Tensors};
use sightline_embed::model::{Architecture, Grid, ModelConfig, WORD_HEAD, WORD_HEAD_PREFIX, WordHead, WordPredictor};
use sightline_embed::net::save_tensors;
use sightline_embed::text::CaptionTokenizer;
use sightline_embed::{EmbedError, Model, ModelFolder, self_test, write_self_test};
use sightline_figures::stream;

/// The only tensor whose shape depends on the size of the picture.
const POS_EMBED: &str = "visual_encoder.pos_embed";
/// Heads that CADA adds to BLIP. Only training needs them; they are initialised at random if a
/// checkpoint lacks both.
const LOCAL_HEAD: [&str; 2] = ["itm_local_head.weight", "itm_local_head.bias"];

/// Reason that the report gives for leaving out the tensors of `text_decoder`.
const WORD_PREDICTOR: &str = "word predictor";

/// Settings of an import.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Checkpoint file: `.pth`, `.pt`, `.bin` or `.safetensors`.
    pub checkpoint: PathBuf,
    /// tokenizer.json of bert-base-uncased, with or without `[DEC]` and `[ENC]`.
    pub tokenizer: PathBuf,
    /// Configuration with the dimensions; `None` for CADA as published.
    pub config: Option<PathBuf>,
    /// Height and width of the model's input in pixels; `None` takes them from the configuration
    /// or, without one, from the checkpoint.
    pub image: Option<[usize; 2]>,
    /// Keeps the word predictor (`text_decoder`), so that the model can predict masked words; the
    /// text transformer is then in memory twice.
    pub word_head: bool,
    /// Data type of the stored weights.
    pub dtype: DType,
    /// Name of the model.
    pub name: String,
    /// Model folder to write.
    pub out: PathBuf,
    /// Replaces an existing folder.
    pub force: bool,
}

/// Result of an import.
#[derive(Debug, Clone, Serialize)]
pub struct ImportReport {
    /// Id of the new model.
    pub model_id: String,
    /// "CADA" or "BLIP".
    pub form: &'static str,
    /// Number of imported tensors.
    pub mapped: usize,
    /// Number of parameters of the model.
    pub parameters: usize,
    /// Height and width of the input in pixels.
    pub image_size: [usize; 2],
    /// Patch grid (rows, columns) of the checkpoint, if its position embedding was resized.
    pub resized_from: Option<[usize; 2]>,
    /// Number of tensors left out on purpose, by reason.
    pub dropped: BTreeMap<&'static str, usize>,
    /// Names of tensors that the architecture does not use.
    pub unused: Vec<String>,
    /// Names of tensors that the checkpoint lacks and that were initialised at random.
    pub fresh: Vec<String>,
    /// Word pieces added to the tokenizer.
    pub added_pieces: Vec<String>,
}

/// The tensors of a checkpoint that an architecture needs.
#[derive(Debug)]
pub struct MappedCheckpoint {
    /// Every tensor that inference needs.
    pub tensors: Tensors,
    /// The report so far; id and added pieces are filled in later.
    pub report: ImportReport,
}

/// Reason for leaving out the tensor `name`; `None` for a tensor that is kept.
fn reason_to_skip(name: &str) -> Option<&'static str> {
    let part = name.split('.').next().unwrap_or_default();
    if part.ends_with("_m") {
        Some("momentum copies")
    } else if part == "text_decoder" {
        Some(WORD_PREDICTOR)
    } else if name.ends_with("position_ids") {
        Some("position ids")
    } else if name == "temp" {
        Some("temperature")
    } else if matches!(name, "image_queue" | "text_queue" | "queue_ptr" | "ptr_queue" | "idx_queue") {
        Some("queues")
    } else {
        None
    }
}

/// Picks the tensors that `arch` needs from a checkpoint's `tensors`. `image` is the wanted picture
/// size in pixels; without it, `own_size` selects the checkpoint's size instead of that of `arch`.
/// The chosen size is stored in `arch.image_size`. `origin` names the file in errors.
///
/// # Errors
/// No tensor that maps, missing tensors or wrong shapes (the error names them all), or a position
/// embedding that fits no known grid.
pub fn map(
    mut tensors: Tensors,
    arch: &mut Architecture,
    image: Option<[usize; 2]>,
    own_size: bool,
    origin: &Path,
) -> Result<MappedCheckpoint> {
    // A data-parallel run writes this prefix before every name.
    if !tensors.is_empty() && tensors.keys().all(|name| name.starts_with("module.")) {
        tensors = tensors.into_iter().map(|(name, t)| (name["module.".len()..].to_owned(), t)).collect();
    }
    let blip = tensors.keys().any(|name| reason_to_skip(name) == Some("momentum copies"));
    let mut report = ImportReport {
        model_id: String::new(),
        form: if blip { "BLIP" } else { "CADA" },
        mapped: 0,
        parameters: 0,
        image_size: arch.image_size,
        resized_from: None,
        dropped: BTreeMap::new(),
        unused: Vec::new(),
        fresh: Vec::new(),
        added_pieces: Vec::new(),
    };
    for name in tensors.keys() {
        if let Some(why) = reason_to_skip(name) {
            *report.dropped.entry(why).or_default() += 1;
        }
    }
    tensors.retain(|name, _| reason_to_skip(name).is_none());
    fit_position_embedding(&mut tensors, arch, image, own_size, origin, &mut report)?;
    let required = weights::required(arch, WordPredictor::None)?;
    let shared = required.keys().filter(|name| tensors.contains_key(*name)).count();
    if shared > 0 && LOCAL_HEAD.iter().all(|name| !tensors.contains_key(*name)) {
        for name in LOCAL_HEAD {
            let shape = &required[name];
            let mut rng = stream(0, streams::IMPORTED_HEADS, name.len() as u64);
            let spread = if name.ends_with("weight") { 0.02 } else { 0.0 };
            let mut value = || spread * (0..12).map(|_| rng.random::<f32>() - 0.5).sum::<f32>();
            let values: Vec<f32> = (0..shape.elem_count()).map(|_| value()).collect();
            tensors.insert(name.to_owned(), Tensor::from_vec(values, shape, &Device::Cpu)?);
            report.fresh.push(name.to_owned());
        }
    }
    let selection = weights::select(tensors, &required, &origin.display().to_string())?;
    report.mapped = selection.used.len() - report.fresh.len();
    report.parameters = selection.used.values().map(Tensor::elem_count).sum();
    report.unused = selection.unused;
    report.image_size = arch.image_size;
    Ok(MappedCheckpoint { tensors: selection.used, report })
}

/// Picks the tensors of a checkpoint's word predictor, which is a separate transformer in the
/// authors' code.
///
/// # Errors
/// Missing tensors or wrong shapes; the error names them.
fn word_head(tensors: &Tensors, arch: &Architecture, origin: &Path) -> Result<Tensors> {
    let mut required = weights::required(arch, WordPredictor::Own)?;
    required.retain(|name, _| name.starts_with(WORD_HEAD_PREFIX));
    let named = |(name, tensor): (&String, &Tensor)| {
        let name = name.strip_prefix("module.").unwrap_or(name);
        name.starts_with(WORD_HEAD_PREFIX).then(|| (name.to_owned(), tensor.clone()))
    };
    let own: Tensors = tensors.iter().filter_map(named).collect();
    Ok(weights::select(own, &required, &origin.display().to_string())?.used)
}

/// Resizes the position embedding to the patch grid of the wanted picture size.
fn fit_position_embedding(
    tensors: &mut Tensors,
    arch: &mut Architecture,
    image: Option<[usize; 2]>,
    own_size: bool,
    origin: &Path,
    report: &mut ImportReport,
) -> Result<()> {
    let Some(stored) = tensors.get(POS_EMBED) else { return Ok(()) };
    let wrong = |message: String| TrainError::content(origin, format!("{POS_EMBED} {:?}: {message}", stored.dims()));
    let Ok((1, rows, width)) = stored.dims3() else { return Err(wrong("it should be [1, 1 + patches, width]".into())) };
    if width != arch.vision_width {
        return Err(wrong(format!("the configuration says width {}", arch.vision_width)));
    }
    let from = if rows == arch.patch_rows() {
        arch.grid()
    } else {
        Grid::square(rows.saturating_sub(1)).ok_or_else(|| {
            wrong("its patches are neither those of the configuration's image_size nor a square; give --config with the image_size of the checkpoint".into())
        })?
    };
    let own = [from.rows * arch.patch_size, from.cols * arch.patch_size];
    arch.image_size = image.unwrap_or(if own_size { own } else { arch.image_size });
    arch.check().map_err(|message| TrainError::content(origin, message))?;
    if arch.grid() != from {
        report.resized_from = Some([from.rows, from.cols]);
        let resized = resize_pos_embed(stored, from, arch.grid())?;
        tensors.insert(POS_EMBED.to_owned(), resized);
    }
    Ok(())
}

/// Reads the configuration of `options`, or that of CADA as published.
fn configuration(options: &ImportOptions) -> Result<ModelConfig> {
    let mut config = match &options.config {
        Some(path) => ModelConfig::read(path)?,
        None => ModelConfig::new("", Architecture::cada_base()),
    };
    config.name.clone_from(&options.name);
    Ok(config)
}

/// Reads the tokenizer at `path`. Adds `[DEC]` and `[ENC]`, as the reference does, if it is the
/// plain tokenizer of bert-base-uncased.
fn tokenizer(path: &Path, arch: &Architecture) -> Result<(Vec<u8>, Vec<String>)> {
    let bytes = std::fs::read(path).map_err(TrainError::io(path))?;
    let bad = |e: &dyn std::fmt::Display| {
        TrainError::Embed(EmbedError::Tokenizer { path: path.to_owned(), message: e.to_string() })
    };
    let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(|e| bad(&e))?;
    if tokenizer.token_to_id("[ENC]").is_some() || tokenizer.get_vocab_size(true) + 1 != arch.enc_token_id as usize {
        return Ok((bytes, Vec::new()));
    }
    let pieces = ["[DEC]", "[ENC]"];
    tokenizer.add_special_tokens(pieces.map(|p| AddedToken::from(p, true))).map_err(|e| bad(&e))?;
    let text = tokenizer.to_string(false).map_err(|e| bad(&e))?;
    Ok((text.into_bytes(), pieces.map(str::to_owned).to_vec()))
}

fn digest(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut file = std::fs::File::open(path).map_err(TrainError::io(path))?;
    std::io::copy(&mut file, &mut hash).map_err(TrainError::io(path))?;
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

/// Imports a checkpoint as a complete, tested model folder: config.json, model.safetensors,
/// tokenizer.json, selftest.safetensors.
///
/// # Errors
/// An unreadable file, a checkpoint that [`map`] refuses, a tokenizer of another model, a folder
/// that exists (without `force`) or cannot be written, or a model whose features are not finite or
/// all the same. An import that fails leaves nothing behind.
pub fn import(options: &ImportOptions) -> Result<ImportReport> {
    if options.out.exists() && !options.force {
        return Err(TrainError::content(&options.out, "it exists already; --force replaces it"));
    }
    let mut config = configuration(options)?;
    let (words, added) = tokenizer(&options.tokenizer, &config.architecture)?;
    let tensors = weights::read(&options.checkpoint)?;
    let head = match options.word_head {
        true => Some(word_head(&tensors, &config.architecture, &options.checkpoint)?),
        false => None,
    };
    config.word_head = head.as_ref().map(|_| WordHead { predictor: WordPredictor::Own, causal: true });
    let own_size = options.config.is_none();
    let mut mapped = map(tensors, &mut config.architecture, options.image, own_size, &options.checkpoint)?;
    if head.is_some() && mapped.report.form == "BLIP" {
        let message = "BLIP's text_decoder writes captions and predicts no masked words: leave --word-head out";
        return Err(TrainError::content(&options.checkpoint, message));
    }
    mapped.report.added_pieces = added;
    if head.is_some() {
        mapped.report.dropped.remove(WORD_PREDICTOR);
    }
    let file = options.checkpoint.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    config.provenance = json!({"imported": {
        "checkpoint": file,
        "sha256": digest(&options.checkpoint)?,
        "form": mapped.report.form,
        "position_embedding_resized_from": mapped.report.resized_from,
        "drawn_afresh": mapped.report.fresh,
    }});
    atomic::folder(&options.out, options.force, |to| {
        let narrowed = |tensors: &Tensors| -> Result<Tensors> {
            let narrow = |(name, tensor): (&String, &Tensor)| {
                let tensor = super::folder::narrowed(name, tensor, options.dtype, &options.checkpoint)?;
                Ok((name.clone(), tensor))
            };
            tensors.iter().map(narrow).collect()
        };
        save_tensors(&to.join("model.safetensors"), &narrowed(&mapped.tensors)?)?;
        if let Some(head) = &head {
            save_tensors(&to.join(WORD_HEAD), &narrowed(head)?)?;
        }
        let text = serde_json::to_vec_pretty(&config).map_err(|e| TrainError::content(to, e))?;
        std::fs::write(to.join("config.json"), text).map_err(TrainError::io(to))?;
        std::fs::write(to.join("tokenizer.json"), &words).map_err(TrainError::io(to))?;
        // An error names the given file, not its copy.
        CaptionTokenizer::load(&to.join("tokenizer.json"), &config.architecture).map_err(|e| match e {
            EmbedError::Tokenizer { message, .. } => EmbedError::Tokenizer { path: options.tokenizer.clone(), message },
            other => other,
        })?;
        write_self_test(to)?;
        let folder = ModelFolder::open(to)?;
        self_test(&Model::load(&folder, "cpu")?, &folder)?;
        mapped.report.model_id.clone_from(&folder.id);
        Ok(())
    })?;
    Ok(mapped.report)
}
