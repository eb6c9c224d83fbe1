//! Global losses fit the similarities of a batch to the matrix of equal identities (specification,
//! section 4).

use std::str::FromStr;

use candle_core::{D, Result, Tensor, bail};
use candle_nn::ops::log_softmax;
use serde::{Deserialize, Serialize};

use sightline_embed::graph::l2_normalize;
use sightline_embed::kernel::MASKED;
use sightline_embed::model::LOGIT_SCALE;

/// Floor inside the logarithm of the target distribution.
const EPS: f64 = 1e-8;

/// Variant of norm-aware distribution fitting (NDF).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NdfVariant {
    /// KL divergence in both directions between distributions (CADA, "norm-aware distribution
    /// fitting" as published).
    Paper,
    /// The authors' code: element means, plus the cross-entropy against the targets.
    Code,
}

/// Global loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GlobalLoss {
    /// Cross-modal projection matching, the baseline of the paper's ablation.
    Cmpm,
    /// Norm-aware distribution fitting.
    Ndf(NdfVariant),
}

impl FromStr for GlobalLoss {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "cmpm" => Ok(Self::Cmpm),
            "ndf-paper" => Ok(Self::Ndf(NdfVariant::Paper)),
            "ndf-code" => Ok(Self::Ndf(NdfVariant::Code)),
            other => Err(format!("{other:?} is not cmpm, ndf-paper or ndf-code")),
        }
    }
}

/// Which text of a batch matches which picture.
#[derive(Clone, Debug, PartialEq)]
pub struct MatchTargets {
    /// Number of pairs B.
    count: usize,
    /// `[B, B]`, one row per picture: whether text j matches picture i; `None` if unknown.
    matches: Vec<Option<bool>>,
    /// `[B, B]`: whether both are of the same identity.
    own: Vec<bool>,
}

impl MatchTargets {
    /// Targets in which texts match only pictures of their own identity (paper, equation 3).
    pub fn of_identities(identities: &[u32]) -> Self {
        let row = |id: &u32| identities.iter().map(|other| Some(other == id)).collect::<Vec<_>>();
        let matches: Vec<Option<bool>> = identities.iter().flat_map(row).collect();
        let own = matches.iter().map(|known| *known == Some(true)).collect();
        Self { count: identities.len(), matches, own }
    }

    /// Targets like [`MatchTargets::of_identities`], but a text about another person matches a
    /// picture that it is true of, and a pair of unknown truth counts for nothing. `truth(text,
    /// picture)` is called for pairs of different persons; it returns `None` for a text that makes
    /// no statement, which does not match.
    pub fn of_truth(identities: &[u32], truth: impl Fn(usize, usize) -> Option<Option<bool>>) -> Self {
        let mut targets = Self::of_identities(identities);
        for picture in 0..targets.count {
            for text in 0..targets.count {
                let at = picture * targets.count + text;
                if targets.matches[at] == Some(false)
                    && let Some(known) = truth(text, picture)
                {
                    targets.matches[at] = known;
                }
            }
        }
        targets
    }

    /// Number of pairs.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether text and picture surely do not match.
    pub fn is_negative(&self, text: usize, picture: usize) -> bool {
        self.matches[picture * self.count + text] == Some(false)
    }

    /// Targets, and addends that mask unknown pairs (0 or [`MASKED`]), each `[B, B]`: pictures by
    /// texts, or texts by pictures if `turned`. Half of a row's weight goes to its own identity,
    /// the other half to others that the text is true of: short texts are true of many persons, and
    /// would leave little weight to the text that distinguishes a person from them.
    fn tensors(&self, turned: bool, like: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let n = self.count;
        let place = |row: usize, column: usize| if turned { column * n + row } else { row * n + column };
        let at = |row: usize, column: usize| self.matches[place(row, column)];
        let own = |row: usize, column: usize| self.own[place(row, column)];
        let (mut q, mut mask) = (vec![0f32; n * n], vec![0f32; n * n]);
        for row in 0..n {
            let hits = (0..n).filter(|column| at(row, *column) == Some(true)).count();
            let of_own = (0..n).filter(|column| own(row, *column)).count();
            let others = hits.saturating_sub(of_own);
            let half = if others > 0 && of_own > 0 { 0.5 } else { 1.0 };
            for column in 0..n {
                let among = if own(row, column) { of_own } else { others };
                match at(row, column) {
                    Some(true) => q[row * n + column] = half / among.max(1) as f32,
                    Some(false) => {}
                    None => mask[row * n + column] = MASKED,
                }
            }
        }
        let known = mask.iter().all(|x| *x == 0.0);
        let tensor = |values: Vec<f32>| Tensor::from_vec(values, (n, n), like.device());
        Ok((tensor(q)?, if known { None } else { Some(tensor(mask)?) }))
    }
}

