//! Direct convolution as an implicit matrix product: rows are output pixels, columns output
//! channels, and the inner dimension runs over the taps of the kernel and the input channels. The
//! rows of the left matrix are never copied together (no im2col): with channels-last maps and a
//! border of zeros each tap is a run of consecutive values at a fixed offset from the pixel.

use super::kernel::{PANEL, accumulate, activate};
use super::map::View;
use super::simd::{Isa, Lanes, dispatch};
use super::{Buffer, ConvShape};

/// Bytes of weights in one pass over the pixels: they must stay in the first-level cache (32-48
/// KiB) meanwhile.
const PASS_BYTES: usize = 36 << 10;

/// Input values that are read again for every panel of output channels: they must stay in the
/// second-level cache.
const BLOCK_VALUES: usize = 96 << 10;

/// A run of consecutive input values that are multiplied by consecutive weights.
#[derive(Clone, Copy)]
struct Run {
    /// Offset from the pixel's first value, in values; negative for taps above or to the left.
    offset: isize,
    /// Number of values.
    len: usize,
}

/// Packed weights: `[panel of 16 output channels][row of kernel][column][input channel][16]`.
pub(super) struct Direct {
    weights: Buffer,
}

/// One call, with everything the kernels need.
struct Job<'a> {
    shape: ConvShape,
    weights: &'a [f32],
    bias: &'a [f32],
    slope: f32,
    input: View,
    output: View,
    runs: &'a [Run],
}

impl Direct {
    /// Packs `weight`, `[out][in][kernel][kernel]`.
    pub fn pack(shape: ConvShape, weight: &[f32]) -> Self {
        let ConvShape { inputs, kernel, .. } = shape;
        let depth = kernel * kernel * inputs;
        let mut weights = Buffer::zeros(shape.padded_outputs() * depth);
        let packed = weights.as_mut_slice();
        for (o, filter) in weight.chunks_exact(depth).enumerate() {
            for c in 0..inputs {
                for tap in 0..kernel * kernel {
                    let k = tap * inputs + c;
                    packed[(o / PANEL * depth + k) * PANEL + o % PANEL] = filter[c * kernel * kernel + tap];
                }
            }
        }
        Self { weights }
    }

    /// Convolves.
    ///
    /// # Safety
    /// The views hold the channels of `shape`, the border is as wide as the padding, the output has
    /// the size that follows from the input, and what is read and what is written do not overlap.
    /// `bias` holds the padded outputs.
    pub unsafe fn run(&self, shape: ConvShape, bias: &[f32], slope: f32, isa: Isa, input: View, output: View) {
        let runs = runs(shape, input);
        let job = Job { shape, weights: self.weights.as_slice(), bias, slope, input, output, runs: &runs };
        let job = &job;
        // SAFETY: `isa` runs on this CPU (only `Isa::available` gives it to a layer); the rest is
        // the caller's promise.
        unsafe { dispatch!(isa, convolve(job: &Job<'_>)) }
    }
}

/// The runs of a pixel, in the order of the packed weights. A row of taps is one run when its
/// pixels are adjacent in memory.
fn runs(shape: ConvShape, input: View) -> Vec<Run> {
    let ConvShape { inputs, kernel, .. } = shape;
    let pad = (kernel / 2) as isize;
    let (taps, len) = if input.pixel == inputs && inputs < PANEL { (1, kernel * inputs) } else { (kernel, inputs) };
    let start =
        |ky: usize, kx: usize| (ky as isize - pad) * input.row as isize + (kx as isize - pad) * input.pixel as isize;
    (0..kernel).flat_map(|ky| (0..taps).map(move |kx| Run { offset: start(ky, kx), len })).collect()
}

#[inline(always)]
unsafe fn convolve<L: Lanes>(job: &Job<'_>) {
    let panels = job.shape.padded_outputs() / PANEL;
    let per_row = job.output.width * job.shape.inputs * job.shape.stride * job.shape.stride;
    let rows = (BLOCK_VALUES / per_row.max(1)).max(1);
    let mut y = 0;
    while y < job.output.height {
        let (first, end) = (y * job.output.width, (y + rows).min(job.output.height) * job.output.width);
        let mut p = 0;
        while p < panels {
            // SAFETY: pixels and panels are inside the job's maps and weights.
            p += unsafe {
                match panels - p {
                    4.. if L::MANY_REGISTERS => pass::<L, 6, 4>(job, p, first, end),
                    2.. if L::MANY_REGISTERS => pass::<L, 12, 2>(job, p, first, end),
                    _ if L::MANY_REGISTERS => pass::<L, 12, 1>(job, p, first, end),
                    _ => pass::<L, 6, 1>(job, p, first, end),
                }
            };
        }
        y += rows;
    }
}

/// The panels `p .. p + N` of the output pixels `first .. end`, counted row by row. Returns `N`.
#[inline(always)]
unsafe fn pass<L: Lanes, const M: usize, const N: usize>(job: &Job<'_>, p: usize, first: usize, end: usize) -> usize {
    let depth = job.shape.kernel * job.shape.kernel * job.shape.inputs;
    let panel = depth * PANEL;
    let most = PASS_BYTES / (N * PANEL * size_of::<f32>());
    let stride = job.shape.stride as isize;
    let mut done = 0; // values of the inner dimension that are already summed up in the output
    let mut next = 0; // the run they end at
    while next < job.runs.len() {
        let mut end_run = next;
        let mut len = 0;
        while end_run < job.runs.len() && (len == 0 || len + job.runs[end_run].len <= most) {
            len += job.runs[end_run].len;
            end_run += 1;
        }
        let runs = &job.runs[next..end_run];
        let last = end_run == job.runs.len();
        let (mut y, mut x) = ((first / job.output.width) as isize, (first % job.output.width) as isize);
        let mut pixel = first;
        while pixel < end {
            // SAFETY: every address below is inside the views, the weights or the bias; the last
            // tile repeats its last pixel instead of running over, and writes the same value to it
            // again.
            unsafe {
                let mut a = [job.input.origin.cast_const(); M];
                let mut o = [job.output.origin; M];
                for i in 0..M {
                    a[i] = job.input.at(y * stride, x * stride);
                    o[i] = job.output.at(y, x).add(p * PANEL);
                    if pixel + i + 1 < end {
                        x += 1;
                        if x == job.output.width as isize {
                            x = 0;
                            y += 1;
                        }
                    }
                }
                let mut acc = [[L::splat(0.0); N]; M];
                for i in 0..M {
                    for j in 0..N {
                        let from = if done == 0 { job.bias.as_ptr().add((p + j) * PANEL) } else { o[i].add(j * PANEL) };
                        acc[i][j] = L::load(from);
                    }
                }
                let mut w = job.weights.as_ptr().add(p * panel + done * PANEL);
                for run in runs {
                    let a: [*const f32; M] = std::array::from_fn(|i| a[i].offset(run.offset));
                    accumulate::<L, M, N>(&mut acc, &a, w, panel, run.len);
                    w = w.add(run.len * PANEL);
                }
                let slope = L::splat(if last { job.slope } else { 1.0 });
                for i in 0..M {
                    for j in 0..N {
                        L::store(o[i].add(j * PANEL), activate::<L>(acc[i][j], slope));
                    }
                }
            }
            pixel += M;
        }
        done += len;
        next = end_run;
    }
    N
}
