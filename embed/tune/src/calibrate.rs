//! Calibration turns match logits and cosines into match probabilities. It is fitted on labelled
//! pairs by Platt scaling, temperature scaling or isotonic regression, and measured (ECE, log loss,
//! Brier score) on other pairs.
//!
//! A probability is right for pairs like those it was fitted on: the top K by cosine, with the same
//! share of matches. [`for_prior`] moves it to galleries with another share of matches.

use std::str::FromStr;

use serde::Serialize;

use super::isotonic::isotonic;
use super::logistic::regression;
use sightline_embed::model::{Calibration, Evidence, shift_odds};

/// Evidence of one pair that went through the decoder, and whether it matches.
pub type Pair = (Evidence, bool);

/// Calibration methods that can be fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Logistic regression on the difference of the logits, the cosine and, with a query bank, the
    /// hubness.
    Platt,
    /// The difference of the logits divided by one number.
    Temperature,
    /// A monotone curve over the evidence, weighed as in Platt scaling.
    Isotonic,
}

impl FromStr for Method {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "platt" => Ok(Self::Platt),
            "temperature" => Ok(Self::Temperature),
            "isotonic" => Ok(Self::Isotonic),
            other => Err(format!("there is no method {other:?}: it is platt, temperature or isotonic")),
        }
    }
}

/// Fits a calibration by maximum likelihood. `None` without both matches and mismatches, or when
/// the match logits correlate negatively with matches.
pub fn fit(pairs: &[Pair], method: Method) -> Option<Calibration> {
    let difference = |p: &Pair| f64::from(p.0.logits[1]) - f64::from(p.0.logits[0]);
    let labels: Vec<bool> = pairs.iter().map(|p| p.1).collect();
    let plain = |temperature: f64, bias: f64, similarity: f64, hubness: f64| {
        let sound = temperature > 0.0 && [temperature, bias, similarity, hubness].iter().all(|v| v.is_finite());
        sound.then(|| Calibration {
            temperature: temperature as f32,
            bias: bias as f32,
            similarity: similarity as f32,
            hubness: hubness as f32,
            calibrated: true,
            ..Calibration::default()
        })
    };
    if method == Method::Temperature {
        let rows: Vec<[f64; 1]> = pairs.iter().map(|p| [difference(p)]).collect();
        return plain(1.0 / regression(&rows, &labels)?[0], 0.0, 0.0, 0.0);
    }
    let all = platt_coefficients(pairs, &difference, &labels)?;
    let all = plain(1.0 / all[0], all[3], all[1] / all[0], all[2] / all[0])?;
    if method == Method::Platt {
        return Some(all);
    }
    let evidence: Vec<(f32, bool)> = pairs.iter().map(|p| (all.weigh(&p.0), p.1)).collect();
    let knots = isotonic(&evidence)?;
    Some(Calibration { temperature: 1.0, bias: 0.0, knots, ..all })
}

/// Fits the coefficients of the logit difference, the cosine, the hubness and the constant 1. A
/// term with the wrong sign is left out: a negative cosine weight would reverse the order of the
/// first stage, and a positive hubness weight would favour hubs.
fn platt_coefficients(pairs: &[Pair], difference: &impl Fn(&Pair) -> f64, labels: &[bool]) -> Option<[f64; 4]> {
    let near = |p: &Pair| [difference(p), f64::from(p.0.cosine), f64::from(p.0.hubness)];
    if pairs.iter().any(|p| p.0.hubness != 0.0) {
        let rows: Vec<[f64; 4]> = pairs.iter().map(near).map(|[d, c, h]| [d, c, h, 1.0]).collect();
        let w = regression(&rows, labels)?;
        if w[1] >= 0.0 && w[2] <= 0.0 {
            return Some(w);
        }
    }
    let rows: Vec<[f64; 3]> = pairs.iter().map(near).map(|[d, c, _]| [d, c, 1.0]).collect();
    let [a, c, b] = regression(&rows, labels)?;
    if c >= 0.0 {
        return Some([a, c, 0.0, b]);
    }
    let rows: Vec<[f64; 2]> = pairs.iter().map(|p| [difference(p), 1.0]).collect();
    let [a, b] = regression(&rows, labels)?;
    Some([a, 0.0, 0.0, b])
}

