//! Logistic regression of few features on many samples, used to fit calibrations.

use sightline_embed::model::sigmoid;

/// Fits coefficients of the features in `rows` to the log-odds of `outcomes`, one per row, by
/// Newton's method with step halving. A feature that is always 1 serves as the bias. A very small
/// ridge penalty keeps the coefficients finite where the outcomes are separable. `None` without
/// both outcomes.
pub fn regression<const N: usize>(rows: &[[f64; N]], outcomes: &[bool]) -> Option<[f64; N]> {
    if !(outcomes.contains(&true) && outcomes.contains(&false)) {
        return None;
    }
    const RIDGE: f64 = 1e-4;
    let dot = |a: &[f64; N], b: &[f64; N]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let cost = |w: &[f64; N]| -> f64 {
        let losses = rows.iter().zip(outcomes).map(|(row, outcome)| {
            let z = dot(row, w);
            z.max(0.0) + (-z.abs()).exp().ln_1p() - if *outcome { z } else { 0.0 }
        });
        losses.sum::<f64>() + 0.5 * RIDGE * dot(w, w)
    };
    let mut w = [0f64; N];
    for _ in 0..200 {
        let (mut gradient, mut curvature) = (w.map(|v| RIDGE * v), [[0f64; N]; N]);
        (0..N).for_each(|i| curvature[i][i] = RIDGE);
        for (row, outcome) in rows.iter().zip(outcomes) {
            let p = sigmoid(dot(row, &w));
            let (off, weight) = (p - f64::from(u8::from(*outcome)), p * (1.0 - p));
            for i in 0..N {
                gradient[i] += off * row[i];
                (0..N).for_each(|j| curvature[i][j] += weight * row[i] * row[j]);
            }
        }
        let step = solve(curvature, gradient)?;
        let (before, mut part) = (cost(&w), 1.0);
        let moved = |part: f64| -> [f64; N] { std::array::from_fn(|i| w[i] - part * step[i]) };
        while cost(&moved(part)) > before && part > 1e-9 {
            part *= 0.5;
        }
        let next = moved(part);
        let change: f64 = next.iter().zip(&w).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).sum();
        w = next;
        if change < 1e-10 {
            break;
        }
    }
    w.iter().all(|v| v.is_finite()).then_some(w)
}

/// Fits like [`regression`], but adds a bias and keeps the coefficients of the first `evidence`
/// features at 0 or above: evidence never counts against itself. Features with a negative
/// coefficient are left out one by one, the lowest first, and get the coefficient 0. Returns the
/// coefficients and the bias.
pub fn non_negative_regression<const N: usize, const M: usize>(
    features: &[[f64; N]],
    outcomes: &[bool],
    evidence: usize,
) -> Option<([f64; N], f64)> {
    const { assert!(M == N + 1, "the bias is the last coefficient") };
    let mut used = [true; N];
    loop {
        // A column of zeros gets a coefficient of 0.
        let value = |x: &[f64; N], i: usize| match i {
            _ if i == N => 1.0,
            _ if used[i] => x[i],
            _ => 0.0,
        };
        let rows: Vec<[f64; M]> = features.iter().map(|x| std::array::from_fn(|i| value(x, i))).collect();
        let fitted = regression(&rows, outcomes)?;
        let below = (0..evidence.min(N)).filter(|i| fitted[*i] < 0.0);
        match below.min_by(|a, b| fitted[*a].total_cmp(&fitted[*b])) {
            Some(worst) => used[worst] = false,
            None => return Some((std::array::from_fn(|i| fitted[i]), fitted[N])),
        }
    }
}

/// Solves a small symmetric system by Gaussian elimination with pivoting; `None` when it is
/// singular.
fn solve<const N: usize>(mut a: [[f64; N]; N], mut b: [f64; N]) -> Option<[f64; N]> {
    for i in 0..N {
        let pivot = (i..N).max_by(|x, y| a[*x][i].abs().total_cmp(&a[*y][i].abs()))?;
        if a[pivot][i].abs() < 1e-300 {
            return None;
        }
        a.swap(i, pivot);
        b.swap(i, pivot);
        let top = a[i];
        for row in i + 1..N {
            let factor = a[row][i] / top[i];
            a[row].iter_mut().zip(&top).for_each(|(x, t)| *x -= factor * t);
            b[row] -= factor * b[i];
        }
    }
    for i in (0..N).rev() {
        let known: f64 = (i + 1..N).map(|j| a[i][j] * b[j]).sum();
        b[i] = (b[i] - known) / a[i][i];
    }
    Some(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(i: usize) -> f64 {
        ((i as f64 * 12.9898).sin() * 43_758.545_3).rem_euclid(1.0)
    }

    #[test]
    fn known_coefficients_are_found() {
        let rows: Vec<[f64; 3]> =
            (0..40_000).map(|i| [noise(3 * i) * 4.0 - 2.0, noise(3 * i + 1) * 0.2 + 5.0, 1.0]).collect();
        let odds = |row: &[f64; 3]| 1.5 * row[0] - 8.0 * row[1] + 40.0;
        let outcomes: Vec<bool> =
            rows.iter().enumerate().map(|(i, row)| noise(3 * i + 2) < sigmoid(odds(row))).collect();
        let [first, second, bias] = regression(&rows, &outcomes).expect("both outcomes");
        assert!((first - 1.5).abs() < 0.08 && (second + 8.0).abs() < 0.8 && (bias - 40.0).abs() < 4.0);
    }

    #[test]
    fn evidence_against_itself_is_left_out() {
        // The second feature is the first with the opposite sign and some noise, so alone it would
        // have a negative coefficient.
        let features: Vec<[f64; 2]> =
            (0..4000).map(|i| noise(2 * i) - 0.5).enumerate().map(|(i, x)| [x, noise(2 * i + 1) - x]).collect();
        let outcomes: Vec<bool> =
            features.iter().enumerate().map(|(i, [x, _])| noise(7 * i + 3) < 0.5 + 0.8 * x).collect();
        let second_alone: Vec<[f64; 1]> = features.iter().map(|[_, y]| [*y]).collect();
        assert_eq!(non_negative_regression::<1, 2>(&second_alone, &outcomes, 1).expect("both outcomes").0, [0.0]);
        assert!(
            non_negative_regression::<1, 2>(&second_alone, &outcomes, 0).expect("both outcomes").0[0] < -0.2,
            "free of the rule"
        );
        let ([first, second], bias) = non_negative_regression::<2, 3>(&features, &outcomes, 2).expect("both outcomes");
        assert!(first > 2.0 && second >= 0.0 && bias.abs() < 0.2, "{first} {second} {bias}");
    }

    #[test]
    fn what_separates_wholly_stays_finite_and_one_outcome_is_none() {
        let rows: Vec<[f64; 2]> = (0..50).map(|i| [f64::from(i), 1.0]).collect();
        let outcomes: Vec<bool> = (0..50).map(|i| i >= 25).collect();
        let [weight, bias] = regression(&rows, &outcomes).expect("both outcomes");
        assert!(weight > 0.0 && weight.is_finite() && bias.is_finite());
        assert!(regression(&rows[..2], &[true, true]).is_none());
        assert!(regression::<1>(&[], &[]).is_none());
        // A feature that never changes beside the bias has no coefficient of its own.
        let flat: Vec<[f64; 3]> = (0..50).map(|i| [f64::from(i), 3.0, 1.0]).collect();
        let outcomes: Vec<bool> = (0..50).map(|i| i % 3 == 0).collect();
        assert!(regression(&flat, &outcomes).expect("both outcomes").iter().all(|w| w.is_finite()));
    }
}
