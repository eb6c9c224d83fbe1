//! 3x3 convolution with stride 1 by minimal filtering (Lavin and Gray, "Fast Algorithms for
//! Convolutional Neural Networks", 2016, sections 4.1-4.3): each output tile of 4x4 (2x2) pixels
//! comes from an input tile of 6x6 (4x4) by
//!
//! `Y = A' [ (G g G') * (B' d B) ] A`
//!
//! where the element-wise product, summed over the input channels, is one matrix product per
//! position of the tile: 36 multiplications in place of 144 (16 in place of 36). In `f32` the 4x4
//! form loses about two bits, far below the detector's tolerance; larger tiles lose too much.

use super::kernel::{PANEL, accumulate, activate};
use super::map::View;
use super::simd::{Isa, Lanes, dispatch};
use super::{Buffer, ConvShape};

/// Transformed inputs and products in flight, in values: they must stay in the second-level cache.
const CHUNK_VALUES: usize = 256 << 10;

/// Rows of the matrix product that are computed together; chunks are a multiple of it.
const ROWS: usize = 6;

/// Weights of one pass over a chunk, in values of the inner dimension (see `direct::PASS_BYTES`).
const PASS_DEPTH: usize = 128;

/// Transformed weights: `[position of the tile][panel of 16 output channels][input channel][16]`.
pub(super) struct Winograd {
    /// Input tile side: 6 or 4.
    side: usize,
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
    /// Tiles in a row and in all.
    across: usize,
    tiles: usize,
    /// Tiles worked on together.
    chunk: usize,
    /// Transformed inputs `[position][tile][input channel]` and the step from one position to the
    /// next.
    v: *mut f32,
    v_step: usize,
    /// Products `[position][tile][output channel]` and the step from one position to the next.
    m: *mut f32,
    m_step: usize,
}

impl Winograd {
    /// Transforms and packs `weight`, `[out][in][3][3]`, for output tiles of `tile` x `tile` (4 or
    /// 2) pixels.
    pub fn pack(shape: ConvShape, weight: &[f32], tile: usize) -> Self {
        let side = tile + 2;
        let (inputs, outputs) = (shape.inputs, shape.padded_outputs());
        let mut weights = Buffer::zeros(side * side * inputs * outputs);
        let packed = weights.as_mut_slice();
        for (index, filter) in weight.chunks_exact(9).enumerate() {
            let (o, c) = (index / inputs, index % inputs);
            let half: Vec<[f64; 3]> = filter_matrix(side)
                .iter()
                .map(|g| std::array::from_fn(|x| (0..3).map(|y| g[y] * f64::from(filter[y * 3 + x])).sum()))
                .collect();
            for (i, row) in half.iter().enumerate() {
                for (j, g) in filter_matrix(side).iter().enumerate() {
                    let u: f64 = (0..3).map(|x| row[x] * g[x]).sum();
                    let at = (((i * side + j) * outputs / PANEL + o / PANEL) * inputs + c) * PANEL + o % PANEL;
                    packed[at] = u as f32;
                }
            }
        }
        Self { side, weights }
    }

