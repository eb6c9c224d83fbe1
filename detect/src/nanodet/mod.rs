//! NanoDet-g at any input size in multiples of 32: a person detector of 4 GFLOP (at 416x416) built
//! from plain 3x3 convolutions, which suit a CPU. Upstream: github.com/RangiLyu/nanodet,
//! `config/nanodet_g.yml`; trained on COCO.
//!
//! image -> [`Canvas`] (area-resized, normalised) -> [`Network`] (backbone, feature pyramid, head)
//! -> [`decode`] (scores and edge distributions to boxes) -> non-maximum suppression -> boxes in
//! source pixels.

mod canvas;
pub mod decode;
mod layers;
mod network;
mod resample;
mod weights;

use std::path::Path;
use std::time::Instant;

use sightline_core::RgbImage;
use sightline_core::config::DetectConfig;

pub use canvas::{Canvas, canvas_size};
pub use layers::{CLASSES, DISTANCE_BINS, LAYERS, Layer, STRIDES};
pub use network::{Network, Workspace};
pub(crate) use weights::tensors_of;
pub use weights::{Weights, verify};

use crate::{DetectError, Detection, Detector};

/// The person detector. Clones share the weights; each has its own working memory and serves one
/// thread.
pub struct NanoDet {
    network: Network,
    workspace: Workspace,
    canvas: Canvas,
    input_size: usize,
    score_threshold: f32,
    nms_iou: f32,
}

impl NanoDet {
    /// Loads weights written by [`crate::convert::tfjs_to_safetensors`].
    ///
    /// # Errors
    /// When the file cannot be read or does not hold exactly the layers of NanoDet-g, or a setting
    /// is out of range.
    pub fn load(path: &Path, cfg: &DetectConfig) -> Result<Self, DetectError> {
        let config = |key, reason: &str| Err(DetectError::Config { key, reason: reason.into() });
        if cfg.input_size == 0 || !cfg.input_size.is_multiple_of(32) || cfg.input_size > 4096 {
            return config(
                "input_size",
                &format!("a multiple of 32 from 32 to 4096 is needed, not {}", cfg.input_size),
            );
        }
        if !(cfg.score_threshold > 0.0 && cfg.score_threshold < 1.0) {
            return config("score_threshold", "a value between 0 and 1 is needed");
        }
        if !(cfg.nms_iou > 0.0 && cfg.nms_iou <= 1.0) {
            return config("nms_iou", "a value above 0 and up to 1 is needed");
        }
        let started = Instant::now();
        let network = Network::new(&Weights::load(path)?)?;
        tracing::info!(
            weights = %path.display(),
            instruction_set = ?network.isa(),
            milliseconds = started.elapsed().as_millis() as u64,
            "person detector loaded"
        );
        Ok(Self {
            network,
            workspace: Workspace::default(),
            canvas: Canvas::default(),
            input_size: cfg.input_size as usize,
            score_threshold: cfg.score_threshold,
            nms_iou: cfg.nms_iou,
        })
    }

    /// Sets another score threshold (between 0 and 1): a tracker also needs uncertain detections
    /// that should not be shown.
    #[must_use]
    pub fn with_score_threshold(mut self, threshold: f32) -> Self {
        self.score_threshold = threshold;
        self
    }
}

impl Clone for NanoDet {
    fn clone(&self) -> Self {
        Self { network: self.network.clone(), workspace: Workspace::default(), canvas: Canvas::default(), ..*self }
    }
}

impl Detector for NanoDet {
    fn detect(&mut self, image: &RgbImage) -> Result<Vec<Detection>, DetectError> {
        let (width, height) = (image.width(), image.height());
        if width == 0 || height == 0 {
            return Err(DetectError::Image { width, height, reason: "it has no pixels" });
        }
        let started = Instant::now();
        let (rows, columns) = canvas_size(width, height, self.input_size);
        let placement = self.canvas.draw(image, rows, columns);
        let prepared = started.elapsed();
        let outputs = self.network.run(self.canvas.map(), &mut self.workspace);
        let mut found = decode::decode(outputs, self.score_threshold);
        found = decode::suppress_overlaps(found, self.nms_iou);
        for d in &mut found {
            d.bbox = placement.to_source(d.bbox).clip(width, height);
        }
        found.retain(|d| d.bbox.area() > 0.0);
        metrics::histogram!("sightline_detect_prepare_seconds").record(prepared.as_secs_f64());
        metrics::histogram!("sightline_detect_image_seconds").record(started.elapsed().as_secs_f64());
        Ok(found)
    }
}
