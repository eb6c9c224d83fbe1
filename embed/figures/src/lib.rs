//! Drawn persons with captions, to train on without pictures of real people.
//!
//! An identity is a [`Person`]: its attributes. Both pictures ([`draw`]) and captions
//! ([`caption()`]) come from the attributes, so a caption is always true. Level 1 draws persons
//! from tapered cylinders and needs no files; level 2 ([`Assets`]) draws body and clothes meshes
//! that are downloaded apart. The aim is transfer to crops of surveillance cameras: variety of
//! cameras, places and wording counts for more than beauty.
//!
//! ```text
//! seed -> Corpus -> Person (sampling) -+-> caption (vocabulary)
//!                                      +-> pose -> parts (body) or meshes (mesh)
//!                                          -> scene (scenery, passers-by, obstacles)
//!                                          -> camera -> crop
//! ```
//!
//! Everything follows from a seed: identity `i` of seed `s` is always the same person, and view `v`
//! of it the same picture to the byte, on any thread. Across machines the last bit of sines and
//! powers is the C library's.

mod accessories;
mod body;
mod camera;
mod caption;
pub mod colour;
#[cfg(test)]
mod colour_test;
mod dataset;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod garments;
mod mesh;
mod part_mask;
pub mod person;
mod random;
mod raster;
mod sampling;
mod scene;
mod scenery;
mod texture;
mod variation;
mod vocabulary;

use std::sync::Arc;

use image::RgbImage;
use rand::Rng;

pub use caption::{caption, caption_with};
pub use dataset::{DatasetSummary, write_dataset};
pub use mesh::{AssetError, Assets};
pub use part_mask::{PartMask, PersonPart};
pub use person::Person;
pub use random::stream;
pub use scene::draw;
pub use vocabulary::Words;

/// Third part of [`stream`] of caption 0. The attributes of an identity use 0 and its view `v` uses
/// `1 + v`; captions, and the choice of the level, start far above them.
const CAPTION_STREAM: u64 = 1 << 40;
/// Third part of [`stream`] of the choice between level 1 and 2 for view 0.
const LEVEL_STREAM: u64 = 1 << 41;

/// All identities of one seed: an endless, indexed set of persons. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Corpus {
    seed: u64,
    meshes: Option<(Arc<Assets>, f32)>,
}

impl Corpus {
    /// All pictures are of level 1.
    pub fn new(seed: u64) -> Self {
        Self { seed, meshes: None }
    }

    /// The identities and captions of [`Corpus::new`], but a share (0..1) of the pictures is of
    /// level 2.
    pub fn with_assets(seed: u64, assets: Arc<Assets>, share: f32) -> Self {
        Self { seed, meshes: Some((assets, share)) }
    }

    /// Attributes of identity `index`. Every fourth identity is a sibling of the one before it and
    /// differs in one or two attributes: a hard negative.
    pub fn person(&self, index: u64) -> Person {
        let mut rng = stream(self.seed, index, 0);
        if index % 4 == 3 {
            Person::sample(&mut stream(self.seed, index - 1, 0)).sibling(&mut rng)
        } else {
            Person::sample(&mut rng)
        }
    }

    /// Picture of identity `index`; every `view` has a pose, place and camera of its own. The size
    /// is that of a detector's crop, 60 to 400 pixels high.
    pub fn picture(&self, index: u64, view: u64) -> RgbImage {
        draw(&self.person(index), self.assets_of(index, view), &mut self.view_stream(index, view))
    }

    /// Masks of `parts` in [`Corpus::picture`], in their order; a mask is empty if the person has
    /// no such part.
    pub fn part_masks(&self, index: u64, view: u64, parts: &[PersonPart]) -> Vec<PartMask> {
        let assets = self.assets_of(index, view);
        let draw = |person: &Person| scene::compose(person, assets, &mut self.view_stream(index, view)).canvas;
        PartMask::of(&self.person(index), parts, draw)
    }

    /// Meshes of a picture of level 2; `None` for one of level 1.
    fn assets_of(&self, index: u64, view: u64) -> Option<&Assets> {
        let meshes = self.meshes.as_ref().filter(|(_, share)| {
            *share >= 1.0 || stream(self.seed, index, LEVEL_STREAM + view).random::<f32>() < *share
        });
        meshes.map(|(assets, _)| assets.as_ref())
    }

