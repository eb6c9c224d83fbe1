//! Packing: stores an operand in tiles, the layout that the engines read.
//!
//! A [`Tile`] is 16 x 16 words of 32 bits. A *line* is a row of the left operand or a column of the
//! right one, a *step* is an index of `k`. With [`Format::F32`] a word is one `f32`, and a tile 16
//! lines by 16 steps. With [`Format::Bf16`] it is two neighbouring steps rounded to bf16, and a
//! tile 16 lines by 32 steps. The right operand's tiles hold a step (or a pair of steps, as
//! `tdpbf16ps` wants them) a row, the left operand's a line a row; but the left one's tiles of
//! `f32` hold two *groups* of eight lines, each step after step: the kernel multiplies eight lines
//! at a time, and so reads memory in one sequence. A *panel* is 32 lines by all of `k`: for each
//! tile of steps its two tiles. Tiles at the edges are padded with zeros.

use std::arch::x86_64::*;

use super::{CpuLevel, Mat};

/// Lines of a tile, and words of a line.
pub(super) const TILE: usize = 16;
/// Lines of a panel.
pub(super) const PANEL: usize = 2 * TILE;
/// Lines of a group, of a left operand of `f32`.
pub(super) const GROUP: usize = TILE / 2;
/// Steps of `k` in a tile of bf16 pairs.
const STEP: usize = 32;

/// What a word of a tile holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Two steps, rounded to nearest even.
    Bf16,
    /// One step.
    F32,
}

impl Format {
    /// Steps of `k` in a tile.
    pub(super) fn steps(self) -> usize {
        match self {
            Self::Bf16 => STEP,
            Self::F32 => TILE,
        }
    }
}

/// 1 KiB: 16 rows of 16 words, aligned to a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Tile(pub(super) [[u32; TILE]; TILE]);

impl Tile {
    pub(super) const ZERO: Self = Self([[0; TILE]; TILE]);
}

/// Which operand a tile belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Tile rows are lines of bf16 pairs; with `f32` the tile is two groups.
    Left,
    /// Tile rows are steps, or pairs of them.
    Right,
}

/// Packs lines `line0..` of `x` (a line a row, `k` across) from tile `step0` of `k` on, as many
/// tiles as fit, into `out`: panel after panel, within a panel tile of steps after tile of steps,
/// of each the two of the panel's lines.
///
/// # Safety
/// [`Format::Bf16`] needs a CPU with AVX-512 F, BW and BF16.
pub(super) unsafe fn pack(
    format: Format,
    x: Mat<'_>,
    side: Side,
    (line0, lines): (usize, usize),
    step0: usize,
    out: &mut [Tile],
) {
    let panels = lines.div_ceil(PANEL);
    if panels == 0 || out.is_empty() {
        return;
    }
    let steps = out.len() / (2 * panels);
    assert_eq!(out.len(), 2 * panels * steps, "the tiles do not make whole panels");
    let end = line0 + lines;
    let mut one = |panel: usize, step: usize| {
        for half in 0..2 {
            let line = line0 + panel * PANEL + half * TILE;
            let tile = &mut out[(panel * steps + step) * 2 + half];
            let (lines, k0) = (end.saturating_sub(line).min(TILE), (step0 + step) * format.steps());
            match format {
                // SAFETY: the caller's promise.
                Format::Bf16 => unsafe { pack_bf16(x, side, line, lines, k0, tile) },
                Format::F32 => pack_f32(x, side, line, lines, k0, tile),
            }
        }
    };
    // The order that reads memory sequentially.
    if x.strides().1 == 1 {
        (0..panels).for_each(|panel| (0..steps).for_each(|step| one(panel, step)));
    } else {
        (0..steps).for_each(|step| (0..panels).for_each(|panel| one(panel, step)));
    }
}

