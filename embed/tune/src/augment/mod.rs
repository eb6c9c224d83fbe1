//! Augmentation of training pictures and captions.

mod strong;

use rand::Rng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use sightline_embed::model::Preprocess;
use sightline_embed::preprocess::normalize;

/// Augmentation of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Augment {
    /// No augmentation.
    None,
    /// The authors' code (specification, section 3): horizontal flip with probability 0.5; a border
    /// of ten black pixels and a random crop to the old size; with probability 0.5 an erased
    /// rectangle of 0.02 to 0.4 of the area and 0.3 to 3.3 times as high as wide.
    Reference,
    /// Augmentation for surveillance pictures: flip, shift, scale, light and colour, and an erased
    /// rectangle of any colour.
    Surveillance,
    /// Augmentation for a few real pictures that are seen often: also persons without legs,
    /// distance, blur, night and JPEG.
    Strong,
}

/// Black border of [`Augment::Reference`] in pixels.
const BORDER: usize = 10;

impl Augment {
    /// Writes the augmented, normalised picture to `out`, planar f32 `[3, height, width]`. `bytes`
    /// are RGB, row-major, `[height, width, 3]`.
    pub fn apply(self, bytes: &[u8], size: [usize; 2], prep: &Preprocess, out: &mut [f32], rng: &mut StdRng) {
        match self {
            Self::None => normalize(bytes, prep, out),
            Self::Reference => reference(bytes, size, prep, out, rng),
            Self::Surveillance => surveillance(bytes, size, prep, out, rng),
            Self::Strong => strong::strong(bytes, size, prep, out, rng),
        }
    }
}

fn reference(bytes: &[u8], [h, w]: [usize; 2], prep: &Preprocess, out: &mut [f32], rng: &mut StdRng) {
    let plane = h * w;
    let flip = rng.random::<f32>() < 0.5;
    let (down, right) = (rng.random_range(0..=2 * BORDER), rng.random_range(0..=2 * BORDER));
    for y in 0..h {
        for x in 0..w {
            // Position in the picture with its border, then in the (mirrored) picture itself.
            let (py, px) = ((y + down).checked_sub(BORDER), (x + right).checked_sub(BORDER));
            let at = match (py, px) {
                (Some(py), Some(px)) if py < h && px < w => Some((py * w + if flip { w - 1 - px } else { px }) * 3),
                _ => None,
            };
            for c in 0..3 {
                let value = at.map_or(0.0, |at| f32::from(bytes[at + c]) / 255.0);
                out[c * plane + y * w + x] = (value - prep.mean[c]) / prep.std[c];
            }
        }
    }
    if rng.random::<f32>() >= 0.5 {
        return;
    }
    for _ in 0..10 {
        let area = plane as f64 * rng.random_range(0.02..0.4);
        let ratio = rng.random_range(0.3f64.ln()..3.3f64.ln()).exp();
        let (eh, ew) = ((area * ratio).sqrt().round() as usize, (area / ratio).sqrt().round() as usize);
        if eh >= h || ew >= w {
            continue;
        }
        let (top, left) = (rng.random_range(0..=h - eh), rng.random_range(0..=w - ew));
        for c in 0..3 {
            for y in top..top + eh {
                // The authors fill with the mean, although a normalised mean is 0.
                out[c * plane + y * w + left..][..ew].fill(prep.mean[c]);
            }
        }
        return;
    }
}

/// Flip, shifted and rescaled window, light and colour, erased rectangle; then (value - mean) /
/// std, channel by channel.
fn surveillance(bytes: &[u8], [h, w]: [usize; 2], prep: &Preprocess, out: &mut [f32], rng: &mut StdRng) {
    let mut u = |lo: f32, hi: f32| lo + (hi - lo) * rng.random::<f32>();
    let flip = u(0.0, 1.0) < 0.5;
    let (sx, sy) = (u(0.9, 1.1), u(0.9, 1.1));
    let (ox, oy) = (u(-0.06, 0.06) * w as f32, u(-0.05, 0.05) * h as f32);
    let gain: [f32; 3] = {
        let all = u(0.85, 1.15);
        [all * u(0.95, 1.05), all * u(0.95, 1.05), all * u(0.95, 1.05)]
    };
    let lift = u(-12.0, 12.0);
    let erase = u(0.0, 1.0) < 0.35;
    let (eh, ew) = (u(0.05, 0.4) * h as f32, u(0.1, 0.6) * w as f32);
    let (ey, ex) = (u(0.0, 1.0) * (h as f32 - eh), u(0.0, 1.0) * (w as f32 - ew));
    let fill = [u(0.0, 255.0), u(0.0, 255.0), u(0.0, 255.0)];
    let plane = h * w;
    for y in 0..h {
        let fy = ((y as f32 + 0.5 - h as f32 * 0.5) * sy + h as f32 * 0.5 + oy - 0.5).clamp(0.0, h as f32 - 1.001);
        let (y0, ty) = (fy as usize, fy.fract());
        for x in 0..w {
            let column = if flip { w - 1 - x } else { x };
            let fx =
                ((column as f32 + 0.5 - w as f32 * 0.5) * sx + w as f32 * 0.5 + ox - 0.5).clamp(0.0, w as f32 - 1.001);
            let (x0, tx) = (fx as usize, fx.fract());
            let hidden = erase && (y as f32) >= ey && (y as f32) < ey + eh && (x as f32) >= ex && (x as f32) < ex + ew;
            let at = (y0 * w + x0) * 3;
            for c in 0..3 {
                let value = if hidden {
                    fill[c]
                } else {
                    let p = |offset: usize| f32::from(bytes[at + offset + c]);
                    let top = p(0) * (1.0 - tx) + p(3) * tx;
                    let bottom = p(w * 3) * (1.0 - tx) + p(w * 3 + 3) * tx;
                    ((top * (1.0 - ty) + bottom * ty) * gain[c] + lift).clamp(0.0, 255.0)
                };
                out[c * plane + y * w + x] = (value / 255.0 - prep.mean[c]) / prep.std[c];
            }
        }
    }
}

