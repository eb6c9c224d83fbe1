//! The AVX-512 block kernel for `f32`: eight rows by 32 columns of sums at a time.

use std::arch::x86_64::*;

use super::pack::{PANEL, TILE, Tile};

/// Rows of sums held in registers: 8 x 2 vectors hide the latency of two multiply-adds a cycle.
const ROWS: usize = 8;

/// `out = start + a b` for a 32 x 32 block, of which the first `rows` rows are needed. `start` and
/// `out` come with the numbers from one row to the next; a null `start` means zero.
///
/// # Safety
/// [`super::Engine::Avx512F32`] must be available; 32 rows of 32 numbers must be writable at `out`,
/// and readable at `start` unless it is null (a `start` equal to `out` is fine).
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn block(
    a: &[Tile],
    b: &[Tile],
    rows: usize,
    (start, start_stride): (*const f32, usize),
    (out, out_stride): (*mut f32, usize),
) {
    assert!(a.len() == b.len() && a.len().is_multiple_of(2), "two tiles of each operand a step");
    for row in (0..rows.min(PANEL)).step_by(ROWS) {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        if !start.is_null() {
            for (i, [left, right]) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise for `start`; loads need no alignment.
                unsafe {
                    let from = start.add((row + i) * start_stride);
                    *left = _mm512_loadu_ps(from);
                    *right = _mm512_loadu_ps(from.add(TILE));
                }
            }
        }
        for (a, b) in a.as_chunks::<2>().0.iter().zip(b.as_chunks::<2>().0) {
            let (a, first) = (&a[row / TILE].0, row % TILE);
            #[allow(clippy::needless_range_loop)] // eight rows of `a` and two of `b` share the index
            for step in 0..TILE {
                let (left, right) = (vector(&b[0].0[step]), vector(&b[1].0[step]));
                for (i, sum) in sums.iter_mut().enumerate() {
                    let factor = _mm512_set1_ps(f32::from_bits(a[first + i][step]));
                    sum[0] = _mm512_fmadd_ps(factor, left, sum[0]);
                    sum[1] = _mm512_fmadd_ps(factor, right, sum[1]);
                }
            }
        }
        for (i, [left, right]) in sums.into_iter().enumerate() {
            // SAFETY: the caller's promise for `out`; stores need no alignment.
            unsafe {
                let to = out.add((row + i) * out_stride);
                _mm512_storeu_ps(to, left);
                _mm512_storeu_ps(to.add(TILE), right);
            }
        }
    }
}

/// Loads a row of a tile.
#[target_feature(enable = "avx512f")]
#[inline]
fn vector(row: &[u32; TILE]) -> __m512 {
    // SAFETY: 16 words are readable; the load needs no alignment.
    unsafe { _mm512_loadu_ps(row.as_ptr().cast()) }
}
