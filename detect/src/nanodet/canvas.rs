//! The canvas: converts a picture to the network's input. The aspect ratio is kept, the picture is
//! area-resized into the top left corner, as BGR, and normalised. The free part at the right or
//! bottom is zero *after* normalisation, that is, the training set's mean colour.

use sightline_core::{BBox, RgbImage};

use super::resample::Resampler;
use crate::conv::Map;

/// Mean of blue, green, red over the training set, in 8-bit values (upstream's configuration).
const MEAN: [f32; 3] = [103.53, 116.28, 123.675];

/// Standard deviation of blue, green, red.
const DEVIATION: [f32; 3] = [57.375, 57.12, 58.395];

/// Largest aspect ratio of the canvas; a longer picture is scaled down to fit.
const MAX_ASPECT: usize = 3;

/// Height and width of the canvas for a picture of `width` x `height` pixels: the shorter side is
/// `input_size`, the longer the nearest multiple of 32 that keeps the aspect ratio, at most three
/// times the shorter.
pub fn canvas_size(width: u32, height: u32, input_size: usize) -> (usize, usize) {
    let (short, long) = (width.min(height).max(1) as f64, width.max(height).max(1) as f64);
    let longer = (input_size as f64 * long / short / 32.0).round() as usize * 32;
    let longer = longer.clamp(input_size, MAX_ASPECT * input_size);
    if width >= height { (input_size, longer) } else { (longer, input_size) }
}

/// The network's input; its memory is reused from picture to picture.
#[derive(Default)]
pub struct Canvas {
    map: Option<Map>,
    resampler: Option<Resampler>,
}

/// How a picture lies on its canvas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// Height of the part that the picture fills, in canvas pixels.
    pub height: usize,
    /// Its width.
    pub width: usize,
    /// Source pixels per canvas pixel, along x and y.
    per_pixel: (f32, f32),
}

impl Placement {
    /// Converts a box on the canvas to source pixels (not clipped).
    pub fn to_source(self, b: BBox) -> BBox {
        let (x, y) = self.per_pixel;
        BBox { x0: b.x0 * x, y0: b.y0 * y, x1: b.x1 * x, y1: b.y1 * y }
    }
}

impl Canvas {
    /// Draws `image` (not empty) on a canvas of `rows` x `columns` pixels.
    pub fn draw(&mut self, image: &RgbImage, rows: usize, columns: usize) -> Placement {
        let from = (image.width() as usize, image.height() as usize);
        let scale = (columns as f64 / from.0 as f64).min(rows as f64 / from.1 as f64);
        let scaled = |n: usize, most: usize| ((n as f64 * scale).round() as usize).clamp(1, most);
        let to = (scaled(from.0, columns), scaled(from.1, rows));
        let resampler = match &mut self.resampler {
            Some(r) if r.fits(from, to) => r,
            other => other.insert(Resampler::new(from, to)),
        };
        let map = match &mut self.map {
            Some(m) if (m.height(), m.width()) == (rows, columns) => m,
            other => other.insert(Map::new(rows, columns, 3)),
        };
        resampler.run(image.data(), |y, row| {
            let out = map.row_mut(y);
            for (rgb, out) in row.chunks_exact(3).zip(out.chunks_exact_mut(3)) {
                for c in 0..3 {
                    out[c] = (rgb[2 - c] - MEAN[c]) / DEVIATION[c];
                }
            }
            out[to.0 * 3..].fill(0.0);
        });
        for y in to.1..rows {
            map.row_mut(y).fill(0.0);
        }
        let per_pixel = (from.0 as f32 / to.0 as f32, from.1 as f32 / to.1 as f32);
        Placement { height: to.1, width: to.0, per_pixel }
    }

    /// The last canvas drawn: BGR. Empty before the first picture.
    pub fn map(&mut self) -> &Map {
        self.map.get_or_insert_with(|| Map::new(0, 0, 3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_multiples_of_32_and_the_shorter_is_as_configured() {
        assert_eq!(canvas_size(768, 576, 416), (416, 544));
        assert_eq!(canvas_size(1920, 1080, 416), (416, 736));
        assert_eq!(canvas_size(1080, 1920, 416), (736, 416));
        assert_eq!(canvas_size(300, 300, 320), (320, 320));
        assert_eq!(canvas_size(10_000, 10, 416), (416, 1248));
        assert_eq!(canvas_size(1, 1, 32), (32, 32));
    }

    #[test]
    fn colours_are_swapped_and_the_free_part_is_zero() {
        let image = RgbImage::new(4, 2, [255u8, 0, 10].repeat(8)).expect("8 pixels");
        let mut canvas = Canvas::default();
        // Something else was there before.
        canvas.draw(&RgbImage::new(4, 4, vec![200u8; 48]).expect("16 pixels"), 32, 32);
        let placement = canvas.draw(&image, 32, 32);
        assert_eq!((placement.height, placement.width), (16, 32));
        let want = [(10.0 - 103.53) / 57.375, -116.28 / 57.12, (255.0 - 123.675) / 58.395];
        assert_eq!(canvas.map().pixel(15, 31), want);
        assert_eq!(canvas.map().pixel(16, 0), [0.0; 3]);
        let b = placement.to_source(BBox { x0: 8.0, y0: 4.0, x1: 16.0, y1: 16.0 });
        assert_eq!(b, BBox { x0: 1.0, y0: 0.5, x1: 2.0, y1: 2.0 });
    }
}
