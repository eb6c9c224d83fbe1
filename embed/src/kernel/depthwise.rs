//! Depthwise convolution over pictures whose channels lie side by side (height x width x channels).
//!
//! Each channel has a filter of its own, so there is no matrix product: the work is one
//! multiplication and addition per number read. Channels are taken sixteen at a time, as many as
//! one AVX-512 register holds, and four neighbouring outputs share each load of a weight.

use super::Buffer;
use super::simd::{LANES, multiversion};

/// Window of a convolution with the padding of TensorFlow's rule "SAME": side and stride.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Side of the square filter.
    pub side: usize,
    /// Step from one output to the next in pixels of the input.
    pub stride: usize,
}

impl Window {
    /// Window of a backbone's first convolution, which is not a depthwise one.
    pub const STEM: Self = Self { side: 3, stride: 2 };

    /// Outputs along a side of `length` pixels: `ceil(length / stride)`.
    #[must_use]
    pub fn outputs(self, length: usize) -> usize {
        length.div_ceil(self.stride)
    }

    /// Zeros before and after a side of `length` pixels; the smaller half comes first.
    #[must_use]
    pub fn padding(self, length: usize) -> (usize, usize) {
        let all = ((self.outputs(length).max(1) - 1) * self.stride + self.side).saturating_sub(length);
        (all / 2, all - all / 2)
    }
}

/// `out = min(max(conv(x) + bias, 0), 6)` with `x` `[height, width, channels]`, `weight`
/// `[side * side, channels]`, `bias` `[channels]`; `out` is
/// `[outputs(height), outputs(width), channels]`. NaN stays NaN. On the calling thread.
///
/// # Panics
/// When a slice is shorter than its shape.
pub fn depthwise_relu6(
    x: &[f32],
    [height, width]: [usize; 2],
    window: Window,
    weight: &[f32],
    bias: &[f32],
    out: &mut [f32],
) {
    let channels = bias.len();
    let ((top, bottom), (left, right)) = (window.padding(height), window.padding(width));
    let padded_width = left + width + right;
    let row = padded_width * channels;
    let mut padded = Buffer::take((top + height + bottom) * row);
    let (above, rest) = padded.split_at_mut(top * row);
    let (rows, below) = rest.split_at_mut(height * row);
    above.fill(0.0);
    below.fill(0.0);
    for (to, from) in rows.chunks_exact_mut(row).zip(x.chunks_exact(width * channels)) {
        to[..left * channels].fill(0.0);
        to[left * channels..][..width * channels].copy_from_slice(from);
        to[(left + width) * channels..].fill(0.0);
    }
    let Window { side, stride } = window;
    filter(&padded, padded_width, weight, bias, side, stride, window.outputs(width), out);
}

/// Neighbouring outputs that share each load of a weight.
const TOGETHER: usize = 4;

multiversion! {
    fn filter(
        x: &[f32], padded_width: usize, weight: &[f32], bias: &[f32], side: usize, stride: usize, columns: usize,
        out: &mut [f32],
    ) {
        let channels = bias.len();
        let whole = channels - channels % LANES;
        for (y, line) in out.chunks_exact_mut(columns * channels).enumerate() {
            let from = &x[y * stride * padded_width * channels..];
            let mut c = 0;
            while c < whole {
                let mut column = 0;
                while column < columns {
                    let at = (column, c);
                    if column + TOGETHER <= columns {
                        outputs::<TOGETHER>(from, padded_width, weight, bias, side, stride, at, line);
                        column += TOGETHER;
                    } else {
                        outputs::<1>(from, padded_width, weight, bias, side, stride, at, line);
                        column += 1;
                    }
                }
                c += LANES;
            }
            for c in whole..channels {
                for column in 0..columns {
                    let mut sum = bias[c];
                    for dy in 0..side {
                        for dx in 0..side {
                            let at = (dy * padded_width + column * stride + dx) * channels + c;
                            sum += from[at] * weight[(dy * side + dx) * channels + c];
                        }
                    }
                    line[column * channels + c] = clamp6(sum);
                }
            }
        }
    }
}

/// `min(max(x, 0), 6)`. NaN stays NaN, so that damaged weights or pixels never become plausible
/// features: comparisons with NaN are false.
#[inline(always)]
fn clamp6(x: f32) -> f32 {
    let x = if x <= 0.0 { 0.0 } else { x };
    if x > 6.0 { 6.0 } else { x }
}

/// Computes sixteen channels, from `c` on, of `N` outputs, from `column` on.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn outputs<const N: usize>(
    x: &[f32],
    padded_width: usize,
    weight: &[f32],
    bias: &[f32],
    side: usize,
    stride: usize,
    (column, c): (usize, usize),
    line: &mut [f32],
) {
    let channels = bias.len();
    let mut sums = [[0f32; LANES]; N];
    for sum in &mut sums {
        sum.copy_from_slice(&bias[c..c + LANES]);
    }
    for dy in 0..side {
        for dx in 0..side {
            let weight = &weight[(dy * side + dx) * channels + c..][..LANES];
            let first = (dy * padded_width + column * stride + dx) * channels + c;
            for (n, sum) in sums.iter_mut().enumerate() {
                let x = &x[first + n * stride * channels..][..LANES];
                for l in 0..LANES {
                    sum[l] += x[l] * weight[l];
                }
            }
        }
    }
    for (n, sum) in sums.iter().enumerate() {
        let to = &mut line[(column + n) * channels + c..][..LANES];
        for l in 0..LANES {
            to[l] = clamp6(sum[l]);
        }
    }
}

