//! Query encoder: the model as the search sees it. A trait, so that tests can search with
//! predictable features.

use std::any::Any;
use std::sync::Arc;

use sightline_core::{PatchFeatures, RgbImage};
use sightline_embed::text::NotUnderstood;
use sightline_embed::{EmbedError, Embedder, TextQuery};

/// One phrase of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhraseAsked {
    /// The phrase without article and negation: "red jacket", "bag".
    pub text: String,
    /// Whether the text negates the phrase.
    pub negated: bool,
}

impl std::fmt::Display for PhraseAsked {
    /// Formats the phrase as people say it: "red jacket", "no bag".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", if self.negated { "no " } else { "" }, self.text)
    }
}

/// An encoded text.
#[derive(Clone)]
pub struct EncodedText {
    /// Global feature, L2-normalised.
    pub feature: Vec<f32>,
    /// The text as the model understood it, after cleaning.
    pub text: String,
    /// Whether the text was longer than the model reads, so that its end was not used.
    pub truncated: bool,
    /// Phrases of the text, in order; empty unless [`QueryEncoder::judges_phrases`].
    pub phrases: Vec<PhraseAsked>,
    /// Words that the model could not use, with the reason; empty unless
    /// [`QueryEncoder::judges_phrases`].
    pub not_understood: Vec<NotUnderstood>,
    /// Data that the encoder itself needs to match pictures against the text.
    pub inner: Arc<dyn Any + Send + Sync>,
}

impl std::fmt::Debug for EncodedText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EncodedText").field("text", &self.text).field("truncated", &self.truncated).finish()
    }
}

/// Match of one picture with a text, by the decoder; all values are finite.
#[derive(Clone, Debug, PartialEq)]
pub struct MatchScore {
    /// Raw logit of "match".
    pub logit: f32,
    /// Hubness of the picture: its cosine with texts at large; `None` when the model cannot compute
    /// it.
    pub hubness: Option<f32>,
    /// Calibrated probability, 0..=1. With a model that judges phrases: that the whole text is true
    /// of the person; otherwise: that the picture matches.
    pub probability: f32,
    /// Probability that each phrase of the text is true of the person, in the text's order; for a
    /// negated phrase, that it is absent.
    pub phrases: Vec<f32>,
}

/// Reason why a query could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The text contains nothing that the model knows.
    #[error("the query holds no word that the model knows")]
    EmptyQuery,
    /// The model failed.
    #[error("the model failed: {0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Model that encodes queries. All calls block and may come from several threads at once.
pub trait QueryEncoder: Send + Sync {
    /// Returns the id of the model; the store's vectors must come from the same model.
    fn model_id(&self) -> &str;

    /// Returns the length of a global feature.
    fn width(&self) -> usize;

    /// Returns rows and width of the patch features that [`QueryEncoder::match_scores`] takes.
    fn patch_shape(&self) -> (u32, u32);

    /// Returns the number of persons for which the probabilities of [`QueryEncoder::match_scores`]
    /// are calibrated; `None` when they must not be adjusted to another number.
    fn persons(&self) -> Option<f32> {
        None
    }

    /// Whether the model splits a text into phrases and gives each a probability. A text without a
    /// phrase gives such a model nothing to judge.
    fn judges_phrases(&self) -> bool {
        false
    }

    /// Encodes a text.
    ///
    /// # Errors
    /// [`EncodeError`].
    fn encode_text(&self, text: &str) -> Result<EncodedText, EncodeError>;

    /// Returns the L2-normalised global feature of a picture of a person.
    ///
    /// # Errors
    /// [`EncodeError::Failed`].
    fn embed_image(&self, image: &RgbImage) -> Result<Vec<f32>, EncodeError>;

    /// Returns one match score per picture, in their order. `None` means that a picture's stored
    /// features are damaged and give no finite score; the other pictures keep theirs.
    ///
    /// # Errors
    /// [`EncodeError::Failed`].
    fn match_scores(
        &self,
        text: &EncodedText,
        pictures: Vec<PatchFeatures>,
    ) -> Result<Vec<Option<MatchScore>>, EncodeError>;
}

impl From<EmbedError> for EncodeError {
    fn from(e: EmbedError) -> Self {
        match e {
            EmbedError::EmptyQuery => Self::EmptyQuery,
            e => Self::Failed(Box::new(e)),
        }
    }
}

/// The shipped encoder: queries go to the inference thread, ahead of the crops that wait there.
impl QueryEncoder for Embedder {
    fn model_id(&self) -> &str {
        &self.info().id
    }

    fn width(&self) -> usize {
        self.info().feature_dim
    }

    fn patch_shape(&self) -> (u32, u32) {
        // Sizes of a picture's features; a model beyond these does not fit into memory.
        let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        (size(self.info().patch_rows), size(self.info().patch_width))
    }

    fn persons(&self) -> Option<f32> {
        // The probability that a phrase is true of somebody does not depend on the number of
        // others.
        let persons = self.info().calibration.persons;
        (persons > 0.0 && !self.judges_phrases()).then_some(persons)
    }

    fn judges_phrases(&self) -> bool {
        self.info().calibration.phrases.is_some()
    }

    fn encode_text(&self, text: &str) -> Result<EncodedText, EncodeError> {
        let query = self.encode_text_blocking(text)?;
        let (feature, text, truncated) = (query.feature.clone(), query.text.clone(), query.truncated);
        let phrase = |p: &sightline_embed::QueryPhrase| PhraseAsked { text: p.text.clone(), negated: p.negated };
        let phrases = query.phrases.iter().map(phrase).collect();
        let not_understood = query.not_understood.clone();
        Ok(EncodedText { feature, text, truncated, phrases, not_understood, inner: Arc::new(query) })
    }

    fn embed_image(&self, image: &RgbImage) -> Result<Vec<f32>, EncodeError> {
        let mut features = self.embed_images_blocking(vec![image.clone()])?;
        features.pop().map(|f| f.feature).ok_or_else(|| EncodeError::Failed("no feature for the picture".into()))
    }

    fn match_scores(
        &self,
        text: &EncodedText,
        pictures: Vec<PatchFeatures>,
    ) -> Result<Vec<Option<MatchScore>>, EncodeError> {
        let query = text
            .inner
            .downcast_ref::<TextQuery>()
            .ok_or_else(|| EncodeError::Failed("the text was encoded by something else".into()))?;
        let scores = self.match_scores_blocking(query, pictures)?;
        let score = |s: sightline_embed::MatchScore| MatchScore {
            logit: s.logit,
            hubness: s.hubness,
            probability: s.probability,
            phrases: s.phrases,
        };
        Ok(scores.into_iter().map(|s| s.map(score)).collect())
    }
}
