//! Words that training never met, made of those that it met.
//!
//! A word's embedding says something to the layers above it only if they were trained with it. A word of which no training
//! caption speaks therefore gets a mixture of trained embeddings: of its kin in dictionaries ("rucksack": mostly
//! "backpack"), or of the words whose meaning, as a pre-trained text encoder has it, is nearest. Words of several pieces become
//! one entry of the vocabulary. Nothing that training met changes, so what the model makes of such texts stays as it is, to the bit.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::lexicon::{Lexicon, Trained};
use super::meaning::{CONTEXTS, Encoder};
use super::tagger::{Tag, tag};
use super::vocabulary::is_word;
use super::{Result, TrainError};

/// How a mixture is made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mixture {
    /// Trained words in it, at most.
    pub of: usize,
    /// Their shares are the softmax of their cosines with the word over this.
    pub temperature: f32,
    /// A word whose nearest trained word has a lower cosine is left as it is, and not added.
    pub least: f32,
    /// Captions that must speak of a word for it to count as trained.
    pub often: usize,
}

impl Default for Mixture {
    fn default() -> Self {
        Self { of: 8, temperature: 0.05, least: 0.45, often: 3 }
    }
}

/// A vocabulary and its embeddings, taught.
pub struct Taught {
    /// tokenizer.json, with new words before `[DEC]` and `[ENC]`.
    pub tokenizer: Value,
    /// Word embeddings `[pieces, width]`, f32.
    pub embeddings: Tensor,
    /// Words that were there and got another embedding.
    pub changed: usize,
    /// Words that are new entries.
    pub added: usize,
    /// What each changed or added word is made of.
    pub made_of: BTreeMap<String, Vec<(String, f32)>>,
}

/// Teaches the words of `tokenizer` (tokenizer.json), `lexicon` and `extra` what `lexicon` knows about them, and else what
/// `encoder` does. `captions` are examples of the training's.
///
/// # Errors
/// A tokenizer that is not CADA's WordPiece, embeddings of another vocabulary, captions without a known word.
pub fn teach(
    mut tokenizer: Value,
    embeddings: &Tensor,
    captions: impl Iterator<Item = String>,
    extra: impl Iterator<Item = String>,
    lexicon: &Lexicon,
    encoder: &Encoder,
    mixture: &Mixture,
) -> Result<Taught> {
    let ids = entries(&tokenizer)?;
    let wrong = |e: tokenizers::Error| TrainError::Usage(format!("the tokenizer cannot be used: {e}"));
    let pieces = Tokenizer::from_bytes(tokenizer.to_string().as_bytes()).map_err(wrong)?;
    // Words of the captions, and in how many of them each is an attribute: only those have a meaning to lend.
    let (mut met, mut counts) = (HashSet::<String>::new(), HashMap::<String, usize>::new());
    // Pieces that training used, be it as a part of another word.
    let mut used: HashSet<u32> = HashSet::new();
    for caption in captions {
        used.extend(pieces.encode_fast(caption.as_str(), false).map_err(wrong)?.get_ids());
        let lower = caption.to_lowercase();
        let words = |some: &str| -> BTreeSet<String> {
            some.split(|c: char| !c.is_ascii_alphabetic()).filter(|w| is_word(w)).map(str::to_owned).collect()
        };
        met.extend(words(&lower));
        let attributes = tag(&lower).into_iter().filter(|word| word.tag != Tag::Other);
        let attributes: BTreeSet<String> = attributes.flat_map(|word| words(&lower[word.range])).collect();
        attributes.into_iter().for_each(|word| *counts.entry(word).or_default() += 1);
    }
    // A new entry must not be where the pieces of a trained word begin: it would then be cut in another way.
    let cut: Vec<String> = met.iter().filter(|word| !ids.contains_key(*word)).cloned().collect();
    let begins = |word: &str| !ids.contains_key(word) && cut.iter().any(|trained| trained.starts_with(word));
    let often = |word: &str| counts.get(word).is_some_and(|n| *n >= mixture.often);
    let met = |word: &str| met.contains(word) || ids.get(word).is_some_and(|id| used.contains(&(*id as u32)));
    let trained: Vec<String> = ids.keys().filter(|word| is_word(word) && often(word)).cloned().collect();
    if trained.len() < mixture.of {
        return Err(TrainError::Usage(format!(
            "the captions speak of {} words of the vocabulary; at least {} are needed",
            trained.len(),
            mixture.of
        )));
    }
    let new = |w: &String| is_word(w) && !met(w) && !begins(w);
    let numbers: Trained =
        trained.iter().enumerate().map(|(at, word)| (word.as_str(), (at, counts[word] as f32))).collect();
    let kin = |word: &str| Some(lexicon.mixture(word, &numbers, mixture.of)).filter(|parts| !parts.is_empty());
    let mut mixtures: BTreeMap<String, Vec<(usize, f32)>> = BTreeMap::new();
    let mut unseen = BTreeSet::new();
    for word in ids.keys().cloned().chain(extra).filter(new) {
        match kin(&word) {
            Some(parts) => drop(mixtures.insert(word, parts)),
            None => drop(unseen.insert(word)),
        }
    }
    for word in lexicon.words().map(str::to_owned).filter(new) {
        if !mixtures.contains_key(&word)
            && let Some(parts) = kin(&word)
        {
            mixtures.insert(word, parts);
        }
    }
    let unseen: Vec<String> = unseen.into_iter().collect();
    let (mut known, mut new) = (encoder.vectors(&trained)?, encoder.vectors(&unseen)?);
    let middle = mean(&known);
    known.par_iter_mut().chain(&mut new).for_each(|vector| centre(vector, &middle));
    let rows = embeddings.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    let near: Vec<Vec<(usize, f32)>> = new.par_iter().map(|word| mixed(word, &known, mixture)).collect();
    mixtures.extend(unseen.into_iter().zip(near).filter(|(_, parts)| !parts.is_empty()));
    let width = rows.first().map_or(0, Vec::len);
    let mut table = rows.clone();
    let (mut added, mut made_of) = (Vec::new(), BTreeMap::new());
    for (word, parts) in &mixtures {
        let mut row = vec![0f32; width];
        for (at, share) in parts {
            let from = rows.get(ids[&trained[*at]] as usize).ok_or_else(|| not_these(rows.len()))?;
            row.iter_mut().zip(from).for_each(|(sum, v)| *sum += share * v);
        }
        match ids.get(word) {
            Some(id) => *table.get_mut(*id as usize).ok_or_else(|| not_these(rows.len()))? = row,
            None => added.push((word.clone(), row)),
        }
        made_of.insert(word.clone(), parts.iter().map(|(at, share)| (trained[*at].clone(), *share)).collect());
    }
    let changed = made_of.len() - added.len();
    let names: Vec<String> = added.iter().map(|(word, _)| word.clone()).collect();
    let at = insert(&mut tokenizer, &ids, &names)?;
    if at + 2 != table.len() {
        return Err(not_these(table.len()));
    }
    table.splice(at..at, added.into_iter().map(|(_, row)| row));
    let flat: Vec<f32> = table.iter().flatten().copied().collect();
    let embeddings = Tensor::from_vec(flat, (table.len(), width), &Device::Cpu)?;
    Ok(Taught { tokenizer, embeddings, changed, added: names.len(), made_of })
}

