//! Test double of a model, with predictable answers, for the tests of this folder.

use std::path::Path;

use bytes::Bytes;
use sightline_core::{PatchFeatures, RgbImage};

use super::embedder::Inference;
use crate::model::ModelConfig;
use crate::text::{Caption, CaptionTokenizer};
use crate::{EmbedError, Embedder, ImageFeatures, MatchScore, ModelInfo, SelfTest, TextQuery};

type OnBatch = Box<dyn Fn(&[RgbImage]) -> Result<(), EmbedError> + Send + Sync>;

/// Test double whose feature of a picture is the picture's width. The text `panic` and patch
/// features without a row make it panic.
pub(crate) struct Double {
    on_batch: OnBatch,
}

impl Double {
    /// `on_batch` is called with every batch of pictures first; it may block, fail or panic.
    pub(crate) fn new(on_batch: impl Fn(&[RgbImage]) -> Result<(), EmbedError> + Send + Sync + 'static) -> Self {
        Self { on_batch: Box::new(on_batch) }
    }

    /// An embedder over this model that computes with one thread.
    pub(crate) fn start(self, batch: usize) -> Embedder {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cada-tiny");
        let config = ModelConfig::read(&golden.join("config.json")).expect("golden data");
        let tokenizer =
            CaptionTokenizer::load(&golden.join("tokenizer.json"), &config.architecture).expect("golden data");
        let info = ModelInfo {
            id: "double".into(),
            name: "double".into(),
            device: "cpu".into(),
            dtype: "f32".into(),
            image_size: config.architecture.image_size,
            feature_dim: 1,
            patch_rows: 1,
            patch_width: 1,
            calibration: config.calibration,
            thresholds: serde_json::Value::Null,
            provenance: serde_json::Value::Null,
            self_test: SelfTest::NotRun,
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("threads");
        Embedder::spawn(self, info, tokenizer, pool, batch).expect("a thread")
    }
}

impl Inference for Double {
    fn embed_images(&self, images: &[RgbImage]) -> Result<Vec<ImageFeatures>, EmbedError> {
        (self.on_batch)(images)?;
        let patches = PatchFeatures { rows: 1, width: 1, data: Bytes::from_static(&[0, 0]) };
        Ok(images.iter().map(|i| ImageFeatures { feature: vec![i.width() as f32], patches: patches.clone() }).collect())
    }

    fn encode_caption(&self, caption: Caption) -> Result<TextQuery, EmbedError> {
        assert!(caption.text != "panic", "asked to panic");
        Ok(TextQuery {
            text: caption.text,
            ids: caption.ids,
            feature: vec![1.0],
            truncated: false,
            phrases: Vec::new(),
            not_understood: Vec::new(),
        })
    }

    fn match_scores(&self, _: &TextQuery, images: &[PatchFeatures]) -> Result<Vec<Option<MatchScore>>, EmbedError> {
        assert!(images.iter().all(|i| i.rows > 0), "no row");
        Ok(vec![None; images.len()])
    }
}
