//! Detects the vector instructions that the kernels may use, once at run time.
//!
//! Every choice between versions of a kernel asks [`CpuLevel::current`]. One machine can therefore
//! run each version in tests, and a wrong result can be traced to one of them. The `gemm` crate
//! finds its own instructions, whatever the level.

use std::ffi::OsStr;
use std::sync::OnceLock;

/// Environment variable that lowers the level, see [`CpuLevel`].
const VARIABLE: &str = "SIGHTLINE_CPU_LEVEL";

/// Vector instructions that the kernels may use, the fewest first.
///
/// The environment variable `SIGHTLINE_CPU_LEVEL` lowers the level to `plain`, `avx2` or `avx512`:
/// for tests and for finding faults. It is read once per process. A level that the CPU lacks
/// changes nothing, and an unknown value is ignored with a warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CpuLevel {
    /// What every CPU of the architecture has.
    Plain,
    /// AVX2 and FMA: vectors of 8 `f32`.
    Avx2,
    /// AVX-512 F, BW, DQ and VL, besides AVX2 and FMA: vectors of 16 `f32`.
    Avx512,
}

impl CpuLevel {
    /// Level of this process: that of its CPU or a lower one, and always the same.
    #[must_use]
    #[inline]
    pub fn current() -> Self {
        static CURRENT: OnceLock<CpuLevel> = OnceLock::new();
        *CURRENT.get_or_init(|| Self::of_cpu().lowered_to(std::env::var_os(VARIABLE).as_deref()))
    }

    #[cfg(target_arch = "x86_64")]
    fn of_cpu() -> Self {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        match (avx2, avx512) {
            (true, true) => Self::Avx512,
            (true, false) => Self::Avx2,
            (false, _) => Self::Plain,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn of_cpu() -> Self {
        Self::Plain
    }

    /// The lower of `self` and the level that `value` names.
    fn lowered_to(self, value: Option<&OsStr>) -> Self {
        let Some(value) = value else { return self };
        let named = match value.to_str() {
            Some("plain") => Self::Plain,
            Some("avx2") => Self::Avx2,
            Some("avx512") => Self::Avx512,
            _ => {
                tracing::warn!(value = %value.display(), "{VARIABLE} is not plain, avx2 or avx512, and is ignored");
                return self;
            }
        };
        if named < self {
            tracing::info!(cpu = ?self, lowered_to = ?named, "{VARIABLE} lowers the level of the kernels");
        }
        named.min(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_lowers_the_level_and_never_raises_it() {
        let lowered = |level: CpuLevel, value: &str| level.lowered_to(Some(OsStr::new(value)));
        for level in [CpuLevel::Plain, CpuLevel::Avx2, CpuLevel::Avx512] {
            assert_eq!(level.lowered_to(None), level);
            assert_eq!(lowered(level, "plain"), CpuLevel::Plain);
            assert_eq!(lowered(level, "avx2"), level.min(CpuLevel::Avx2));
            assert_eq!(lowered(level, "avx512"), level);
            for unknown in ["", "AVX2", "sse2"] {
                assert_eq!(lowered(level, unknown), level, "{unknown:?} is ignored");
            }
        }
    }

    #[test]
    fn a_process_has_the_level_of_its_cpu_or_a_lower_one() {
        let level = CpuLevel::of_cpu().lowered_to(std::env::var_os(VARIABLE).as_deref());
        assert_eq!(CpuLevel::current(), level);
        assert!(level <= CpuLevel::of_cpu());
    }
}
