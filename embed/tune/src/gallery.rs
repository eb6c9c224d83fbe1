//! A gallery: pictures and captions of one split, each with its identity. Pictures are decoded or
//! drawn on demand, so that a gallery of any size fits in memory.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sightline_core::RgbImage;

use super::dataset::Entry;
use super::facts::Facts;
use super::{Result, TrainError};
use sightline_embed::model::Preprocess;
use sightline_embed::preprocess::{Filter, pixel_values, resize};
use sightline_embed::{EmbedError, decode_image};
use sightline_figures::{Corpus, Words};

/// Where a picture comes from.
#[derive(Debug, Clone)]
enum Picture {
    File(PathBuf),
    Drawn { corpus: Corpus, identity: u64, view: u64 },
}

impl Picture {
    fn load(&self) -> Result<RgbImage> {
        match self {
            Self::File(path) => read_picture(path),
            Self::Drawn { corpus, identity, view } => drawn_picture(corpus, *identity, *view),
        }
    }
}

/// Reads and decodes the picture in the file `path`.
///
/// # Errors
/// A file that cannot be read or is not a picture; the error names it.
pub fn read_picture(path: &Path) -> Result<RgbImage> {
    let bytes = std::fs::read(path).map_err(TrainError::io(path))?;
    decode_image(&bytes).map_err(|e| TrainError::content(path, e))
}

/// Draws picture `view` of person `identity`.
///
/// # Errors
/// A picture without pixels.
pub(super) fn drawn_picture(corpus: &Corpus, identity: u64, view: u64) -> Result<RgbImage> {
    let drawn = corpus.picture(identity, view);
    let (width, height) = drawn.dimensions();
    RgbImage::new(width, height, drawn.into_raw()).map_err(|_| EmbedError::EmptyImage { width, height }.into())
}

/// Pictures and captions with their identities.
#[derive(Debug, Clone, Default)]
pub struct Gallery {
    pictures: Vec<Picture>,
    /// Identity of every picture.
    pub image_ids: Vec<u32>,
    /// All captions.
    pub captions: Vec<String>,
    /// Identity of every caption.
    pub text_ids: Vec<u32>,
    /// Number of captions left out because the same person already has the same one.
    pub repeated: usize,
}

/// Default number of texts in a query bank.
pub const QUERY_BANK_TEXTS: usize = 2000;

/// Number of the caption of a drawn person that evaluation uses; training draws its captions from
/// other streams.
const EVALUATION_CAPTION: u64 = 5;

/// Multiplier of Fibonacci hashing: the prime nearest to 2^32 divided by the golden ratio.
const HASH_MULTIPLIER: u32 = 2_654_435_761;

/// Whether identity `id` belongs to the first of two pseudo-random halves of all persons.
pub(super) fn in_first_half(id: u32) -> bool {
    id.wrapping_mul(HASH_MULTIPLIER) >> 31 == 0
}

impl Gallery {
    /// All pictures of `entries`, and all their captions. A caption that several pictures of a
    /// person share is one text, since repeats would give it more weight.
    pub fn of_entries(entries: Vec<Entry>) -> Self {
        let mut all = Self::default();
        let mut known = HashSet::new();
        for entry in entries {
            all.pictures.push(Picture::File(entry.path));
            all.image_ids.push(entry.identity);
            for caption in entry.captions {
                if known.insert((entry.identity, caption.clone())) {
                    all.captions.push(caption);
                    all.text_ids.push(entry.identity);
                } else {
                    all.repeated += 1;
                }
            }
        }
        all
    }

    /// The same pictures with `texts` that describe nobody in particular (identity 0).
    pub fn with_texts(&self, texts: Vec<String>) -> Self {
        let text_ids = vec![0; texts.len()];
        Self { captions: texts, text_ids, repeated: 0, ..self.clone() }
    }

    /// Facts about the person in each drawn picture; `None` for files.
    pub fn drawn_facts(&self) -> Vec<Option<Facts>> {
        let facts = |picture: &Picture| match picture {
            Picture::File(_) => None,
            Picture::Drawn { corpus, identity, .. } => Some(Facts::of_drawn(&corpus.person(*identity))),
        };
        self.pictures.iter().map(facts).collect()
    }

    /// `views` pictures and one caption of each of the drawn persons `identities`.
    pub fn drawn(corpus: &Corpus, identities: Range<u64>, views: u64, words: Words) -> Self {
        let mut all = Self::default();
        for identity in identities {
            for view in 0..views {
                all.pictures.push(Picture::Drawn { corpus: corpus.clone(), identity, view });
                all.image_ids.push(identity as u32);
            }
            all.captions.push(corpus.caption_with(identity, EVALUATION_CAPTION, words));
            all.text_ids.push(identity as u32);
        }
        all
    }

    /// Texts of a query bank: `count` captions of drawn persons that are neither among the first
    /// `identities` nor siblings of one.
    pub fn query_bank_texts(corpus: &Corpus, identities: u64, count: u64, words: Words) -> Vec<String> {
        let first = identities.next_multiple_of(4);
        (first..first + count).map(|identity| corpus.caption_with(identity, EVALUATION_CAPTION, words)).collect()
    }