/// Moves a calibration from the prior `from` (share of pairs that match) to the prior `to` by
/// multiplying the odds by the ratio of the prior odds. This is exact if the evidence of matches,
/// and of mismatches, has the same distribution in both.
pub fn for_prior(calibration: &Calibration, from: f64, to: f64) -> Calibration {
    let odds = |p: f64| (p / (1.0 - p)).ln();
    let shift = odds(to) - odds(from);
    let moved = |p: f32| shift_odds(f64::from(p).clamp(1e-6, 1.0 - 1e-6), shift);
    let mut new = calibration.clone();
    if new.knots.is_empty() {
        new.bias += shift as f32;
    } else {
        new.knots.iter_mut().for_each(|knot| knot[1] = moved(knot[1]));
    }
    new
}

/// One bin of a reliability diagram.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Bin {
    /// Mean predicted probability.
    pub said: f64,
    /// Share of pairs that match.
    pub observed: f64,
    /// Pairs in the bin; the other fields are 0 when there is none.
    pub pairs: usize,
}

/// Number of bins of the reliability diagram and of the expected calibration error.
pub const BINS: usize = 15;

/// Quality of probabilities on labelled pairs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quality {
    /// Expected calibration error over [`BINS`] bins of equal width: the mean over pairs of the
    /// distance between predicted and observed share of their bin.
    pub ece: f64,
    /// Mean negative log-likelihood in nats per pair.
    pub log_loss: f64,
    /// Brier score: mean squared error of the probability.
    pub brier: f64,
    /// The reliability diagram.
    pub bins: Vec<Bin>,
}

impl Quality {
    /// Measures `calibration` on `pairs`.
    pub fn of(calibration: &Calibration, pairs: &[Pair]) -> Self {
        let mut bins = vec![Bin::default(); BINS];
        let (mut log_loss, mut brier) = (0f64, 0f64);
        for (pair, matches) in pairs {
            let p = f64::from(calibration.probability(pair));
            let truth = f64::from(u8::from(*matches));
            let bin = &mut bins[((p * BINS as f64) as usize).min(BINS - 1)];
            bin.pairs += 1;
            bin.said += p;
            bin.observed += truth;
            log_loss -= if *matches { p } else { 1.0 - p }.max(1e-12).ln();
            brier += (p - truth).powi(2);
        }
        let all = pairs.len().max(1) as f64;
        let ece = bins.iter().map(|b| (b.said - b.observed).abs()).sum::<f64>() / all;
        for bin in bins.iter_mut().filter(|b| b.pairs > 0) {
            bin.said /= bin.pairs as f64;
            bin.observed /= bin.pairs as f64;
        }
        Self { ece, log_loss: log_loss / all, brier: brier / all, bins }
    }
}

/// Expected calibration error of `(probability, outcome)` pairs over ten bins with equal numbers of
/// pairs. It suits probabilities that lie close together, which bins of equal width would put into
/// one bin.
pub fn equal_mass_error(pairs: &[(f64, bool)]) -> f64 {
    let mut sorted = pairs.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let bins = sorted.chunks(sorted.len().div_ceil(10).max(1));
    let error = |bin: &[(f64, bool)]| {
        let predicted: f64 = bin.iter().map(|(p, _)| p).sum();
        let observed = bin.iter().filter(|(_, outcome)| *outcome).count() as f64;
        (predicted - observed).abs()
    };
    bins.map(error).sum::<f64>() / sorted.len().max(1) as f64
}

