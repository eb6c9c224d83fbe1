//! Calibration: turns the logits and the cosine of a pair of text and picture into the probability
//! that they match.

use serde::{Deserialize, Serialize};

/// Scores of both stages for a pair of text and picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// The decoder's logits of "no match" and "match".
    pub logits: [f32; 2],
    /// Cosine of the global features.
    pub cosine: f32,
    /// Hubness of the picture ([`super::QueryBank::hubness`]); 0 without a bank.
    pub hubness: f32,
}

/// Turns the scores of both stages for one phrase into the probability that the phrase is true of
/// the person: sigmoid(cosine * cosine between the phrase and the picture + local * (true - false)
/// of the decoder's local head + typical * cosine between the phrase and people at large + bias).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhraseCalibration {
    /// Weight of the cosine of the global features of phrase and picture.
    pub cosine: f32,
    /// Weight of the difference of the local head's logits; 0 leaves the decoder out.
    #[serde(default)]
    pub local: f32,
    /// Weight of the phrase's cosine with [`PhraseCalibration::people`]. It corrects for phrases
    /// that lie near pictures or far from them whether they are true or not, and for phrases that
    /// are true of most people.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub typical: f32,
    /// Mean global feature of pictures of many people, `[embed_dim]`; empty if `typical` is 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub people: Vec<f32>,
    /// Added to the weighted sum.
    pub bias: f32,
    /// Calibration of the whole description.
    pub whole: WholeCalibration,
    /// Data it was fitted on; returned with every answer.
    #[serde(default)]
    pub version: String,
}

/// Turns the probabilities of a description's phrases and the scores of both stages for the whole
/// description into the probability that all of it is true: sigmoid(phrases * log-odds of the
/// product of the phrases' probabilities + logit * (match - no match) + cosine * cosine + bias).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WholeCalibration {
    /// Weight of the phrases' log-odds.
    pub phrases: f32,
    /// Weight of the decoder's match logits.
    pub logit: f32,
    /// Weight of the cosine of the global features.
    pub cosine: f32,
    /// Added to the weighted sum.
    pub bias: f32,
}

/// Log-odds of a probability in nats, limited to about 16 either way.
pub fn log_odds(p: f64) -> f64 {
    let p = p.clamp(1e-7, 1.0 - 1e-7);
    (p / (1.0 - p)).ln()
}

/// Probability of log-odds in nats.
pub fn sigmoid(log_odds: f64) -> f64 {
    1.0 / (1.0 + (-log_odds).exp())
}

impl WholeCalibration {
    /// Probability that a description is true; `phrases` are the probabilities of its phrases.
    pub fn probability(&self, phrases: &[f32], logits: [f32; 2], cosine: f32) -> f32 {
        let all: f64 = phrases.iter().map(|p| f64::from(*p)).product();
        let z = f64::from(self.phrases) * log_odds(all)
            + f64::from(self.logit * (logits[1] - logits[0]) + self.cosine * cosine + self.bias);
        sigmoid(z) as f32
    }
}

/// Raises the probability of each phrase to at least `all`, the probability of the whole
/// description: whoever fulfils the whole fulfils each phrase, and the whole was judged by more
/// than its phrases alone.
pub fn raise_to_whole(phrases: &mut [f32], all: f32) {
    phrases.iter_mut().for_each(|phrase| *phrase = phrase.max(all));
}

impl PhraseCalibration {
    /// Dot product of a phrase's global feature with [`PhraseCalibration::people`]; 0 if that is
    /// empty.
    pub fn typical(&self, feature: &[f32]) -> f32 {
        feature.iter().zip(&self.people).map(|(a, b)| a * b).sum()
    }

    /// Log-odds that a phrase is true; `typical` is the value of [`PhraseCalibration::typical`].
    pub fn log_odds(&self, cosine: f32, local: [f32; 2], typical: f32) -> f32 {
        let decoder = self.local * (local[1] - local[0]);
        self.cosine * cosine + decoder + self.typical * typical + self.bias
    }

    /// Probability that a phrase is true, 0 to 1.
    pub fn probability(&self, cosine: f32, local: [f32; 2], typical: f32) -> f32 {
        sigmoid(f64::from(self.log_odds(cosine, local, typical))) as f32
    }

