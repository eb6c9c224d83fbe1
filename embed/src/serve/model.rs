//! A loaded model and the three questions it answers, on the calling thread. [`crate::Embedder`] puts it on a thread of
//! its own; training and evaluation use it directly.

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
    /// What it states, phrase by phrase; nothing from a model that was not calibrated for phrases.
    pub phrases: Vec<QueryPhrase>,
    /// Words of which nothing was made, and why.
    pub not_understood: Vec<NotUnderstood>,
}

/// One statement of a query.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryPhrase {
    /// "red jacket"
    pub text: String,
    /// The query says that it is not so.
    pub negated: bool,
    /// Its word pieces in the query.
    pub pieces: Range<usize>,
    /// Its own L2-normalised global feature.
    pub feature: Vec<f32>,
}

/// The decoder's judgement of one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct MatchScore {
    /// Raw logit of "match" (column 1).
    pub logit: f32,
    /// Hubness of the picture: its cosine with texts at large; none without a query bank.
    pub hubness: Option<f32>,
    /// Probability that all of the query is true of the person. From a model that was not calibrated for phrases, or for a
    /// query without one: that the picture matches, by decoder, cosine and hubness.
    pub probability: f32,
    /// Probability that each phrase of the query holds of the person, in the query's order: that a negated one is false. None is
    /// below `probability`.
    pub phrases: Vec<f32>,
}

/// Tokens plus patch rows of one decoder pass: some 30 MB of activations at the published size.
const ROWS_PER_PASS: usize = 4096;

/// CADA with its tokenizer and preprocessing.
#[derive(Debug)]
pub struct Model {
    network: Network,
    tokenizer: CaptionTokenizer,
    config: ModelConfig,
    /// There when the calibration asks for hubness.
    bank: Option<QueryBank>,
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

