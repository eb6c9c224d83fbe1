//! A loaded model and the three questions it answers, on the calling thread. [`crate::Embedder`] puts it on a thread of
//! its own; training and evaluation use it directly.

use bytes::Bytes;
use candle_core::{DType, Device, Tensor};
use half::f16;
use half::slice::HalfFloatSliceExt;
use sightline_core::config::EmbedPrecision;
use sightline_core::{PatchFeatures, RgbImage};

use crate::kernel::Precision;
use crate::model::{Cada, Calibration, Decoder, Evidence, ModelConfig, QueryBank, TokenBatch, weights};
use crate::nn::l2_normalize;
use crate::preprocess::pixel_values;
use crate::text::{Caption, CaptionTokenizer};
use crate::{EmbedError, ModelFolder, SelfTest, choose_precision, device_name, open_device};

/// What the model is and how it runs; told by the API and stored with every vector.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ModelInfo {
    /// Identity of the embedding space, see [`ModelFolder::id`].
    pub id: String,
    /// Human name.
    pub name: String,
    /// The device in use, for example `cpu` or `cuda:0`.
    pub device: String,
    /// Arithmetic, `f32`, `bf16` or `f16`: on a CPU that of the matrix products, everything else being f32; on a GPU that
    /// of the whole model.
    pub dtype: String,
    /// Height and width of the model's input.
    pub image_size: [usize; 2],
    /// Width of the global features.
    pub feature_dim: usize,
    /// Rows of the patch features.
    pub patch_rows: usize,
    /// Width of the patch features.
    pub patch_width: usize,
    /// How logits become probabilities.
    pub calibration: Calibration,
    /// Decision thresholds of the model folder.
    pub thresholds: serde_json::Value,
    /// Data, licences and numbers behind the weights.
    pub provenance: serde_json::Value,
    /// How far the start-up self-test went; [`crate::Embedder::start`] runs it.
    pub self_test: SelfTest,
}

/// Features of one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageFeatures {
    /// L2-normalised global feature.
    pub feature: Vec<f32>,
    /// What the decoder needs to judge this picture.
    pub patches: PatchFeatures,
}

/// A text, ready to be searched for and to be judged against pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct TextQuery {
    /// After cleaning.
    pub text: String,
    /// Token ids from `[CLS]` to `[SEP]`, without padding.
    pub ids: Vec<u32>,
    /// L2-normalised global feature.
    pub feature: Vec<f32>,
    /// Words were cut off because the text is longer than the model reads.
    pub truncated: bool,
}

/// The decoder's judgement of one picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatchScore {
    /// Raw logit of "match" (column 1).
    pub logit: f32,
    /// Hubness of the picture: its cosine with texts at large; none without a query bank.
    pub hubness: Option<f32>,
    /// What decoder, cosine and hubness say, calibrated.
    pub probability: f32,
}

/// Tokens plus patch rows of one decoder pass: some 30 MB of activations at the published size.
const ROWS_PER_PASS: usize = 4096;

/// CADA with its tokenizer and preprocessing.
#[derive(Debug)]
pub struct Model {
    cada: Cada,
    tokenizer: CaptionTokenizer,
    config: ModelConfig,
    /// There when the calibration asks for hubness.
    bank: Option<QueryBank>,
    device: Device,
    precision: Precision,
    info: ModelInfo,
}

impl Model {
    /// Loads `folder` onto `device` ("cpu", "cuda:0"), in f32. Runs no self-test.
    ///
    /// # Errors
    /// A device that is not there, or a folder that is not a whole, consistent model.
    pub fn load(folder: &ModelFolder, device: &str) -> Result<Self, EmbedError> {
        Self::load_as(folder, device, EmbedPrecision::F32)
    }

