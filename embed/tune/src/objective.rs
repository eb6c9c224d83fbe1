//! The training objective: the weighted sum of CADA's losses over one batch (specification, section
//! 4).

use candle_core::Tensor;
use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Result;
use super::ara::{Ara, MaskedTexts, Masking};
use super::atp::{Atp, CrossAttentionStart};
use super::batch::{Batch, Pictures};
use super::losses::{GlobalLoss, Groups, HardNegative, NdfVariant, global_loss, hard_negatives};
use super::run::Trainee;
use crate::ops::network;
use crate::streams;
use sightline_embed::graph::Dropout;
use sightline_embed::graph::WordPredictor;
use sightline_figures::stream;

/// Settings of the loss on the truth of phrases, which compares each phrase with every picture of a
/// batch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Truth {
    /// Number of phrases per batch.
    pub phrases: usize,
    /// Weight of this loss in the total.
    pub weight: f64,
    /// Whether every person that a caption is true of counts as its match in the global loss.
    /// Otherwise only its own person does (NDF's target in the paper, equation 3).
    pub targets: bool,
}

/// The losses of a run and their weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// The global loss.
    pub global: GlobalLoss,
    /// Weight of the global loss in the total.
    pub global_weight: f64,
    /// Settings of ATP; `None` leaves it out.
    pub atp: Option<Atp>,
    /// Settings of ARA; `None` leaves it out.
    pub ara: Option<Ara>,
    /// Settings of the truth of phrases; `None` leaves it out.
    #[serde(default)]
    pub truth: Option<Truth>,
    /// Weight of the auxiliary attribute heads; 0 leaves them out.
    pub attributes: f64,
    /// Dropout rate in the text transformer.
    pub dropout: f32,
}

impl Default for Objective {
    /// The paper's method: NDF as distributions, hard negatives by cosine, groups of 36 tokens
    /// without padding, whole phrases masked for a bidirectional decoder that shares the text
    /// encoder's weights.
    fn default() -> Self {
        Self {
            global: GlobalLoss::Ndf(NdfVariant::Paper),
            global_weight: 1.0,
            atp: Some(Atp {
                from: 0,
                pairs: None,
                start: CrossAttentionStart::Fresh,
                negatives: HardNegative::Cosine,
                groups: Groups::of(36, true),
                global: true,
                local: true,
                phrases: false,
                weight: 1.0,
            }),
            ara: Some(Ara {
                from: 0,
                pairs: None,
                masking: Masking::Phrase,
                probability: 0.8,
                causal: false,
                decoder: WordPredictor::Shared,
                mask_sep: false,
                weight: 0.1,
            }),
            truth: None,
            attributes: 0.0,
            dropout: 0.1,
        }
    }
}

impl Objective {
    /// The authors' code: follows it wherever it differs from their paper.
    pub fn reference() -> Self {
        let paper = Self::default();
        Self {
            global: GlobalLoss::Ndf(NdfVariant::Code),
            atp: paper.atp.map(|atp| Atp { negatives: HardNegative::Code, groups: Groups::of(36, false), ..atp }),
            ara: paper.ara.map(|ara| Ara {
                masking: Masking::Word,
                probability: 0.4,
                causal: true,
                decoder: WordPredictor::Own,
                mask_sep: true,
                ..ara
            }),
            ..paper
        }
    }

    /// Objective for a small model that starts from random weights. Negatives are sampled,
    /// including easy ones. Matching starts when features are useful, with cross-attention from the
    /// projections, and on part of the batch. Groups are about as long as a phrase. The
    /// cross-attention that matches also predicts words. Attribute heads give a dense first signal.
    pub fn scratch() -> Self {
        let paper = Self::default();
        Self {
            atp: paper.atp.map(|atp| Atp {
                from: 1200,
                pairs: Some(32),
                start: CrossAttentionStart::Projections,
                negatives: HardNegative::Sampled,
                groups: Groups::of(12, true),
                ..atp
            }),
            ara: paper.ara.map(|ara| Ara { from: 1200, pairs: Some(16), decoder: WordPredictor::Tied, ..ara }),
            global: GlobalLoss::Ndf(NdfVariant::Code),
            attributes: 1.0,
            dropout: 0.0,
            ..paper
        }
    }

