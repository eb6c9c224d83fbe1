//! Camera: from linear light to a stored crop, by exposure, colour cast, haze, blur, sensor noise,
//! video compression, sharpening and JPEG.
//!
//! Each step is drawn per picture, because a model that sees one camera only learns its colours.

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, RgbImage};
use rand::Rng;

use super::raster::{Canvas, cell_noise};
use crate::random::{between, chance};

/// Averages `canvas` down to `width` x `height` pixels and degrades it as a surveillance camera
/// does.
pub(crate) fn expose(canvas: &Canvas, width: usize, height: usize, rng: &mut impl Rng) -> RgbImage {
    let mut linear = downsample(canvas, width, height);
    let mean: f32 = linear.iter().map(|c| (c[0] + c[1] + c[2]) / 3.0).sum::<f32>() / linear.len() as f32;
    let target = between(rng, 0.1, 0.34);
    let automatic = (target / mean.max(0.02)).clamp(0.45, 2.4);
    let gain = automatic.powf(between(rng, 0.2, 0.9)) * between(rng, 0.8, 1.2);
    let cast = if chance(rng, 0.3) { 0.22 } else { 0.08 };
    let warm = between(rng, -cast, cast);
    let green = between(rng, -0.3, 0.3) * cast;
    let balance = [gain * (1.0 + warm), gain * (1.0 + green), gain * (1.0 - warm)];
    let haze = if chance(rng, 0.2) { between(rng, 0.03, 0.2) } else { between(rng, 0.0, 0.015) };
    let saturation = between(rng, 0.65, 1.25);
    let contrast = between(rng, 0.8, 1.3);
    let gamma = 1.0 / between(rng, 1.9, 2.5);
    // Tone curve over 0..1.5 of linear light.
    let curve: Vec<f32> = (0..=1024)
        .map(|i| {
            let v = (i as f32 / 1024.0 * 1.5 * (1.0 - haze) + haze).min(1.0).powf(gamma);
            let s = (v - 0.45) * contrast + 0.45;
            s.clamp(0.0, 1.0)
        })
        .collect();
    for pixel in &mut linear {
        let toned: [f32; 3] =
            std::array::from_fn(|c| curve[((pixel[c] * balance[c] / 1.5).clamp(0.0, 1.0) * 1024.0) as usize]);
        let grey = 0.299 * toned[0] + 0.587 * toned[1] + 0.114 * toned[2];
        *pixel = toned.map(|v| grey + (v - grey) * saturation);
    }
    if chance(rng, 0.5) {
        let sigma = between(rng, 0.3, 1.0) * (height as f32 / 160.0).max(0.6);
        let (bx, by) = if chance(rng, 0.25) { (1.8, 0.5) } else { (1.0, 1.0) };
        blur(&mut linear, width, height, sigma * bx, true);
        blur(&mut linear, width, height, sigma * by, false);
    }
    let noise = if chance(rng, 0.5) { between(rng, 0.0, 0.05) } else { 0.008 };
    let seed: u32 = rng.random();
    let coloured = between(rng, 0.2, 0.8);
    for (index, pixel) in linear.iter_mut().enumerate() {
        let (x, y) = ((index % width) as i32, (index / width) as i32);
        let common = cell_noise(x, y, seed) - 0.5;
        for (channel, value) in pixel.iter_mut().enumerate() {
            let single = cell_noise(x, y, seed ^ ((channel as u32 + 1) * 7919)) - 0.5;
            *value += noise * 2.0 * (common * (1.0 - coloured) + single * coloured);
        }
    }
    if chance(rng, 0.45) {
        compress_like_video(&mut linear, width, height, rng);
    }
    if chance(rng, 0.4) {
        let before = linear.clone();
        let sigma = between(rng, 0.7, 1.0 + height as f32 / 200.0);
        blur(&mut linear, width, height, sigma, true);
        blur(&mut linear, width, height, sigma, false);
        let amount = between(rng, 0.3, 1.8);
        for (soft, sharp) in linear.iter_mut().zip(&before) {
            *soft = std::array::from_fn(|c| sharp[c] + amount * (sharp[c] - soft[c]));
        }
    }
    let bytes: Vec<u8> = linear.iter().flat_map(|p| p.map(|v| (v * 255.0 + 0.5).clamp(0.0, 255.0) as u8)).collect();
    let picture = RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let at = (y as usize * width + x as usize) * 3;
        image::Rgb([bytes[at], bytes[at + 1], bytes[at + 2]])
    });
    if chance(rng, 0.75) { jpeg_round_trip(picture, between(rng, 22.0, 92.0) as u8) } else { picture }
}

