//! The interface of a detector, and its errors. It does not depend on any one network, so that
//! another detector can replace NanoDet without a change in the tracker or the camera node.

use std::path::PathBuf;

use sightline_core::{BBox, RgbImage};

/// One person in one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// The box in pixels of the given image, inside the image.
    pub bbox: BBox,
    /// Confidence, 0 to 1.
    pub score: f32,
}

/// Finds persons. One instance serves one thread; implementations share their weights between
/// instances.
pub trait Detector: Send {
    /// The persons in `image`, best score first, without near-duplicates.
    ///
    /// # Errors
    /// When the image cannot be used (for example, it is empty).
    fn detect(&mut self, image: &RgbImage) -> Result<Vec<Detection>, DetectError>;
}

/// Why a detector did not load or an image could not be analysed.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file was read, but it is not what it should be.
    #[error("{path}: {reason}")]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A value of `[detect]` is out of its range.
    #[error("detect.{key}: {reason}")]
    Config {
        /// The key inside `[detect]`.
        key: &'static str,
        /// What it must be.
        reason: String,
    },
    /// The image cannot be analysed.
    #[error("an image of {width}x{height} cannot be analysed: {reason}")]
    Image {
        /// Its width in pixels.
        width: u32,
        /// Its height in pixels.
        height: u32,
        /// Why not.
        reason: &'static str,
    },
}
