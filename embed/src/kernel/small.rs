//! Products of matrices a few dozen wide: the scores of one attention head.
//!
//! A general matrix product packs its operands, which for a head of 33 x 64 costs more than
//! the product. Here rows of the right operand are read in place, six rows by up to 64 columns of
//! sums at a time.

#[cfg(target_arch = "x86_64")]
use super::CpuLevel;
use super::gemm::{Parallelism, Strided, product as gemm_product};

/// `c = a b` with `a` of m x k, `b` of k x n and `c` of m x n; columns of `b` and `c` are adjacent.
///
/// # Safety
/// As [`gemm_product`]: every element that shapes and strides name is valid, and nothing else
/// reads or writes `c` during the call.
pub(super) unsafe fn product(
    (m, n, k): (usize, usize, usize),
    c: Strided<*mut f32>,
    a: Strided<*const f32>,
    b: Strided<*const f32>,
) {
    assert!(c.cs == 1 && b.cs == 1, "columns are adjacent");
    if n == 0 {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if CpuLevel::current() >= CpuLevel::Avx512 {
        let (mut from, mut left) = (0, n);
        while left > 0 {
            let cols = left.min(64);
            let (c, b) =
                (Strided { ptr: c.ptr.wrapping_add(from), ..c }, Strided { ptr: b.ptr.wrapping_add(from), ..b });
            // SAFETY: the CPU has the instructions of its level; the addresses are the caller's
            // promise.
            unsafe {
                match cols.div_ceil(16) {
                    1 => wide::columns::<1>((m, cols, k), c, a, b),
                    2 => wide::columns::<2>((m, cols, k), c, a, b),
                    3 => wide::columns::<3>((m, cols, k), c, a, b),
                    _ => wide::columns::<4>((m, cols, k), c, a, b),
                }
            }
            (from, left) = (from + cols, left - cols);
        }
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { gemm_product((m, n, k), c, a, b, false, Parallelism::None) }
}

/// Writes the transpose of `rows x cols` numbers, rows `stride` apart, to `out`: `cols` rows of
/// [`padded`]`(rows)`.
///
/// # Panics
/// When a slice is too short.
pub(super) fn transpose(from: &[f32], rows: usize, cols: usize, stride: usize, out: &mut [f32]) {
    let wide = padded(rows);
    for j0 in (0..cols).step_by(16) {
        for i0 in (0..rows).step_by(16) {
            let (height, width) = ((rows - i0).min(16), (cols - j0).min(16));
            #[cfg(target_arch = "x86_64")]
            if width == 16 && CpuLevel::current() >= CpuLevel::Avx512 {
                let from = &from[i0 * stride + j0..(i0 + height - 1) * stride + j0 + 16];
                let out = &mut out[j0 * wide + i0..(j0 + 15) * wide + i0 + 16];
                // SAFETY: the CPU has the instructions of its level; both slices hold the block.
                unsafe { wide::transpose_block(from, height, stride, out, wide) };
                continue;
            }
            for j in j0..j0 + width {
                for i in i0..i0 + height {
                    out[j * wide + i] = from[i * stride + j];
                }
            }
        }
    }
}

/// Row length of a transpose: `rows` rounded up to whole vectors.
pub(super) fn padded(rows: usize) -> usize {
    rows.next_multiple_of(16)
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::*;

    use super::Strided;
    use crate::kernel::pack::transpose;

    /// Rows of sums held in registers.
    const ROWS: usize = 6;

    /// `V` vectors of columns, the last one perhaps not full.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn columns<const V: usize>(
        (m, n, k): (usize, usize, usize),
        c: Strided<*mut f32>,
        a: Strided<*const f32>,
        b: Strided<*const f32>,
    ) {
        let tail = (0xffff_u32 >> (16 * V - n)) as __mmask16;
        let row = |i: usize| {
            (Strided { ptr: c.ptr.wrapping_add(i * c.rs), ..c }, Strided { ptr: a.ptr.wrapping_add(i * a.rs), ..a })
        };
        // SAFETY: rows i.. of `a` and `c` as the caller promised them.
        unsafe {
            let mut i = 0;
            while i + ROWS <= m {
                let (c, a) = row(i);
                block::<ROWS, V>(k, c, a, b, tail);
                i += ROWS;
            }
            match m - i {
                0 => {}
                // The last rows again, together with the ones before them.
                _ if m >= ROWS => {
                    let (c, a) = row(m - ROWS);
                    block::<ROWS, V>(k, c, a, b, tail);
                }
                _ => (i..m).for_each(|i| {
                    let (c, a) = row(i);
                    block::<1, V>(k, c, a, b, tail);
                }),
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn block<const R: usize, const V: usize>(
        k: usize,
        c: Strided<*mut f32>,
        a: Strided<*const f32>,
        b: Strided<*const f32>,
        tail: __mmask16,
    ) {
        let mut sums = [[_mm512_setzero_ps(); V]; R];
        for p in 0..k {
            // SAFETY: row p of `b` has 16 (V - 1) columns and those of the mask; element (i, p) of
            // `a` is there.
            unsafe {
                let from = b.ptr.add(p * b.rs);
                let mut right = [_mm512_setzero_ps(); V];
                for (j, v) in right.iter_mut().enumerate() {
                    let mask = if j + 1 == V { tail } else { 0xffff };
                    *v = _mm512_maskz_loadu_ps(mask, from.add(16 * j));
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let left = _mm512_set1_ps(*a.ptr.add(i * a.rs + p * a.cs));
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum = _mm512_fmadd_ps(left, right, *sum);
                    }
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                let mask = if j + 1 == V { tail } else { 0xffff };
                // SAFETY: the columns of row i of `c`.
                unsafe { _mm512_mask_storeu_ps(c.ptr.add(i * c.rs + 16 * j), mask, *sum) };
            }
        }
    }

    /// The transpose of `height` (at most 16) rows of 16 numbers; columns beyond them become zero.
    #[target_feature(enable = "avx512f")]
    pub(super) fn transpose_block(from: &[f32], height: usize, stride: usize, out: &mut [f32], out_stride: usize) {
        let mut rows = [_mm512_setzero_si512(); 16];
        for (i, row) in rows.iter_mut().enumerate().take(height) {
            let from: &[f32] = &from[i * stride..i * stride + 16];
            // SAFETY: 16 numbers are readable; the load needs no alignment.
            *row = unsafe { _mm512_loadu_si512(from.as_ptr().cast()) };
        }
        for (i, row) in transpose(rows).into_iter().enumerate() {
            let out = &mut out[i * out_stride..i * out_stride + 16];
            // SAFETY: 16 numbers are writable; the store needs no alignment.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), row) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_transposes_equal_the_plain_sums() {
        for (m, n, k) in [(33, 33, 64), (1, 5, 3), (7, 64, 33), (6, 16, 1), (20, 70, 9), (5, 130, 20), (13, 48, 48)] {
            let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 25.0;
            let a: Vec<f32> = (0..m * k).map(value).collect();
            let b: Vec<f32> = (0..n * k).map(|i| value(i + 7)).collect();
            let mut bt = vec![f32::NAN; k * padded(n)];
            transpose(&b, n, k, k, &mut bt);
            let mut c = vec![f32::NAN; m * n];
            let want = |i: usize, j: usize| (0..k).map(|p| a[i * k + p] * b[j * k + p]).sum::<f32>();
            // SAFETY: the slices hold the matrices.
            unsafe {
                let to = Strided::new(c.as_mut_ptr(), n, 1);
                product((m, n, k), to, Strided::new(a.as_ptr(), k, 1), Strided::new(bt.as_ptr(), padded(n), 1));
            }
            for (at, got) in c.iter().enumerate() {
                assert!((got - want(at / n, at % n)).abs() < 1e-3, "{m} x {n} x {k} at {at}: {got}");
            }
            // The left operand by columns.
            let columns: Vec<f32> = (0..m * k).map(|i| a[i % m * k + i / m]).collect();
            // SAFETY: as above.
            unsafe {
                let to = Strided::new(c.as_mut_ptr(), n, 1);
                product((m, n, k), to, Strided::new(columns.as_ptr(), 1, m), Strided::new(bt.as_ptr(), padded(n), 1));
            }
            assert!(c.iter().enumerate().all(|(at, got)| (got - want(at / n, at % n)).abs() < 1e-3));
        }
    }
}
