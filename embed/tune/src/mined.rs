//! Matching against mined negatives: a second stage of training for the decoder alone, on what it is asked at a search.
//!
//! Re-ranking shows the decoder the best K of a whole gallery by cosine, and there hardly a picture is as easy as the
//! hardest negative of a batch. In this stage the negatives of a text are drawn from the best K by cosine of a gallery of
//! thousands of training pictures, and texts whose own picture is not among the K are passed over, as re-ranking never sees
//! them either: without that the decoder would learn that a high cosine speaks against a match. The image encoder is
//! frozen, so features of the pictures are computed once and a step costs the decoder only. Networks and losses are CADA's.

use candle_core::{D, Result, Tensor};
use candle_nn::ops::log_softmax;
use serde::{Deserialize, Serialize};

use super::atp::MatchLogits;

/// Steps over which the learning rate rises.
const WARMUP: usize = 20;

/// What the stage is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mined {
    /// Steps of the stage, after all others.
    pub steps: usize,
    /// Pictures whose features are kept, at most; whole identities by chance.
    pub pictures: usize,
    /// Pictures of the gallery of a step: some of those, as many as there will be at a search.
    pub gallery: usize,
    /// Negatives are drawn from so many pictures of others that are nearest to the text by cosine.
    pub top: usize,
    /// Texts of a step.
    pub texts: usize,
    /// Negatives of each text.
    pub negatives: usize,
    /// Weight of the softmax over a text's pair and its negatives, beside ATP's verdict on each by itself; 0 for none.
    pub contrast: f64,
    /// Highest learning rate; it falls linearly to zero.
    pub lr: f64,
    /// Trains the whole text side, which is the decoder too, and holds it to the pictures by the global loss. Else the
    /// text encoder is frozen too, and the global ranking stays what it is, to the bit.
    pub text: bool,
}

impl Default for Mined {
    fn default() -> Self {
        Self {
            steps: 0,
            pictures: 8192,
            gallery: 2048,
            top: 32,
            texts: 16,
            negatives: 7,
            contrast: 1.0,
            lr: 5e-4,
            text: false,
        }
    }
}

impl Mined {
    /// Learning rate of the stage's `step` (from 0).
    pub fn rate(&self, step: usize) -> f64 {
        let up = ((step + 1) as f64 / WARMUP as f64).min(1.0);
        self.lr * up * (self.steps.saturating_sub(step) as f64 / self.steps.max(1) as f64)
    }

    /// Whether the stage trains the variable `name`: the match heads, and of the text side all but the word embeddings, or
    /// the cross-attention alone, which only the decoder uses.
    pub fn trains(&self, name: &str) -> bool {
        let side = name.starts_with("text_encoder.") || name.starts_with("text_proj.");
        name.starts_with("itm_")
            || side && if self.text { !name.contains(".word_embeddings.") } else { name.contains(".crossattention.") }
    }

    /// Texts of which those of a step are taken.
    pub fn drawn(&self) -> usize {
        if self.text { 4 * self.texts } else { 2 * self.texts }
    }

    /// Whether every number is one the stage can use.
    ///
    /// # Errors
    /// Says which is not.
    pub fn check(&self) -> std::result::Result<(), String> {
        if self.texts == 0 || self.negatives == 0 || self.pictures.min(self.gallery) < 2 {
            return Err("mined matching needs texts, negatives and a gallery of two pictures at least".into());
        }
        if self.top < self.negatives {
            return Err(format!("{} negatives cannot be drawn from the best {}", self.negatives, self.top));
        }
        if !(self.lr > 0.0 && self.lr.is_finite() && self.contrast >= 0.0 && self.contrast.is_finite()) {
            return Err(format!(
                "a learning rate of {} and a weight of {} of the softmax are none to mine with",
                self.lr, self.contrast
            ));
        }
        Ok(())
    }
}

/// The softmax over each text's candidates: `logits` of the pairs and then of `negatives` for each of them. Gives the mean
/// cross-entropy and the share of texts whose pair has the highest margin.
///
/// # Errors
/// When candle fails.
pub fn contrast(logits: &MatchLogits, negatives: usize) -> Result<Option<(Tensor, f64)>> {
    let Some(whole) = &logits.whole else { return Ok(None) };
    let n = logits.positives;
    let margin = (whole.narrow(1, 1, 1)? - whole.narrow(1, 0, 1)?)?;
    let pair = margin.narrow(0, 0, n)?.reshape((n, 1))?;
    let others = margin.narrow(0, n, n * negatives)?.reshape((n, negatives))?;
    let all = Tensor::cat(&[&pair, &others], 1)?;
    let loss = log_softmax(&all, D::Minus1)?.narrow(1, 0, 1)?.mean_all()?.neg()?;
    let rows = all.detach().to_vec2::<f32>()?;
    let first = rows.iter().filter(|row| row[1..].iter().all(|other| *other < row[0])).count();
    Ok(Some((loss, first as f64 / n.max(1) as f64)))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_rate_rises_and_falls_to_zero() {
        let mined = Mined { steps: 100, lr: 1.0, ..Mined::default() };
        assert!((mined.rate(0) - 0.05).abs() < 1e-12 && (mined.rate(50) - 0.5).abs() < 1e-12);
        assert!(mined.rate(99) > 0.0 && mined.rate(100) == 0.0);
    }

    #[test]
    fn only_what_the_decoder_alone_uses_is_trained() {
        let (alone, text) = (Mined::default(), Mined { text: true, ..Mined::default() });
        let cross = "text_encoder.encoder.layer.0.crossattention.self.query.weight";
        let own = "text_encoder.encoder.layer.0.attention.self.query.weight";
        assert!([&alone, &text].iter().all(|mined| mined.trains("itm_head.weight") && mined.trains(cross)));
        assert!(text.trains(own) && text.trains("text_proj.bias") && !alone.trains(own));
        for frozen in [
            "text_encoder.embeddings.word_embeddings.weight",
            "text_decoder.bert.encoder.layer.0.crossattention.self.query.weight",
            "vision_proj.weight",
        ] {
            assert!(!alone.trains(frozen) && !text.trains(frozen), "{frozen}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let said = |mined: Mined| mined.check().expect_err("refused");
        assert_eq!(Mined::default().check(), Ok(()));
        assert!(said(Mined { negatives: 0, ..Mined::default() }).contains("negatives"));
        assert!(said(Mined { top: 3, ..Mined::default() }).contains("best 3"));
        assert!(said(Mined { contrast: f64::NAN, ..Mined::default() }).contains("NaN"));
    }

    #[test]
    fn the_softmax_is_over_each_texts_own_candidates() {
        // Margins: pairs 2 and 0; negatives of the first 0 and 1, of the second 3 and -1.
        let rows: Vec<f32> = [2.0, 0.0, 0.0, 1.0, 3.0, -1.0].iter().flat_map(|m| [1.0, 1.0 + m]).collect();
        let whole = Tensor::from_vec(rows, (6, 2), &Device::Cpu).expect("a tensor");
        let logits = MatchLogits { whole: Some(whole), groups: None, positives: 2 };
        let (loss, first) = contrast(&logits, 2).expect("sound shapes").expect("whole logits");
        let one = |pair: f32, others: [f32; 2]| pair - (pair.exp() + others.iter().map(|o| o.exp()).sum::<f32>()).ln();
        let expected = -(one(2.0, [0.0, 1.0]) + one(0.0, [3.0, -1.0])) / 2.0;
        let got = loss.to_scalar::<f32>().expect("a scalar");
        assert!((got - expected).abs() < 1e-5, "{got} instead of {expected}");
        assert_eq!(first, 0.5);
    }
}