    /// As [`Model::load`], in other arithmetic.
    ///
    /// # Errors
    /// As [`Model::load`] and [`choose_precision`].
    pub fn load_as(folder: &ModelFolder, device: &str, wanted: EmbedPrecision) -> Result<Self, EmbedError> {
        let device = open_device(device)?;
        let precision = choose_precision(wanted, &device)?;
        let (config, arch) = (folder.config.clone(), &folder.config.architecture);
        let tokenizer = CaptionTokenizer::load(&folder.tokenizer(), arch)?;
        let cada = weights::load_as(&folder.weights(), arch, Decoder::None, &device, precision.dtype(&device))?;
        let bank = folder.bank_on(&device)?;
        let info = ModelInfo {
            id: folder.id.clone(),
            name: config.name.clone(),
            device: device_name(&device),
            dtype: precision.name().into(),
            image_size: arch.image_size,
            feature_dim: arch.embed_dim,
            patch_rows: arch.patch_rows(),
            patch_width: arch.vision_width,
            calibration: config.calibration.clone(),
            thresholds: config.thresholds.clone(),
            provenance: config.provenance.clone(),
            self_test: SelfTest::NotRun,
        };
        Ok(Self { cada, tokenizer, config, bank, device, precision, info })
    }

    /// What it is.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &CaptionTokenizer {
        &self.tokenizer
    }

    /// Where it is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The network.
    pub fn cada(&self) -> &Cada {
        &self.cada
    }

    /// Features of pictures of any size, in one batch.
    ///
    /// # Errors
    /// A picture without a pixel, or features that are not finite (patch features: in f16).
    pub fn embed_images(&self, images: &[RgbImage]) -> Result<Vec<ImageFeatures>, EmbedError> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let pixels = pixel_values(images, self.config.architecture.image_size, &self.config.preprocess, &self.device)?;
        let (embeds, projected) = self.precision.scope(|| -> candle_core::Result<_> {
            let embeds = self.cada.image_embeds(&pixels)?;
            let projected = self.cada.image_proj(&embeds)?;
            Ok((embeds, projected))
        })?;
        let features = finite(&l2_normalize(&projected)?)?;
        let (_, rows, width) = embeds.dims3()?;
        let patches = embeds.flatten_from(1)?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        let pack = |(feature, values): (Vec<f32>, Vec<f32>)| {
            let mut half = vec![f16::ZERO; values.len()];
            half.convert_from_f32_slice(&values);
            // A feature beyond f16's range becomes infinite here; it would fail every search that meets it.
            if !half.iter().all(|v| v.is_finite()) {
                return Err(EmbedError::NotFinite);
            }
            let data: Vec<u8> = half.iter().flat_map(|v| v.to_le_bytes()).collect();
            let patches = PatchFeatures { rows: rows as u32, width: width as u32, data: Bytes::from(data) };
            Ok(ImageFeatures { feature, patches })
        };
        features.into_iter().zip(patches).map(pack).collect()
    }

    /// Global features of captions, in one batch (padded to the longest).
    ///
    /// # Errors
    /// Features that are not finite.
    pub fn embed_captions(&self, captions: &[Caption]) -> Result<Vec<Vec<f32>>, EmbedError> {
        if captions.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<&[u32]> = captions.iter().map(|c| c.ids.as_slice()).collect();
        let tokens = TokenBatch::new(&ids, self.config.architecture.pad_token_id, None);
        let projected = self.precision.scope(|| self.cada.text_proj(&self.cada.text_embeds(&tokens, None)?))?;
        finite(&l2_normalize(&projected)?)
    }

    /// Cleans, tokenises and encodes something to search for.
    ///
    /// # Errors
    /// [`EmbedError::EmptyQuery`] when no word is left.
    pub fn encode_text(&self, text: &str) -> Result<TextQuery, EmbedError> {
        self.encode_caption(self.tokenizer.encode_query(text)?)
    }

    /// Encodes a tokenised query.
    ///
    /// # Errors
    /// Features that are not finite.
    pub fn encode_caption(&self, caption: Caption) -> Result<TextQuery, EmbedError> {
        let feature = self.embed_captions(std::slice::from_ref(&caption))?.swap_remove(0);
        Ok(TextQuery { text: caption.text, ids: caption.ids, feature, truncated: caption.truncated })
    }

    /// Both match logits of `query` against every picture, in their order: `[no match, match]`. Those of a damaged picture
    /// may not be finite.
    ///
    /// # Errors
    /// Patch features of another model.
    pub fn match_logits(&self, query: &TextQuery, images: &[PatchFeatures]) -> Result<Vec<[f32; 2]>, EmbedError> {
        let (rows, width) = (self.info.patch_rows, self.info.patch_width);
        for p in images {
            if (p.rows as usize, p.width as usize) != (rows, width) || p.data.len() != rows * width * 2 {
                return Err(EmbedError::PatchFeatures {
                    expected: format!("{rows} x {width} f16"),
                    found: format!("{} x {} f16 in {} bytes", p.rows, p.width, p.data.len()),
                });
            }
        }
        let pairs_per_pass = (ROWS_PER_PASS / (query.ids.len() + rows)).max(1);
        let mut logits = Vec::with_capacity(images.len());
        for part in images.chunks(pairs_per_pass) {
            let mut values = vec![0f32; part.len() * rows * width];
            for (p, values) in part.iter().zip(values.chunks_exact_mut(rows * width)) {
                let half: Vec<f16> = p.data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect();
                half.convert_to_f32_slice(values);
            }
            let embeds = Tensor::from_vec(values, (part.len(), rows, width), &self.device)?;
            let ids = vec![query.ids.as_slice(); part.len()];
            let tokens = TokenBatch::new(&ids, self.config.architecture.pad_token_id, None);
            let pair_logits =
                self.precision.scope(|| self.cada.itm_logits(&self.cada.fused(&tokens, &embeds, None)?))?;
            logits.extend(pair_logits.to_vec2::<f32>()?.into_iter().map(|row| [row[0], row[1]]));
        }
        Ok(logits)
    }

    /// [`Model::match_logits`] as scores. A picture whose stored features are damaged has none: one bad picture must not fail
    /// a search among many.
    ///
    /// # Errors
    /// Patch features of another model.
    pub fn match_scores(
        &self,
        query: &TextQuery,
        images: &[PatchFeatures],
    ) -> Result<Vec<Option<MatchScore>>, EmbedError> {
        let calibration = &self.config.calibration;
        let near = self.nearness(query, images)?;
        let logits = self.match_logits(query, images)?;
        let score = |(logits, [cosine, hubness]): ([f32; 2], [f32; 2])| {
            let finite = [logits[0], logits[1], cosine, hubness].iter().all(|v| v.is_finite());
            finite.then(|| MatchScore {
                logit: logits[1],
                hubness: self.bank.as_ref().map(|_| hubness),
                probability: calibration.probability(&Evidence { logits, cosine, hubness }),
            })
        };
        Ok(logits.into_iter().zip(near).map(score).collect())
    }

    /// Cosine of the global features, and hubness, of every picture: from the class token that leads its patch features.
    fn nearness(&self, query: &TextQuery, images: &[PatchFeatures]) -> Result<Vec<[f32; 2]>, EmbedError> {
        let width = self.info.patch_width;
        let unused = self.config.calibration.similarity == 0.0 && self.bank.is_none();
        if unused || images.is_empty() || images.iter().any(|p| p.data.len() < width * 2) {
            // Of another model: match_logits says so.
            return Ok(vec![[0.0; 2]; images.len()]);
        }
        let class = |p: &PatchFeatures| -> Vec<f32> {
            p.data[..width * 2].chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
        };
        let tokens: Vec<f32> = images.iter().flat_map(class).collect();
        let tokens = Tensor::from_vec(tokens, (images.len(), 1, width), &self.device)?;
        let features = l2_normalize(&self.precision.scope(|| self.cada.image_proj(&tokens))?)?;
        let hubness = match &self.bank {
            Some(bank) => bank.hubness(&features)?,
            None => vec![0.0; images.len()],
        };
        let dot = |f: Vec<f32>| f.iter().zip(&query.feature).map(|(a, b)| a * b).sum();
        Ok(features.to_vec2::<f32>()?.into_iter().zip(hubness).map(|(f, hubness)| [dot(f), hubness]).collect())
    }
}

/// Rows of a matrix, all of them finite: a NaN that got into an index would poison every later search.
fn finite(x: &Tensor) -> Result<Vec<Vec<f32>>, EmbedError> {
    let rows = x.to_vec2::<f32>()?;
    if rows.iter().flatten().all(|v| v.is_finite()) { Ok(rows) } else { Err(EmbedError::NotFinite) }
}
