//! Loss on the truth of phrases: each phrase of a batch is compared with each picture, of which it
//! is true, false or unknown.
//!
//! A caption distinguishes one person from sixty others, and most of what it says is true of many
//! of them. Phrases are scored one by one ("a red jacket", "no bag"), and the logit is the cosine
//! times a scale plus a bias. True and false pictures of a phrase weigh the same, however rare it
//! is, so that the cosine orders all pictures by the phrase.

use candle_core::{Result, Tensor, bail};
use candle_nn::{Init, VarBuilder};

use sightline_embed::graph::l2_normalize;

/// Truth of P phrases about B pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct PhraseTruth {
    /// Number of pictures B.
    pub pictures: usize,
    /// `[P, B]`, one row per phrase; `None` if unknown.
    pub known: Vec<Option<bool>>,
}

impl PhraseTruth {
    /// Loss weights `[P, B]` of true and of false answers. Each side of a phrase has the weight
    /// 1/2, spread over its pictures; all weights are divided by the number of phrases with any
    /// known answer.
    fn weights(&self) -> (Vec<f32>, Vec<f32>) {
        let (mut yes, mut no) = (vec![0f32; self.known.len()], vec![0f32; self.known.len()]);
        let rows = self.known.chunks_exact(self.pictures.max(1));
        let asked = rows.clone().filter(|row| row.iter().any(Option::is_some)).count().max(1) as f32;
        for (phrase, row) in rows.enumerate() {
            let count = |side: bool| row.iter().filter(|known| **known == Some(side)).count() as f32;
            let (trues, falses) = (count(true), count(false));
            // A phrase that is true of all, or of none, counts as half a phrase.
            for (picture, known) in row.iter().enumerate() {
                let at = phrase * self.pictures + picture;
                match known {
                    Some(true) => yes[at] = 0.5 / trues / asked,
                    Some(false) => no[at] = 0.5 / falses / asked,
                    None => {}
                }
            }
        }
        (yes, no)
    }
}

/// Maps the cosine of a phrase and a picture to the logit of the phrase's truth, with a learned
/// scale and bias.
pub struct TruthHead {
    /// Scale in units of [`SCALE`], `[1]`, f32.
    scale: Tensor,
    /// Bias of the logit, `[1]`, f32.
    bias: Tensor,
}

/// Unit of the scale. It keeps the learned number near 1, which then moves as fast as the other
/// weights.
const SCALE: f64 = 12.0;

impl TruthHead {
    /// Creates the variables under `vb`, with a scale of 12 and a bias of 0.
    ///
    /// # Errors
    /// When candle fails.
    pub fn new(vb: VarBuilder) -> Result<Self> {
        let scale = vb.get_with_hints(1, "scale", Init::Const(1.0))?;
        Ok(Self { scale, bias: vb.get_with_hints(1, "bias", Init::Const(0.0))? })
    }

    /// Mean binary cross-entropy of the phrases, a scalar f32 in nats. `image` `[B, embed_dim]` and
    /// `text` `[P, embed_dim]` are f32, not normalised.
    ///
    /// # Errors
    /// Numbers of features that differ from those of `truth`.
    pub fn loss(&self, image: &Tensor, text: &Tensor, truth: &PhraseTruth) -> Result<Tensor> {
        truth_loss(image, text, truth, &(&self.scale * SCALE)?, &self.bias)
    }
}

/// The loss of [`TruthHead::loss`] with the logit `scale * cosine + bias`.
fn truth_loss(image: &Tensor, text: &Tensor, truth: &PhraseTruth, scale: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (phrases, pictures) = (text.dim(0)?, image.dim(0)?);
    if pictures != truth.pictures || phrases * pictures != truth.known.len() {
        bail!(
            "{phrases} phrases and {pictures} pictures, but the truth of {} about {}",
            truth.known.len(),
            truth.pictures
        );
    }
    let cosine = l2_normalize(text)?.matmul(&l2_normalize(image)?.t()?.contiguous()?)?;
    let logits = cosine.broadcast_mul(scale)?.broadcast_add(bias)?;
    let (yes, no) = truth.weights();
    let weights = |values: Vec<f32>| Tensor::from_vec(values, (phrases, pictures), image.device());
    let (yes, no) = (weights(yes)?, weights(no)?);
    ((softplus(&logits.neg()?)? * yes)? + (softplus(&logits)? * no)?)?.sum_all()
}

