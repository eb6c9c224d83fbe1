//! Pictures from bytes, with a bound on what a hostile file may cost.

use std::io::Cursor;

use sightline_core::RgbImage;

use crate::EmbedError;

/// Largest side in pixels; cameras have less, and a forged header cannot ask for more memory than this allows.
const MAX_SIDE: u32 = 16_384;
/// Largest decoded size in bytes.
const MAX_BYTES: u64 = 512 << 20;

/// Decodes a JPEG or PNG (told by its content) to RGB.
///
/// # Errors
/// Bytes of another format, damaged or too large.
pub fn decode_image(bytes: &[u8]) -> Result<RgbImage, EmbedError> {
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    let mut reader =
        image::ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(image::ImageError::IoError)?;
    reader.limits(limits);
    let rgb = reader.decode()?.into_rgb8();
    let (width, height) = rgb.dimensions();
    RgbImage::new(width, height, rgb.into_raw()).map_err(|_| EmbedError::EmptyImage { width, height })
}