    /// What it is.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &CaptionTokenizer {
        &self.tokenizer
    }

    /// The networks.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The arithmetic of its products.
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
            // A feature beyond f16's range becomes infinite here; it would fail every search that meets it.
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
        // A model that judges no phrases may look at what they know nothing of.
        let said = match self.config.calibration.phrases {
            Some(_) => understand(&caption.text),
            None => Understanding::default(),
        };
        let placed = self.placed(&caption.text, &said.statements)?;
        let mut captions = vec![caption];
        for (_, statement) in &placed {
            captions.push(self.tokenizer.encode(&statement.text)?);
        }
        let mut features = self.embed_captions(&captions)?.into_iter();
        let feature = features.next().unwrap_or_default();
        let phrase = |((pieces, statement), feature): ((Range<usize>, &Statement), Vec<f32>)| {
            let (text, negated) = (statement.text.clone(), statement.negated);
            QueryPhrase { text, negated, pieces, feature }
        };
        let phrases = placed.into_iter().zip(features).map(phrase).collect();
        let Caption { text, ids, truncated, .. } = captions.swap_remove(0);
        Ok(TextQuery { text, ids, feature, truncated, phrases, not_understood: said.not_understood })
    }

    /// Statements of `text` with their places among its word pieces. One whose words were cut off is left out.
    fn placed<'a>(
        &self,
        text: &str,
        statements: &'a [Statement],
    ) -> Result<Vec<(Range<usize>, &'a Statement)>, EmbedError> {
        if statements.is_empty() {
            return Ok(Vec::new());
        }
        let (_, pieces) = self.tokenizer.encode_with_offsets(text)?;
        Ok(statements.iter().filter_map(|said| Some((pieces_at(&pieces, &said.range)?, said))).collect())
    }

    /// Both match logits of `query` against every picture, in their order: `[no match, match]`. Those of a damaged picture
    /// may not be finite.
    ///
    /// # Errors
    /// Patch features of another model.
    pub fn match_logits(&self, query: &TextQuery, images: &[PatchFeatures]) -> Result<Vec<[f32; 2]>, EmbedError> {
        Ok(self.match_and_phrase_logits(query, &[], images)?.0)
    }

    /// [`Model::match_logits`], and the local head's logits of "false" and "true" for the phrases at `pieces` of the query,
    /// picture after picture.
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
        for part in images.chunks(self.pairs_per_pass(query.ids.len())) {
            let patches: Vec<f32> = part.iter().flat_map(|p| halves(&p.data)).collect();
            let ids = vec![query.ids.as_slice(); part.len()];
            let tokens = TokenBatch::new(&ids, self.config.architecture.pad_token_id, None);
            let (whole, parts) = self.network.match_and_phrase_logits(&tokens, &patches, pieces)?;
            logits.extend(whole);
            phrases.extend(parts);
        }
        Ok((logits, phrases))
    }

    /// Pairs of a text of `tokens` tokens and a picture that go through the decoder at once.
    pub(super) fn pairs_per_pass(&self, tokens: usize) -> usize {
        (ROWS_PER_PASS / (tokens + self.info.patch_rows)).max(1)
    }

    /// That `patches` are features of this model.
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

    /// [`Model::match_logits`] as scores; none for a picture whose stored features are damaged, so that one bad picture costs
    /// a search itself alone.
    ///
    /// # Errors
    /// Patch features of another model.
    pub fn match_scores(
        &self,
        query: &TextQuery,
        images: &[PatchFeatures],
    ) -> Result<Vec<Option<MatchScore>>, EmbedError> {
        let calibration = &self.config.calibration;
        // A decoder whose local head counts for nothing is not asked.
        let of_decoder = calibration.phrases.as_ref().filter(|phrases| phrases.local > 0.0);
        let pieces: Vec<Range<usize>> = match of_decoder {
            Some(_) => query.phrases.iter().map(|phrase| phrase.pieces.clone()).collect(),
            None => Vec::new(),
        };
        let (logits, locals) = self.match_and_phrase_logits(query, &pieces, images)?;
        let near = self.nearness(query, images)?;
        let count = query.phrases.len();
        let typical = |known: &PhraseCalibration| query.phrases.iter().map(|p| known.typical(&p.feature)).collect();
        let typical: Vec<f32> = calibration.phrases.as_ref().map(typical).unwrap_or_default();
        let score = |(picture, (logits, near)): (usize, ([f32; 2], Nearness))| {
            let Nearness { cosine, hubness, phrases: cosines } = near;
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
        Ok(logits.into_iter().zip(near).enumerate().map(score).collect())
    }

    /// Cosines of the global features with query and phrases, and hubness, of every picture: from the class token that leads its
    /// patch features.
    fn nearness(&self, query: &TextQuery, images: &[PatchFeatures]) -> Result<Vec<Nearness>, EmbedError> {
        let unused = self.config.calibration.similarity == 0.0 && self.bank.is_none() && query.phrases.is_empty();
        if unused || images.is_empty() {
            return Ok(vec![Nearness::default(); images.len()]);
        }
        let class = |p: &PatchFeatures| halves(&p.data[..self.info.patch_width * 2]).collect::<Vec<_>>();
        let tokens: Vec<f32> = images.iter().flat_map(class).collect();
        let features = self.network.image_features(&tokens)?;
        let hubness = match &self.bank {
            Some(bank) => bank.hubness(&features)?,
            None => vec![0.0; images.len()],
        };
        let dot = |f: &[f32], text: &[f32]| -> f32 { f.iter().zip(text).map(|(a, b)| a * b).sum() };
        let rows = features.chunks_exact(self.info.feature_dim);
        let near = |(f, hubness): (&[f32], f32)| Nearness {
            cosine: dot(f, &query.feature),
            hubness,
            phrases: query.phrases.iter().map(|phrase| dot(f, &phrase.feature)).collect(),
        };
        Ok(rows.zip(hubness).map(near).collect())
    }
}

/// What the global features of a picture say of a query.
#[derive(Clone, Debug, Default)]
struct Nearness {
    /// Cosine with the whole query.
    cosine: f32,
    /// Hubness; 0 without a query bank.
    hubness: f32,
    /// Cosine with each phrase.
    phrases: Vec<f32>,
}

/// Little-endian f16 numbers as f32.
pub(super) fn halves(data: &[u8]) -> impl Iterator<Item = f32> + '_ {
    data.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())
}
