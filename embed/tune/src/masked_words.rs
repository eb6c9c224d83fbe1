//! What the word head of a model knows of pictures: `eval --attributes`.
//!
//! Each attribute word of a caption is masked for itself and asked for, with the picture of its person and, as chance, with
//! that of somebody else: what the caption's other words give away counts on both sides.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::Serialize;
use sightline_core::PatchFeatures;
use sightline_embed::text::is_judged;
use sightline_embed::text::phrases::{Tag, tag};
use sightline_embed::{MASK, Model};

use crate::contrast::{Contrast, Measured};
use crate::gallery::Gallery;
use crate::{Result, TrainError};

/// Pictures embedded at once.
const BATCH: usize = 16;

/// How often a masked word is among the three that the model names.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MaskedWordFigures {
    /// Pictures that were asked about.
    pub pictures: usize,
    /// Of adjectives: "red", "striped".
    pub adjectives: Contrast,
    /// Of nouns: "jacket", "woman".
    pub nouns: Contrast,
}

/// A masked word of somebody's caption.
struct Asked {
    /// The caption with the mask in the word's place.
    template: String,
    word: String,
    tag: Tag,
}

/// The attribute words of `caption`, each masked for itself. Words of several pieces have no single mask, and those for what is
/// not judged are never named: neither is asked for. Nor is a caption that the model cannot read whole.
fn asked(model: &Model, caption: &str) -> Vec<Asked> {
    let word = |range: &std::ops::Range<usize>| caption[range.clone()].to_lowercase();
    let words = tag(caption).into_iter().filter(|found| found.tag != Tag::Other);
    words
        .map(|found| (word(&found.range), found))
        .filter(|(word, _)| word.len() > 1 && word.chars().all(char::is_alphabetic))
        .filter(|(word, _)| is_judged(word) && model.tokenizer().id(word).is_some())
        .map(|(word, found)| {
            let template = format!("{}{MASK}{}", &caption[..found.range.start], &caption[found.range.end..]);
            Asked { template, word, tag: found.tag }
        })
        .filter(|asked| model.tokenizer().encode_template(&asked.template, MASK).is_ok())
        .collect()
}

/// Asks `model` for the masked words of the first caption of everybody in `gallery`, of each of their pictures.
///
/// # Errors
/// A model without a word head, a picture that cannot be read, or a gallery of one person.
pub fn measure(
    model: &Model,
    gallery: &Gallery,
    progress: impl Fn(&'static str, usize, usize) + Sync,
) -> Result<MaskedWordFigures> {
    let mut patches: Vec<PatchFeatures> = Vec::with_capacity(gallery.len());
    for start in (0..gallery.len()).step_by(BATCH) {
        let pictures = gallery.pictures(start..gallery.len().min(start + BATCH))?;
        patches.extend(model.embed_images(&pictures)?.into_iter().map(|features| features.patches));
        progress("pictures embedded", patches.len(), gallery.len());
    }
    let mut persons = gallery.image_ids.clone();
    persons.sort_unstable();
    persons.dedup();
    // Somebody else is the next picture of another person.
    let other = |own: usize| {
        let mut after = (1..gallery.len()).map(|by| (own + by) % gallery.len());
        after.find(|other| gallery.image_ids[*other] != gallery.image_ids[own])
    };
    let done = AtomicUsize::new(0);
    let of_picture = |own: usize| -> Result<Vec<(Tag, Measured)>> {
        let id = gallery.image_ids[own];
        let caption = gallery.text_ids.iter().position(|of| *of == id).map(|at| gallery.captions[at].as_str());
        let one_person =
            || TrainError::Usage("masked words are held against other persons: a gallery of several".into());
        let (other, person) = (other(own).ok_or_else(one_person)?, persons.partition_point(|person| *person < id));
        let ask = |asked: Asked| {
            let named = |picture: usize| -> Result<f64> {
                let words = model.attributes(&patches[picture], &asked.template)?.swap_remove(0).words;
                Ok(f64::from(u8::from(words.iter().any(|(word, _)| *word == asked.word))))
            };
            Ok((asked.tag, Measured { person, reached: named(own)?, chance: named(other)? }))
        };
        let found = caption.map_or(Ok(Vec::new()), |caption| asked(model, caption).into_iter().map(ask).collect());
        progress("captions asked", done.fetch_add(1, Ordering::Relaxed) + 1, gallery.len());
        found
    };
    let all: Vec<Vec<(Tag, Measured)>> = (0..gallery.len()).into_par_iter().map(of_picture).collect::<Result<_>>()?;
    let contrast = |of: Tag| {
        let cases: Vec<Measured> =
            all.iter().flatten().filter(|(tag, _)| *tag == of).map(|(_, measured)| *measured).collect();
        Contrast::of(&cases, persons.len())
    };
    Ok(MaskedWordFigures { pictures: gallery.len(), adjectives: contrast(Tag::Adjective), nouns: contrast(Tag::Noun) })
}
