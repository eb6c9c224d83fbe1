//! The appearance of a crop: a cheap descriptor that tells a new view of a person from the same
//! view again.

use sightline_core::RgbImage;

/// Levels per colour channel.
const LEVELS: usize = 4;
const BINS: usize = LEVELS * LEVELS * LEVELS;
/// Approximate number of pixels of a crop that are sampled.
const SAMPLES: usize = 2000;

/// Colour histograms of the upper and the lower half of a crop, from its middle three fifths (the
/// rest is background).
#[derive(Clone, Debug, PartialEq)]
pub struct Appearance {
    halves: [[f32; BINS]; 2],
}

impl Appearance {
    /// Computes the appearance of a crop.
    pub fn of(crop: &RgbImage) -> Self {
        let (w, h) = (crop.width() as usize, crop.height() as usize);
        let (left, right) = (w / 5, w - w / 5);
        let step = (((right - left) * h / SAMPLES) as f32).sqrt().max(1.0) as usize;
        let mut halves = [[0.0f32; BINS]; 2];
        for y in (0..h).step_by(step) {
            let row = crop.row(y as u32);
            let half = &mut halves[usize::from(2 * y >= h)];
            for x in (left..right).step_by(step) {
                let level = |c: usize| usize::from(row[3 * x + c]) * LEVELS / 256;
                half[(level(0) * LEVELS + level(1)) * LEVELS + level(2)] += 1.0;
            }
        }
        for half in &mut halves {
            let n: f32 = half.iter().sum();
            half.iter_mut().for_each(|v| *v /= n.max(1.0));
        }
        Self { halves }
    }

    /// Distance of two appearances: 0 for the same colours in the same halves, 1 when they share
    /// none.
    pub fn distance(&self, other: &Self) -> f32 {
        let common = |a: &[f32; BINS], b: &[f32; BINS]| -> f32 { a.iter().zip(b).map(|(x, y)| x.min(*y)).sum() };
        let both: f32 = self.halves.iter().zip(&other.halves).map(|(a, b)| common(a, b)).sum();
        (1.0 - both / 2.0).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(top: [u8; 3], bottom: [u8; 3]) -> RgbImage {
        let data: Vec<u8> = (0..40 * 100).flat_map(|i| if i < 40 * 50 { top } else { bottom }).collect();
        RgbImage::new(40, 100, data).expect("3 bytes a pixel")
    }

    #[test]
    fn colours_and_their_place_count() {
        let a = Appearance::of(&person([200, 20, 20], [20, 20, 60]));
        assert_eq!(a.distance(&Appearance::of(&person([205, 25, 22], [22, 20, 58]))), 0.0);
        assert_eq!(a.distance(&Appearance::of(&person([20, 20, 60], [200, 20, 20]))), 1.0);
        assert_eq!(a.distance(&Appearance::of(&person([200, 20, 20], [220, 220, 220]))), 0.5);
    }

    #[test]
    fn the_smallest_crop_is_described() {
        let dot = RgbImage::new(1, 1, vec![9u8; 3]).expect("one pixel");
        assert!(Appearance::of(&dot).distance(&Appearance::of(&dot)) <= 0.5);
    }
}