/// One tile of `f32`: `lines` (at most 16) lines from `line`, steps from `k0`.
fn pack_f32(x: Mat<'_>, side: Side, line: usize, lines: usize, k0: usize, tile: &mut Tile) {
    let steps = x.cols().saturating_sub(k0).min(TILE);
    if lines < TILE || steps < TILE {
        *tile = Tile::ZERO;
    }
    if lines == 0 || steps == 0 {
        return;
    }
    let (line_stride, k_stride) = x.strides();
    let from = &x.data()[line * line_stride + k0 * k_stride..];
    let whole = lines == TILE && steps == TILE && k_stride == 1;
    if whole && side == Side::Left && CpuLevel::current() >= CpuLevel::Avx512 {
        // SAFETY: the CPU has the instructions of its level.
        return unsafe { groups_of_lines(from, line_stride, tile) };
    }
    let words = tile.0.as_flattened_mut();
    match side {
        Side::Right => {
            for (step, row) in words.chunks_exact_mut(TILE).enumerate().take(steps) {
                spread(&from[step * k_stride..], line_stride, &mut row[..lines], 1);
            }
        }
        Side::Left => {
            for line in 0..lines {
                let group = &mut words[line / GROUP * GROUP * TILE + line % GROUP..];
                spread(&from[line * line_stride..], k_stride, &mut group[..(steps - 1) * GROUP + 1], GROUP);
            }
        }
    }
}

/// Copies every `stride`-th number to every `to_stride`-th word.
#[inline(always)]
fn spread(from: &[f32], stride: usize, to: &mut [u32], to_stride: usize) {
    if stride == 1 && to_stride == 1 {
        to.iter_mut().zip(from).for_each(|(to, x)| *to = x.to_bits());
    } else {
        let from = from.iter().step_by(stride);
        to.iter_mut().step_by(to_stride).zip(from).for_each(|(to, x)| *to = x.to_bits());
    }
}

/// A whole tile of the left operand, whose lines' steps are adjacent.
#[target_feature(enable = "avx512f")]
fn groups_of_lines(from: &[f32], line_stride: usize, tile: &mut Tile) {
    let mut lines = [_mm512_setzero_si512(); TILE];
    for (i, line) in lines.iter_mut().enumerate() {
        *line = _mm512_castps_si512(load(sixteen(from, i * line_stride)));
    }
    let (low, high) = tile.0.as_flattened_mut().split_at_mut(GROUP * TILE);
    let groups = low.as_chunks_mut::<GROUP>().0.iter_mut().zip(high.as_chunks_mut::<GROUP>().0);
    for ((low, high), step) in groups.zip(transpose(lines)) {
        // SAFETY: each group's step is eight words; stores need no alignment.
        unsafe {
            _mm256_storeu_si256(low.as_mut_ptr().cast(), _mm512_castsi512_si256(step));
            _mm256_storeu_si256(high.as_mut_ptr().cast(), _mm512_extracti64x4_epi64::<1>(step));
        }
    }
}

/// One tile of bf16 pairs, as [`pack_f32`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn pack_bf16(x: Mat<'_>, side: Side, line: usize, lines: usize, k0: usize, tile: &mut Tile) {
    let k_left = x.cols().saturating_sub(k0);
    let (line_stride, k_stride) = x.strides();
    if lines == TILE && k_left >= STEP && (k_stride == 1 || line_stride == 1) {
        let from = &x.data()[line * line_stride + k0 * k_stride..];
        if k_stride == 1 {
            let rows = lines_of_pairs(from, line_stride);
            store(tile, if side == Side::Left { rows } else { transpose(rows) });
        } else {
            let rows = pairs_of_lines(from, k_stride);
            store(tile, if side == Side::Left { transpose(rows) } else { rows });
        }
        return;
    }
    // An edge, or a matrix strided both ways: through a buffer padded with zeros.
    let mut buffer = [0.0f32; TILE * STEP];
    for (i, row) in buffer.chunks_exact_mut(STEP).enumerate().take(lines) {
        for (j, value) in row.iter_mut().enumerate().take(k_left.min(STEP)) {
            *value = x.data()[(line + i) * line_stride + (k0 + j) * k_stride];
        }
    }
    let rows = lines_of_pairs(&buffer, STEP);
    store(tile, if side == Side::Left { rows } else { transpose(rows) });
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(x: &[f32; TILE]) -> __m512 {
    // SAFETY: 16 numbers are readable behind the reference; the load needs no alignment.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

/// The 16 numbers at `x[at..]`.
#[inline(always)]
fn sixteen(x: &[f32], at: usize) -> &[f32; TILE] {
    x[at..].first_chunk().expect("a full tile lies inside the matrix")
}

/// Asks for the cache line of `x[at]`, a step ahead of its use; beyond the slice it is a hint that
/// does nothing.
#[inline(always)]
fn prefetch(x: &[f32], at: usize) {
    // SAFETY: a prefetch reads nothing and cannot fault; the address is computed with wrapping
    // arithmetic.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(x.as_ptr().wrapping_add(at).cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(tile: &mut Tile, rows: [__m512i; TILE]) {
    for (to, row) in tile.0.iter_mut().zip(rows) {
        // SAFETY: `to` is 16 words; the store needs no alignment.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), row) }
    }
}

/// 16 lines whose steps are adjacent: row i holds line i's pairs.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn lines_of_pairs(from: &[f32], line_stride: usize) -> [__m512i; TILE] {
    let mut rows = [_mm512_setzero_si512(); TILE];
    for (i, row) in rows.iter_mut().enumerate() {
        let (low, high) = (load(sixteen(from, i * line_stride)), load(sixteen(from, i * line_stride + TILE)));
        *row = bits(_mm512_cvtne2ps_pbh(high, low));
    }
    rows
}