/// The chosen global loss of B pairs, a scalar f32 in nats. `image` and `text` are `[B,
/// embed_dim]`, f32, not normalised.
///
/// # Errors
/// Shapes that do not fit each other.
pub fn global_loss(image: &Tensor, text: &Tensor, targets: &MatchTargets, loss: GlobalLoss) -> Result<Tensor> {
    match loss {
        GlobalLoss::Cmpm => cmpm_to(image, text, targets),
        GlobalLoss::Ndf(variant) => ndf_to(image, text, targets, variant),
    }
}

fn check(image: &Tensor, text: &Tensor, targets: &MatchTargets) -> Result<()> {
    if image.dims() != text.dims() || image.dim(0)? != targets.count {
        bail!("a global loss of {:?} images, {:?} texts and {} targets", image.dims(), text.dims(), targets.count);
    }
    Ok(())
}

/// Masks the pairs of unknown truth in `logits`.
fn masked(logits: &Tensor, mask: Option<Tensor>) -> Result<Tensor> {
    match mask {
        Some(mask) => logits + mask,
        None => Ok(logits.clone()),
    }
}

/// NDF loss of B pairs (specification, section 4), a scalar f32. `image` and `text` are `[B,
/// embed_dim]`, f32, of any norm.
///
/// # Errors
/// Shapes that do not fit each other.
pub fn ndf(image: &Tensor, text: &Tensor, identities: &[u32], variant: NdfVariant) -> Result<Tensor> {
    ndf_to(image, text, &MatchTargets::of_identities(identities), variant)
}

/// NDF loss like [`ndf`], with any targets.
///
/// # Errors
/// Shapes that do not fit each other.
pub fn ndf_to(image: &Tensor, text: &Tensor, targets: &MatchTargets, variant: NdfVariant) -> Result<Tensor> {
    check(image, text, targets)?;
    let logits = (l2_normalize(image)?.matmul(&l2_normalize(text)?.t()?.contiguous()?)? * LOGIT_SCALE)?;
    let one = |s: &Tensor, turned: bool| -> Result<Tensor> {
        let (q, mask) = targets.tensors(turned, s)?;
        let log_q = (&q + EPS)?.log()?;
        let log_p = log_softmax(&masked(s, mask)?, D::Minus1)?;
        let p_q = (log_p.exp()? * (&log_p - &log_q)?)?;
        let q_p = (&q * (&log_q - &log_p)?)?;
        match variant {
            NdfVariant::Paper => (p_q + q_p)?.sum(D::Minus1)?.mean_all(),
            NdfVariant::Code => {
                let ce = (&q * &log_p)?.sum(D::Minus1)?.mean_all()?.neg()?;
                (p_q.mean_all()? + q_p.mean_all()?)? + ce
            }
        }
    };
    (one(&logits, false)? + one(&logits.t()?.contiguous()?, true)?)? * 0.5
}

/// Cross-modal projection matching (Zhang and Lu, ECCV 2018) of B pairs: features of one side, not
/// normalised, are projected on the normalised ones of the other; the softmax of the projections is
/// fitted to the targets by KL(P || Q), and both directions are added.
///
/// # Errors
/// Shapes that do not fit each other.
pub fn cmpm(image: &Tensor, text: &Tensor, identities: &[u32]) -> Result<Tensor> {
    cmpm_to(image, text, &MatchTargets::of_identities(identities))
}