/// Drops each word of `text` with probability `rate`. At least two words are kept, and a text of
/// two words or fewer stays unchanged.
pub fn drop_words(text: &str, rate: f32, rng: &mut StdRng) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    if rate <= 0.0 || words.len() <= 2 {
        return text.to_owned();
    }
    let mut kept = Vec::with_capacity(words.len());
    for (index, word) in words.iter().enumerate() {
        let left = words.len() - index;
        if rng.random::<f32>() >= rate || kept.len() + left <= 2 {
            kept.push(*word);
        }
    }
    kept.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sightline_figures::stream;

    const SIZE: [usize; 2] = [48, 24];

    fn picture() -> Vec<u8> {
        (0..SIZE[0] * SIZE[1] * 3).map(|i| 40 + (i * 31 % 200) as u8).collect()
    }

    fn varied(augment: Augment, seed: u64) -> Vec<f32> {
        let mut out = vec![f32::NAN; SIZE[0] * SIZE[1] * 3];
        augment.apply(&picture(), SIZE, &Preprocess::default(), &mut out, &mut stream(seed, 1, 2));
        out
    }

    #[test]
    fn every_pixel_is_written_and_the_same_again() {
        for augment in [Augment::None, Augment::Reference, Augment::Surveillance, Augment::Strong] {
            for seed in 0..40 {
                let out = varied(augment, seed);
                assert!(out.iter().all(|v| v.is_finite() && v.abs() < 4.0), "{augment:?} {seed}");
                assert_eq!(out, varied(augment, seed));
            }
        }
        assert_ne!(varied(Augment::Reference, 1), varied(Augment::Reference, 2));
    }

    /// Checks how often augmented pictures have a black border or an erased rectangle, and how
    /// large the rectangles are.
    #[test]
    fn the_reference_has_its_rates() {
        let prep = Preprocess::default();
        let (plane, runs) = (SIZE[0] * SIZE[1], 600);
        let black = (0.0 - prep.mean[0]) / prep.std[0];
        let (mut erased, mut shares, mut moved) = (0, Vec::new(), 0);
        for seed in 0..runs {
            let out = varied(Augment::Reference, seed);
            let filled = out[..plane].iter().filter(|v| **v == prep.mean[0]).count();
            moved += usize::from(out[..plane].contains(&black));
            if filled > 0 {
                erased += 1;
                shares.push(filled as f64 / plane as f64);
            }
        }
        let share = erased as f64 / runs as f64;
        assert!((0.4..0.6).contains(&share), "{share}");
        assert!(shares.iter().all(|s| (0.015..0.42).contains(s)), "{shares:?}");
        assert!(moved as f64 > 0.95 * runs as f64, "a window that does not move is rare: {moved}");
    }

    #[test]
    fn words_are_left_out_at_the_rate() {
        let text = "the man wears a red jacket with blue jeans and white shoes".to_owned();
        let mut rng = stream(1, 2, 3);
        assert_eq!(drop_words(&text, 0.0, &mut rng), text);
        let words: usize = (0..500).map(|_| drop_words(&text, 0.25, &mut rng).split(' ').count()).sum();
        let share = words as f64 / (500.0 * 12.0);
        assert!((0.71..0.79).contains(&share), "{share}");
    }

    proptest! {
        #[test]
        fn two_words_always_remain(text: String, rate in 0f32..1.0, seed: u64) {
            let before = text.split_whitespace().count();
            let after = drop_words(&text, rate, &mut stream(seed, 0, 0)).split_whitespace().count();
            prop_assert!(after >= before.min(2) && after <= before);
        }
    }
}