/// Video compression short of bits: colour keeps a fraction of the resolution, faint texture is
/// flattened, strong edges stay.
fn compress_like_video(picture: &mut [[f32; 3]], width: usize, height: usize, rng: &mut impl Rng) {
    let mut soft = picture.to_vec();
    let sigma = between(rng, 0.8, 2.2) * (height as f32 / 200.0).max(0.5);
    blur(&mut soft, width, height, sigma, true);
    blur(&mut soft, width, height, sigma, false);
    let threshold = between(rng, 0.01, 0.07);
    let luma = |c: &[f32; 3]| 0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2];
    for (pixel, soft) in picture.iter_mut().zip(&soft) {
        let (own, around) = (luma(pixel), luma(soft));
        let difference = own - around;
        let kept = difference * (difference.abs() / threshold).min(1.0);
        *pixel = soft.map(|c| c + kept);
    }
}

/// Encodes as JPEG and decodes again; a picture that the codec refuses stays as it is.
fn jpeg_round_trip(picture: RgbImage, quality: u8) -> RgbImage {
    let mut stored = Vec::with_capacity(16 << 10);
    let encoded = JpegEncoder::new_with_quality(&mut stored, quality).encode(
        picture.as_raw(),
        picture.width(),
        picture.height(),
        ExtendedColorType::Rgb8,
    );
    match encoded.and_then(|()| image::load_from_memory(&stored)) {
        Ok(back) => back.to_rgb8(),
        Err(_) => picture,
    }
}

/// Box average of linear light; highlights are cut at 1.6, where a sensor saturates.
fn downsample(canvas: &Canvas, width: usize, height: usize) -> Vec<[f32; 3]> {
    let (sx, sy) = (canvas.width as f32 / width as f32, canvas.height as f32 / height as f32);
    let mut out = Vec::with_capacity(width * height);
    for y in 0..height {
        let (y0, y1) = ((y as f32 * sy) as usize, (((y + 1) as f32 * sy).ceil() as usize).min(canvas.height));
        for x in 0..width {
            let (x0, x1) = ((x as f32 * sx) as usize, (((x + 1) as f32 * sx).ceil() as usize).min(canvas.width));
            let mut sum = [0.0f32; 3];
            for row in y0..y1 {
                for pixel in &canvas.rgb[row * canvas.width + x0..row * canvas.width + x1] {
                    for c in 0..3 {
                        sum[c] += pixel[c].min(1.6);
                    }
                }
            }
            let n = ((y1 - y0) * (x1 - x0)).max(1) as f32;
            out.push(sum.map(|v| v / n));
        }
    }
    out
}

/// Gaussian blur in one direction, at most 6 pixels to each side.
fn blur(picture: &mut [[f32; 3]], width: usize, height: usize, sigma: f32, along_x: bool) {
    let radius = (sigma * 2.0).ceil().clamp(1.0, 6.0) as isize;
    let mut weights: Vec<f32> = (-radius..=radius).map(|i| (-(i * i) as f32 / (2.0 * sigma * sigma)).exp()).collect();
    let sum: f32 = weights.iter().sum();
    weights.iter_mut().for_each(|w| *w /= sum);
    let (lines, length, step, stride) = if along_x { (height, width, 1, width) } else { (width, height, width, 1) };
    let mut line = vec![[0.0f32; 3]; length];
    for l in 0..lines {
        for (i, value) in line.iter_mut().enumerate() {
            *value = picture[l * stride + i * step];
        }
        for i in 0..length {
            let mut sum = [0.0f32; 3];
            for (k, weight) in weights.iter().enumerate() {
                let at = (i as isize + k as isize - radius).clamp(0, length as isize - 1) as usize;
                for c in 0..3 {
                    sum[c] += line[at][c] * weight;
                }
            }
            picture[l * stride + i * step] = sum;
        }
    }
}
