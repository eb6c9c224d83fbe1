//! A small vocabulary cut from bert-base-uncased, with word embeddings of a pre-trained text
//! encoder.
//!
//! The model in the repository has no room for 30,522 embeddings. Common words, words for people
//! and clothes and every single character are kept, so that any word can still be spelled;
//! embeddings are the pre-trained ones reduced to the model's width by principal components, so
//! that a word never seen in training lies near similar words.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::{Result, TrainError, atomic};
use sightline_embed::model::Architecture;

/// A vocabulary with some pieces of the full one, in the same order, followed by `[DEC]` and
/// `[ENC]`.
#[derive(Debug, Clone)]
pub struct CutVocabulary {
    /// The pieces, special ones included, without `[DEC]` and `[ENC]`.
    pub pieces: Vec<String>,
    /// Ids of `pieces` in the full vocabulary.
    pub full_ids: Vec<usize>,
}

/// Words of people, clothes, colours and places that must be kept whole where BERT has them.
const DOMAIN_WORDS: &str = include_str!("words.txt");

/// Cuts the vocabulary of the BERT-layout encoder in `folder` to about `size` pieces (0 keeps all)
/// and writes it as the tokenizer `out`; `examples` are the texts of [`CutVocabulary::new`].
///
/// # Errors
/// The errors of [`CutVocabulary::new`], and files that cannot be read or written.
pub fn cut(folder: &Path, size: usize, examples: impl Iterator<Item = String>, out: &Path) -> Result<CutVocabulary> {
    let full = read(&folder.join("vocab.txt"))?;
    let cut = if size == 0 { CutVocabulary::whole(&full)? } else { CutVocabulary::new(&full, size, examples)? };
    let json = cut.tokenizer_json(Architecture::cada_base().max_text_len);
    atomic::file(out, json.to_string().as_bytes())?;
    Ok(cut)
}

/// Copies the tokenizer.json `file` to `out` and returns the number of its pieces: the largest id
/// plus one.
///
/// # Errors
/// A file that is not a tokenizer, a tokenizer without words, or files that cannot be read or
/// written.
pub fn copy(file: &Path, out: &Path) -> Result<usize> {
    let bytes = fs::read(file).map_err(TrainError::io(file))?;
    let words =
        Tokenizer::from_bytes(&bytes).map_err(|e| TrainError::content(file, format!("it is no tokenizer: {e}")))?;
    let largest = words.get_vocab(true).into_values().max();
    let largest = largest.ok_or_else(|| TrainError::content(file, "it has no vocabulary"))?;
    atomic::file(out, &bytes)?;
    Ok(largest as usize + 1)
}

/// Whether a piece is a whole word: not a `##` ending, a single letter or a sign.
pub(super) fn is_word(piece: &str) -> bool {
    piece.len() > 1 && piece.bytes().all(|b| b.is_ascii_lowercase())
}

/// Words that a cut vocabulary keeps as whole words.
pub fn domain_words() -> impl Iterator<Item = &'static str> {
    DOMAIN_WORDS.split_whitespace()
}

