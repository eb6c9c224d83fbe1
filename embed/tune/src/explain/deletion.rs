//! Deletion: the model's logits of a picture in which patches are blanked.

use std::ops::Range;

use rand::Rng;

use super::super::Result;
use sightline_core::RgbImage;
use sightline_embed::model::Grid;
use sightline_embed::{EmbedError, ImageFeatures, Model, TextQuery};

/// One of this many patches is blanked.
const BLANKED: usize = 8;
/// Number of random sets of patches per picture.
const RANDOM: usize = 4;
/// Pictures encoded at once.
const BATCH: usize = 16;

/// Number of patches to blank of `patches`.
pub(super) fn count(patches: usize) -> usize {
    (patches / BLANKED).max(1)
}

/// The `count` patches with the largest weights, the largest first; among equal weights, patches
/// further up and to the left come first.
pub(super) fn strongest(weights: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]));
    order.truncate(count);
    order
}

/// Fills `patches` of `grid` in `picture` with its mean colour.
fn blanked(picture: &RgbImage, grid: Grid, patches: &[usize]) -> Result<RgbImage> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let mut pixels: Vec<[u8; 3]> =
        (0..picture.height()).flat_map(|y| picture.row(y).as_chunks::<3>().0.iter().copied()).collect();
    let mean = std::array::from_fn(|channel| {
        let sum: u64 = pixels.iter().map(|pixel| u64::from(pixel[channel])).sum();
        (sum / pixels.len().max(1) as u64) as u8
    });
    for (at, pixel) in pixels.iter_mut().enumerate() {
        let (x, y) = (at % width, at / width);
        if patches.contains(&((y * grid.rows / height) * grid.cols + x * grid.cols / width)) {
            *pixel = mean;
        }
    }
    let (width, height) = (picture.width(), picture.height());
    RgbImage::new(width, height, pixels.concat()).map_err(|_| EmbedError::EmptyImage { width, height }.into())
}

/// One picture and one query, to be scored with patches blanked.
pub(super) struct Deletion<'a> {
    model: &'a Model,
    query: &'a TextQuery,
    pieces: &'a [Range<usize>],
    picture: &'a RgbImage,
    grid: Grid,
}

impl<'a> Deletion<'a> {
    /// Prepares deletion for the phrases at `pieces` of `query`.
    pub fn new(
        model: &'a Model,
        query: &'a TextQuery,
        pieces: &'a [Range<usize>],
        picture: &'a RgbImage,
        grid: Grid,
    ) -> Self {
        Self { model, query, pieces, picture, grid }
    }

    /// Number of patches to blank.
    pub fn count(&self) -> usize {
        count(self.grid.len())
    }

    /// Draws random sets of patches.
    pub fn random(&self, rng: &mut impl Rng) -> Vec<Vec<usize>> {
        (0..RANDOM).map(|_| rand::seq::index::sample(rng, self.grid.len(), self.count()).into_vec()).collect()
    }

    /// For each of the `sets` of blanked patches: the logit of every phrase, then the match logit.
    pub fn logits<T: AsRef<[usize]>>(&self, sets: &[T]) -> Result<Vec<Vec<f32>>> {
        let mut all = Vec::with_capacity(sets.len());
        for sets in sets.chunks(BATCH) {
            let blank = |set: &T| blanked(self.picture, self.grid, set.as_ref());
            let pictures = sets.iter().map(blank).collect::<Result<Vec<_>>>()?;
            let features = self.model.embed_images(&pictures)?;
            let patches: Vec<_> = features.iter().map(|features| features.patches.clone()).collect();
            let (whole, phrases) = self.model.match_and_phrase_logits(self.query, self.pieces, &patches)?;
            for (at, (whole, features)) in whole.iter().zip(&features).enumerate() {
                let locals = phrases.iter().skip(at * self.pieces.len()).zip(self.pieces);
                let mut logits: Vec<f32> =
                    locals.map(|(local, pieces)| self.phrase(*local, pieces, features)).collect();
                logits.push(whole[1] - whole[0]);
                all.push(logits);
            }
        }
        Ok(all)
    }

    /// Logit that a phrase is true: the served log-odds if the model is calibrated for phrases,
    /// otherwise the logit of the local head.
    fn phrase(&self, [no, yes]: [f32; 2], pieces: &Range<usize>, features: &ImageFeatures) -> f32 {
        let known = self.model.info().calibration.phrases.as_ref();
        let phrase = self.query.phrases.iter().find(|phrase| phrase.pieces == *pieces);
        let Some((known, phrase)) = known.zip(phrase) else { return yes - no };
        let cosine: f32 = features.feature.iter().zip(&phrase.feature).map(|(a, b)| a * b).sum();
        known.log_odds(cosine, [no, yes], known.typical(&phrase.feature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_come_first() {
        assert_eq!(strongest(&[0.1, 0.4, 0.1, 0.4], 3), [1, 3, 0]);
        assert_eq!((count(32), count(5)), (4, 1));
    }

    #[test]
    fn blanked_patches_get_the_mean_colour_and_no_other() {
        let pixels: Vec<u8> = (0..6 * 4 * 3).map(|i| if i % 3 == 0 { 60 } else { (i % 24) as u8 }).collect();
        let picture = RgbImage::new(4, 6, pixels).expect("fits");
        let grid = Grid { rows: 3, cols: 2 };
        let blank = blanked(&picture, grid, &[1, 4]).expect("a picture");
        let pixel = |picture: &RgbImage, x: usize, y: u32| picture.row(y)[x * 3..x * 3 + 3].to_vec();
        for (y, x) in (0..6).flat_map(|y| (0..4).map(move |x| (y, x))) {
            let gone = (y / 2 == 0 && x >= 2) || (y / 2 == 2 && x < 2);
            let (before, after) = (pixel(&picture, x, y), pixel(&blank, x, y));
            if gone {
                assert_eq!(after[0], 60)
            } else {
                assert_eq!(before, after)
            }
            assert!(!gone || after == pixel(&blank, 3, 0), "{x} {y}: {after:?}");
        }
    }
}
