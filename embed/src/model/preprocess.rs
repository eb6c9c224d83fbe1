//! Preprocessing: turns pixels of any size into the model's input, bit for bit as the reference
//! does.
//!
//! The reference resizes with Pillow, whose 8-bit resampling works in two passes (across, then
//! down), with fixed-point weights and rounding to bytes after each. A float resize differs by up
//! to one level, which is enough to move features away from those of the authors' checkpoints. This
//! code therefore follows the integer recipe exactly.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sightline_core::RgbImage;

use crate::EmbedError;
use crate::model::Preprocess;

/// Resampling filter, widened when a picture shrinks (antialiasing).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// Triangle: what the reference uses.
    #[default]
    Bilinear,
    /// Keys' cubic with a = -0.5.
    Bicubic,
}

impl Filter {
    /// Half width in source pixels at scale 1.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// Fractional bits of a weight: 32 less 8 for the pixel and 2 for overshoot and sign.
const BITS: u32 = 22;

/// First source pixel and fixed-point weights of one target pixel.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

fn windows(source: usize, target: usize, filter: Filter) -> Vec<Window> {
    let scale = source as f64 / target as f64;
    let wide = scale.max(1.0);
    let support = filter.support() * wide;
    (0..target)
        .map(|i| {
            let centre = (i as f64 + 0.5) * scale;
            // Truncation towards zero, as the C code does.
            let first = ((centre - support + 0.5) as i64).max(0) as usize;
            let end = ((centre + support + 0.5) as usize).min(source);
            let float: Vec<f64> = (first..end).map(|x| filter.at((x as f64 - centre + 0.5) * (1.0 / wide))).collect();
            let total: f64 = float.iter().sum();
            let fixed = |w: &f64| {
                let w = if total == 0.0 { *w } else { *w / total };
                // f64::round is half away from zero.
                (w * f64::from(1u32 << BITS)).round() as i32
            };
            Window { first, weights: float.iter().map(fixed).collect() }
        })
        .collect()
}

fn byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (BITS - 1);

/// Squashes `image` to `width` x `height` (aspect not kept); RGB bytes, row-major.
///
/// # Errors
/// An image or a target without a pixel.
pub fn resize(image: &RgbImage, width: usize, height: usize, filter: Filter) -> Result<Vec<u8>, EmbedError> {
    let (w, h) = (image.width() as usize, image.height() as usize);
    if w == 0 || h == 0 || width == 0 || height == 0 {
        return Err(EmbedError::EmptyImage { width: image.width(), height: image.height() });
    }
    let columns = windows(w, width, filter);
    let mut across = Vec::with_capacity(width * h * 3);
    for y in 0..h {
        let row = image.row(y as u32);
        for window in &columns {
            let mut sums = [HALF; 3];
            for (pixel, weight) in row[window.first * 3..].chunks_exact(3).zip(&window.weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*value) * weight;
                }
            }
            across.extend(sums.map(byte));
        }
    }
    let stride = width * 3;
    let mut out = Vec::with_capacity(stride * height);
    let mut sums = vec![HALF; stride];
    for window in windows(h, height, filter) {
        sums.fill(HALF);
        for (row, weight) in across[window.first * stride..].chunks_exact(stride).zip(&window.weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        out.extend(sums.iter().map(|s| byte(*s)));
    }
    Ok(out)
}

/// RGB bytes of one picture -> (value / 255 - mean) / std, planar `[3, height, width]`, into `out`.
///
/// # Panics
/// When `out` is not as long as `rgb`.
pub fn normalize(rgb: &[u8], preprocess: &Preprocess, out: &mut [f32]) {
    assert_eq!(rgb.len(), out.len(), "one number a byte");
    let plane = (rgb.len() / 3).max(1);
    for (channel, out) in out.chunks_exact_mut(plane).enumerate().take(3) {
        let (mean, std) = (preprocess.mean[channel], preprocess.std[channel]);
        let table: [f32; 256] = std::array::from_fn(|v| (v as f32 / 255.0 - mean) / std);
        for (out, pixel) in out.iter_mut().zip(rgb.as_chunks::<3>().0) {
            *out = table[usize::from(pixel[channel])];
        }
    }
}

/// RGB bytes of pictures of one size -> `[pictures, 3, height, width]`, see [`normalize`].
pub fn normalize_all<T: AsRef<[u8]>>(pictures: &[T], preprocess: &Preprocess) -> Vec<f32> {
    let each = pictures.first().map_or(0, |p| p.as_ref().len());
    let mut values = vec![0f32; pictures.len() * each];
    for (picture, out) in pictures.iter().zip(values.chunks_exact_mut(each.max(1))) {
        normalize(picture.as_ref(), preprocess, out);
    }
    values
}

/// Pictures of any size -> the model's input `[batch, 3, height, width]`, row-major.
///
/// # Errors
/// An image without a pixel.
pub fn pixel_values(
    images: &[RgbImage],
    [height, width]: [usize; 2],
    preprocess: &Preprocess,
) -> Result<Vec<f32>, EmbedError> {
    let resized: Vec<Vec<u8>> =
        images.par_iter().map(|i| resize(i, width, height, preprocess.filter)).collect::<Result<_, _>>()?;
    Ok(normalize_all(&resized, preprocess))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_flat_image_stays_flat(w in 1u32..70, h in 1u32..70, tw in 1usize..70, th in 1usize..70, v: [u8; 3]) {
            let image = RgbImage::new(w, h, v.repeat((w * h) as usize)).expect("fits");
            for filter in [Filter::Bilinear, Filter::Bicubic] {
                let out = resize(&image, tw, th, filter).expect("not empty");
                prop_assert_eq!(out, v.repeat(tw * th));
            }
        }

        #[test]
        fn the_same_size_changes_nothing(w in 1u32..40, h in 1u32..40, seed: u64) {
            let data: Vec<u8> = (0..u64::from(w * h * 3)).map(|i| (i.wrapping_mul(seed | 1) >> 24) as u8).collect();
            let image = RgbImage::new(w, h, data.clone()).expect("fits");
            prop_assert_eq!(resize(&image, w as usize, h as usize, Filter::Bilinear).expect("not empty"), data);
        }
    }

    #[test]
    fn an_image_without_a_pixel_is_an_error() {
        let image = RgbImage::new(0, 5, Vec::new()).expect("a picture without a pixel");
        assert!(matches!(resize(&image, 4, 4, Filter::Bilinear), Err(EmbedError::EmptyImage { width: 0, height: 5 })));
    }
}
