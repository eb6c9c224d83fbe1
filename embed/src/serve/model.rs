//! A loaded model on the calling thread: it embeds pictures, encodes texts, and matches texts
//! against pictures. [`crate::Embedder`] runs it on a thread of its own; training and evaluation
//! use it directly.

use std::ops::Range;

use bytes::Bytes;
use half::f16;
use half::slice::HalfFloatSliceExt;
use sightline_core::config::EmbedPrecision;
use sightline_core::{PatchFeatures, RgbImage};

use crate::kernel::Precision;
use crate::model::{
    Calibration, Evidence, Logits, ModelConfig, Network, PhraseCalibration, QueryBank, TokenBatch, raise_to_whole,
};
use crate::net::WeightFile;
use crate::preprocess::pixel_values;
use crate::text::{Caption, CaptionTokenizer, NotUnderstood, Statement, Understanding, pieces_at, understand};
use crate::{EmbedError, ModelFolder, SelfTest, choose_precision, device_name, open_device};

/// Identity and set-up of a model; the API returns it, and its id is stored with every vector.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ModelInfo {
    /// Identity of the embedding space, see [`ModelFolder::id`].
    pub id: String,
    /// Name for people.
    pub name: String,
    /// Device in use, for example `cpu` or `cuda:0`.
    pub device: String,
    /// Precision, `f32`, `bf16` or `f16`: on a CPU that of the matrix products, everything else
    /// being f32; on a GPU that of the whole model.
    pub dtype: String,
    /// Height and width of the model's input.
    pub image_size: [usize; 2],
    /// Width of the global features.
    pub feature_dim: usize,
    /// Rows of the patch features.
    pub patch_rows: usize,
    /// Width of the patch features.
    pub patch_width: usize,
    /// Calibration of match probabilities.
    pub calibration: Calibration,
    /// Decision thresholds of the model folder.
    pub thresholds: serde_json::Value,
    /// Origin of the weights: data, licences and numbers.
    pub provenance: serde_json::Value,
    /// Outcome of the start-up self-test, which [`crate::Embedder::start`] runs.
    pub self_test: SelfTest,
}

/// Features of one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageFeatures {
    /// L2-normalised global feature.
    pub feature: Vec<f32>,
    /// Patch features, which the decoder reads.
    pub patches: PatchFeatures,
}

/// Encoded text, ready for search and for matching against pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct TextQuery {
    /// The text after cleaning.
    pub text: String,
    /// Token ids from `[CLS]` to `[SEP]`, without padding.
    pub ids: Vec<u32>,
    /// L2-normalised global feature.
    pub feature: Vec<f32>,
    /// Whether words were cut off because the text is longer than the model reads.
    pub truncated: bool,
    /// Its statements, phrase by phrase; empty for a model without phrase calibration.
    pub phrases: Vec<QueryPhrase>,
    /// Words without a statement, and why.
    pub not_understood: Vec<NotUnderstood>,
}

/// One statement of a query.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryPhrase {
    /// Text of the phrase: "red jacket".
    pub text: String,
    /// Whether the query negates it.
    pub negated: bool,
    /// Range of its word pieces in the query.
    pub pieces: Range<usize>,
    /// L2-normalised global feature of the phrase alone.
    pub feature: Vec<f32>,
}

/// Scores of one picture for a query.
#[derive(Clone, Debug, PartialEq)]
pub struct MatchScore {
    /// Raw logit of "match" (column 1).
    pub logit: f32,
    /// Hubness of the picture: its nearness to texts at large; `None` without a query bank.
    pub hubness: Option<f32>,
    /// Probability that all of the query is true of the person. For a model without phrase
    /// calibration, or a query without phrases: probability that the picture matches, by decoder,
    /// cosine and hubness.
    pub probability: f32,
    /// Probability that each phrase of the query is true of the person, in the query's order; for a
    /// negated phrase, the probability that it is false. None is below `probability`.
    pub phrases: Vec<f32>,
}