    /// Texts of a query bank: at most `count` captions of `entries`, evenly spaced.
    pub fn query_bank_texts_of(entries: &[Entry], count: usize) -> Vec<String> {
        let all: Vec<&String> = entries.iter().flat_map(|entry| &entry.captions).collect();
        let count = count.min(all.len());
        (0..count).map(|i| all[i * all.len() / count].clone()).collect()
    }

    /// Number of identities that have a picture.
    pub fn identities(&self) -> usize {
        self.image_ids.iter().collect::<HashSet<_>>().len()
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.pictures.len()
    }

    /// Whether the gallery has no pictures.
    pub fn is_empty(&self) -> bool {
        self.pictures.is_empty()
    }

    /// Decodes or draws a range of pictures, on every core.
    ///
    /// # Errors
    /// A file that cannot be read or decoded; the error names it.
    pub fn pictures(&self, range: Range<usize>) -> Result<Vec<RgbImage>> {
        self.pictures[range].par_iter().map(Picture::load).collect()
    }

    /// A range of pictures resized to `[height, width]` without keeping the aspect: RGB bytes,
    /// row-major.
    ///
    /// # Errors
    /// The errors of [`Gallery::pictures`].
    pub fn squashed(&self, range: Range<usize>, [height, width]: [usize; 2]) -> Result<Vec<Vec<u8>>> {
        let squash = |picture: &RgbImage| Ok(resize(picture, width, height, Filter::Bilinear)?);
        self.pictures(range)?.par_iter().map(squash).collect()
    }

    /// Normalised pixels `[n, 3, H, W]`, f32, of a range of pictures, preprocessed as in serving.
    ///
    /// # Errors
    /// The errors of [`Gallery::pictures`].
    pub fn pixels(&self, range: Range<usize>, size: [usize; 2], prep: &Preprocess) -> Result<Vec<f32>> {
        Ok(pixel_values(&self.pictures(range)?, size, prep)?)
    }

    /// Splits into two galleries that share no identity, to fit on one and measure on the other.
    /// The half of an identity depends only on its number.
    pub fn halves(self) -> (Self, Self) {
        (self.only(in_first_half), self.only(|id| !in_first_half(id)))
    }

    fn only(&self, keep: impl Fn(u32) -> bool) -> Self {
        let mut some = Self::default();
        for (picture, id) in self.pictures.iter().zip(&self.image_ids).filter(|(_, id)| keep(**id)) {
            some.pictures.push(picture.clone());
            some.image_ids.push(*id);
        }
        for (caption, id) in self.captions.iter().zip(&self.text_ids).filter(|(_, id)| keep(**id)) {
            some.captions.push(caption.clone());
            some.text_ids.push(*id);
        }
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_share_no_identity_and_lose_none() {
        let all = Gallery::drawn(&Corpus::new(3), 0..200, 2, Words::All);
        let (total, texts) = (all.len(), all.captions.len());
        let (a, b) = all.halves();
        assert_eq!((a.len() + b.len(), a.captions.len() + b.captions.len()), (total, texts));
        assert!(a.image_ids.iter().chain(&a.text_ids).all(|id| !b.image_ids.contains(id) && !b.text_ids.contains(id)));
        assert!(a.len() > total / 4 && b.len() > total / 4);
        assert_eq!((a.identities() + b.identities(), a.identities() * 2), (200, a.len()));
    }

    #[test]
    fn a_bank_is_of_other_persons_and_evenly_spaced() {
        let corpus = Corpus::new(3);
        let bank = Gallery::query_bank_texts(&corpus, 10, 4, Words::All);
        let of = |identity| corpus.caption_with(identity, EVALUATION_CAPTION, Words::All);
        assert_eq!(bank, [of(12), of(13), of(14), of(15)]);
        let entry = |i: u32| Entry { path: "x".into(), identity: i, captions: vec![format!("{i}a"), format!("{i}b")] };
        let entries: Vec<Entry> = (0..3).map(entry).collect();
        assert_eq!(Gallery::query_bank_texts_of(&entries, 3), ["0a", "1a", "2a"]);
        assert_eq!(Gallery::query_bank_texts_of(&entries, 99).len(), 6);
        assert!(Gallery::query_bank_texts_of(&[], 5).is_empty());
    }

    #[test]
    fn a_text_of_a_person_is_counted_once() {
        let entry = |identity, captions: [&str; 2]| Entry {
            path: "x".into(),
            identity,
            captions: captions.map(str::to_owned).to_vec(),
        };
        let pictures = [["a man", "red"], ["a man", "blue"]].map(|captions| entry(1, captions));
        let all = Gallery::of_entries([pictures.to_vec(), vec![entry(2, ["a man", "a man"])]].concat());
        assert_eq!(all.captions, ["a man", "red", "blue", "a man"]);
        assert_eq!((all.text_ids.as_slice(), all.image_ids.as_slice()), (&[1, 1, 1, 2][..], &[1, 1, 2][..]));
        assert_eq!(all.repeated, 2);
    }

    #[test]
    fn a_picture_that_is_gone_is_named() {
        let entry = Entry { path: "no/such.jpg".into(), identity: 1, captions: vec!["a man".into()] };
        let gallery = Gallery::of_entries(vec![entry]);
        let e = gallery.pictures(0..1).expect_err("gone").to_string();
        assert!(e.contains("no/such.jpg"), "{e}");
    }
}