impl CutVocabulary {
    /// Cuts `full` (the lines of vocab.txt) to about `size` pieces; words in `texts` are segmented
    /// as by the full vocabulary.
    ///
    /// # Errors
    /// A vocabulary that is not BERT's uncased one.
    pub fn new(full: &[String], size: usize, texts: impl Iterator<Item = String>) -> Result<Self> {
        let ids: HashMap<&str, usize> = full.iter().enumerate().map(|(i, w)| (w.as_str(), i)).collect();
        check_bert_uncased(full)?;
        let mut keep: BTreeSet<usize> = (0..=103).collect();
        for (index, piece) in full.iter().enumerate().skip(104) {
            let bare = piece.strip_prefix("##").unwrap_or(piece);
            if bare.chars().count() == 1 && bare.is_ascii() {
                keep.insert(index);
            }
        }
        let mut segment = |word: &str| {
            let mut rest = word;
            let mut first = true;
            while !rest.is_empty() {
                let found = (1..=rest.len()).rev().filter(|&end| rest.is_char_boundary(end)).find_map(|end| {
                    let piece = if first { rest[..end].to_string() } else { format!("##{}", &rest[..end]) };
                    ids.get(piece.as_str()).map(|&id| (id, end))
                });
                let Some((id, end)) = found else { return };
                keep.insert(id);
                rest = &rest[end..];
                first = false;
            }
        };
        let words = |text: &str| -> Vec<String> {
            text.to_lowercase()
                .split(|c: char| !c.is_ascii_alphanumeric())
                .filter(|w| !w.is_empty())
                .map(str::to_string)
                .collect()
        };
        words(DOMAIN_WORDS).iter().for_each(|w| segment(w));
        for text in texts {
            words(&text).iter().for_each(|w| segment(w));
        }
        // BERT numbers pieces by frequency: fill up with the most frequent plain words and endings.
        let room = size.saturating_sub(2).saturating_sub(keep.len());
        let endings = room / 8;
        let more: Vec<usize> = full
            .iter()
            .enumerate()
            .skip(1996)
            .filter(|(i, p)| is_word(p) && !keep.contains(i))
            .map(|(i, _)| i)
            .take(room - endings)
            .collect();
        let tails: Vec<usize> = full
            .iter()
            .enumerate()
            .filter(|(i, p)| p.strip_prefix("##").is_some_and(is_word) && !keep.contains(i))
            .map(|(i, _)| i)
            .take(endings)
            .collect();
        keep.extend(more);
        keep.extend(tails);
        let full_ids: Vec<usize> = keep.into_iter().collect();
        Ok(Self { pieces: full_ids.iter().map(|&i| full[i].clone()).collect(), full_ids })
    }

    /// All of `full`, uncut: for models with room for it, such as CADA itself.
    ///
    /// # Errors
    /// A vocabulary that is not BERT's uncased one.
    pub fn whole(full: &[String]) -> Result<Self> {
        check_bert_uncased(full)?;
        Ok(Self { pieces: full.to_vec(), full_ids: (0..full.len()).collect() })
    }

    /// Number of pieces, with `[DEC]` and `[ENC]`.
    pub fn len(&self) -> usize {
        self.pieces.len() + 2
    }