/// `ln(1 + e^x)`, finite for large x too.
fn softplus(x: &Tensor) -> Result<Tensor> {
    let tail = (x.abs()?.neg()?.exp()? + 1.0)?.log()?;
    x.relu()? + tail
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::{Device, Var};

    use super::*;

    const PICTURES: usize = 4;

    fn features(values: &[f32], width: usize) -> Tensor {
        Tensor::from_slice(values, (values.len() / width, width), &Device::Cpu).unwrap()
    }

    fn loss(image: &Tensor, text: &Tensor, known: &[Option<bool>]) -> f32 {
        let number = |x: f32| Tensor::new(&[x], &Device::Cpu).unwrap();
        let truth = PhraseTruth { pictures: PICTURES, known: known.to_vec() };
        truth_loss(image, text, &truth, &number(5.0), &number(0.5)).unwrap().to_scalar().unwrap()
    }

    /// The loss as defined, in f64.
    fn by_hand(image: &[f32], text: &[f32], known: &[Option<bool>]) -> f64 {
        let unit = |v: &[f32]| {
            let norm = v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            v.iter().map(|x| f64::from(*x) / norm).collect::<Vec<_>>()
        };
        let (mut sum, mut asked) = (0.0, 0.0);
        for (phrase, row) in text.chunks(2).zip(known.chunks(PICTURES)) {
            let mut sides = [(0.0, 0.0); 2];
            for (picture, known) in image.chunks(2).zip(row) {
                let cosine: f64 = unit(phrase).iter().zip(unit(picture)).map(|(a, b)| a * b).sum();
                let logit = 5.0 * cosine + 0.5;
                if let Some(side) = known {
                    let sign = if *side { -1.0 } else { 1.0 };
                    sides[usize::from(*side)].0 += (1.0 + (sign * logit).exp()).ln();
                    sides[usize::from(*side)].1 += 1.0;
                }
            }
            asked += if row.iter().any(Option::is_some) { 1.0 } else { 0.0 };
            sum += sides.iter().map(|(sum, count)| if *count > 0.0 { 0.5 * sum / count } else { 0.0 }).sum::<f64>();
        }
        sum / asked
    }

    #[test]
    fn it_is_its_definition_and_both_sides_weigh_the_same() {
        let image: Vec<f32> = (0..8).map(|i| (i as f32 * 1.3).sin()).collect();
        let text: Vec<f32> = (0..6).map(|i| (i as f32 * 2.1 + 1.0).cos()).collect();
        let (yes, no) = (Some(true), Some(false));
        let known = [yes, no, no, no, None, None, None, None, yes, yes, None, no];
        let (images, texts) = (features(&image, 2), features(&text, 2));
        let expected = by_hand(&image, &text, &known);
        assert!((f64::from(loss(&images, &texts, &known)) - expected).abs() < 1e-5 * expected);
        // Repeating the same false picture three times changes nothing.
        let one = features(&[1.0, 0.0, 0.3, 0.8, 0.3, 0.8, 0.3, 0.8], 2);
        let phrase = features(&[0.6, 0.8], 2);
        let thrice = loss(&one, &phrase, &[yes, no, no, no]);
        let once = loss(&one, &phrase, &[yes, no, None, None]);
        assert!((thrice - once).abs() < 1e-6, "{thrice} {once}");
    }

    #[test]
    fn what_nobody_knows_gives_no_gradient() {
        let image = Var::from_slice(&[1f32, 0.0, 0.0, 1.0, 0.5, 0.5, 0.9, -0.2], (4, 2), &Device::Cpu).unwrap();
        let text = Var::from_slice(&[0.7f32, 0.1], (1, 2), &Device::Cpu).unwrap();
        let number = |x: f32| Var::new(&[x], &Device::Cpu).unwrap();
        let (scale, bias) = (number(5.0), number(0.0));
        let truth = PhraseTruth { pictures: 4, known: vec![Some(true), None, Some(false), None] };
        let loss =
            truth_loss(image.as_tensor(), text.as_tensor(), &truth, scale.as_tensor(), bias.as_tensor()).unwrap();
        let grads = loss.backward().unwrap();
        let of = |var: &Var| grads.get(var.as_tensor()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let rows = of(&image);
        assert!(rows[2..4].iter().chain(&rows[6..]).all(|x| *x == 0.0), "{rows:?}");
        assert!(rows[..2].iter().any(|x| *x != 0.0) && of(&scale)[0] != 0.0 && of(&bias)[0] != 0.0);
        assert!(of(&text).iter().any(|x| *x != 0.0));
    }

    #[test]
    fn large_logits_stay_finite() {
        let x = Tensor::new(&[-200f32, -1.0, 0.0, 1.0, 200.0], &Device::Cpu).unwrap();
        let got = softplus(&x).unwrap().to_vec1::<f32>().unwrap();
        let want = [0.0, 0.313_261_7, std::f32::consts::LN_2, 1.313_261_7, 200.0];
        assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-5), "{got:?}");
    }
}