    /// Checks that the numbers can be used.
    pub(super) fn check(&self, embed_dim: usize) -> Result<(), String> {
        let WholeCalibration { phrases, logit, cosine, bias } = self.whole;
        let numbers = [self.cosine, self.local, self.typical, self.bias, phrases, logit, cosine, bias];
        if !numbers.iter().chain(&self.people).all(|x| x.is_finite()) {
            return Err("calibration.phrases must be finite".into());
        }
        if self.typical != 0.0 && self.people.len() != embed_dim {
            let found = self.people.len();
            return Err(format!("calibration.phrases.people has {found} numbers, the global features {embed_dim}"));
        }
        if self.cosine < 0.0 || self.local < 0.0 {
            return Err(
                "calibration.phrases: cosine and local must be 0 or more, or evidence would count against itself"
                    .into(),
            );
        }
        Ok(())
    }
}

/// Turns the scores of both stages into a probability:
/// `x = match - no match + similarity * cosine + hubness * hubness`. Without [`Calibration::knots`]
/// the probability is sigmoid(x / temperature + bias), with them it is interpolated between the
/// knots.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Divisor of the evidence; above 1 it softens probabilities.
    pub temperature: f32,
    /// Added after the division.
    pub bias: f32,
    /// Weight of the cosine of the global features, where the difference of the match logits has
    /// weight 1; 0 leaves it out.
    #[serde(default)]
    pub similarity: f32,
    /// Weight of the picture's hubness, below 0; 0 leaves it out, and the model folder then needs
    /// no query bank.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hubness: f32,
    /// Number of persons in the gallery it was fitted on, one of whom was searched for: among fewer
    /// persons a match is likelier, among more it is less likely. 0 if the number is not known, or
    /// the share of matches was chosen.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub persons: f32,
    /// Calibration of single phrases; absent in a model that was never calibrated for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phrases: Option<PhraseCalibration>,
    /// (evidence, probability) pairs of a monotone, piecewise linear curve (isotonic regression),
    /// flat beyond its ends; empty for the sigmoid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub knots: Vec<[f32; 2]>,
    /// Data it was fitted on, and when; returned with every answer.
    #[serde(default)]
    pub version: String,
    /// Whether it was fitted; the identity was not.
    #[serde(default = "yes")]
    pub calibrated: bool,
}

fn is_zero(x: &f32) -> bool {
    *x == 0.0
}

fn yes() -> bool {
    true
}

impl Default for Calibration {
    /// Plain softmax of both match logits.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            bias: 0.0,
            similarity: 0.0,
            hubness: 0.0,
            persons: 0.0,
            phrases: None,
            knots: Vec::new(),
            version: "identity".into(),
            calibrated: false,
        }
    }
}

/// Probability `p` with its odds multiplied by e^`nats`.
pub fn shift_odds(p: f64, nats: f64) -> f32 {
    sigmoid((p / (1.0 - p)).ln() + nats) as f32
}

impl Calibration {
    /// Weighted evidence of `pair` for a match:
    /// `match - no match + similarity * cosine + hubness * hubness`.
    pub fn weigh(&self, pair: &Evidence) -> f32 {
        pair.logits[1] - pair.logits[0] + self.similarity * pair.cosine + self.hubness * pair.hubness
    }

    /// Probability that `pair` matches.
    pub fn probability(&self, pair: &Evidence) -> f32 {
        let evidence = self.weigh(pair);
        if let [first, .., last] = self.knots.as_slice() {
            let next = self.knots.partition_point(|k| k[0] <= evidence);
            return match next {
                0 => first[1],
                n if n == self.knots.len() => last[1],
                n => {
                    let ([x0, p0], [x1, p1]) = (self.knots[n - 1], self.knots[n]);
                    p0 + (p1 - p0) * ((evidence - x0) / (x1 - x0))
                }
            };
        }
        let z = f64::from(evidence) / f64::from(self.temperature) + f64::from(self.bias);
        sigmoid(z) as f32
    }

