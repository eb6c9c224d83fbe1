//! Tokenizers of CLIP and SigLIP, which always pad texts to full length.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::{Result, TrainError};
use sightline_embed::EmbedError;

/// A tokenizer, and the length of text that its model reads in tokens.
pub(super) struct BaselineTokenizer {
    inner: Tokenizer,
    /// File of the tokenizer: tokenizer.json, or vocab.json without one.
    pub path: PathBuf,
    length: usize,
    pad: u32,
    /// Whether punctuation is removed first, as in SigLIP.
    strip_punctuation: bool,
}

impl BaselineTokenizer {
    /// Opens tokenizer.json of `folder`, or vocab.json with merges.txt. Texts are padded with
    /// `pad`, or with the padding piece that the folder names.
    pub fn open(folder: &Path, kind: &str, length: usize, pad: Option<u32>) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let (path, bytes) = if path.is_file() {
            let bytes = std::fs::read(&path).map_err(TrainError::io(&path))?;
            (path, bytes)
        } else if kind == "clip" {
            (folder.join("vocab.json"), byte_pairs(folder)?.to_string().into_bytes())
        } else {
            return Err(TrainError::content(&path, "there is no such file; SigLIP needs it"));
        };
        let bad = |message: String| -> TrainError { EmbedError::Tokenizer { path: path.clone(), message }.into() };
        let mut inner = Tokenizer::from_bytes(&bytes).map_err(|e| bad(e.to_string()))?;
        let named = inner.get_padding().map(|p| p.pad_id);
        inner.with_truncation(None).map_err(|e| bad(e.to_string()))?;
        inner.with_padding(None);
        let pad = match pad.or(named) {
            Some(pad) => pad,
            None => padding(folder, &inner)?.unwrap_or(1),
        };
        if length < 3 {
            return Err(bad(format!("the model reads {length} tokens only")));
        }
        let tokenizer = Self { inner, path: path.clone(), length, pad, strip_punctuation: kind == "siglip" };
        if kind == "clip" {
            // CLIP's text feature is the hidden state at the highest id.
            let encoding = tokenizer.inner.encode_fast("a person", true).map_err(|e| bad(e.to_string()))?;
            let end = encoding.get_ids().last().copied().unwrap_or_default();
            if end as usize + 1 != tokenizer.inner.get_vocab_size(true) {
                return Err(bad("the end piece of a text does not have the highest id, as CLIP needs".into()));
            }
        }
        Ok(tokenizer)
    }

    /// Ids of `text`, cut or padded to the model's length; a text that is cut keeps its end piece.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let bare: String;
        let text = if self.strip_punctuation {
            bare = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
            bare.split_whitespace().collect::<Vec<_>>().join(" ")
        } else {
            text.to_owned()
        };
        let encoding = self.inner.encode_fast(text.as_str(), true).map_err(|e| EmbedError::Tokenizer {
            path: self.path.clone(),
            message: format!("cannot encode {text:?}: {e}"),
        })?;
        let mut ids = encoding.get_ids().to_vec();
        if ids.len() > self.length {
            let end = ids[ids.len() - 1];
            ids.truncate(self.length - 1);
            ids.push(end);
        }
        ids.resize(self.length, self.pad);
        Ok(ids)
    }
}

/// Id of the padding piece that tokenizer_config.json names.
fn padding(folder: &Path, tokenizer: &Tokenizer) -> Result<Option<u32>> {
    let path = folder.join("tokenizer_config.json");
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).map_err(TrainError::io(&path))?;
    let config: Value = serde_json::from_str(&text).map_err(|e| TrainError::content(&path, e))?;
    let piece = config["pad_token"].as_str().or_else(|| config["pad_token"]["content"].as_str());
    Ok(piece.and_then(|piece| tokenizer.token_to_id(piece)))
}

/// Builds tokenizer.json for CLIP's byte pairs from vocab.json and merges.txt.
fn byte_pairs(folder: &Path) -> Result<Value> {
    let (path, merges_path) = (folder.join("vocab.json"), folder.join("merges.txt"));
    let absent = |path: &Path| TrainError::content(path, "there is no such file, and no tokenizer.json either");
    let text = std::fs::read_to_string(&path).map_err(|_| absent(&path))?;
    let vocab: Value = serde_json::from_str(&text).map_err(|e| TrainError::content(&path, e))?;
    let merges = std::fs::read_to_string(&merges_path).map_err(|_| absent(&merges_path))?;
    let merges: Vec<&str> = merges.lines().filter(|l| !l.starts_with("#version") && !l.trim().is_empty()).collect();
    let (start, end) = ("<|startoftext|>", "<|endoftext|>");
    let id = |piece: &str| vocab[piece].as_u64().ok_or_else(|| TrainError::content(&path, format!("it lacks {piece}")));
    let (start_id, end_id) = (id(start)?, id(end)?);
    let special = |content: &str, id: u64| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let word = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(start, start_id), special(end, end_id)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "}, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": word}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
        "post_processor": {"type": "RobertaProcessing", "sep": [end, end_id], "cls": [start, start_id],
            "trim_offsets": false, "add_prefix_space": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": end, "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges}
    }))
}
