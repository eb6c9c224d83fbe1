//! Prediction of masked words: a text with masked words and a picture -> scores of every word for
//! each mask (ARA; paper, section 3.4).

use super::cada::Builder;
use super::weights::{PrefixedWeights, WeightSource};
use super::{Bert, Dense, Norm, ShapeError};
use crate::EmbedError;
use crate::kernel::{Epilogue, Precision};
use crate::model::{Architecture, TokenBatch, WORD_HEAD_PREFIX, WordHead, WordPredictor};

/// Head that predicts words, with its transformer unless that is the text encoder itself.
#[derive(Debug)]
pub struct WordNet {
    own: Option<Bert>,
    transform: Dense,
    norm: Norm,
    bias: Vec<f32>,
    causal: bool,
}

impl WordNet {
    /// Builds the head from the tensors of `head`; tensors that the predictor shares with the text
    /// encoder come from `model`.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn new(
        arch: &Architecture,
        kind: WordHead,
        head: &mut dyn WeightSource,
        model: &mut dyn WeightSource,
        precision: Precision,
    ) -> Result<Self, EmbedError> {
        let builder = Builder { precision, shapes_only: false };
        let mut source = TextDecoder { head, model, kind: kind.predictor };
        let mut names = PrefixedWeights::new(&mut source);
        let own = match kind.predictor {
            WordPredictor::Own | WordPredictor::Shared => {
                Some(Bert::build(arch, names.below("text_decoder.bert"), &builder)?)
            }
            WordPredictor::Tied | WordPredictor::None => None,
        };
        let d = arch.text_hidden_size;
        let mut predictions = names.below("text_decoder.cls.predictions");
        let bias = predictions.tensor("bias", &[arch.vocab_size])?;
        let mut transform = predictions.below("transform");
        let norm = builder.norm(&mut transform.below("LayerNorm"), d, arch.text_layer_norm_eps)?;
        Ok(Self {
            own,
            transform: builder.dense(&mut transform.below("dense"), d, d)?,
            norm,
            bias,
            causal: kind.causal,
        })
    }

    /// Scores of every word, `[positions, vocabulary]`, for the tokens at `positions` (text, token)
    /// of `tokens`: text i with patch features i of `[batch, 1 + patches, vision width]`. `encoder`
    /// is the model's text encoder.
    ///
    /// # Errors
    /// As [`Bert::forward`], and a position beyond a text.
    pub fn scores(
        &self,
        encoder: &Bert,
        tokens: &TokenBatch,
        patches: &[f32],
        positions: &[(usize, usize)],
    ) -> Result<Vec<f32>, ShapeError> {
        let bert = self.own.as_ref().unwrap_or(encoder);
        let (rows, hidden) = (bert.rows(tokens), bert.forward(tokens, Some(patches), self.causal)?);
        let mut chosen = Vec::with_capacity(positions.len() * rows.width);
        for (text, token) in positions {
            if *text >= rows.items() || *token >= rows.length(*text) {
                return Err(ShapeError(format!("token {token} of text {text} of {}", rows.items())));
            }
            chosen.extend_from_slice(&hidden[(rows.before(*text) + token) * rows.width..][..rows.width]);
        }
        let (mut transformed, mut normed) = (vec![0.0; chosen.len()], vec![0.0; chosen.len()]);
        let gelu = Epilogue { gelu: true, ..self.transform.bias() };
        self.transform.apply(&chosen, &mut transformed, gelu, 0)?;
        self.norm.forward(&transformed, &mut normed);
        bert.word_scores(&normed, &self.bias)
    }
}

/// Tensors of a `text_decoder`: those of its own from the head's file, shared ones from the text
/// encoder.
struct TextDecoder<'a> {
    head: &'a mut dyn WeightSource,
    model: &'a mut dyn WeightSource,
    kind: WordPredictor,
}

impl WeightSource for TextDecoder<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EmbedError> {
        let of_transformer = name.strip_prefix(WORD_HEAD_PREFIX).and_then(|name| name.strip_prefix("bert."));
        match of_transformer {
            Some(name) if self.kind == WordPredictor::Shared && !name.contains(".crossattention.") => {
                self.model.tensor(&format!("text_encoder.{name}"), shape)
            }
            _ => self.head.tensor(name, shape),
        }
    }
}
