//! Logistic regression of few features on many samples, by Newton's method: what calibrations are fitted with.

/// Weights and bias that minimise the mean cross-entropy of `samples` (features, outcome), with a small penalty on the weights
/// against separable data. `None` without samples of both outcomes.
pub fn fit<const N: usize>(samples: &[([f64; N], bool)]) -> Option<([f64; N], f64)> {
    let positives = samples.iter().filter(|(_, outcome)| *outcome).count();
    if positives == 0 || positives == samples.len() {
        return None;
    }
    // Features of mean 0 and deviation 1, so that one penalty fits all.
    let count = samples.len() as f64;
    let mut mean = [0.0; N];
    let mut deviation = [0.0; N];
    for (x, _) in samples {
        (0..N).for_each(|i| mean[i] += x[i] / count);
    }
    for (x, _) in samples {
        (0..N).for_each(|i| deviation[i] += (x[i] - mean[i]).powi(2) / count);
    }
    let deviation = deviation.map(|v: f64| v.sqrt().max(1e-9));
    let scaled = |x: &[f64; N]| -> Vec<f64> { (0..N).map(|i| (x[i] - mean[i]) / deviation[i]).chain([1.0]).collect() };
    let mut w = vec![0.0; N + 1];
    for _ in 0..60 {
        let (mut gradient, mut hessian) = (vec![0.0; N + 1], vec![vec![0.0; N + 1]; N + 1]);
        for (x, outcome) in samples {
            let x = scaled(x);
            let z: f64 = x.iter().zip(&w).map(|(a, b)| a * b).sum();
            let p = 1.0 / (1.0 + (-z).exp());
            let slope = p * (1.0 - p);
            for i in 0..=N {
                gradient[i] += (p - f64::from(u8::from(*outcome))) * x[i] / count;
                for j in 0..=N {
                    hessian[i][j] += slope * x[i] * x[j] / count;
                }
            }
        }
        for i in 0..=N {
            let penalty = if i < N { PENALTY } else { 0.0 };
            gradient[i] += penalty * w[i];
            hessian[i][i] += penalty + 1e-9;
        }
        let step = solve(hessian, gradient)?;
        let longest = step.iter().fold(0f64, |m, s| m.max(s.abs()));
        // A full step may overshoot while far away.
        let length = (2.0 / longest).min(1.0);
        w.iter_mut().zip(&step).for_each(|(w, s)| *w -= length * s);
        if longest < 1e-9 {
            break;
        }
    }
    let mut weights = [0.0; N];
    (0..N).for_each(|i| weights[i] = w[i] / deviation[i]);
    let bias = w[N] - (0..N).map(|i| weights[i] * mean[i]).sum::<f64>();
    weights.iter().chain([&bias]).all(|x| x.is_finite()).then_some((weights, bias))
}

/// Strength of the penalty on standardised weights.
const PENALTY: f64 = 1e-4;

/// Solves `a x = b` by elimination with pivots.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let n = b.len();
    for column in 0..n {
        let pivot = (column..n).max_by(|i, j| a[*i][column].abs().total_cmp(&a[*j][column].abs()))?;
        if a[pivot][column].abs() < 1e-300 {
            return None;
        }
        a.swap(column, pivot);
        b.swap(column, pivot);
        for row in column + 1..n {
            let factor = a[row][column] / a[column][column];
            let (above, below) = a.split_at_mut(row);
            below[0].iter_mut().zip(&above[column]).skip(column).for_each(|(x, y)| *x -= factor * y);
            b[row] -= factor * b[column];
        }
    }
    let mut x = vec![0.0; n];
    for row in (0..n).rev() {
        let known: f64 = (row + 1..n).map(|i| a[row][i] * x[i]).sum();
        x[row] = (b[row] - known) / a[row][row];
    }
    Some(x)
}

/// Expected calibration error of `(probability, outcome)` pairs: the mean difference of both over ten bins of equal size.
pub fn calibration_error(pairs: &[(f64, bool)]) -> f64 {
    let mut sorted = pairs.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let bins = sorted.chunks(sorted.len().div_ceil(10).max(1));
    let error = |bin: &[(f64, bool)]| {
        let said: f64 = bin.iter().map(|(p, _)| p).sum();
        let came = bin.iter().filter(|(_, outcome)| *outcome).count() as f64;
        (said - came).abs()
    };
    bins.map(error).sum::<f64>() / sorted.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(i: usize) -> f64 {
        ((i as f64 * 12.9898).sin() * 43_758.545_3).rem_euclid(1.0)
    }

    #[test]
    fn known_weights_are_found() {
        let samples: Vec<([f64; 2], bool)> = (0..40_000)
            .map(|i| {
                let x = [noise(3 * i) * 4.0 - 2.0, noise(3 * i + 1) * 0.2 + 5.0];
                let p = 1.0 / (1.0 + (-(1.5 * x[0] - 8.0 * x[1] + 40.0)).exp());
                (x, noise(3 * i + 2) < p)
            })
            .collect();
        let (weights, bias) = fit(&samples).expect("both outcomes");
        assert!(
            (weights[0] - 1.5).abs() < 0.08 && (weights[1] + 8.0).abs() < 0.8 && (bias - 40.0).abs() < 4.0,
            "{weights:?} {bias}"
        );
        let p = |x: &[f64; 2]| 1.0 / (1.0 + (-(weights[0] * x[0] + weights[1] * x[1] + bias)).exp());
        let pairs: Vec<(f64, bool)> = samples.iter().map(|(x, outcome)| (p(x), *outcome)).collect();
        assert!(calibration_error(&pairs) < 0.01);
        let doubled: Vec<(f64, bool)> = pairs.iter().map(|(p, outcome)| ((2.0 * p).min(1.0), *outcome)).collect();
        assert!(calibration_error(&doubled) > 0.2);
    }

    #[test]
    fn what_separates_wholly_stays_finite_and_one_outcome_is_none() {
        let samples: Vec<([f64; 1], bool)> = (0..50).map(|i| ([f64::from(i)], i >= 25)).collect();
        let (weights, bias) = fit(&samples).expect("both outcomes");
        assert!(weights[0] > 0.0 && weights[0].is_finite() && bias.is_finite());
        assert!(fit(&[([1.0], true), ([2.0], true)]).is_none());
        assert!(fit::<1>(&[]).is_none());
        // A feature that never changes has no weight of its own.
        let flat: Vec<([f64; 2], bool)> = (0..50).map(|i| ([f64::from(i), 3.0], i % 3 == 0)).collect();
        assert!(fit(&flat).expect("both outcomes").0[1].is_finite());
    }
}
