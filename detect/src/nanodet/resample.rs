//! Resizes 8-bit pictures as the detector's reference does: each output pixel is the mean of the
//! area it covers when the picture shrinks (OpenCV's `INTER_AREA`, bit for bit except for ties),
//! and bilinear when it grows.
//!
//! Averaging matters: point sampling makes a shrunken picture flicker, and small people are lost.

/// The source pixels of one output pixel along one axis: the first one, and the weights of all,
/// which sum to 1.
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

/// Resizes pictures of one size to another.
pub(super) struct Resampler {
    from: (usize, usize),
    to: (usize, usize),
    rows: Vec<Taps>,
    columns: Vec<Taps>,
    /// `row` is one source row resized along x, `[x][channel]`; `cached` is the index of that row;
    /// `sum` accumulates the output row.
    row: Vec<f32>,
    cached: Option<usize>,
    sum: Vec<f32>,
}

impl Resampler {
    /// From `(width, height)` to `(width, height)`, all at least 1.
    pub fn new(from: (usize, usize), to: (usize, usize)) -> Self {
        Self {
            from,
            to,
            rows: taps(from.1, to.1),
            columns: taps(from.0, to.0),
            row: vec![0.0; to.0 * 3],
            cached: None,
            sum: vec![0.0; to.0 * 3],
        }
    }

    /// Whether this resampler is for these sizes.
    pub fn fits(&self, from: (usize, usize), to: (usize, usize)) -> bool {
        self.from == from && self.to == to
    }

    /// Resizes `pixels` (`[y][x][3]`) and calls `output` with each output row, `[x][3]`, rounded to
    /// whole values 0 to 255.
    pub fn run(&mut self, pixels: &[u8], mut output: impl FnMut(usize, &[f32])) {
        self.cached = None;
        let source_len = self.from.0 * 3;
        for (y, taps) in self.rows.iter().enumerate() {
            self.sum.fill(0.0);
            for (i, &weight) in taps.weights.iter().enumerate() {
                let source = taps.first + i;
                if self.cached != Some(source) {
                    along_x(&pixels[source * source_len..][..source_len], &self.columns, &mut self.row);
                    self.cached = Some(source);
                }
                for (s, v) in self.sum.iter_mut().zip(&self.row) {
                    *s += weight * v;
                }
            }
            for s in &mut self.sum {
                *s = s.round_ties_even();
            }
            output(y, &self.sum);
        }
    }
}

fn along_x(source: &[u8], columns: &[Taps], out: &mut [f32]) {
    for (taps, out) in columns.iter().zip(out.chunks_exact_mut(3)) {
        let mut sum = [0.0f32; 3];
        for (p, &w) in source[taps.first * 3..].chunks_exact(3).zip(&taps.weights) {
            for c in 0..3 {
                sum[c] += w * f32::from(p[c]);
            }
        }
        out.copy_from_slice(&sum);
    }
}

fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    (0..to).map(|i| if scale >= 1.0 { area(i, scale, from) } else { bilinear(i, scale, from) }).collect()
}

fn area(i: usize, scale: f64, from: usize) -> Taps {
    let (start, end) = (i as f64 * scale, ((i + 1) as f64 * scale).min(from as f64));
    // A part below a thousandth of a pixel is a rounding error of `scale`.
    let first = (start + 1e-3).floor() as usize;
    let last = ((end - 1e-3).ceil() as usize).clamp(first + 1, from);
    let weights = (first..last).map(|s| ((end.min((s + 1) as f64) - start.max(s as f64)) / (end - start)) as f32);
    Taps { first, weights: weights.collect() }
}

fn bilinear(i: usize, scale: f64, from: usize) -> Taps {
    let position = ((i as f64 + 0.5) * scale - 0.5).clamp(0.0, (from - 1) as f64);
    let first = position.floor() as usize;
    let part = (position - first as f64) as f32;
    let weights = if first + 1 < from { vec![1.0 - part, part] } else { vec![1.0] };
    Taps { first, weights }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resize(pixels: &[u8], from: (usize, usize), to: (usize, usize)) -> Vec<f32> {
        let mut all = Vec::new();
        Resampler::new(from, to).run(pixels, |_, row| all.extend_from_slice(row));
        all
    }

    fn grey(values: &[u8]) -> Vec<u8> {
        values.iter().flat_map(|&v| [v; 3]).collect()
    }

    #[test]
    fn shrinking_takes_the_mean_of_the_area() {
        let out = resize(&grey(&[0, 30, 60]), (3, 1), (2, 1));
        assert_eq!(out[..], [10.0, 10.0, 10.0, 50.0, 50.0, 50.0]);
        let out = resize(&grey(&[0, 10, 20, 31]), (2, 2), (1, 1));
        assert_eq!(out[0], 15.0); // 15.25
    }

    #[test]
    fn growing_is_bilinear() {
        let out = resize(&grey(&[0, 100]), (2, 1), (4, 1));
        assert_eq!([out[0], out[3], out[6], out[9]], [0.0, 25.0, 75.0, 100.0]);
    }

    proptest! {
        #[test]
        fn weights_cover_the_picture_and_sum_to_one(from in 1usize..300, to in 1usize..300) {
            let all = taps(from, to);
            prop_assert_eq!(all.len(), to);
            for t in &all {
                prop_assert!(t.first + t.weights.len() <= from);
                prop_assert!(t.weights.iter().all(|w| (-1e-6..=1.00001).contains(w)), "{:?}", t.weights);
                prop_assert!((t.weights.iter().sum::<f32>() - 1.0).abs() < 1e-4, "{:?}", t.weights);
            }
        }

        #[test]
        fn a_flat_picture_stays_flat(w in 1usize..40, h in 1usize..40, tw in 1usize..40, th in 1usize..40, v: u8) {
            let out = resize(&vec![v; w * h * 3], (w, h), (tw, th));
            prop_assert!(out.iter().all(|x| (x - f32::from(v)).abs() <= 0.0));
        }
    }
}
