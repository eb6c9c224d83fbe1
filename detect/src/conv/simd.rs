//! SIMD on sixteen `f32` at a time, in the widest registers of the CPU, chosen at run time: one
//! binary serves all CPUs.

/// An instruction set that the convolutions are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// x86-64 with AVX-512F: 32 registers of 16 values.
    Avx512,
    /// x86-64 with AVX2 and FMA: 16 registers of 8 values.
    Avx2,
    /// Whatever the compiler makes of plain arrays on this target.
    Portable,
}

impl Isa {
    /// The best instruction set of this CPU.
    pub fn detect() -> Self {
        Self::available().next().unwrap_or(Self::Portable)
    }

    /// All instruction sets of this CPU, best first.
    pub fn available() -> impl Iterator<Item = Self> {
        [Self::Avx512, Self::Avx2, Self::Portable].into_iter().filter(|isa| isa.runs_here())
    }

    fn runs_here(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        match self {
            Self::Avx512 => return std::is_x86_feature_detected!("avx512f"),
            Self::Avx2 => return std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma"),
            Self::Portable => {}
        }
        self == Self::Portable
    }
}

/// Sixteen values of `f32`. All functions are inlined into a caller that has the instruction set
/// enabled.
///
/// # Safety
/// The CPU must have the instruction set; pointers must be valid for 16 values (any alignment).
pub(super) trait Lanes: Copy {
    /// Whether there are registers for 24 vectors of sums.
    const MANY_REGISTERS: bool;
    type V: Copy;
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
}

/// See [`Isa::Portable`].
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Lanes for Portable {
    const MANY_REGISTERS: bool = false;
    type V = [f32; 16];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: valid for 16 values by the trait's contract; an array has no alignment beyond its
        // element's.
        unsafe { p.cast::<[f32; 16]>().read() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: as above.
        unsafe { p.cast::<[f32; 16]>().write(v) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not `mul_add`: on a CPU without the instruction that calls into the C library.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    /// See [`super::Isa::Avx512`].
    #[derive(Clone, Copy)]
    pub(in crate::conv) struct Avx512;

    // SAFETY of every block below: the instruction set and the pointers are the caller's promise
    // (see the trait).
    impl Lanes for Avx512 {
        const MANY_REGISTERS: bool = true;
        type V = __m512;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::V {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::V {
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: Self::V) {
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
    }

    /// See [`super::Isa::Avx2`]: two registers make sixteen values.
    #[derive(Clone, Copy)]
    pub(in crate::conv) struct Avx2;

    impl Lanes for Avx2 {
        const MANY_REGISTERS: bool = false;
        type V = [__m256; 2];

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::V {
            unsafe { [_mm256_set1_ps(x); 2] }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::V {
            unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: Self::V) {
            unsafe {
                _mm256_storeu_ps(p, v[0]);
                _mm256_storeu_ps(p.add(8), v[1]);
            }
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
        }
        #[inline(always)]
        unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        }
        #[inline(always)]
        unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
        }
        #[inline(always)]
        unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
        }
    }
}

/// Calls `$function::<L>($args)` compiled for the instruction set `$isa`.
///
/// The function must be `#[inline(always)] unsafe fn function<L: Lanes>(args)`; it is compiled once
/// per instruction set.
macro_rules! dispatch {
    ($isa:expr, $function:ident($($name:ident: $type:ty),*)) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f")]
        unsafe fn avx512($($name: $type),*) {
            // SAFETY: the caller's promise, and this function has the instruction set.
            unsafe { $function::<$crate::conv::simd::Avx512>($($name),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2($($name: $type),*) {
            // SAFETY: as above.
            unsafe { $function::<$crate::conv::simd::Avx2>($($name),*) }
        }
        match $isa {
            #[cfg(target_arch = "x86_64")]
            $crate::conv::Isa::Avx512 => avx512($($name),*),
            #[cfg(target_arch = "x86_64")]
            $crate::conv::Isa::Avx2 => avx2($($name),*),
            _ => $function::<$crate::conv::simd::Portable>($($name),*),
        }
    }};
}
pub(super) use dispatch;