/// Share of pairs that match.
pub fn prior(pairs: &[Pair]) -> f64 {
    pairs.iter().filter(|p| p.1).count() as f64 / pairs.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sightline_embed::model::sigmoid;

    fn pair(logits: [f32; 2], cosine: f32) -> Evidence {
        Evidence { logits, cosine, hubness: 0.0 }
    }

    /// Pairs whose labels are in exact proportion to sigmoid((difference + 3 cosine) / 2.5 - 0.8).
    fn exact(curve: impl Fn(f64) -> f64) -> Vec<Pair> {
        let mut pairs = Vec::new();
        for step in 0..120 {
            for cosine in [-0.5f32, 0.2, 0.9] {
                let difference = (step as f32 - 60.0) / 6.0;
                let p = curve((f64::from(difference) + 3.0 * f64::from(cosine)) / 2.5 - 0.8);
                let yes = (p * 300.0).round() as usize;
                pairs.extend((0..300).map(|i| (pair([0.25, difference + 0.25], cosine), i < yes)));
            }
        }
        pairs
    }

    #[test]
    fn platt_finds_what_made_the_labels() {
        let pairs = exact(sigmoid);
        let c = fit(&pairs, Method::Platt).expect("both labels are there");
        assert!((c.temperature - 2.5).abs() < 0.02 && (c.bias + 0.8).abs() < 0.02, "{c:?}");
        assert!((c.similarity - 3.0).abs() < 0.03 && c.knots.is_empty() && c.calibrated, "{c:?}");
        let (before, after) = (Quality::of(&Calibration::default(), &pairs), Quality::of(&c, &pairs));
        assert!(after.ece < 0.002 && before.ece > 0.05, "{} -> {}", before.ece, after.ece);
        assert!(after.log_loss < before.log_loss && after.brier < before.brier);
        assert_eq!(after.bins.iter().map(|b| b.pairs).sum::<usize>(), pairs.len());
    }

    #[test]
    fn bins_of_equal_mass_tell_probabilities_that_lie_close_together() {
        // 1 of 10 among the lower half, 3 of 10 among the upper.
        let true_in_ten = |p: f64| if p < 0.2 { 1 } else { 3 };
        let pairs = |low: f64, high: f64| -> Vec<(f64, bool)> {
            (0..1000)
                .map(|i| if i < 500 { low } else { high })
                .enumerate()
                .map(|(i, p)| (p, i % 10 < true_in_ten(p)))
                .collect()
        };
        assert!(equal_mass_error(&pairs(0.1, 0.3)) < 1e-9);
        assert!((equal_mass_error(&pairs(0.15, 0.25)) - 0.05).abs() < 1e-9);
        assert_eq!(equal_mass_error(&[]), 0.0);
    }

    #[test]
    fn temperature_divides_and_nothing_else() {
        let mut pairs = exact(|z| sigmoid(2.5 * (z + 0.8) / 4.0));
        pairs.retain(|p| p.0.cosine == 0.2);
        pairs.iter_mut().for_each(|p| p.0.logits[1] += 0.6);
        let c = fit(&pairs, Method::Temperature).expect("both labels are there");
        assert!((c.temperature - 4.0).abs() < 0.05 && c.bias == 0.0 && c.similarity == 0.0, "{c:?}");
    }

    #[test]
    fn isotonic_follows_what_no_sigmoid_can() {
        // Two plateaus.
        let pairs = exact(|z| if z < 0.0 { 0.1 } else { 0.7 });
        let (platt, curve) = (fit(&pairs, Method::Platt).expect("fits"), fit(&pairs, Method::Isotonic).expect("fits"));
        let (rough, fine) = (Quality::of(&platt, &pairs), Quality::of(&curve, &pairs));
        assert!(fine.ece < 0.01 && fine.log_loss < rough.log_loss - 0.01, "{} {}", fine.ece, rough.ece);
    }

    #[test]
    fn hubness_is_weighed_against_a_match_and_never_for_one() {
        for (weight, want) in [(-2.0, -2.0), (2.0, 0.0)] {
            let mut pairs = Vec::new();
            for (base, matches) in exact(|_| 0.5) {
                for hubness in [-0.5f32, 0.5] {
                    pairs.push((Evidence { hubness, ..base }, matches));
                }
            }
            // The same evidence again, labelled by what it weighs.
            for (i, (pair, matches)) in pairs.iter_mut().enumerate() {
                let x = pair.logits[1] - pair.logits[0] + 3.0 * pair.cosine + weight * pair.hubness;
                let p = sigmoid(f64::from(x) / 2.5 - 0.8);
                *matches = ((i * 7919) % 10_007) as f64 / 10_007.0 < p;
            }
            let c = fit(&pairs, Method::Platt).expect("both labels are there");
            assert!((c.hubness - want).abs() < 0.15 && c.similarity > 2.5, "{c:?}");
        }
    }

    #[test]
    fn another_prior_multiplies_the_odds() {
        let pairs = exact(sigmoid);
        let from = prior(&pairs);
        for method in [Method::Platt, Method::Isotonic] {
            let c = fit(&pairs, method).expect("fits");
            let moved = for_prior(&c, from, 0.02);
            let odds = |p: f32| f64::from(p) / (1.0 - f64::from(p));
            let ratio = (0.02 / 0.98) / (from / (1.0 - from));
            let (p, q) = (c.probability(&pair([0.0, 0.5], 0.3)), moved.probability(&pair([0.0, 0.5], 0.3)));
            assert!((odds(q) / odds(p) / ratio - 1.0).abs() < 0.05, "{method:?}: {p} -> {q}");
            // The moved calibration is right on the same pairs with matches thinned out to that
            // share.
            let thinned: Vec<Pair> = {
                let keep = (0.02 / 0.98) * (1.0 - from) / from;
                let mut kept = 0.0;
                pairs
                    .iter()
                    .filter(|p| {
                        !p.1 || {
                            kept += keep;
                            kept >= 1.0 && {
                                kept -= 1.0;
                                true
                            }
                        }
                    })
                    .copied()
                    .collect()
            };
            assert!((prior(&thinned) - 0.02).abs() < 0.001);
            let (raw, right) = (Quality::of(&c, &thinned).ece, Quality::of(&moved, &thinned).ece);
            assert!(right < 0.01 && right < raw / 10.0, "{method:?}: {raw} -> {right}");
        }
    }

    #[test]
    fn what_tells_nothing_is_not_fitted() {
        let same = [(pair([0.0, 1.0], 0.5), true), (pair([0.0, 2.0], 0.5), true)];
        let reversed: Vec<Pair> = exact(sigmoid).into_iter().map(|p| (pair([0.0, -p.0.logits[1]], 0.0), p.1)).collect();
        for method in [Method::Platt, Method::Temperature, Method::Isotonic] {
            assert_eq!(fit(&same, method), None);
            assert_eq!(fit(&reversed, method), None, "{method:?}");
        }
        assert_eq!(fit(&[], Method::Platt), None);
    }

    #[test]
    fn pairs_told_apart_without_error_stay_finite() {
        let pairs: Vec<Pair> = (0..100).map(|i| (pair([0.0, i as f32 - 49.5], i as f32 / 100.0), i >= 50)).collect();
        for method in [Method::Platt, Method::Temperature, Method::Isotonic] {
            let c = fit(&pairs, method).expect("fits");
            assert!((0.0..=1.0).contains(&c.probability(&pair([0.0, 3.0], 0.5))), "{method:?} {c:?}");
        }
    }

    proptest! {
        #[test]
        fn a_fit_is_a_rising_curve_of_probabilities(
            raw in proptest::collection::vec((-9f32..9.0, -1f32..1.0, any::<bool>()), 1..80), which in 0usize..3,
        ) {
            let evidence = |d: f32, c: f32| Evidence { logits: [0.0, d], cosine: c, hubness: c * d };
            let pairs: Vec<Pair> = raw.iter().map(|(d, c, y)| (evidence(*d, *c), *y)).collect();
            let method = [Method::Platt, Method::Temperature, Method::Isotonic][which];
            if let Some(c) = fit(&pairs, method) {
                let c = for_prior(&c, 0.4, 0.1);
                let mut last = 0.0;
                for step in -60..60 {
                    let p = c.probability(&pair([0.0, step as f32 / 4.0], 0.1));
                    prop_assert!((0.0..=1.0).contains(&p) && p >= last - 1e-6, "{c:?} at {step}");
                    last = p;
                }
            }
        }
    }
}