multiversion! {
    /// `x = min(max(x, 0), 6)`; NaN stays NaN.
    pub fn relu6(x: &mut [f32]) {
        for x in x.iter_mut() {
            *x = clamp6(*x);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Depthwise convolution by its definition, in f64.
    fn by_hand(x: &[f32], [h, w]: [usize; 2], window: Window, weight: &[f32], bias: &[f32]) -> Vec<f64> {
        let channels = bias.len();
        let ((top, _), (left, _)) = (window.padding(h), window.padding(w));
        let mut out = Vec::new();
        for y in 0..window.outputs(h) {
            for column in 0..window.outputs(w) {
                for c in 0..channels {
                    let mut sum = f64::from(bias[c]);
                    for dy in 0..window.side {
                        for dx in 0..window.side {
                            let (py, px) = (y * window.stride + dy, column * window.stride + dx);
                            if py >= top && py - top < h && px >= left && px - left < w {
                                let at = ((py - top) * w + px - left) * channels + c;
                                sum += f64::from(x[at]) * f64::from(weight[(dy * window.side + dx) * channels + c]);
                            }
                        }
                    }
                    out.push(sum.clamp(0.0, 6.0));
                }
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_is_its_definition(
            h in 1usize..12, w in 1usize..12, channels in 1usize..40, side in prop::sample::select(vec![1usize, 3, 5]),
            stride in 1usize..3, seed in any::<u32>(),
        ) {
            let numbers = |n: usize, k: u32| -> Vec<f32> {
                (0..n).map(|i| ((i as f32 + 1.0) * 0.7 + (seed % 1000) as f32 + k as f32).sin() * 2.0).collect()
            };
            let window = Window { side, stride };
            let (x, weight, bias) = (numbers(h * w * channels, 1), numbers(side * side * channels, 2), numbers(channels, 3));
            let expected = by_hand(&x, [h, w], window, &weight, &bias);
            let mut out = vec![f32::NAN; expected.len()];
            depthwise_relu6(&x, [h, w], window, &weight, &bias, &mut out);
            for (got, want) in out.iter().zip(&expected) {
                prop_assert!((f64::from(*got) - want).abs() < 1e-4, "{got} instead of {want}");
            }
        }
    }

    #[test]
    fn edges_follow_tensorflows_rule() {
        let window = Window { side: 3, stride: 2 };
        assert_eq!((window.outputs(256), window.padding(256)), (128, (0, 1)));
        assert_eq!((window.outputs(7), window.padding(7)), (4, (1, 1)));
        assert_eq!(Window { side: 5, stride: 1 }.padding(16), (2, 2));
        assert_eq!(Window { side: 5, stride: 2 }.padding(64), (1, 2));
    }

    #[test]
    fn relu6_keeps_what_is_between_and_nan() {
        let cases = [
            (-1.0, 0.0),
            (-0.0, 0.0),
            (0.5, 0.5),
            (6.0, 6.0),
            (7.0, 6.0),
            (f32::NEG_INFINITY, 0.0),
            (f32::INFINITY, 6.0),
            (f32::NAN, f32::NAN),
        ];
        // Whole vectors and a rest.
        let mut x: Vec<f32> = (0..4 * LANES + 11).map(|i| cases[i % cases.len()].0).collect();
        relu6(&mut x);
        for (i, got) in x.iter().enumerate() {
            let (from, want) = cases[i % cases.len()];
            assert!(*got == want || (got.is_nan() && want.is_nan()), "{from} became {got} at {i}");
        }
    }

    #[test]
    fn nan_reaches_the_outputs_that_see_it_and_no_other() {
        let window = Window { side: 3, stride: 1 };
        let (height, width, channels) = (7, 7, LANES + 3);
        let (weight, bias) = (vec![0.1f32; 9 * channels], vec![0.0f32; channels]);
        // A channel of a whole vector, and one of the rest.
        for bad in [2, LANES + 1] {
            let mut x = vec![1.0f32; height * width * channels];
            x[(3 * width + 3) * channels + bad] = f32::NAN;
            let mut out = vec![0.0f32; x.len()];
            depthwise_relu6(&x, [height, width], window, &weight, &bias, &mut out);
            for (i, value) in out.iter().enumerate() {
                let (pixel, channel) = (i / channels, i % channels);
                let near = (pixel / width).abs_diff(3) <= 1 && (pixel % width).abs_diff(3) <= 1;
                assert_eq!(value.is_nan(), near && channel == bad, "channel {channel} of pixel {pixel}");
            }
        }
    }
}
