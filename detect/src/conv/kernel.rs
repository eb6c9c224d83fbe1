//! The inner loop: a small tile of outputs is held in registers while the inputs and the packed
//! weights stream by.

use super::simd::Lanes;

/// Values per cache line; output channels are grouped into panels of this many.
pub(super) const PANEL: usize = 16;

/// `acc[i][j] += sum over k < len of a[i][k] * w[j * panel + k * 16 ..][..16]`: `M` pixels by `N`
/// panels of 16 output channels. `M * N` sums, `N` weights and one input must fit the registers.
///
/// # Safety
/// Each `a[i]` is valid for `len` values, `w` for `(N - 1) * panel + len * 16`; the CPU has the
/// instruction set.
#[inline(always)]
pub(super) unsafe fn accumulate<L: Lanes, const M: usize, const N: usize>(
    acc: &mut [[L::V; N]; M],
    a: &[*const f32; M],
    w: *const f32,
    panel: usize,
    len: usize,
) {
    // SAFETY: all reads stay inside what the caller promises.
    unsafe {
        for k in 0..len {
            let w = w.add(k * PANEL);
            let mut b = [L::splat(0.0); N];
            for (j, b) in b.iter_mut().enumerate() {
                *b = L::load(w.add(j * panel));
            }
            for i in 0..M {
                let x = L::splat(*a[i].add(k));
                for j in 0..N {
                    acc[i][j] = L::fma(x, b[j], acc[i][j]);
                }
            }
        }
    }
}

/// `max(x, slope * x)`: ReLU for slope 0, leaky ReLU below 1, nothing for 1.
///
/// # Safety
/// The CPU has the instruction set.
#[inline(always)]
pub(super) unsafe fn activate<L: Lanes>(x: L::V, slope: L::V) -> L::V {
    // SAFETY: by the caller's promise.
    unsafe { L::max(x, L::mul(x, slope)) }
}
