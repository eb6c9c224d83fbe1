//! Row-wise operations: layer norm and softmax, forward and backward, and column sums.

use super::simd::{LANES, exp, max, multiversion, sum};

/// Mean and inverse standard deviation of a row.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let d = x.len() as f32;
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for x in whole {
        (0..LANES).for_each(|l| lanes[l] += x[l]);
    }
    let mean = (lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()) / d;
    let mut lanes = [0f32; LANES];
    for x in whole {
        (0..LANES).for_each(|l| lanes[l] += (x[l] - mean) * (x[l] - mean));
    }
    let rest = rest.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>();
    (mean, 1.0 / ((lanes.iter().sum::<f32>() + rest) / d + eps).sqrt())
}

multiversion! {
    /// `y = (x - mean) / sqrt(variance + eps) * weight + bias` for each whole row of `weight.len()`
    /// numbers.
    pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
        let d = weight.len();
        for (x, y) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)) {
            let (mean, inverse) = moments(x, eps);
            for (((x, y), w), b) in x.iter().zip(y).zip(weight).zip(bias) {
                *y = (*x - mean) * inverse * *w + *b;
            }
        }
    }
}

multiversion! {
    /// Writes the gradient `dx` of [`layer_norm`]'s input for the gradient `g` of its output, and
    /// adds those of its weight and bias to `dw` and `db`.
    pub fn layer_norm_grad(
        x: &[f32], weight: &[f32], g: &[f32], eps: f32, dx: &mut [f32], dw: &mut [f32], db: &mut [f32],
    ) {
        let d = weight.len();
        let (dw, db) = (&mut dw[..d], &mut db[..d]);
        for ((x, g), dx) in x.chunks_exact(d).zip(g.chunks_exact(d)).zip(dx.chunks_exact_mut(d)) {
            let (mean, inverse) = moments(x, eps);
            let (mut s1, mut s2) = ([0f32; LANES], [0f32; LANES]);
            let ((xs, xr), (gs, gr), (ws, wr)) =
                (x.as_chunks::<LANES>(), g.as_chunks::<LANES>(), weight.as_chunks::<LANES>());
            for ((x, g), w) in xs.iter().zip(gs).zip(ws) {
                for l in 0..LANES {
                    let gw = g[l] * w[l];
                    s1[l] += gw;
                    s2[l] += gw * ((x[l] - mean) * inverse);
                }
            }
            let (mut s1, mut s2) = (s1.iter().sum::<f32>(), s2.iter().sum::<f32>());
            for ((x, g), w) in xr.iter().zip(gr).zip(wr) {
                s1 += g * w;
                s2 += g * w * ((x - mean) * inverse);
            }
            let (s1, s2) = (s1 / d as f32, s2 / d as f32);
            let sums = dw.iter_mut().zip(db.iter_mut());
            for (((dx, x), (g, w)), (dw, db)) in dx.iter_mut().zip(x).zip(g.iter().zip(weight)).zip(sums) {
                let hat = (*x - mean) * inverse;
                *dx = inverse * (*g * *w - s1 - hat * s2);
                *dw += *g * hat;
                *db += *g;
            }
        }
    }
}

multiversion! {
    /// `row = softmax(row * scale)` in place; `scale` is positive.
    pub(super) fn softmax(row: &mut [f32], scale: f32) {
        // A positive scale keeps the order, so the maximum can be taken before it.
        let top = max(row) * scale;
        for v in row.iter_mut() {
            *v = exp(*v * scale - top);
        }
        let inverse = 1.0 / sum(|i| row[i], row.len());
        for v in row.iter_mut() {
            *v *= inverse;
        }
    }
}

multiversion! {
    /// Gradient of [`softmax`]: `p * (g - sum(p * g)) * scale`, in place of `g`.
    pub(super) fn softmax_grad(p: &[f32], g: &mut [f32], scale: f32) {
        let n = p.len().min(g.len());
        let (p, g) = (&p[..n], &mut g[..n]);
        let dot = sum(|i| p[i] * g[i], n);
        for (g, p) in g.iter_mut().zip(p) {
            *g = p * (*g - dot) * scale;
        }
    }
}

multiversion! {
    /// `x += y`
    pub fn add_assign(x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x += *y;
        }
    }
}

multiversion! {
    /// The sum of each column of whole rows of `cols` numbers: a bias's gradient.
    pub fn column_sums(x: &[f32], cols: usize) -> Vec<f32> {
        let mut sums = vec![0.0; cols];
        for row in x.chunks_exact(cols.max(1)) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += *x;
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_of_any_length_sums_to_one() {
        for n in [1usize, 5, 16, 17, 40, 197] {
            let mut row: Vec<f32> = (0..n).map(|i| (i as f32 * 1.7).sin() * 8.0).collect();
            let want: Vec<f64> = {
                let e: Vec<f64> = row.iter().map(|v| (f64::from(*v) * 0.5).exp()).collect();
                let s: f64 = e.iter().sum();
                e.iter().map(|v| v / s).collect()
            };
            softmax(&mut row, 0.5);
            for (got, want) in row.iter().zip(want) {
                assert!((f64::from(*got) - want).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn layer_norm_has_mean_0_and_deviation_1() {
        for d in [1usize, 5, 16, 33, 256] {
            let x: Vec<f32> = (0..3 * d).map(|i| (i as f32 * 0.7).sin() * 3.0 + 1.0).collect();
            let (weight, bias) = (vec![2.0; d], vec![0.5; d]);
            let mut y = vec![0.0; x.len()];
            layer_norm(&x, &weight, &bias, 1e-6, &mut y);
            for (x, y) in x.chunks(d).zip(y.chunks(d)) {
                let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / d as f64;
                let variance = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / d as f64;
                for (x, y) in x.iter().zip(y) {
                    let want = (f64::from(*x) - mean) / (variance + 1e-6).sqrt() * 2.0 + 0.5;
                    assert!((f64::from(*y) - want).abs() < 1e-4, "{d}: {y} instead of {want}");
                }
            }
        }
    }

    #[test]
    fn column_sums_are_sums() {
        for (rows, cols) in [(0, 5), (3, 1), (1000, 37)] {
            let x: Vec<f32> = (0..rows * cols).map(|i| (i % 13) as f32).collect();
            let expected: Vec<f32> = (0..cols).map(|j| (0..rows).map(|i| x[i * cols + j]).sum()).collect();
            assert_eq!(column_sums(&x, cols), expected);
        }
        assert!(column_sums(&[], 0).is_empty());
    }
}