    /// The word predictor that the model must be built with.
    pub fn decoder(&self) -> WordPredictor {
        self.ara.as_ref().map_or(WordPredictor::None, |ara| ara.decoder)
    }

    /// Checks that every setting is valid.
    ///
    /// # Errors
    /// A message that names the setting.
    pub fn check(&self) -> std::result::Result<(), String> {
        let weights = [
            ("the global loss", self.global_weight),
            ("ATP", self.atp.as_ref().map_or(0.0, |a| a.weight)),
            ("ARA", self.ara.as_ref().map_or(0.0, |a| a.weight)),
            ("the truth of phrases", self.truth.as_ref().map_or(0.0, |t| t.weight)),
            ("the attribute heads", self.attributes),
        ];
        if let Some((name, weight)) = weights.iter().find(|(_, w)| !(w.is_finite() && *w >= 0.0)) {
            return Err(format!("the weight of {name} is {weight}; it must be 0 or more"));
        }
        if weights.iter().all(|(_, w)| *w == 0.0) {
            return Err("every loss has the weight 0".into());
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(format!("a dropout of {} is not in 0..1", self.dropout));
        }
        if let Some(atp) = &self.atp {
            if !atp.global && !atp.local && !atp.phrases {
                return Err("ATP without either half is nothing: leave it out".into());
            }
            if atp.groups.size == 0 || atp.groups.stride == 0 || atp.groups.stride > atp.groups.size {
                return Err(format!(
                    "groups of {} tokens every {}: a group needs a token, and groups must leave none out",
                    atp.groups.size, atp.groups.stride
                ));
            }
            if atp.pairs == Some(0) {
                return Err("ATP of 0 pairs is nothing: leave it out".into());
            }
        }
        if let Some(ara) = &self.ara {
            if !(0.0..=1.0).contains(&ara.probability) {
                return Err(format!("a masking probability of {} is not in 0..=1", ara.probability));
            }
            if ara.decoder == WordPredictor::None || ara.pairs == Some(0) {
                return Err("ARA without a decoder or of 0 pairs is nothing: leave it out".into());
            }
        }
        Ok(())
    }
}

/// The loss of one batch at `step` (a scalar f32) and its parts by name. `seed` determines the
/// random choices: masks, sampled negatives, dropout.
///
/// # Errors
/// A model that was not built with the objective's decoder.
pub fn loss(trainee: &Trainee, config: &Objective, batch: &Batch, step: usize, seed: u64) -> Result<(Tensor, Value)> {
    let masked = match &config.ara {
        Some(ara) if step >= ara.from => Some(ara.mask(&batch.tokens, &batch.spans, trainee.model.arch(), seed, step)),
        _ => None,
    };
    loss_with(trainee, config, batch, masked.as_ref(), step, seed)
}

