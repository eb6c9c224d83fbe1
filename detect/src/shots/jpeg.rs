//! The JPEG picture of a crop: the box with a margin.

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageError};
use sightline_core::{BBox, RgbImage};

/// Share of the box's size that is added on every side, because detectors cut off hands and feet.
const MARGIN: f32 = 0.05;

/// Adds the margin to a box, clipped to the frame.
pub fn widen(b: BBox, (width, height): (u32, u32)) -> BBox {
    let (dx, dy) = (b.width() * MARGIN, b.height() * MARGIN);
    BBox { x0: b.x0 - dx, y0: b.y0 - dy, x1: b.x1 + dx, y1: b.y1 + dy }.clip(width, height)
}

/// Encodes an image as JPEG with `quality` 1 to 100. The same pixels always give the same bytes.
///
/// # Errors
/// When the image has no pixels or a side beyond what JPEG can hold (65535).
pub fn encode(image: &RgbImage, quality: u8) -> Result<Vec<u8>, ImageError> {
    let mut jpeg = Vec::with_capacity(image.data().len() / 8);
    JpegEncoder::new_with_quality(&mut jpeg, quality.clamp(1, 100)).encode(
        image.data(),
        image.width(),
        image.height(),
        ExtendedColorType::Rgb8,
    )?;
    Ok(jpeg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_end_at_the_frame() {
        let b = widen(BBox { x0: 0.0, y0: 100.0, x1: 40.0, y1: 200.0 }, (42, 203));
        assert_eq!(b, BBox { x0: 0.0, y0: 95.0, x1: 42.0, y1: 203.0 });
    }

    #[test]
    fn jpeg_holds_the_picture() {
        let data: Vec<u8> = (0..30 * 50).flat_map(|i| [(i % 30 * 8) as u8, (i / 30 * 5) as u8, 90]).collect();
        let img = RgbImage::new(30, 50, data).expect("3 bytes a pixel");
        let jpeg = encode(&img, 90).expect("encodes");
        assert_eq!(jpeg, encode(&img, 90).expect("encodes"));
        assert!(encode(&img, 20).expect("encodes").len() < jpeg.len());
        let back = image::load_from_memory(&jpeg).expect("decodes").to_rgb8();
        assert_eq!(back.dimensions(), (30, 50));
        let off: u32 = back.as_raw().iter().zip(img.data()).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
        assert!(off / 4500 < 6, "mean difference {}", off / 4500);
        assert!(encode(&RgbImage::new(0, 0, vec![]).expect("empty"), 90).is_err());
    }
}