    /// Always false: the special pieces are always kept.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// tokenizer.json in the format of the full model's, with truncation to `max_len`.
    pub fn tokenizer_json(&self, max_len: usize) -> Value {
        let mut vocab = serde_json::Map::new();
        for (id, piece) in self.pieces.iter().chain([&"[DEC]".to_string(), &"[ENC]".to_string()]).enumerate() {
            vocab.insert(piece.clone(), json!(id));
        }
        let special = |name: &str, id: usize| json!({"id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
        let n = self.pieces.len();
        json!({
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": max_len, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": max_len}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
            "added_tokens": [special("[PAD]", 0), special("[UNK]", 100), special("[CLS]", 101), special("[SEP]", 102), special("[MASK]", 103), special("[DEC]", n), special("[ENC]", n + 1)],
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
                "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [101], "tokens": ["[CLS]"]}, "[SEP]": {"id": "[SEP]", "ids": [102], "tokens": ["[SEP]"]}}},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab}
        })
    }

    /// Word embeddings `[len, width]` from `folder`/model.safetensors (BERT layout), reduced to
    /// `width` by principal components and scaled to a standard deviation of 0.04. `[DEC]` and
    /// `[ENC]` start as `[CLS]`.
    ///
    /// # Errors
    /// A file without BERT word embeddings of the full vocabulary, or embeddings narrower than
    /// `width`.
    pub fn embeddings(&self, folder: &Path, width: usize) -> Result<Tensor> {
        let path = folder.join("model.safetensors");
        let wrong = |message: &str| TrainError::content(&path, message);
        let all = candle_core::safetensors::load(&path, &Device::Cpu).map_err(|e| wrong(&e.to_string()))?;
        let table = ["embeddings.word_embeddings.weight", "bert.embeddings.word_embeddings.weight"]
            .iter()
            .find_map(|n| all.get(*n));
        let Some(table) = table else { return Err(wrong("there are no BERT word embeddings")) };
        let rows = table.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        let wide = rows.first().map_or(0, Vec::len);
        if wide < width {
            return Err(wrong(&format!("embeddings of {wide} cannot be widened to {width}")));
        }
        let chosen: Vec<&Vec<f32>> = self
            .full_ids
            .iter()
            .map(|&i| rows.get(i).ok_or_else(|| wrong("fewer embeddings than words")))
            .collect::<Result<_>>()?;
        let mut mean = vec![0f64; wide];
        for row in &chosen[104..] {
            mean.iter_mut().zip(row.iter()).for_each(|(m, v)| *m += f64::from(*v) / (chosen.len() - 104) as f64);
        }
        let centred: Vec<Vec<f64>> =
            chosen.iter().map(|row| row.iter().zip(&mean).map(|(v, m)| f64::from(*v) - m).collect()).collect();
        let columns: Vec<Vec<f64>> = (0..wide).map(|i| centred[104..].iter().map(|row| row[i]).collect()).collect();
        let covariance: Vec<Vec<f64>> =
            columns.par_iter().map(|a| columns.iter().map(|b| dot(a, b) / centred.len() as f64).collect()).collect();
        let axes = principal(&covariance, width);
        let mut flat: Vec<f32> =
            centred.par_iter().flat_map_iter(|row| axes.iter().map(move |axis| dot(axis, row) as f32)).collect();
        let spread = (flat.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / flat.len() as f64).sqrt();
        flat.iter_mut().for_each(|v| *v *= (0.04 / spread) as f32);
        for _ in 0..2 {
            let cls = flat[101 * width..102 * width].to_vec();
            flat.extend(cls);
        }
        Ok(Tensor::from_vec(flat, (self.len(), width), &Device::Cpu)?)
    }
}

fn check_bert_uncased(full: &[String]) -> Result<()> {
    match full.get(103) {
        Some(piece) if piece == "[MASK]" => Ok(()),
        _ => Err(TrainError::content(Path::new("vocab.txt"), "not bert-base-uncased: line 104 is not [MASK]")),
    }
}

/// Reads vocab.txt.
///
/// # Errors
/// An unreadable file.
pub fn read(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).map_err(TrainError::io(path))?;
    Ok(text.lines().map(str::to_string).collect())
}

/// Inner product with eight partial sums, which the compiler vectorises.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0f64; 8];
    let (ca, cb) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = ca.remainder().iter().zip(cb.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in ca.zip(cb) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Leading `count` eigenvectors of a symmetric positive matrix by orthogonal iteration.
fn principal(matrix: &[Vec<f64>], count: usize) -> Vec<Vec<f64>> {
    let n = matrix.len();
    let mut basis: Vec<Vec<f64>> = (0..count)
        .map(|i| {
            (0..n)
                .map(|j| (((i * 7919 + j * 104_729 + 13) % 1009) as f64 / 504.5) - 1.0 + if i == j { 4.0 } else { 0.0 })
                .collect()
        })
        .collect();
    for _ in 0..24 {
        basis = basis.par_iter().map(|v| matrix.iter().map(|row| dot(row, v)).collect()).collect();
        for i in 0..count {
            let (before, rest) = basis.split_at_mut(i);
            let v = &mut rest[0];
            for _ in 0..2 {
                for b in before.iter() {
                    let shared = dot(b, v);
                    v.iter_mut().zip(b).for_each(|(x, y)| *x -= shared * y);
                }
            }
            let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-300);
            v.iter_mut().for_each(|x| *x /= norm);
        }
    }
    basis
}