/// The loss of one batch like [`loss`], with given masks.
///
/// # Errors
/// The errors of [`loss`].
pub fn loss_with(
    trainee: &Trainee,
    config: &Objective,
    batch: &Batch,
    masked: Option<&MaskedTexts>,
    step: usize,
    seed: u64,
) -> Result<(Tensor, Value)> {
    let model = &trainee.model;
    let dropout = match config.dropout {
        0.0 => None,
        rate => Some(Dropout::new(rate, stream(seed, streams::DROPOUT, step as u64).random())?),
    };
    let dropout = dropout.as_ref();
    let images = match &batch.pictures {
        Pictures::Pixels(pixels) => network::image_embeds(model, pixels)?,
        Pictures::Tokens { values, places } => network::image_embeds_of_tokens(model, values, places)?,
    };
    let texts = network::text_embeds(model, &batch.tokens, dropout)?;
    let (v, t) = (network::image_proj(model, &images)?, network::text_proj(model, &batch.tokens, &texts)?);
    let mut sum = WeightedSum::default();
    let name = match config.global {
        GlobalLoss::Cmpm => "cmpm",
        GlobalLoss::Ndf(_) => "ndf",
    };
    sum.add(name, global_loss(&v, &t, &batch.targets, config.global)?, config.global_weight)?;
    if let (Some(truth), Some((phrases, known))) = (&config.truth, &batch.phrases) {
        let states = network::text_embeds(model, phrases, dropout)?;
        let phrases = network::text_proj(model, phrases, &states)?;
        sum.add("truth", trainee.truth.loss(&v, &phrases, known)?, truth.weight)?;
    }
    if config.attributes > 0.0 {
        let cls = images.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
        let (attributes, right) = trainee.heads.loss(&cls, &batch.labels)?;
        sum.add("attributes", attributes, config.attributes)?;
        sum.parts.insert("right".into(), json!(right.iter().map(|r| (r * 100.0).round()).collect::<Vec<_>>()));
    }
    if let Some(atp) = config.atp.as_ref().filter(|atp| step >= atp.from)
        && let Some(negatives) = hard_negatives(&v, &t, &batch.targets, atp.negatives, seed ^ step as u64)?
    {
        let halves = atp.logits(model, &images, &batch.tokens, &batch.stated, &negatives, dropout)?.loss()?;
        for (name, half) in [("atp", halves.whole), ("atp_local", halves.groups), ("atp_phrases", halves.phrases)] {
            if let Some(half) = half {
                sum.add(name, half, atp.weight)?;
            }
        }
    }
    if let (Some(ara), Some(masked)) = (&config.ara, masked)
        && let Some(words) = ara.loss(model, &images, masked, dropout)?
    {
        sum.add("ara", words, ara.weight)?;
    }
    sum.finish(&images)
}

/// A weighted sum of losses, and the unweighted value of each.
#[derive(Default)]
pub(super) struct WeightedSum {
    pub total: Option<Tensor>,
    pub parts: serde_json::Map<String, Value>,
}

impl WeightedSum {
    pub fn add(&mut self, name: &str, part: Tensor, weight: f64) -> Result<()> {
        self.parts.insert(name.into(), json!(part.to_scalar::<f32>()?));
        let weighed = if weight == 1.0 { part } else { (part * weight)? };
        self.total = Some(match self.total.take() {
            Some(total) => (total + weighed)?,
            None => weighed,
        });
        Ok(())
    }

    fn finish(self, like: &Tensor) -> Result<(Tensor, Value)> {
        let total = match self.total {
            Some(total) => total,
            None => Tensor::zeros((), candle_core::DType::F32, like.device())?,
        };
        Ok((total, Value::Object(self.parts)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_sound_and_survive_json() {
        for objective in [Objective::default(), Objective::reference(), Objective::scratch()] {
            assert_eq!(objective.check(), Ok(()));
            let text = serde_json::to_string(&objective).expect("serialises");
            assert_eq!(serde_json::from_str::<Objective>(&text).expect("reads"), objective);
        }
        assert_eq!(Objective::reference().decoder(), WordPredictor::Own);
        assert_eq!(Objective { ara: None, ..Objective::default() }.decoder(), WordPredictor::None);
    }

    #[test]
    fn nonsense_is_refused_with_its_reason() {
        let said = |change: &dyn Fn(&mut Objective)| {
            let mut objective = Objective::default();
            change(&mut objective);
            objective.check().expect_err("refused")
        };
        assert!(said(&|o| o.dropout = 1.0).contains("dropout"));
        assert!(said(&|o| o.global_weight = f64::NAN).contains("global"));
        assert!(said(&|o| o.ara.as_mut().expect("on").probability = 1.5).contains("1.5"));
        assert!(said(&|o| o.atp.as_mut().expect("on").groups.stride = 40).contains("every 40"));
        let neither = |o: &mut Objective| {
            let atp = o.atp.as_mut().expect("on");
            (atp.global, atp.local) = (false, false);
        };
        assert!(said(&neither).contains("half"));
    }
}
