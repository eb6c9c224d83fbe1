//! Strong augmentation of training pictures: imitates what cameras, distance, night and compression
//! do to pictures of a person.
//!
//! A few hundred real persons are seen hundreds of times each, so no two views of a person may be
//! alike. The steps are, in this order: a window of the picture (sometimes without the legs),
//! distance (scaled down and up again), blur, light with its colour, noise, JPEG, and an erased
//! rectangle, as if something stood in front.

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageFormat};
use rand::Rng;
use rand::rngs::StdRng;

use sightline_core::RgbImage;
use sightline_embed::model::Preprocess;
use sightline_embed::preprocess::{Filter, normalize, resize};

/// Probabilities of each change.
mod share {
    pub const MIRROR: f32 = 0.5;
    pub const NO_LEGS: f32 = 0.12;
    pub const DISTANCE: f32 = 0.5;
    pub const BLUR: f32 = 0.25;
    pub const NIGHT: f32 = 0.08;
    pub const GREY: f32 = 0.02;
    pub const NOISE: f32 = 0.3;
    pub const JPEG: f32 = 0.5;
    pub const ERASE: f32 = 0.25;
}

/// Writes an augmented, normalised picture to `out`, planar f32 `[3, height, width]`; `bytes` are
/// RGB, row-major.
pub(super) fn strong(bytes: &[u8], size: [usize; 2], prep: &Preprocess, out: &mut [f32], rng: &mut StdRng) {
    let mut picture = window(bytes, size, rng);
    if chance(rng, share::DISTANCE) {
        picture = from_afar(&picture, size, rng);
    }
    if chance(rng, share::BLUR) {
        blur(&mut picture, size, chance(rng, 0.5));
    }
    light(&mut picture, rng);
    if chance(rng, share::NOISE) {
        noise(&mut picture, rng);
    }
    if chance(rng, share::JPEG) {
        picture = compressed(picture, size, rng);
    }
    if chance(rng, share::ERASE) {
        erase(&mut picture, size, rng);
    }
    normalize(&picture, prep, out);
}

fn chance(rng: &mut StdRng, share: f32) -> bool {
    rng.random::<f32>() < share
}

fn between(rng: &mut StdRng, low: f32, high: f32) -> f32 {
    low + (high - low) * rng.random::<f32>()
}

/// A window of the picture at the same size: shifted, scaled, perhaps mirrored, perhaps cut below
/// the hips. Beyond the edges, the outermost pixels are repeated.
fn window(bytes: &[u8], [h, w]: [usize; 2], rng: &mut StdRng) -> Vec<u8> {
    let mirror = chance(rng, share::MIRROR);
    let bottom = if chance(rng, share::NO_LEGS) { between(rng, 0.5, 0.85) } else { between(rng, 0.94, 1.06) };
    let (top, left, right) = (between(rng, -0.06, 0.06), between(rng, -0.1, 0.1), between(rng, 0.9, 1.1));
    let mut out = Vec::with_capacity(bytes.len());
    let place = |i: usize, n: usize, from: f32, to: f32| {
        let at = ((from + (to - from) * (i as f32 + 0.5) / n as f32) * n as f32 - 0.5).clamp(0.0, n as f32 - 1.001);
        (at as usize, at.fract())
    };
    for y in 0..h {
        let (y0, ty) = place(y, h, top, bottom);
        for x in 0..w {
            let (x0, tx) = place(if mirror { w - 1 - x } else { x }, w, left, right);
            for c in 0..3 {
                let pixel =
                    |dy: usize, dx: usize| f32::from(bytes[((y0 + dy).min(h - 1) * w + (x0 + dx).min(w - 1)) * 3 + c]);
                let above = pixel(0, 0) * (1.0 - tx) + pixel(0, 1) * tx;
                let below = pixel(1, 0) * (1.0 - tx) + pixel(1, 1) * tx;
                out.push((above * (1.0 - ty) + below * ty + 0.5) as u8);
            }
        }
    }
    out
}

