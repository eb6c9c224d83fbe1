//! Detects the matrix instructions of this machine, once at run time, and names the engines that
//! the machine and the [`CpuLevel`] allow.

use std::sync::OnceLock;

use super::{CpuLevel, Precision};

/// Instructions that compute a product. Those of AVX-512 and AMX need [`CpuLevel::Avx512`], those
/// of AVX2 [`CpuLevel::Avx2`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// bf16 tiles: `tdpbf16ps`, 16 x 16 x 32 multiply-adds an instruction.
    AmxBf16,
    /// bf16 vectors: `vdpbf16ps`, 16 x 2 multiply-adds an instruction.
    Avx512Bf16,
    /// `f32` vectors of 16 over packed operands.
    Avx512F32,
    /// `f32` vectors of 8 over packed operands.
    Avx2F32,
    /// `f32` by the `gemm` crate, which finds its own instructions and packs both operands in every
    /// product.
    Gemm,
}

impl Engine {
    /// All of them, the fastest first.
    pub const ALL: [Self; 5] = [Self::AmxBf16, Self::Avx512Bf16, Self::Avx512F32, Self::Avx2F32, Self::Gemm];

    /// The fastest engine for [`Precision::Bf16`], where this machine has one that is faster than
    /// `f32`. `vdpbf16ps` is twice as fast as `f32` on AMD's Zen 5, but reached only 0.6 of the
    /// speed of `f32` on an Intel Xeon, so Intel's cores without AMX have none.
    #[must_use]
    pub fn bf16() -> Option<Self> {
        static BEST: OnceLock<Option<Engine>> = OnceLock::new();
        *BEST.get_or_init(|| {
            let usable = |e: &Self| e.available() && (*e != Self::Avx512Bf16 || !made_by_intel());
            [Self::AmxBf16, Self::Avx512Bf16].into_iter().find(usable)
        })
    }

    /// The engine for a product of two operands of which neither was packed before.
    #[must_use]
    pub fn for_product(precision: Precision) -> Self {
        match precision {
            // No CPU computes in f16 here: `choose_precision` refuses it.
            Precision::F32 | Precision::F16 => None,
            Precision::Bf16 => Self::bf16(),
        }
        .unwrap_or(Self::Gemm)
    }

    /// The engine for products with weights that are packed once.
    #[must_use]
    pub fn for_weights(precision: Precision) -> Self {
        let single = || [Self::Avx512F32, Self::Avx2F32].into_iter().find(|e| e.available()).unwrap_or(Self::Gemm);
        match Self::for_product(precision) {
            Self::Gemm => single(),
            bf16 => bf16,
        }
    }

    /// Whether factors are rounded to bf16.
    #[must_use]
    pub fn is_bf16(self) -> bool {
        matches!(self, Self::AmxBf16 | Self::Avx512Bf16)
    }

    /// Whether this machine can run it, at the [`CpuLevel`] of the process.
    #[must_use]
    pub fn available(self) -> bool {
        let level = CpuLevel::current();
        match self {
            Self::AmxBf16 => level >= CpuLevel::Avx512 && has_avx512_bf16() && has_amx(),
            Self::Avx512Bf16 => level >= CpuLevel::Avx512 && has_avx512_bf16(),
            Self::Avx512F32 => level >= CpuLevel::Avx512,
            Self::Avx2F32 => level >= CpuLevel::Avx2,
            Self::Gemm => true,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn made_by_intel() -> bool {
    let vendor = std::arch::x86_64::__cpuid_count(0, 0);
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
}

#[cfg(not(target_arch = "x86_64"))]
fn made_by_intel() -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
fn has_avx512_bf16() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512_bf16() -> bool {
    false
}

/// AMX needs the instructions, tiles of the expected size, and permission of the operating system:
/// tile data is 8 KiB of state per thread, and Linux saves it only for processes that request it.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn has_amx() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(|| cpu_has_amx() && request_tile_data())
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn has_amx() -> bool {
    false
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn cpu_has_amx() -> bool {
    use std::arch::x86_64::__cpuid_count;
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    if __cpuid_count(0, 0).eax < 0x1d || __cpuid_count(7, 0).edx & (AMX_BF16 | AMX_TILE) != AMX_BF16 | AMX_TILE {
        return false;
    }
    // Palette 1: eight tiles of 1024 bytes, rows of 64 bytes, 16 rows.
    let palette = __cpuid_count(0x1d, 1);
    let (bytes_per_tile, bytes_per_row, tiles) = (palette.eax >> 16, palette.ebx & 0xffff, palette.ebx >> 16);
    bytes_per_tile >= 1024 && bytes_per_row >= 64 && tiles >= 8 && palette.ecx & 0xffff >= 16
}

/// Asks Linux for the tile data state, for all threads of the process:
/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)` (since Linux 5.16). Any error, an older kernel's
/// included, means "no".
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn request_tile_data() -> bool {
    const SYS_ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: the system call takes two integers, touches no memory of ours, and clobbers rcx and
    // r11 as every system call does.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") SYS_ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}
