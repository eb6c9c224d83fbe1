//! Auxiliary attribute heads classify, from the image's class token, what a drawn person wears.
//!
//! Drawn persons have known attributes, a far denser signal than one caption among sixty: colours
//! and garments are learned in minutes instead of hours. The heads exist only during training.

use candle_core::{D, Result, Tensor};
use candle_nn::VarBuilder;
use candle_nn::ops::log_softmax;

use sightline_embed::graph::Linear;
use sightline_figures::Person;
use sightline_figures::colour::{DENIM_COLOURS, GARMENT_COLOURS, HAIR_COLOURS};
use sightline_figures::person::{LowerKind, UpperKind};

/// Classes of each head: upper colour, upper kind, pattern, inner colour, lower colour, lower kind,
/// sex, hair style, hair colour, headwear, bag, bag colour, shoe colour, held item, age.
const CLASSES: [usize; 15] = [
    GARMENT_COLOURS.len() + DENIM_COLOURS.len(),
    18,
    9,
    GARMENT_COLOURS.len() + 1,
    GARMENT_COLOURS.len() + DENIM_COLOURS.len() + 1,
    9,
    2,
    10,
    HAIR_COLOURS.len(),
    6,
    5,
    GARMENT_COLOURS.len() + 1,
    GARMENT_COLOURS.len(),
    6,
    3,
];
/// Weight of each head in the loss, in the order of [`CLASSES`].
const WEIGHTS: [f32; 15] = [2.0, 1.5, 0.7, 0.7, 2.0, 1.5, 1.0, 1.0, 0.7, 0.8, 1.0, 0.5, 0.7, 0.5, 0.3];

/// One class per head, in the order of the heads.
pub type Labels = [u8; 15];

/// Labels of a picture with unknown attributes; the loss ignores it.
pub const UNKNOWN: Labels = [u8::MAX; 15];

/// The class of `person` for each head.
pub fn labels(person: &Person) -> Labels {
    let colour = |position: usize, denim: bool| (position + if denim { GARMENT_COLOURS.len() } else { 0 }) as u8;
    let upper = person.visible_upper();
    let inner = if person.outer.is_some() && person.outer_open { 1 + person.top.shade.colour as u8 } else { 0 };
    let (lower_colour, lower_kind) = match &person.dress {
        Some(_) => ((GARMENT_COLOURS.len() + DENIM_COLOURS.len()) as u8, 8),
        None => (colour(person.lower.shade.colour, person.lower.kind == LowerKind::Jeans), person.lower.kind as u8),
    };
    [
        colour(upper.shade.colour, upper.kind == UpperKind::DenimJacket),
        upper.kind as u8,
        upper.pattern as u8,
        inner,
        lower_colour,
        lower_kind,
        u8::from(person.woman),
        person.hair as u8,
        person.hair_shade.colour as u8,
        person.hat.map_or(0, |(kind, _)| 1 + kind as u8),
        person.bag.map_or(0, |(kind, _)| 1 + kind as u8),
        person.bag.map_or(0, |(_, shade)| 1 + shade.colour as u8),
        person.shoes.1.colour as u8,
        person.held_item.map_or(0, |(kind, _)| 1 + kind as u8),
        person.age,
    ]
}

/// Weighted share of the attributes that two persons have in common, 0 to 1.
pub fn agreement(one: &Labels, other: &Labels) -> f32 {
    let same = one.iter().zip(other).zip(WEIGHTS).filter(|((a, b), _)| a == b);
    same.map(|(_, weight)| weight).sum::<f32>() / WEIGHTS.iter().sum::<f32>()
}

/// All heads as one linear layer, whose outputs are concatenated.
pub struct AttributeHeads {
    all: Linear,
}

impl AttributeHeads {
    /// Creates the heads for features of `width` numbers, with variables under `vb`.
    ///
    /// # Errors
    /// When candle fails.
    pub fn new(width: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self { all: Linear::new(width, CLASSES.iter().sum(), vb)? })
    }

    /// Weighted mean cross-entropy of features `[B, width]`, f32, as a scalar in nats, and the
    /// accuracy of each head. Pictures with unknown attributes are left out; both are 0 when no
    /// picture is left.
    ///
    /// # Errors
    /// When candle fails.
    pub fn loss(&self, features: &Tensor, labels: &[Labels]) -> Result<(Tensor, Vec<f32>)> {
        let logits = self.all.forward(features)?;
        let (mut at, mut total, mut right) = (0, None::<Tensor>, Vec::new());
        let known = labels.iter().filter(|l| **l != UNKNOWN).count();
        let scale = WEIGHTS.iter().sum::<f32>() * known.max(1) as f32;
        for (head, classes) in CLASSES.into_iter().enumerate() {
            let own = logits.narrow(1, at, classes)?.contiguous()?;
            at += classes;
            let mut pick = vec![0f32; labels.len() * classes];
            for (row, label) in pick.chunks_exact_mut(classes).zip(labels).filter(|(_, l)| **l != UNKNOWN) {
                row[usize::from(label[head])] = -WEIGHTS[head] / scale;
            }
            let pick = Tensor::from_vec(pick, (labels.len(), classes), own.device())?;
            let best = own.argmax(D::Minus1)?.to_vec1::<u32>()?;
            let hits = best.iter().zip(labels).filter(|(b, l)| **b == u32::from(l[head])).count();
            right.push(hits as f32 / known.max(1) as f32);
            let loss = (log_softmax(&own, D::Minus1)? * pick)?.sum_all()?;
            total = Some(match total {
                Some(sum) => (sum + loss)?,
                None => loss,
            });
        }
        match total {
            Some(total) => Ok((total, right)),
            None => Ok((logits.zeros_like()?.sum_all()?, right)),
        }
    }
}
