//! Slice kernels compiled once per [`CpuLevel`](super::CpuLevel) and chosen at run time.
//!
//! The portable build targets plain x86-64, where LLVM may use four lanes only. Each kernel's body
//! is inlined into copies that may use AVX-512 or AVX2; the body avoids `mul_add`, `round` and
//! float-to-int casts, which are library calls on the plain target, and keeps sixteen partial sums,
//! because strict float order forbids LLVM to make them.

/// Declares a function whose body is compiled for AVX-512, AVX2 and the plain target, of which the
/// [`CpuLevel`](crate::kernel::CpuLevel) picks one.
///
/// In `fn name[fma](..)` the body may call `fma(a, b, c) = a b + c`: fused at every level but the
/// plain one, where a fused one would be a library call.
#[macro_export]
#[doc(hidden)]
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $crate::multiversion! { $(#[$meta])* $vis fn $name[_fma]($($arg: $ty),*) $(-> $ret)? $body }
    };
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident[$fma:ident]($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block
    ) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty,)* $fma: impl Fn(f32, f32, f32) -> f32 + Copy) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn wide($($arg: $ty),*) $(-> $ret)? { body($($arg,)* f32::mul_add) }
                #[target_feature(enable = "avx2,fma")]
                fn middle($($arg: $ty),*) $(-> $ret)? { body($($arg,)* f32::mul_add) }
                match $crate::kernel::CpuLevel::current() {
                    // SAFETY: the CPU has the instructions of the level.
                    $crate::kernel::CpuLevel::Avx512 => return unsafe { wide($($arg),*) },
                    // SAFETY: as above.
                    $crate::kernel::CpuLevel::Avx2 => return unsafe { middle($($arg),*) },
                    $crate::kernel::CpuLevel::Plain => {}
                }
            }
            body($($arg,)* |a, b, c| a * b + c)
        }
    };
}
pub(crate) use crate::multiversion;

/// Number of partial results: as many f32 as one AVX-512 register holds.
pub(super) const LANES: usize = 16;

/// e^x for x <= 88, relative error below 2e-7; 0 below -87, as softmax needs for masked scores.
///
/// Cody-Waite reduction by ln 2 and a degree-5 polynomial (Cephes `expf`).
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer and leaves it in the low
    // mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > -87.0 { x } else { -87.0 };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5.0e-1;
    let y = p * r * r + r + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x > -87.0 { y * power } else { 0.0 }
}

/// Sum with [`LANES`] partial sums.
#[inline(always)]
pub(super) fn sum(x: impl Fn(usize) -> f32, n: usize) -> f32 {
    let mut lanes = [0f32; LANES];
    let whole = n - n % LANES;
    let mut i = 0;
    while i < whole {
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane += x(i + l);
        }
        i += LANES;
    }
    let mut total = lanes.iter().sum::<f32>();
    while i < n {
        total += x(i);
        i += 1;
    }
    total
}

/// Largest value, with [`LANES`] partial maxima; negative infinity when empty.
#[inline(always)]
pub(super) fn max(x: &[f32]) -> f32 {
    let pick = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = pick(*lane, *v);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| pick(a, *b))
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn exp_is_accurate() {
        for i in -8_699..8_800 {
            let x = i as f32 * 0.01;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((got / want - 1.0).abs() < 4e-7, "exp({x}) = {got}, expected {want}");
        }
        assert_eq!(exp(-10_000.0), 0.0);
        assert_eq!(exp(0.0), 1.0);
    }
}