/// 32 steps whose lines are adjacent: row p holds the pairs (2p, 2p + 1) of 16 lines.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn pairs_of_lines(from: &[f32], k_stride: usize) -> [__m512i; TILE] {
    // Even step in the low half, odd step in the high half: interleave their 16-bit words.
    let mut order = [0i16; 32];
    for (i, slot) in order.iter_mut().enumerate() {
        *slot = (i / 2 + 16 * (i % 2)) as i16;
    }
    // SAFETY: 64 bytes are readable; the load needs no alignment.
    let order = unsafe { _mm512_loadu_si512(order.as_ptr().cast()) };
    let mut rows = [_mm512_setzero_si512(); TILE];
    for (p, row) in rows.iter_mut().enumerate() {
        // The hardware prefetcher does not follow rows that are far apart.
        prefetch(from, (2 * p + STEP) * k_stride);
        prefetch(from, (2 * p + 1 + STEP) * k_stride);
        let (even, odd) = (load(sixteen(from, 2 * p * k_stride)), load(sixteen(from, (2 * p + 1) * k_stride)));
        *row = _mm512_permutexvar_epi16(order, bits(_mm512_cvtne2ps_pbh(odd, even)));
    }
    rows
}

#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn bits(x: __m512bh) -> __m512i {
    // SAFETY: both types are 512 plain bits.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(x) }
}

/// Transposes 16 x 16 words.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) fn transpose(mut x: [__m512i; TILE]) -> [__m512i; TILE] {
    // Within groups of four rows, 4 x 4 words in each 128-bit lane.
    for g in (0..TILE).step_by(4) {
        let (a, b) = (_mm512_unpacklo_epi32(x[g], x[g + 1]), _mm512_unpackhi_epi32(x[g], x[g + 1]));
        let (c, d) = (_mm512_unpacklo_epi32(x[g + 2], x[g + 3]), _mm512_unpackhi_epi32(x[g + 2], x[g + 3]));
        x[g] = _mm512_unpacklo_epi64(a, c);
        x[g + 1] = _mm512_unpackhi_epi64(a, c);
        x[g + 2] = _mm512_unpacklo_epi64(b, d);
        x[g + 3] = _mm512_unpackhi_epi64(b, d);
    }
    // Now x[g + c] holds, in lane l, column 4l + c of rows g..g+4: transpose the 4 x 4 lanes for
    // each c.
    let mut out = [_mm512_setzero_si512(); TILE];
    for c in 0..4 {
        let (a, b) = (_mm512_shuffle_i32x4::<0x44>(x[c], x[c + 4]), _mm512_shuffle_i32x4::<0xee>(x[c], x[c + 4]));
        let (d, e) =
            (_mm512_shuffle_i32x4::<0x44>(x[c + 8], x[c + 12]), _mm512_shuffle_i32x4::<0xee>(x[c + 8], x[c + 12]));
        out[c] = _mm512_shuffle_i32x4::<0x88>(a, d);
        out[c + 4] = _mm512_shuffle_i32x4::<0xdd>(a, d);
        out[c + 8] = _mm512_shuffle_i32x4::<0x88>(b, e);
        out[c + 12] = _mm512_shuffle_i32x4::<0xdd>(b, e);
    }
    out
}