fn not_these(rows: usize) -> TrainError {
    TrainError::Usage(format!("{rows} word embeddings are not those of this tokenizer, which ends in [DEC] and [ENC]"))
}

fn mean(vectors: &[Vec<f32>]) -> Vec<f32> {
    let mut sum = vec![0f32; vectors.first().map_or(0, Vec::len)];
    vectors.iter().for_each(|v| sum.iter_mut().zip(v).for_each(|(s, x)| *s += x / vectors.len() as f32));
    sum
}

/// Takes away what all words have in common, most of it their context, and makes each context's part as long as any other;
/// the whole becomes a unit vector.
fn centre(vector: &mut [f32], middle: &[f32]) {
    let width = (vector.len() / CONTEXTS.len()).max(1);
    for (part, middle) in vector.chunks_exact_mut(width).zip(middle.chunks_exact(width)) {
        part.iter_mut().zip(middle).for_each(|(x, m)| *x -= m);
        let norm = part.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12) * (CONTEXTS.len() as f32).sqrt();
        part.iter_mut().for_each(|x| *x /= norm);
    }
}

/// Trained words nearest to `word` with their shares, the nearest first; none when none is near enough.
fn mixed(word: &[f32], known: &[Vec<f32>], mixture: &Mixture) -> Vec<(usize, f32)> {
    let dot = |other: &Vec<f32>| word.iter().zip(other).map(|(a, b)| a * b).sum::<f32>();
    let mut near: Vec<(usize, f32)> = known.iter().map(dot).enumerate().collect();
    near.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    near.truncate(mixture.of);
    let Some(&(_, best)) = near.first().filter(|(_, cosine)| *cosine >= mixture.least) else { return Vec::new() };
    near.iter_mut().for_each(|(_, v)| *v = ((*v - best) / mixture.temperature).exp());
    let sum: f32 = near.iter().map(|(_, v)| v).sum();
    near.iter_mut().for_each(|(_, v)| *v /= sum);
    near
}

/// Pieces of the WordPiece vocabulary and special tokens, with their ids.
fn entries(tokenizer: &Value) -> Result<BTreeMap<String, u64>> {
    let vocabulary = tokenizer["model"]["vocab"].as_object().filter(|_| tokenizer["model"]["type"] == "WordPiece");
    let vocabulary = vocabulary.ok_or_else(|| TrainError::Usage("the tokenizer is no WordPiece".into()))?;
    // Special tokens may stand outside of the model's own list.
    let special = tokenizer["added_tokens"].as_array().into_iter().flatten();
    let special = special.filter_map(|t| Some((t["content"].as_str()?.to_owned(), t["id"].as_u64()?)));
    Ok(vocabulary.iter().filter_map(|(piece, id)| Some((piece.clone(), id.as_u64()?))).chain(special).collect())
}

/// Makes `words` entries before `[DEC]` and `[ENC]`, which move up. Gives the id of the first.
fn insert(tokenizer: &mut Value, ids: &BTreeMap<String, u64>, words: &[String]) -> Result<usize> {
    let place = |name: &str| ids.get(name).copied().ok_or_else(|| TrainError::Usage(format!("there is no {name}")));
    let (dec, enc) = (place("[DEC]")?, place("[ENC]")?);
    if enc != dec + 1 || ids.values().any(|id| *id > enc) {
        return Err(TrainError::Usage("[DEC] and [ENC] are not the last entries of the tokenizer".into()));
    }
    let vocabulary = &mut tokenizer["model"]["vocab"];
    words.iter().enumerate().for_each(|(i, word)| vocabulary[word.as_str()] = json!(dec + i as u64));
    let moved = [("[DEC]", dec + words.len() as u64), ("[ENC]", enc + words.len() as u64)];
    for (name, id) in moved {
        if let Some(entry) = vocabulary.get_mut(name) {
            *entry = json!(id);
        }
    }
    for token in tokenizer["added_tokens"].as_array_mut().into_iter().flatten() {
        if let Some((_, id)) = moved.iter().find(|(name, _)| token["content"] == *name) {
            token["id"] = json!(id);
        }
    }
    Ok(dec as usize)
}
