//! Decodes JPEG and PNG files to upright RGB, with bounds on the memory that a hostile file can
//! take. All stills that enter Sightline (crops, example pictures, files to detect in, training
//! data) are decoded here, so that one rule turns all of them upright.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat};
use sightline_core::RgbImage;

use crate::EmbedError;

/// Largest side in pixels. Cameras have fewer, and it bounds the memory that a forged header can
/// ask for.
const MAX_SIDE: u32 = 16_384;
/// Largest decoded size in bytes. A turn by 90 degrees takes twice as much for a moment.
const MAX_BYTES: u64 = 512 << 20;

/// Decodes a JPEG or PNG (recognised by its content) to RGB and turns it upright by its EXIF
/// orientation. An EXIF segment that cannot be read is ignored.
///
/// # Errors
/// Bytes of another format, damaged or too large.
pub fn decode_image(bytes: &[u8]) -> Result<RgbImage, EmbedError> {
    decode_image_within(bytes, u64::MAX)
}

/// [`decode_image`] of a picture of at most `max_pixels` pixels; a larger one is refused by its
/// header, before it is decoded.
///
/// # Errors
/// As [`decode_image`], and [`EmbedError::TooManyPixels`].
pub fn decode_image_within(bytes: &[u8], max_pixels: u64) -> Result<RgbImage, EmbedError> {
    let mut reader =
        image::ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(image::ImageError::IoError)?;
    if !matches!(reader.format(), Some(ImageFormat::Jpeg | ImageFormat::Png)) {
        return Err(EmbedError::NotAPicture);
    }
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > max_pixels {
        return Err(EmbedError::TooManyPixels { width, height, max: max_pixels });
    }
    // The reader has checked the sides; the caller has to reserve the memory of the pixels.
    limits.reserve(decoder.total_bytes())?;
    decoder.set_limits(limits)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut upright = DynamicImage::ImageRgb8(DynamicImage::from_decoder(decoder)?.into_rgb8());
    upright.apply_orientation(orientation);
    let rgb = upright.into_rgb8();
    let (width, height) = rgb.dimensions();
    RgbImage::new(width, height, rgb.into_raw()).map_err(|_| EmbedError::EmptyImage { width, height })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::codecs::{jpeg::JpegEncoder, png::PngEncoder};
    use image::{ExtendedColorType, ImageEncoder};

    /// A stored picture of 48 x 32 pixels: the quarters red, green (top), blue and white (bottom).
    fn stored() -> Vec<u8> {
        let quarter = |x: u32, y: u32| match (x < 24, y < 16) {
            (true, true) => [255u8, 0, 0],
            (false, true) => [0, 255, 0],
            (true, false) => [0, 0, 255],
            (false, false) => [255, 255, 255],
        };
        (0..32).flat_map(|y| (0..48).flat_map(move |x| quarter(x, y))).collect()
    }

    fn jpeg() -> Vec<u8> {
        let mut out = Vec::new();
        JpegEncoder::new_with_quality(&mut out, 95)
            .encode(&stored(), 48, 32, ExtendedColorType::Rgb8)
            .expect("encodes");
        out
    }

    /// The picture with this payload in a segment APP1.
    fn with_app1(payload: &[u8]) -> Vec<u8> {
        let (jpeg, length) = (jpeg(), payload.len() as u16 + 2);
        [&jpeg[..2], &[0xFF, 0xE1], &length.to_be_bytes(), payload, &jpeg[2..]].concat()
    }

    /// An EXIF block whose only entry is the orientation, as a camera (little-endian) writes it.
    fn exif(orientation: u16) -> Vec<u8> {
        let mut block = b"II\x2A\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
        block.extend(orientation.to_le_bytes());
        block.extend([0; 6]);
        block
    }

    /// Names of the quarters: top left, top right, bottom left, bottom right.
    fn quarters(image: &RgbImage) -> String {
        let (w, h) = (image.width(), image.height());
        let name = |x: u32, y: u32| match *image.row(y)[x as usize * 3..].first_chunk().expect("a pixel") {
            [200..=255, 0..50, 0..50] => 'r',
            [0..50, 200..=255, 0..50] => 'g',
            [0..50, 0..50, 200..=255] => 'b',
            [200..=255, 200..=255, 200..=255] => 'w',
            other => panic!("{other:?}"),
        };
        [(0, 0), (w - 1, 0), (0, h - 1), (w - 1, h - 1)].map(|(x, y)| name(x, y)).iter().collect()
    }

    /// EXIF orientation N names the sides of the scene at which the stored first row and first
    /// column lie.
    #[test]
    fn every_orientation_is_turned_upright() {
        let upright = [
            (1, "rgbw", (48, 32)),
            (2, "grwb", (48, 32)),
            (3, "wbgr", (48, 32)),
            (4, "bwrg", (48, 32)),
            (5, "rbgw", (32, 48)),
            (6, "brwg", (32, 48)),
            (7, "wgbr", (32, 48)),
            (8, "gwrb", (32, 48)),
        ];
        for (orientation, want, size) in upright {
            let bytes = with_app1(&[b"Exif\0\0", exif(orientation).as_slice()].concat());
            let image = decode_image(&bytes).expect("a picture");
            assert_eq!((quarters(&image).as_str(), (image.width(), image.height())), (want, size), "{orientation}");
        }
        assert_eq!(quarters(&decode_image(&jpeg()).expect("a picture")), "rgbw");
    }

    #[test]
    fn a_png_says_its_orientation_too() {
        let mut bytes = Vec::new();
        let mut encoder = PngEncoder::new(&mut bytes);
        encoder.set_exif_metadata(exif(6)).expect("PNG holds EXIF");
        encoder.write_image(&stored(), 48, 32, ExtendedColorType::Rgb8).expect("encodes");
        assert_eq!(quarters(&decode_image(&bytes).expect("a picture")), "brwg");
    }

    #[test]
    fn a_broken_exif_segment_is_ignored() {
        let whole = [b"Exif\0\0", exif(6).as_slice()].concat();
        let mut far = whole.clone();
        far[10..14].copy_from_slice(&[0xFF; 4]);
        let mut endless = whole.clone();
        endless[14..16].copy_from_slice(&[0xFF; 2]);
        endless[16] = 0x13;
        let unknown = [b"Exif\0\0", exif(9).as_slice()].concat();
        let zero = [b"Exif\0\0", exif(0).as_slice()].concat();
        let cut = |n: usize| whole[..n].to_vec();
        let broken = [far, endless, unknown, zero, b"Exif\0\0MMxxxxxxxx".to_vec(), b"Exif".to_vec(), Vec::new()];
        for payload in broken.into_iter().chain((0..24).map(cut)) {
            let image = decode_image(&with_app1(&payload)).unwrap_or_else(|e| panic!("{payload:?}: {e}"));
            assert_eq!(quarters(&image), "rgbw", "{payload:?}");
        }
    }

    #[test]
    fn limits_hold_before_the_pixels_are_read() {
        let turned = with_app1(&[b"Exif\0\0", exif(6).as_slice()].concat());
        assert!(decode_image_within(&turned, 48 * 32).is_ok());
        let refused = decode_image_within(&turned, 48 * 32 - 1).expect_err("a pixel too many");
        assert!(matches!(refused, EmbedError::TooManyPixels { width: 48, height: 32, max: 1535 }), "{refused}");
        // A header may claim any size.
        let claim = |width: u16, height: u16| {
            let mut bytes = jpeg();
            let at = bytes.windows(2).position(|w| w == [0xFF, 0xC0]).expect("a frame header");
            bytes[at + 5..at + 7].copy_from_slice(&height.to_be_bytes());
            bytes[at + 7..at + 9].copy_from_slice(&width.to_be_bytes());
            decode_image(&bytes)
        };
        for (width, height) in [(60_000, 60_000), (16_385, 10), (16_384, 16_384)] {
            let refused = claim(width, height);
            assert!(matches!(refused, Err(EmbedError::Decode(image::ImageError::Limits(_)))), "{width} x {height}");
        }
    }

    #[test]
    fn other_bytes_are_no_picture() {
        for bytes in [b"".as_slice(), b"hello", b"GIF89a\x01\0\x01\0\0\0\0"] {
            assert!(matches!(decode_image(bytes), Err(EmbedError::NotAPicture)), "{bytes:?}");
        }
        assert!(matches!(decode_image(&jpeg()[..60]), Err(EmbedError::Decode(_))));
    }
}
