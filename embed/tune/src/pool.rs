//! Drawn training pictures: each is drawn at its first use and kept in memory at the model's size.
//!
//! Drawing a person costs a few milliseconds and a training step reads tens of them, again and
//! again, so each picture is drawn once and kept as bytes (55 KB at 192 x 96). Captions of drawn
//! persons are generated anew for every use.

use std::sync::OnceLock;

use image::RgbImage;
use rayon::prelude::*;

use super::attributes::{self, Labels};
use sightline_embed::EmbedError;
use sightline_embed::preprocess::{Filter, resize};
use sightline_figures::{Corpus, Words};

/// Drawn identities with `views` pictures each.
pub struct Pool {
    /// Generator of persons, pictures and captions.
    pub corpus: Corpus,
    /// Number of the first identity in the corpus.
    pub first: u64,
    /// Number of identities.
    pub identities: u64,
    /// Pictures per identity.
    pub views: u64,
    /// Height and width of the pictures in pixels.
    pub size: [usize; 2],
    /// Vocabulary of the captions.
    pub words: Words,
    /// Share of the captions that are generated from facts, like those of labelled people, so that
    /// it is known which persons they are true of. The corpus generates the other captions.
    pub described: f32,
    pictures: Vec<OnceLock<Box<[u8]>>>,
    labels: Vec<OnceLock<Labels>>,
}

/// Resizes a picture to `[height, width]` without keeping the aspect, as in serving. Returns RGB
/// bytes, row-major.
///
/// # Errors
/// A picture without pixels.
pub fn squash(picture: &RgbImage, [height, width]: [usize; 2]) -> Result<Vec<u8>, EmbedError> {
    let bytes = picture.as_raw().as_slice();
    let empty = |_| EmbedError::EmptyImage { width: picture.width(), height: picture.height() };
    let picture = sightline_core::RgbImage::new(picture.width(), picture.height(), bytes).map_err(empty)?;
    resize(&picture, width, height, Filter::Bilinear)
}

impl Pool {
    /// Creates a pool of the identities `first..first + identities`, none of them drawn yet.
    pub fn new(corpus: Corpus, first: u64, identities: u64, views: u64, size: [usize; 2]) -> Self {
        let pictures = (0..identities * views).map(|_| OnceLock::new()).collect();
        let labels = (0..identities).map(|_| OnceLock::new()).collect();
        Self { corpus, first, identities, views, size, words: Words::All, described: 0.0, pictures, labels }
    }

    /// Draws all pictures on every core; `progress` is called with the number of finished
    /// identities.
    pub fn draw_all(&self, progress: impl Fn(u64) + Sync) {
        let done = std::sync::atomic::AtomicU64::new(0);
        (0..self.identities).into_par_iter().for_each(|index| {
            (0..self.views).for_each(|view| {
                self.picture(index, view);
            });
            progress(done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1);
        });
    }

    /// Attributes of the `index`th identity.
    pub fn labels_of(&self, index: usize) -> &Labels {
        self.labels[index].get_or_init(|| attributes::labels(&self.corpus.person(self.first + index as u64)))
    }

    /// Bytes of picture `view` of the `index`th identity, row-major RGB.
    pub fn picture(&self, index: u64, view: u64) -> &[u8] {
        self.pictures[(index * self.views + view) as usize].get_or_init(|| {
            // Drawn pictures always have pixels; a picture without any would become black.
            let black = || vec![0; self.size[0] * self.size[1] * 3];
            squash(&self.corpus.picture(self.first + index, view), self.size)
                .unwrap_or_else(|_| black())
                .into_boxed_slice()
        })
    }
}