fn cmpm_to(image: &Tensor, text: &Tensor, targets: &MatchTargets) -> Result<Tensor> {
    check(image, text, targets)?;
    let one = |x: &Tensor, z: &Tensor, turned: bool| -> Result<Tensor> {
        let (q, mask) = targets.tensors(turned, image)?;
        let log_q = (q + EPS)?.log()?;
        let log_p = log_softmax(&masked(&x.matmul(&l2_normalize(z)?.t()?.contiguous()?)?, mask)?, D::Minus1)?;
        (log_p.exp()? * (&log_p - &log_q)?)?.sum(D::Minus1)?.mean_all()
    };
    one(image, text, false)? + one(text, image, true)?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::{Device, Var};

    use super::*;

    const N: usize = 4;
    const WIDTH: usize = 3;

    /// CMPM as the paper writes it, in f64 and loops.
    fn by_hand(image: &[f64], text: &[f64], ids: &[u32]) -> f64 {
        let one = |x: &[f64], z: &[f64]| -> f64 {
            let mut sum = 0.0;
            for i in 0..N {
                let projection = |j: usize| {
                    let (x, z) = (&x[i * WIDTH..][..WIDTH], &z[j * WIDTH..][..WIDTH]);
                    let norm = z.iter().map(|v| v * v).sum::<f64>().sqrt();
                    x.iter().zip(z).map(|(a, b)| a * b / norm).sum::<f64>().exp()
                };
                let total: f64 = (0..N).map(projection).sum();
                let same = ids.iter().filter(|id| **id == ids[i]).count() as f64;
                for j in 0..N {
                    let (p, q) = (projection(j) / total, if ids[i] == ids[j] { 1.0 / same } else { 0.0 });
                    sum += p * (p / (q + 1e-8)).ln();
                }
            }
            sum / N as f64
        };
        one(image, text) + one(text, image)
    }

    #[test]
    fn half_of_a_rows_weight_is_its_own_identitys() {
        // Text 0 is true of everybody, text 1 of nobody else.
        let targets = MatchTargets::of_truth(&[7, 8, 9], |text, _| Some(Some(text == 0)));
        let like = Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu).unwrap();
        let rows = |turned: bool| targets.tensors(turned, &like).unwrap().0.to_vec2::<f32>().unwrap();
        assert_eq!(rows(true), [[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]);
        assert_eq!(rows(false), [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5]]);
    }

    #[test]
    fn cmpm_and_its_gradient_as_written_in_its_paper() {
        let value = |i: usize, k: f64| ((i as f64 + 1.0) * k).sin() * 1.7;
        let image: Vec<f64> = (0..N * WIDTH).map(|i| value(i, 1.3)).collect();
        let text: Vec<f64> = (0..N * WIDTH).map(|i| value(i, 2.1)).collect();
        let ids = [5, 9, 5, 2];
        let var = |v: &[f64]| {
            Var::from_vec(v.iter().map(|x| *x as f32).collect::<Vec<_>>(), (N, WIDTH), &Device::Cpu).unwrap()
        };
        let (a, b) = (var(&image), var(&text));
        let loss = cmpm(a.as_tensor(), b.as_tensor(), &ids).unwrap();
        let expected = by_hand(&image, &text, &ids);
        let got = f64::from(loss.to_scalar::<f32>().unwrap());
        assert!((got - expected).abs() < 1e-4 * expected.abs(), "{got} instead of {expected}");
        let grads = loss.backward().unwrap();
        for (side, (var, values)) in [(&a, &image), (&b, &text)].into_iter().enumerate() {
            let ours = grads.get(var.as_tensor()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for i in 0..N * WIDTH {
                let moved = |by: f64| {
                    let mut v = values.clone();
                    v[i] += by;
                    if side == 0 { by_hand(&v, &text, &ids) } else { by_hand(&image, &v, &ids) }
                };
                let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((f64::from(ours[i]) - slope).abs() < 1e-3 * slope.abs().max(1.0), "{side} {i}: {slope}");
            }
        }
    }

    /// Two of three persons wear red: the text "red" is true of both, and the third person's colour
    /// is unknown.
    #[test]
    fn a_text_that_is_true_of_another_person_is_no_negative() {
        let ids = [1, 2, 3];
        let truth = |text: usize, picture: usize| match (text, picture) {
            (0, 1) => Some(Some(true)),
            (0, 2) => Some(None),
            (2, _) => None,
            _ => Some(Some(false)),
        };
        let targets = MatchTargets::of_truth(&ids, truth);
        let own = MatchTargets::of_identities(&ids);
        assert_eq!(targets.matches.iter().zip(own.matches).filter(|(truth, own)| **truth != *own).count(), 2);
        let like = Tensor::zeros((3, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let (by_text, mask) = targets.tensors(true, &like).unwrap();
        assert_eq!(by_text.to_vec2::<f32>().unwrap()[0], [0.5, 0.5, 0.0]);
        assert_eq!(mask.unwrap().to_vec2::<f32>().unwrap()[0], [0.0, 0.0, MASKED]);
        let (by_picture, _) = targets.tensors(false, &like).unwrap();
        assert_eq!(by_picture.to_vec2::<f32>().unwrap()[1], [0.5, 0.5, 0.0]);
        // Text 0 lies on picture 1: wrong by identity, right by truth.
        let axis = |i: usize| (0..4).map(move |k| if k == i { 1f32 } else { 0.0 });
        let matrix = |rows: [usize; 3]| {
            Tensor::from_vec(rows.into_iter().flat_map(axis).collect::<Vec<_>>(), (3, 4), &Device::Cpu).unwrap()
        };
        let (images, texts) = (matrix([0, 1, 2]), matrix([1, 1, 2]));
        let loss = |targets: &MatchTargets| -> f32 {
            ndf_to(&images, &texts, targets, NdfVariant::Paper).unwrap().to_scalar().unwrap()
        };
        assert!(loss(&targets) < 0.8 * loss(&MatchTargets::of_identities(&ids)));
    }

    #[test]
    fn names_are_read() {
        for (name, form) in [("cmpm", GlobalLoss::Cmpm), ("ndf-paper", GlobalLoss::Ndf(NdfVariant::Paper))] {
            assert_eq!(name.parse(), Ok(form));
        }
        assert!("ndf".parse::<GlobalLoss>().is_err());
    }
}