    /// Convolves. `scratch` grows as needed.
    ///
    /// # Safety
    /// As for [`super::direct::Direct::run`], and the input's border reaches one pixel beyond the
    /// last whole tile.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn run(
        &self,
        shape: ConvShape,
        bias: &[f32],
        slope: f32,
        isa: Isa,
        input: View,
        output: View,
        scratch: &mut Buffer,
    ) {
        let tile = self.side - 2;
        let positions = self.side * self.side;
        let across = output.width.div_ceil(tile);
        let tiles = across * output.height.div_ceil(tile);
        let fits = CHUNK_VALUES / (positions * (shape.inputs + shape.padded_outputs()));
        let chunk = (fits / ROWS * ROWS).max(4 * ROWS).min(tiles);
        // One cache line more than needed, so that the positions do not all map to the same set of
        // the cache.
        let (v_step, m_step) = (chunk * shape.inputs + PANEL, chunk * shape.padded_outputs() + PANEL);
        scratch.grow(positions * (v_step + m_step));
        let v = scratch.as_mut_slice().as_mut_ptr();
        // SAFETY: `scratch` holds both parts.
        let m = unsafe { v.add(positions * v_step) };
        let weights = self.weights.as_slice();
        let job = Job { shape, weights, bias, slope, input, output, across, tiles, chunk, v, v_step, m, m_step };
        let job = &job;
        // SAFETY: `isa` runs on this CPU; the rest is the caller's promise.
        unsafe {
            if self.side == 6 {
                dispatch!(isa, convolve6(job: &Job<'_>))
            } else {
                dispatch!(isa, convolve4(job: &Job<'_>))
            }
        }
    }
}

/// The rows of `G`.
fn filter_matrix(side: usize) -> &'static [[f64; 3]] {
    const G4: [[f64; 3]; 4] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];
    const S: f64 = 1.0 / 6.0;
    const T: f64 = 1.0 / 24.0;
    const G6: [[f64; 3]; 6] =
        [[0.25, 0.0, 0.0], [-S, -S, -S], [-S, S, -S], [T, 2.0 * T, 4.0 * T], [T, -2.0 * T, 4.0 * T], [0.0, 0.0, 1.0]];
    if side == 6 { &G6 } else { &G4 }
}

#[inline(always)]
unsafe fn convolve6<L: Lanes>(job: &Job<'_>) {
    // SAFETY: the caller's promise.
    unsafe { convolve::<L, 6, 4>(job) }
}

#[inline(always)]
unsafe fn convolve4<L: Lanes>(job: &Job<'_>) {
    // SAFETY: the caller's promise.
    unsafe { convolve::<L, 4, 2>(job) }
}

#[inline(always)]
unsafe fn convolve<L: Lanes, const S: usize, const T: usize>(job: &Job<'_>) {
    let panels = job.shape.padded_outputs() / PANEL;
    let mut first = 0;
    while first < job.tiles {
        let count = job.chunk.min(job.tiles - first);
        // SAFETY: tiles, positions and panels are inside the job's maps, scratch and weights.
        unsafe {
            for t in 0..count {
                input_tile::<L, S, T>(job, first + t, t);
            }
            for position in 0..S * S {
                let mut p = 0;
                while p < panels {
                    p += match panels - p {
                        4.. if L::MANY_REGISTERS => product::<L, 6, 4>(job, position, p, count),
                        2.. if L::MANY_REGISTERS => product::<L, 12, 2>(job, position, p, count),
                        _ if L::MANY_REGISTERS => product::<L, 12, 1>(job, position, p, count),
                        _ => product::<L, 6, 1>(job, position, p, count),
                    };
                }
            }
            for t in 0..count {
                output_tile::<L, S, T>(job, first + t, t);
            }
        }
        first += count;
    }
}

/// `B' d B` of one tile, all channels.
#[inline(always)]
unsafe fn input_tile<L: Lanes, const S: usize, const T: usize>(job: &Job<'_>, tile: usize, slot: usize) {
    let (y, x) = ((tile / job.across * T) as isize - 1, (tile % job.across * T) as isize - 1);
    for c in (0..job.shape.inputs).step_by(PANEL) {
        // SAFETY: the tile with its border lies in the input, the slot in the scratch.
        unsafe {
            let corner = job.input.at(y, x).add(c);
            let mut t = [[L::splat(0.0); S]; S];
            for j in 0..S {
                let column =
                    std::array::from_fn(|i| L::load(corner.add(i * job.input.row + j * job.input.pixel).cast_const()));
                let column = input_transform::<L, S>(&column);
                for i in 0..S {
                    t[i][j] = column[i];
                }
            }
            let out = job.v.add(slot * job.shape.inputs + c);
            for (i, row) in t.iter().enumerate() {
                for (j, v) in input_transform::<L, S>(row).into_iter().enumerate() {
                    L::store(out.add((i * S + j) * job.v_step), v);
                }
            }
        }
    }
}

/// Panels `p .. p + N` of one position's matrix product: `[tile][input] x [input][output]`. Returns
/// `N`.
#[inline(always)]
unsafe fn product<L: Lanes, const M: usize, const N: usize>(
    job: &Job<'_>,
    position: usize,
    p: usize,
    count: usize,
) -> usize {
    let (inputs, outputs) = (job.shape.inputs, job.shape.padded_outputs());
    let panel = inputs * PANEL;
    let mut done = 0;
    while done < inputs {
        let len = PASS_DEPTH.min(inputs - done);
        let mut t = 0;
        while t < count {
            // SAFETY: as in `direct::pass`: the last rows repeat instead of running over.
            unsafe {
                let v = job.v.add(position * job.v_step + done).cast_const();
                let m = job.m.add(position * job.m_step + p * PANEL);
                let w = job.weights.as_ptr().add((position * outputs + p * PANEL) * inputs + done * PANEL);
                let a: [*const f32; M] = std::array::from_fn(|i| v.add((t + i).min(count - 1) * inputs));
                let mut acc = [[L::splat(0.0); N]; M];
                if done > 0 {
                    for i in 0..M {
                        for j in 0..N {
                            acc[i][j] = L::load(m.add((t + i).min(count - 1) * outputs + j * PANEL).cast_const());
                        }
                    }
                }
                accumulate::<L, M, N>(&mut acc, &a, w, panel, len);
                for i in 0..M {
                    for j in 0..N {
                        L::store(m.add((t + i).min(count - 1) * outputs + j * PANEL), acc[i][j]);
                    }
                }
            }
            t += M;
        }
        done += len;
    }
    N
}

/// `A' m A`, bias and activation of one tile, all channels; pixels beyond the edge are left out.
#[inline(always)]
unsafe fn output_tile<L: Lanes, const S: usize, const T: usize>(job: &Job<'_>, tile: usize, slot: usize) {
    let (y, x) = (tile / job.across * T, tile % job.across * T);
    let (rows, columns) = ((job.output.height - y).min(T), (job.output.width - x).min(T));
    let outputs = job.shape.padded_outputs();
    for c in (0..outputs).step_by(PANEL) {
        // SAFETY: the slot lies in the scratch, the pixels in the output.
        unsafe {
            let from = job.m.add(slot * outputs + c).cast_const();
            let mut t = [[L::splat(0.0); S]; T];
            for j in 0..S {
                let column = std::array::from_fn(|i| L::load(from.add((i * S + j) * job.m_step)));
                let column = output_transform::<L, S, T>(&column);
                for i in 0..T {
                    t[i][j] = column[i];
                }
            }
            let (bias, slope) = (L::load(job.bias.as_ptr().add(c)), L::splat(job.slope));
            for (i, row) in t.iter().enumerate().take(rows) {
                let out = job.output.at((y + i) as isize, x as isize).add(c);
                for (j, v) in output_transform::<L, S, T>(row).into_iter().enumerate() {
                    if j < columns {
                        L::store(out.add(j * job.output.pixel), activate::<L>(L::add(v, bias), slope));
                    }
                }
            }
        }
    }
}

/// `B' d`.
#[inline(always)]
unsafe fn input_transform<L: Lanes, const S: usize>(d: &[L::V; S]) -> [L::V; S] {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let mut r = *d;
        if S == 4 {
            r[0] = L::sub(d[0], d[2]);
            r[1] = L::add(d[1], d[2]);
            r[2] = L::sub(d[2], d[1]);
            r[3] = L::sub(d[1], d[3]);
        } else {
            let (four, minus_four) = (L::splat(4.0), L::splat(-4.0));
            let (two, minus_two, minus_five) = (L::splat(2.0), L::splat(-2.0), L::splat(-5.0));
            let even = L::fma(minus_four, d[2], d[4]);
            let odd = L::fma(minus_four, d[1], d[3]);
            let (even2, odd2) = (L::sub(d[4], d[2]), L::sub(d[3], d[1]));
            r[0] = L::fma(four, d[0], L::fma(minus_five, d[2], d[4]));
            r[1] = L::add(even, odd);
            r[2] = L::sub(even, odd);
            r[3] = L::fma(two, odd2, even2);
            r[4] = L::fma(minus_two, odd2, even2);
            r[5] = L::fma(four, d[1], L::fma(minus_five, d[3], d[5]));
        }
        r
    }
}

/// `A' m`.
#[inline(always)]
unsafe fn output_transform<L: Lanes, const S: usize, const T: usize>(m: &[L::V; S]) -> [L::V; T] {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let mut r = [m[0]; T];
        if S == 4 {
            r[0] = L::add(m[0], L::add(m[1], m[2]));
            r[1] = L::sub(L::sub(m[1], m[2]), m[3]);
        } else {
            let (sum1, difference1) = (L::add(m[1], m[2]), L::sub(m[1], m[2]));
            let (sum2, difference2) = (L::add(m[3], m[4]), L::sub(m[3], m[4]));
            r[0] = L::add(m[0], L::add(sum1, sum2));
            r[1] = L::fma(L::splat(2.0), difference2, difference1);
            r[2] = L::fma(L::splat(4.0), sum2, sum1);
            r[3] = L::add(L::fma(L::splat(8.0), difference2, difference1), m[5]);
        }
        r
    }
}