/// CADA with its tokenizer and preprocessing.
#[derive(Debug)]
pub struct Model {
    network: Network,
    tokenizer: CaptionTokenizer,
    config: ModelConfig,
    /// Loaded if the calibration uses hubness.
    bank: Option<QueryBank>,
    precision: Precision,
    info: ModelInfo,
}

impl Model {
    /// Loads `folder` onto `device` ("cpu", "cuda:0"), in f32. Runs no self-test.
    ///
    /// # Errors
    /// A missing device, or a folder that is not a whole, consistent model.
    pub fn load(folder: &ModelFolder, device: &str) -> Result<Self, EmbedError> {
        Self::load_as(folder, device, EmbedPrecision::F32)
    }

    /// [`Model::load`] in the configured precision.
    ///
    /// # Errors
    /// As [`Model::load`] and [`choose_precision`].
    pub fn load_as(folder: &ModelFolder, device: &str, configured: EmbedPrecision) -> Result<Self, EmbedError> {
        let device = open_device(device)?;
        let precision = choose_precision(configured, &device)?;
        let (config, arch) = (folder.config.clone(), &folder.config.architecture);
        let tokenizer = CaptionTokenizer::load(&folder.tokenizer(), arch)?;
        let words = config.word_head.map(|kind| Ok::<_, EmbedError>((kind, WeightFile::read(&folder.word_head())?)));
        let weights = WeightFile::read(&folder.weights())?;
        let network = Network::load_with_words(weights, words.transpose()?, arch, &device, precision)?;
        let bank = folder.bank()?;
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
        Ok(Self { network, tokenizer, config, bank, precision, info })
    }

    /// Description of the model.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Tokenizer of the model.
    pub fn tokenizer(&self) -> &CaptionTokenizer {
        &self.tokenizer
    }

