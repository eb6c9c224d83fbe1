//! The AVX-512 block kernel for bf16: `vdpbf16ps` on the same tiles as AMX, eight rows by 32
//! columns of sums at a time.

use std::arch::x86_64::*;

use super::pack::{PANEL, TILE, Tile};

/// Rows of sums held in registers: 8 x 2 vectors hide the latency of two multiply-adds a cycle.
const ROWS: usize = 8;

/// `out = start + a b` for a 32 x 32 block, of which the first `rows` rows are needed. `start` and
/// `out` come with the numbers from one row to the next; a null `start` means zero.
///
/// # Safety
/// [`super::Engine::Avx512Bf16`] must be available; 32 rows of 32 numbers must be writable at
/// `out`, and readable at `start` unless it is null (a `start` equal to `out` is fine).
#[target_feature(enable = "avx512f,avx512bf16")]
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
            for pair in 0..TILE {
                let (left, right) = (words(&b[0].0[pair]), words(&b[1].0[pair]));
                for (i, sum) in sums.iter_mut().enumerate() {
                    let factor = bf16(_mm512_set1_epi32(a[first + i][pair] as i32));
                    sum[0] = _mm512_dpbf16_ps(sum[0], factor, left);
                    sum[1] = _mm512_dpbf16_ps(sum[1], factor, right);
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

/// Loads 16 words of two bf16 each.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn words(row: &[u32; TILE]) -> __m512bh {
    // SAFETY: 16 words are readable; the load needs no alignment.
    bf16(unsafe { _mm512_loadu_si512(row.as_ptr().cast()) })
}

#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn bf16(x: __m512i) -> __m512bh {
    // SAFETY: both types are 512 plain bits.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(x) }
}