/// Scales the picture to a height of 40 to 150 pixels, as seen from a distance, and back.
fn from_afar(picture: &[u8], [h, w]: [usize; 2], rng: &mut StdRng) -> Vec<u8> {
    let small = between(rng, 40f32.ln(), 150f32.ln()).exp().min(h as f32);
    let (sh, sw) = (small as usize, ((small * w as f32 / h as f32) as usize).max(8));
    let scaled = |bytes: &[u8], [h, w]: [usize; 2], width: usize, height: usize| {
        let image = RgbImage::new(w as u32, h as u32, bytes).ok()?;
        resize(&image, width, height, Filter::Bilinear).ok()
    };
    let there = scaled(picture, [h, w], sw, sh);
    there.and_then(|small| scaled(&small, [sh, sw], w, h)).unwrap_or_else(|| picture.to_vec())
}

/// Blurs with a mean over five pixels across (motion), or over three by three pixels.
fn blur(picture: &mut Vec<u8>, [h, w]: [usize; 2], motion: bool) {
    let (reach_y, reach_x) = if motion { (0, 2) } else { (1, 1) };
    let mut out = Vec::with_capacity(picture.len());
    for y in 0..h {
        for x in 0..w {
            let (lines, columns) = (
                y.saturating_sub(reach_y)..=(y + reach_y).min(h - 1),
                x.saturating_sub(reach_x)..=(x + reach_x).min(w - 1),
            );
            let count = (lines.clone().count() * columns.clone().count()) as u32;
            for c in 0..3 {
                let sum: u32 = lines
                    .clone()
                    .flat_map(|y| columns.clone().map(move |x| (y, x)))
                    .map(|(y, x)| u32::from(picture[(y * w + x) * 3 + c]))
                    .sum();
                out.push((sum / count) as u8);
            }
        }
    }
    *picture = out;
}

/// Changes exposure, contrast and the colour of the light; sometimes imitates night or a camera
/// without colours.
fn light(picture: &mut [u8], rng: &mut StdRng) {
    let night = chance(rng, share::NIGHT);
    let grey = chance(rng, share::GREY);
    let all = if night { between(rng, 0.25, 0.55) } else { between(rng, 0.8, 1.25) };
    let gain = [0; 3].map(|_| all * between(rng, 0.93, 1.07));
    let (contrast, lift) = (between(rng, 0.85, 1.15), between(rng, -12.0, 12.0));
    for pixel in picture.as_chunks_mut::<3>().0 {
        let mean = (u32::from(pixel[0]) * 3 + u32::from(pixel[1]) * 6 + u32::from(pixel[2])) as f32 / 10.0;
        for (value, gain) in pixel.iter_mut().zip(gain) {
            let x = if grey { mean } else { f32::from(*value) };
            *value = (((x - 128.0) * contrast + 128.0) * gain + lift).clamp(0.0, 255.0) as u8;
        }
    }
}

fn noise(picture: &mut [u8], rng: &mut StdRng) {
    let spread = between(rng, 2.0, 14.0);
    for value in picture {
        // The sum of two draws has a triangular distribution, which is close enough to a sensor's
        // noise.
        let error = (rng.random::<f32>() + rng.random::<f32>() - 1.0) * spread;
        *value = (f32::from(*value) + error).clamp(0.0, 255.0) as u8;
    }
}

/// Compresses the picture as JPEG with a quality of 25 to 85 and decodes it again.
fn compressed(picture: Vec<u8>, [h, w]: [usize; 2], rng: &mut StdRng) -> Vec<u8> {
    let quality = rng.random_range(25..=85);
    let mut jpeg = Vec::new();
    let encoded =
        JpegEncoder::new_with_quality(&mut jpeg, quality).encode(&picture, w as u32, h as u32, ExtendedColorType::Rgb8);
    let decoded = encoded.and_then(|()| image::load_from_memory_with_format(&jpeg, ImageFormat::Jpeg));
    decoded.map_or(picture, |decoded| decoded.into_rgb8().into_raw())
}

/// Fills a rectangle with one colour, as if something stood in front of the person.
fn erase(picture: &mut [u8], [h, w]: [usize; 2], rng: &mut StdRng) {
    let (eh, ew) = ((between(rng, 0.05, 0.35) * h as f32) as usize, (between(rng, 0.1, 0.5) * w as f32) as usize);
    let (top, left) = (rng.random_range(0..=h - eh), rng.random_range(0..=w - ew));
    let colour: [u8; 3] = rng.random();
    for line in picture.chunks_exact_mut(w * 3).skip(top).take(eh) {
        line[left * 3..][..ew * 3].as_chunks_mut::<3>().0.fill(colour);
    }
}