    /// Networks of the model.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Precision of the matrix products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Features of pictures of any size, in one batch.
    ///
    /// # Errors
    /// A picture without a pixel, or features that are not finite (patch features: in f16).
    pub fn embed_images(&self, images: &[RgbImage]) -> Result<Vec<ImageFeatures>, EmbedError> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let pixels = pixel_values(images, self.config.architecture.image_size, &self.config.preprocess)?;
        let encoded = self.network.encode_images(&pixels)?;
        let (rows, width) = (self.info.patch_rows, self.info.patch_width);
        let pack = |(feature, values): (&[f32], &[f32])| {
            let mut half = vec![f16::ZERO; values.len()];
            half.convert_from_f32_slice(values);
            // A feature beyond f16's range becomes infinite here; it would fail every search that
            // meets it.
            if !feature.iter().all(|v| v.is_finite()) || !half.iter().all(|v| v.is_finite()) {
                return Err(EmbedError::NotFinite);
            }
            let data: Vec<u8> = half.iter().flat_map(|v| v.to_le_bytes()).collect();
            let patches = PatchFeatures { rows: rows as u32, width: width as u32, data: Bytes::from(data) };
            Ok(ImageFeatures { feature: feature.to_vec(), patches })
        };
        let both = encoded.features.chunks_exact(self.info.feature_dim).zip(encoded.patches.chunks_exact(rows * width));
        both.map(pack).collect()
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
        let features = self.network.text_features(&tokens)?;
        if !features.iter().all(|v| v.is_finite()) {
            return Err(EmbedError::NotFinite);
        }
        Ok(features.chunks_exact(self.info.feature_dim).map(<[f32]>::to_vec).collect())
    }

    /// Cleans, tokenises and encodes a query.
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
        // A model without phrase calibration may know words that the lexicon does not: none are
        // reported.
        let understanding = match self.config.calibration.phrases {
            Some(_) => understand(&caption.text),
            None => Understanding::default(),
        };
        let statements = self.with_pieces(&caption.text, &understanding.statements)?;
        let mut captions = vec![caption];
        for (_, statement) in &statements {
            captions.push(self.tokenizer.encode(&statement.text)?);
        }
        let mut features = self.embed_captions(&captions)?.into_iter();
        let feature = features.next().unwrap_or_default();
        let phrase = |((pieces, statement), feature): ((Range<usize>, &Statement), Vec<f32>)| {
            let (text, negated) = (statement.text.clone(), statement.negated);
            QueryPhrase { text, negated, pieces, feature }
        };
        let phrases = statements.into_iter().zip(features).map(phrase).collect();
        let Caption { text, ids, truncated, .. } = captions.swap_remove(0);
        Ok(TextQuery { text, ids, feature, truncated, phrases, not_understood: understanding.not_understood })
    }

    /// Statements of `text`, each with the range of its word pieces. A statement whose words were
    /// cut off is left out.
    fn with_pieces<'a>(
        &self,
        text: &str,
        statements: &'a [Statement],
    ) -> Result<Vec<(Range<usize>, &'a Statement)>, EmbedError> {
        if statements.is_empty() {
            return Ok(Vec::new());
        }
        let (_, pieces) = self.tokenizer.encode_with_offsets(text)?;
        Ok(statements.iter().filter_map(|statement| Some((pieces_at(&pieces, &statement.range)?, statement))).collect())
    }

    /// Both match logits of `query` against every picture, in their order: `[no match, match]`.
    /// Those of a damaged picture may not be finite.
    ///
    /// # Errors
    /// Patch features of another model.
    pub fn match_logits(&self, query: &TextQuery, images: &[PatchFeatures]) -> Result<Vec<[f32; 2]>, EmbedError> {
        Ok(self.match_and_phrase_logits(query, &[], images)?.0)
    }

    /// [`Model::match_logits`], and the local head's logits of "false" and "true" for the phrases
    /// at `pieces` of the query, picture by picture.
    ///
    /// # Errors
    /// Patch features of another model, or pieces beyond the query.
    pub fn match_and_phrase_logits(
        &self,
        query: &TextQuery,
        pieces: &[Range<usize>],
        images: &[PatchFeatures],
    ) -> Result<(Logits, Logits), EmbedError> {
        images.iter().try_for_each(|patches| self.check_patches(patches))?;
        let (mut logits, mut phrases) = (Vec::with_capacity(images.len()), Vec::new());
        for part in images.chunks(self.config.architecture.pairs_per_pass(query.ids.len())) {
            let patches: Vec<f32> = part.iter().flat_map(|p| f16_to_f32(&p.data)).collect();
            let ids = vec![query.ids.as_slice(); part.len()];
            let tokens = TokenBatch::new(&ids, self.config.architecture.pad_token_id, None);
            let (whole, parts) = self.network.match_and_phrase_logits(&tokens, &patches, pieces)?;
            logits.extend(whole);
            phrases.extend(parts);
        }
        Ok((logits, phrases))
    }

    /// Checks that `patches` have the shape of this model's patch features.
    pub(super) fn check_patches(&self, patches: &PatchFeatures) -> Result<(), EmbedError> {
        let (rows, width) = (self.info.patch_rows, self.info.patch_width);
        let found = (patches.rows as usize, patches.width as usize, patches.data.len());
        if found == (rows, width, rows * width * 2) {
            return Ok(());
        }
        Err(EmbedError::PatchFeatures {
            expected: format!("{rows} x {width} f16"),
            found: format!("{} x {} f16 in {} bytes", found.0, found.1, found.2),
        })
    }

    /// Scores of `query` for every picture, in their order; `None` for a picture whose stored
    /// features are damaged, so that one bad picture does not fail the whole search.
    ///
    /// # Errors
    /// Patch features of another model.
    pub fn match_scores(
        &self,
        query: &TextQuery,
        images: &[PatchFeatures],
    ) -> Result<Vec<Option<MatchScore>>, EmbedError> {
        let calibration = &self.config.calibration;
        // If the local head has no weight, its logits are not computed.
        let of_decoder = calibration.phrases.as_ref().filter(|phrases| phrases.local > 0.0);
        let pieces: Vec<Range<usize>> = match of_decoder {
            Some(_) => query.phrases.iter().map(|phrase| phrase.pieces.clone()).collect(),
            None => Vec::new(),
        };
        let (logits, locals) = self.match_and_phrase_logits(query, &pieces, images)?;
        let similarities = self.similarities(query, images)?;
        let count = query.phrases.len();
        let typical = |known: &PhraseCalibration| query.phrases.iter().map(|p| known.typical(&p.feature)).collect();
        let typical: Vec<f32> = calibration.phrases.as_ref().map(typical).unwrap_or_default();
        let score = |(picture, (logits, similarity)): (usize, ([f32; 2], Similarity))| {
            let Similarity { cosine, hubness, phrases: cosines } = similarity;
            let local = |i: usize| locals.get(picture * count + i).copied().unwrap_or_default();
            let finite = [logits[0], logits[1], cosine, hubness].iter().chain(&cosines).all(|v| v.is_finite())
                && (0..count).all(|i| local(i).iter().all(|v| v.is_finite()));
            let truth = |(i, cosine): (usize, &f32)| {
                let known = calibration.phrases.as_ref()?;
                // The local head reads a negated phrase with its negation, the cosine without.
                let [no, yes] = local(i);
                Some(match query.phrases[i].negated {
                    true => 1.0 - known.probability(*cosine, [yes, no], typical[i]),
                    false => known.probability(*cosine, [no, yes], typical[i]),
                })
            };
            let mut phrases: Vec<f32> = cosines.iter().enumerate().filter_map(truth).collect();
            let probability = match &calibration.phrases {
                Some(known) if !phrases.is_empty() => known.whole.probability(&phrases, logits, cosine),
                _ => calibration.probability(&Evidence { logits, cosine, hubness }),
            };
            raise_to_whole(&mut phrases, probability);
            let hubness = self.bank.as_ref().map(|_| hubness);
            finite.then(|| MatchScore { logit: logits[1], hubness, probability, phrases })
        };
        Ok(logits.into_iter().zip(similarities).enumerate().map(score).collect())
    }

    /// Similarity of every picture to `query`, by the global features: they are computed from the
    /// class token that leads the patch features.
    fn similarities(&self, query: &TextQuery, images: &[PatchFeatures]) -> Result<Vec<Similarity>, EmbedError> {
        let unused = self.config.calibration.similarity == 0.0 && self.bank.is_none() && query.phrases.is_empty();
        if unused || images.is_empty() {
            return Ok(vec![Similarity::default(); images.len()]);
        }
        let class = |p: &PatchFeatures| f16_to_f32(&p.data[..self.info.patch_width * 2]).collect::<Vec<_>>();
        let tokens: Vec<f32> = images.iter().flat_map(class).collect();
        let features = self.network.image_features(&tokens)?;
        let hubness = match &self.bank {
            Some(bank) => bank.hubness(&features)?,
            None => vec![0.0; images.len()],
        };
        let dot = |f: &[f32], text: &[f32]| -> f32 { f.iter().zip(text).map(|(a, b)| a * b).sum() };
        let rows = features.chunks_exact(self.info.feature_dim);
        let similarity = |(f, hubness): (&[f32], f32)| Similarity {
            cosine: dot(f, &query.feature),
            hubness,
            phrases: query.phrases.iter().map(|phrase| dot(f, &phrase.feature)).collect(),
        };
        Ok(rows.zip(hubness).map(similarity).collect())
    }
}

/// Similarity of a picture to a query, by their global features.
#[derive(Clone, Debug, Default)]
struct Similarity {
    /// Cosine with the whole query.
    cosine: f32,
    /// Hubness; 0 without a query bank.
    hubness: f32,
    /// Cosine with each phrase.
    phrases: Vec<f32>,
}

/// Converts little-endian f16 numbers to f32.
pub(super) fn f16_to_f32(data: &[u8]) -> impl Iterator<Item = f32> + '_ {
    data.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())
}