    /// Checks that the numbers can be used and the knots are a rising curve of probabilities.
    pub(super) fn check(&self, embed_dim: usize) -> Result<(), String> {
        if !(self.temperature > 0.0 && self.temperature.is_finite() && self.bias.is_finite()) {
            return Err("calibration.temperature must be above 0 and calibration.bias finite".into());
        }
        if !(self.similarity.is_finite() && self.hubness.is_finite()) {
            return Err("calibration.similarity and calibration.hubness must be finite".into());
        }
        if let Some(phrases) = &self.phrases {
            phrases.check(embed_dim)?;
        }
        if !(self.persons >= 0.0 && self.persons.is_finite()) {
            return Err("calibration.persons must be 0 or more".into());
        }
        let sound = self.knots.iter().all(|[x, p]| x.is_finite() && (0.0..=1.0).contains(p))
            && self.knots.windows(2).all(|pair| pair[0][0] < pair[1][0] && pair[0][1] <= pair[1][1]);
        if !sound || self.knots.len() == 1 {
            return Err(
                "calibration.knots must be two pairs or more of rising evidence and probability (0 to 1)".into()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Architecture, ModelConfig};

    fn pair(logits: [f32; 2], cosine: f32) -> Evidence {
        Evidence { logits, cosine, hubness: 0.5 }
    }

    #[test]
    fn calibration_is_softmax_unless_fitted() {
        let logits = [0.3f32, 1.7];
        let softmax = logits[1].exp() / (logits[0].exp() + logits[1].exp());
        assert!((Calibration::default().probability(&pair(logits, 0.9)) - softmax).abs() < 1e-6);
        let fitted = Calibration { temperature: 2.0, bias: -0.7, ..Calibration::default() };
        assert!((fitted.probability(&pair(logits, 0.9)) - 0.5).abs() < 1e-6);
        let both = Calibration { similarity: 2.0, ..Calibration::default() };
        assert!((both.probability(&pair([0.5, 0.0], 0.25)) - 0.5).abs() < 1e-6);
        let all = Calibration { hubness: -3.0, ..both };
        assert!((all.probability(&pair([0.5, 2.0], 0.0)) - 0.5).abs() < 1e-6);
    }

    #[test]
    fn a_number_of_persons_below_zero_is_refused() {
        let calibration = Calibration { persons: -1.0, ..Calibration::default() };
        assert!(calibration.check(4).expect_err("refused").contains("persons"));
    }

    #[test]
    fn a_phrase_is_judged_beside_people_at_large() {
        let whole = WholeCalibration { phrases: 1.0, logit: 0.0, cosine: 0.0, bias: 0.0 };
        let plain = PhraseCalibration {
            cosine: 2.0,
            local: 1.0,
            typical: 0.0,
            people: Vec::new(),
            bias: 0.5,
            whole,
            version: String::new(),
        };
        let beside = PhraseCalibration { typical: -3.0, people: vec![0.5, 0.0], ..plain.clone() };
        assert_eq!((plain.typical(&[0.8, 0.6]), beside.typical(&[0.8, 0.6])), (0.0, 0.4));
        // 2 * 0.3 + 1 - 3 * 0.4 + 0.5
        assert!((beside.probability(0.3, [1.0, 2.0], 0.4) - sigmoid(0.9) as f32).abs() < 1e-6);
        assert!((plain.probability(0.3, [1.0, 2.0], 0.4) - sigmoid(2.1) as f32).abs() < 1e-6);
        assert!(beside.check(2).is_ok() && plain.check(2).is_ok());
        assert!(beside.check(3).expect_err("of another width").contains("people"));
    }

    #[test]
    fn no_phrase_is_less_likely_than_all_of_them() {
        let mut phrases = [0.9, 0.3, 0.5];
        raise_to_whole(&mut phrases, 0.5);
        assert_eq!(phrases, [0.9, 0.5, 0.5]);
    }

    #[test]
    fn a_fitted_curve_is_followed_and_checked() {
        let with =
            |knots: &[[f32; 2]]| Calibration { knots: knots.to_vec(), similarity: 2.0, ..Calibration::default() };
        let curve = with(&[[-1.0, 0.1], [0.0, 0.2], [2.0, 0.8]]);
        for (logit, cosine, want) in
            [(-9.0, 0.0, 0.1), (-1.0, 0.0, 0.1), (-0.5, 0.0, 0.15), (0.0, 0.5, 0.5), (2.0, 0.0, 0.8), (99.0, 1.0, 0.8)]
        {
            assert!((curve.probability(&pair([0.0, logit], cosine)) - want).abs() < 1e-6, "{logit} {cosine}");
        }
        let parse = |calibration: Calibration| {
            let config = ModelConfig { calibration, ..ModelConfig::new("x", Architecture::cada_base()) };
            ModelConfig::parse(&serde_json::to_string(&config).expect("serialises"))
        };
        assert_eq!(parse(curve.clone()).expect("a valid curve").calibration, curve);
        let falling: [&[[f32; 2]]; 4] =
            [&[[0.0, 0.5]], &[[0.0, 0.5], [0.0, 0.6]], &[[0.0, 0.5], [1.0, 0.4]], &[[0.0, 0.5], [1.0, 1.4]]];
        assert!(falling.into_iter().all(|knots| parse(with(knots)).expect_err("refused").contains("knots")));
    }
}
