//! The block kernels of vector instructions: one loop, compiled for `vdpbf16ps`, for `f32` on
//! AVX-512 and for `f32` on AVX2. All read the tiles that AMX reads.

use std::arch::x86_64::*;

use super::pack::{GROUP, PANEL, TILE, Tile};

/// Declares a function that computes `out = start + a b` for a 32 x 32 block, of which the first
/// `rows` rows are needed. `start` and `out` come with the numbers from one row to the next; a null
/// `start` means zero.
///
/// It holds the sums of `$rows` rows by two vectors of `$lanes` numbers in registers: enough of
/// them to hide the latency of two multiply-adds a cycle. A word of `a`, found by `$word`, becomes a
/// whole vector by `$factor`, a row of a tile of `b` is read by `$row`, and `$add` adds a product
/// to a sum.
macro_rules! block_kernel {
    (
        $(#[$meta:meta])*
        fn $name:ident, $features:literal, $rows:literal rows, $lanes:literal lanes,
        word $word:path, zero $zero:path, load $load:path, store $store:path,
        factor $factor:path, row $row:path, add $add:path
    ) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// Its engine must be available; 32 rows of 32 numbers must be writable at `out`, and
        /// readable at `start` unless it is null (a `start` equal to `out` is fine).
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(
            a: &[Tile],
            b: &[Tile],
            rows: usize,
            (start, start_stride): (*const f32, usize),
            (out, out_stride): (*mut f32, usize),
        ) {
            assert!(a.len() == b.len() && a.len().is_multiple_of(2), "two tiles of each operand a step");
            for row in (0..rows.min(PANEL)).step_by($rows) {
                for column in (0..PANEL).step_by(2 * $lanes) {
                    let mut sums = [[$zero(); 2]; $rows];
                    if !start.is_null() {
                        for (i, [left, right]) in sums.iter_mut().enumerate() {
                            // SAFETY: the caller's promise for `start`; loads need no alignment.
                            unsafe {
                                let from = start.add((row + i) * start_stride + column);
                                *left = $load(from);
                                *right = $load(from.add($lanes));
                            }
                        }
                    }
                    for (a, b) in a.as_chunks::<2>().0.iter().zip(b.as_chunks::<2>().0) {
                        let (a, first) = (a[row / TILE].0.as_flattened(), row % TILE);
                        // The second vector lies in the next tile, or in the second half of this one.
                        let (b, next) = (&b[column / TILE].0, &b[(column + $lanes) / TILE].0);
                        #[allow(clippy::needless_range_loop)] // rows of `a` and of `b` share the index
                        for step in 0..TILE {
                            let (left, right) = ($row(&b[step]), $row(&next[step][$lanes % TILE..]));
                            for (i, sum) in sums.iter_mut().enumerate() {
                                let factor = $factor(a[$word(first + i, step)]);
                                sum[0] = $add(sum[0], factor, left);
                                sum[1] = $add(sum[1], factor, right);
                            }
                        }
                    }
                    for (i, [left, right]) in sums.into_iter().enumerate() {
                        // SAFETY: the caller's promise for `out`; stores need no alignment.
                        unsafe {
                            let to = out.add((row + i) * out_stride + column);
                            $store(to, left);
                            $store(to.add($lanes), right);
                        }
                    }
                }
            }
        }
    };
}

block_kernel! {
    /// `vdpbf16ps`, the kernel of [`super::Engine::Avx512Bf16`].
    fn bf16_block, "avx512f,avx512bf16", 8 rows, 16 lanes,
    word word_of_line, zero _mm512_setzero_ps, load _mm512_loadu_ps, store _mm512_storeu_ps,
    factor bf16_factor, row bf16_row, add _mm512_dpbf16_ps
}

block_kernel! {
    /// `f32` by 16, the kernel of [`super::Engine::Avx512F32`].
    fn f32x16_block, "avx512f", 8 rows, 16 lanes,
    word word_of_group, zero _mm512_setzero_ps, load _mm512_loadu_ps, store _mm512_storeu_ps,
    factor f32x16_factor, row f32x16_row, add f32x16_add
}

block_kernel! {
    /// `f32` by 8, the kernel of [`super::Engine::Avx2F32`]. Its sums and the two vectors of `b`
    /// leave six of sixteen registers for factors.
    fn f32x8_block, "avx2,fma", 4 rows, 8 lanes,
    word word_of_group, zero _mm256_setzero_ps, load _mm256_loadu_ps, store _mm256_storeu_ps,
    factor f32x8_factor, row f32x8_row, add f32x8_add
}

/// Where a left tile of bf16 pairs holds step pair `step` of `line`.
#[inline(always)]
fn word_of_line(line: usize, step: usize) -> usize {
    line * TILE + step
}

/// Where a left tile of `f32` holds `step` of `line`.
#[inline(always)]
fn word_of_group(line: usize, step: usize) -> usize {
    line / GROUP * (GROUP * TILE) + step * GROUP + line % GROUP
}

#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn bf16(x: __m512i) -> __m512bh {
    // SAFETY: both types are 512 plain bits.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(x) }
}

#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn bf16_factor(pair: u32) -> __m512bh {
    bf16(_mm512_set1_epi32(pair as i32))
}

#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn bf16_row(words: &[u32]) -> __m512bh {
    let words: &[u32; 16] = words.first_chunk().expect("a row of a tile has 16 words");
    // SAFETY: 16 words are readable; the load needs no alignment.
    bf16(unsafe { _mm512_loadu_si512(words.as_ptr().cast()) })
}

#[target_feature(enable = "avx512f")]
#[inline]
fn f32x16_factor(word: u32) -> __m512 {
    _mm512_set1_ps(f32::from_bits(word))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn f32x16_row(words: &[u32]) -> __m512 {
    let words: &[u32; 16] = words.first_chunk().expect("a row of a tile has 16 words");
    // SAFETY: 16 words are readable; the load needs no alignment.
    unsafe { _mm512_loadu_ps(words.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn f32x16_add(sum: __m512, factor: __m512, row: __m512) -> __m512 {
    _mm512_fmadd_ps(factor, row, sum)
}

#[target_feature(enable = "avx2")]
#[inline]
fn f32x8_factor(word: u32) -> __m256 {
    _mm256_set1_ps(f32::from_bits(word))
}

#[target_feature(enable = "avx2")]
#[inline]
fn f32x8_row(words: &[u32]) -> __m256 {
    let words: &[u32; 8] = words.first_chunk().expect("half a row of a tile has 8 words");
    // SAFETY: 8 words are readable; the load needs no alignment.
    unsafe { _mm256_loadu_ps(words.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn f32x8_add(sum: __m256, factor: __m256, row: __m256) -> __m256 {
    _mm256_fmadd_ps(factor, row, sum)
}
