//! Decoded pictures. Clones share the pixels; they are never serialised.

use std::fmt;
use std::sync::Arc;

use crate::{BBox, CameraId, Timestamp};

/// The number of bytes is not width x height x 3.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an RGB image of {width}x{height} needs {expected} bytes, got {got}")]
pub struct ImageSizeError {
    width: u32,
    height: u32,
    expected: usize,
    got: usize,
}

/// An RGB8 image, H x W x 3, row-major without padding. Clones share the pixels.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbImage {
    width: u32,
    height: u32,
    data: Arc<[u8]>,
}

impl RgbImage {
    /// Makes an image of `width * height * 3` bytes of tightly packed RGB.
    ///
    /// # Errors
    /// When the byte count does not match.
    pub fn new(width: u32, height: u32, data: impl Into<Arc<[u8]>>) -> Result<Self, ImageSizeError> {
        let data = data.into();
        let expected = width as usize * height as usize * 3;
        if data.len() == expected {
            Ok(Self { width, height, data })
        } else {
            Err(ImageSizeError { width, height, expected, got: data.len() })
        }
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// All pixels, row-major RGB.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// One row of `width * 3` bytes. Panics when `y >= height`.
    pub fn row(&self, y: u32) -> &[u8] {
        let stride = self.width as usize * 3;
        &self.data[y as usize * stride..][..stride]
    }

    /// Copies the part of the image under `b` (clipped, rounded outwards); `None` when nothing is
    /// left.
    pub fn crop(&self, b: BBox) -> Option<Self> {
        let b = b.clip(self.width, self.height);
        let (x0, y0) = (b.x0.floor() as usize, b.y0.floor() as usize);
        let (x1, y1) = (b.x1.ceil() as usize, b.y1.ceil() as usize);
        if x1 <= x0 || y1 <= y0 {
            return None;
        }
        let mut data = Vec::with_capacity((x1 - x0) * (y1 - y0) * 3);
        for y in y0..y1 {
            data.extend_from_slice(&self.row(y as u32)[x0 * 3..x1 * 3]);
        }
        Some(Self { width: (x1 - x0) as u32, height: (y1 - y0) as u32, data: data.into() })
    }
}

impl fmt::Debug for RgbImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RgbImage({}x{})", self.width, self.height)
    }
}

/// One analysed picture of one camera.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The camera it came from.
    pub camera: CameraId,
    /// When the scene was captured (by the sender's clock where the camera provides it); never
    /// simply the time of arrival.
    pub captured_at: Timestamp,
    /// Frame number of this camera since its pipeline started, from 0.
    pub seq: u64,
    /// The pixels.
    pub image: RgbImage,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_checked() {
        assert!(RgbImage::new(2, 2, vec![0u8; 12]).is_ok());
        assert!(RgbImage::new(2, 2, vec![0u8; 11]).is_err());
    }

    #[test]
    fn crop_clips_and_rounds_outwards() {
        let img = RgbImage::new(4, 3, (0..36).collect::<Vec<u8>>()).expect("12 pixels");
        let c = img.crop(BBox { x0: 1.2, y0: 1.0, x1: 9.0, y1: 2.0 }).expect("not empty");
        assert_eq!((c.width(), c.height()), (3, 1));
        assert_eq!(c.data(), &img.data()[15..24]);
        assert!(img.crop(BBox { x0: 5.0, y0: 0.0, x1: 9.0, y1: 2.0 }).is_none());
    }
}
