//! Global losses: they fit the similarities of a batch to the matrix of equal identities
//! (specification, section 4).

use std::str::FromStr;

use candle_core::{D, Result, Tensor, bail};
use candle_nn::ops::log_softmax;
use serde::{Deserialize, Serialize};

use sightline_embed::graph::l2_normalize;
use sightline_embed::model::LOGIT_SCALE;

/// Floor inside the logarithm of the target distribution.
const EPS: f64 = 1e-8;

/// Variant of norm-aware distribution fitting (NDF).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NdfVariant {
    /// KL in both directions as distributions (CADA, "norm-aware distribution fitting" as
    /// published).
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

/// The chosen global loss of B pairs, a scalar f32 in nats. `image` and `text` are `[B,
/// embed_dim]`, f32, not normalised.
///
/// # Errors
/// Shapes that do not fit each other.
pub fn global_loss(image: &Tensor, text: &Tensor, identities: &[u32], loss: GlobalLoss) -> Result<Tensor> {
    match loss {
        GlobalLoss::Cmpm => cmpm(image, text, identities),
        GlobalLoss::Ndf(variant) => ndf(image, text, identities, variant),
    }
}

fn check(image: &Tensor, text: &Tensor, identities: &[u32]) -> Result<()> {
    if image.dims() != text.dims() || image.dim(0)? != identities.len() {
        bail!(
            "a global loss of {:?} images, {:?} texts and {} identities",
            image.dims(),
            text.dims(),
            identities.len()
        );
    }
    Ok(())
}

/// Target distribution `[B, B]`: equal weight on every pair of one identity.
fn targets(identities: &[u32], like: &Tensor) -> Result<Tensor> {
    let n = identities.len();
    let mut q = vec![0f32; n * n];
    for (row, id) in q.chunks_exact_mut(n).zip(identities) {
        let same = identities.iter().filter(|other| *other == id).count() as f32;
        row.iter_mut().zip(identities).filter(|(_, other)| *other == id).for_each(|(v, _)| *v = 1.0 / same);
    }
    Tensor::from_vec(q, (n, n), like.device())
}

/// NDF loss of B pairs (specification, section 4), a scalar f32. `image` and `text` are `[B,
/// embed_dim]`, f32, of any norm.
///
/// # Errors
/// Shapes that do not fit each other.
pub fn ndf(image: &Tensor, text: &Tensor, identities: &[u32], variant: NdfVariant) -> Result<Tensor> {
    check(image, text, identities)?;
    let logits = (l2_normalize(image)?.matmul(&l2_normalize(text)?.t()?.contiguous()?)? * LOGIT_SCALE)?;
    let q = targets(identities, &logits)?;
    let log_q = (&q + EPS)?.log()?;
    let one = |s: &Tensor| -> Result<Tensor> {
        let log_p = log_softmax(s, D::Minus1)?;
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
    (one(&logits)? + one(&logits.t()?.contiguous()?)?)? * 0.5
}

/// Cross-modal projection matching (Zhang and Lu, ECCV 2018) of B pairs: features of one side, not
/// normalised, are projected on the normalised ones of the other; the softmax of the projections is
/// fitted to the targets by KL(P || Q), and both directions are added.
///
/// # Errors
/// Shapes that do not fit each other.
pub fn cmpm(image: &Tensor, text: &Tensor, identities: &[u32]) -> Result<Tensor> {
    check(image, text, identities)?;
    let log_q = (targets(identities, image)? + EPS)?.log()?;
    let one = |x: &Tensor, z: &Tensor| -> Result<Tensor> {
        let log_p = log_softmax(&x.matmul(&l2_normalize(z)?.t()?.contiguous()?)?, D::Minus1)?;
        (log_p.exp()? * (&log_p - &log_q)?)?.sum(D::Minus1)?.mean_all()
    };
    one(image, text)? + one(text, image)?
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

    #[test]
    fn names_are_read() {
        for (name, form) in [("cmpm", GlobalLoss::Cmpm), ("ndf-paper", GlobalLoss::Ndf(NdfVariant::Paper))] {
            assert_eq!(name.parse(), Ok(form));
        }
        assert!("ndf".parse::<GlobalLoss>().is_err());
    }
}
