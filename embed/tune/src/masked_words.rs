//! Measures what a model's word head reads from pictures: `eval --attributes`.
//!
//! Each attribute word of a caption is masked on its own and predicted with the picture of its
//! person and, as the chance level, with the picture of another person. What the caption's other
//! words give away thus counts on both sides.

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

/// How often a masked word is among the three words that the model predicts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MaskedWordFigures {
    /// Number of pictures.
    pub pictures: usize,
    /// Figures of adjectives: "red", "striped".
    pub adjectives: Contrast,
    /// Figures of nouns: "jacket", "woman".
    pub nouns: Contrast,
}

/// A masked word of somebody's caption.
struct MaskedTemplate {
    /// The caption with the mask in the word's place.
    template: String,
    word: String,
    tag: Tag,
}

/// Masks each attribute word of `caption` on its own. Left out are words of several pieces, which
/// have no single mask, words that the model never predicts because they are not judged, and
/// captions that are too long for the model.
fn masked_templates(model: &Model, caption: &str) -> Vec<MaskedTemplate> {
    let word = |range: &std::ops::Range<usize>| caption[range.clone()].to_lowercase();
    let words = tag(caption).into_iter().filter(|found| found.tag != Tag::Other);
    words
        .map(|found| (word(&found.range), found))
        .filter(|(word, _)| word.len() > 1 && word.chars().all(char::is_alphabetic))
        .filter(|(word, _)| is_judged(word) && model.tokenizer().id(word).is_some())
        .map(|(word, found)| {
            let template = format!("{}{MASK}{}", &caption[..found.range.start], &caption[found.range.end..]);
            MaskedTemplate { template, word, tag: found.tag }
        })
        .filter(|masked| model.tokenizer().encode_template(&masked.template, MASK).is_ok())
        .collect()
}

/// Lets `model` predict the masked words of each person's first caption, for each of their pictures
/// in `gallery`.
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
    // The picture for the chance level is the next one of another person.
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
        let ask = |masked: MaskedTemplate| {
            let named = |picture: usize| -> Result<f64> {
                let words = model.attributes(&patches[picture], &masked.template)?.swap_remove(0).words;
                Ok(f64::from(u8::from(words.iter().any(|(word, _)| *word == masked.word))))
            };
            Ok((masked.tag, Measured { person, reached: named(own)?, chance: named(other)? }))
        };
        let found =
            caption.map_or(Ok(Vec::new()), |caption| masked_templates(model, caption).into_iter().map(ask).collect());
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