    /// Random stream of a picture's pose, place and camera.
    fn view_stream(&self, index: u64, view: u64) -> impl Rng {
        stream(self.seed, index, 1 + view)
    }

    /// Caption of identity `index` with [`Words::All`]; every `number` is worded anew.
    pub fn caption(&self, index: u64, number: u64) -> String {
        self.caption_with(index, number, Words::All)
    }

    /// Caption of identity `index` that keeps to `words`.
    pub fn caption_with(&self, index: u64, number: u64, words: Words) -> String {
        caption_with(&self.person(index), words, &mut stream(self.seed, index, CAPTION_STREAM + number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_picture_and_words() {
        let (a, b) = (Corpus::new(5), Corpus::new(5));
        for index in 0..6 {
            assert_eq!(a.picture(index, 1).as_raw(), b.picture(index, 1).as_raw());
            assert_eq!(a.caption(index, 0), b.caption(index, 0));
        }
        assert_ne!(a.picture(0, 0).as_raw(), a.picture(0, 1).as_raw());
        assert_ne!(a.person(0), Corpus::new(6).person(0));
    }

    #[test]
    fn no_person_of_one_seed_is_in_another() {
        let (training, test) = (Corpus::new(1), Corpus::new(999));
        let known: std::collections::BTreeSet<u32> = (0..2048).map(|i| training.person(i).texture_seed).collect();
        let shared = (0..1000).filter(|&i| known.contains(&test.person(i).texture_seed)).count();
        assert_eq!(shared, 0);
    }

    #[test]
    fn siblings_differ_a_little() {
        let corpus = Corpus::new(1);
        for index in (3..400).step_by(4) {
            let (one, other) = (corpus.person(index - 1), corpus.person(index));
            assert_ne!(one, other);
            assert_eq!(one.skin, other.skin);
        }
    }

    /// Whether `text` contains `phrase` as whole words.
    fn says(text: &str, phrase: &str) -> bool {
        format!(" {} ", text.to_lowercase().replace([',', '.'], "")).contains(&format!(" {phrase} "))
    }

    #[test]
    fn held_out_words_are_kept_out_of_training_and_make_up_the_test() {
        let corpus = Corpus::new(4);
        let palettes = colour::GARMENT_COLOURS.iter().chain(&colour::DENIM_COLOURS).chain(&colour::HAIR_COLOURS);
        let mut kept: Vec<&str> = palettes.flat_map(|named| named.held_out.iter().copied()).collect();
        kept.extend(["tee", "pullover", "anorak", "overcoat", "slacks", "joggers", "rucksack", "satchel", "tote bag"]);
        kept.extend(["fedora", "woolly hat", "frizzy", "tartan", "lettering", "smartphone", "spectacles", "denims"]);
        let mut tested = 0;
        for index in 0..400 {
            let seen = corpus.caption_with(index, 1, Words::Seen);
            for word in &kept {
                assert!(!says(&seen, word), "{word:?} in {seen:?}");
            }
            let unseen = corpus.caption_with(index, 1, Words::HeldOut);
            tested += usize::from(kept.iter().any(|word| says(&unseen, word)));
        }
        assert!(tested > 380, "only {tested} of 400 test captions use a held-out word");
    }

    #[test]
    fn captions_are_clean_sentences() {
        let corpus = Corpus::new(2);
        for index in 0..500 {
            let words = [Words::All, Words::Seen, Words::HeldOut][index as usize % 3];
            let text = corpus.caption_with(index, index, words);
            assert!(text.split_whitespace().count() >= 2, "{text}");
            assert!(!text.contains("  ") && !text.contains(" ,") && !text.contains(" ."), "{text}");
            for wrong in [" a a", " an a ", " a o", " a i", " with with ", " and and "] {
                assert!(!text.contains(wrong), "{text}");
            }
        }
    }

    #[test]
    fn pictures_are_crop_sized_and_not_flat() {
        let corpus = Corpus::new(9);
        for index in 0..40 {
            let picture = corpus.picture(index, 0);
            assert!((60..=400).contains(&picture.height()) && picture.width() >= 20);
            let (low, high) = picture.as_raw().iter().fold((255u8, 0u8), |(l, h), &v| (l.min(v), h.max(v)));
            assert!(high - low > 40, "identity {index}: {low}..{high}");
        }
    }
}
