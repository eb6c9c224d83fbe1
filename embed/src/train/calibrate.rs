//! From match logits to probabilities: Platt scaling on labelled pairs, and how far it can be trusted.

use serde::Serialize;

/// What was fitted and how well it holds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Fit {
    /// Divides the logit difference.
    pub temperature: f64,
    /// Added after the division.
    pub bias: f64,
    /// Expected calibration error of the plain softmax, 15 bins.
    pub ece_before: f64,
    /// The same after fitting.
    pub ece_after: f64,
    /// Mean negative log-likelihood after fitting, in nats a pair.
    pub log_loss: f64,
    /// Pairs fitted on.
    pub pairs: usize,
    /// Share of matches among them.
    pub prior: f64,
}

/// Fits `p = sigmoid(logit / temperature + bias)` by maximum likelihood (Newton's method on 1/temperature and bias).
/// Nothing without both matches and mismatches, or when the fit would turn the order round.
pub fn fit(pairs: &[(f32, bool)]) -> Option<Fit> {
    let matches = pairs.iter().filter(|p| p.1).count();
    if matches == 0 || matches == pairs.len() {
        return None;
    }
    let (mut a, mut b) = (1.0f64, 0.0f64);
    let cost = |a: f64, b: f64| -> f64 {
        pairs
            .iter()
            .map(|(x, y)| {
                let z = a * f64::from(*x) + b;
                z.max(0.0) + (-z.abs()).exp().ln_1p() - if *y { z } else { 0.0 }
            })
            .sum()
    };
    for _ in 0..100 {
        let (mut ga, mut gb, mut haa, mut hab, mut hbb) = (0.0, 0.0, 1e-9, 0.0, 1e-9);
        for (x, y) in pairs {
            let x = f64::from(*x);
            let p = 1.0 / (1.0 + (-(a * x + b)).exp());
            let (d, w) = (p - f64::from(u8::from(*y)), (p * (1.0 - p)).max(1e-12));
            ga += d * x;
            gb += d;
            haa += w * x * x;
            hab += w * x;
            hbb += w;
        }
        let det = haa * hbb - hab * hab;
        let (mut da, mut db) = ((hbb * ga - hab * gb) / det, (haa * gb - hab * ga) / det);
        let before = cost(a, b);
        while cost(a - da, b - db) > before && da.abs() + db.abs() > 1e-12 {
            da *= 0.5;
            db *= 0.5;
        }
        a -= da;
        b -= db;
        if da.abs() + db.abs() < 1e-10 {
            break;
        }
    }
    (a > 0.0 && a.is_finite() && b.is_finite()).then(|| Fit {
        temperature: 1.0 / a,
        bias: b,
        ece_before: ece(pairs, 1.0, 0.0),
        ece_after: ece(pairs, a, b),
        log_loss: cost(a, b) / pairs.len() as f64,
        pairs: pairs.len(),
        prior: matches as f64 / pairs.len() as f64,
    })
}

/// One bin of a reliability diagram.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Bin {
    /// Mean probability said.
    pub said: f64,
    /// Share of pairs that match.
    pub observed: f64,
    /// Pairs in the bin; with none of them the rest is 0.
    pub pairs: usize,
}

/// Bins of the reliability diagram and of the expected calibration error.
pub const BINS: usize = 15;

/// [`BINS`] equal bins of (probability, whether it matches).
pub fn bins(judged: impl IntoIterator<Item = (f64, bool)>) -> Vec<Bin> {
    let mut all = vec![Bin::default(); BINS];
    for (p, matches) in judged {
        let bin = &mut all[((p * BINS as f64) as usize).min(BINS - 1)];
        bin.pairs += 1;
        bin.said += p;
        bin.observed += f64::from(u8::from(matches));
    }
    for bin in all.iter_mut().filter(|b| b.pairs > 0) {
        bin.said /= bin.pairs as f64;
        bin.observed /= bin.pairs as f64;
    }
    all
}

/// Expected calibration error: the mean over pairs of the distance between what their bin says and what is so.
pub fn expected_error(bins: &[Bin]) -> f64 {
    let pairs: usize = bins.iter().map(|b| b.pairs).sum();
    bins.iter().map(|b| b.pairs as f64 * (b.said - b.observed).abs()).sum::<f64>() / pairs.max(1) as f64
}

/// Expected calibration error of `sigmoid(scale * logit + bias)`.
pub fn ece(pairs: &[(f32, bool)], scale: f64, bias: f64) -> f64 {
    let said = |x: f32| 1.0 / (1.0 + (-(scale * f64::from(x) + bias)).exp());
    expected_error(&bins(pairs.iter().map(|(x, y)| (said(*x), *y))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_scaling_that_made_the_labels() {
        // Labels in exact proportion to sigmoid(x / 2.5 - 0.8) at each of many logits.
        let mut pairs = Vec::new();
        for step in 0..200 {
            let x = (step as f32 - 100.0) / 10.0;
            let p = 1.0 / (1.0 + (-(f64::from(x) / 2.5 - 0.8)).exp());
            let yes = (p * 1000.0).round() as usize;
            pairs.extend((0..1000).map(|i| (x, i < yes)));
        }
        let fit = fit(&pairs).expect("both labels are there");
        assert!((fit.temperature - 2.5).abs() < 0.01 && (fit.bias + 0.8).abs() < 0.01, "{fit:?}");
        assert!(fit.ece_after < 0.001 && fit.ece_before > 0.05, "{fit:?}");
    }

    #[test]
    fn nothing_to_fit_on_one_label() {
        assert_eq!(super::fit(&[(1.0, true), (2.0, true)]), None);
    }
}
