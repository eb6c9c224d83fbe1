//! The AMX block kernel: 32 x 32 sums in four tile registers, two tiles of each operand a step.
//!
//! Rust has no stable AMX intrinsics, so it is assembly. Tile registers live only inside one
//! assembly block; between blocks only the tile configuration persists, which [`TileConfiguration`]
//! loads and releases.

use std::arch::asm;

use super::pack::Tile;

/// Palette 1, eight tiles of 16 rows of 64 bytes (Intel's manual, LDTILECFG).
#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

const ALL_TILES: TileConfig = TileConfig {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes_per_row: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// A guard: this thread's tiles are configured while it lives. Dropping it releases the tiles, so
/// that the operating system need not save 8 KiB at each context switch.
pub(super) struct TileConfiguration(std::marker::PhantomData<*const ()>);

impl TileConfiguration {
    /// # Safety
    /// [`super::Engine::AmxBf16`] must be available.
    pub(super) unsafe fn new() -> Self {
        // SAFETY: AMX is available (the caller's promise); 64 bytes of the constant are read.
        unsafe {
            asm!("ldtilecfg [{config}]", config = in(reg) &ALL_TILES, options(nostack, readonly, preserves_flags))
        };
        Self(std::marker::PhantomData)
    }

    /// `out = start + a b` for a 32 x 32 block, strides in bytes; a null `start` means zero.
    ///
    /// # Safety
    /// 32 rows of 32 numbers must be writable at `out`, and readable at `start` unless it is null
    /// (a `start` equal to `out` is fine).
    pub(super) unsafe fn block(
        &self,
        a: &[Tile],
        b: &[Tile],
        start: *const f32,
        start_stride: usize,
        out: *mut f32,
        out_stride: usize,
    ) {
        assert!(a.len() == b.len() && a.len().is_multiple_of(2) && !a.is_empty(), "two tiles of each operand a step");
        // SAFETY: the loop reads a.len() / 2 steps of 2048 bytes from each operand, which is
        // exactly the slices; `start` and `out` are the caller's promise; the tiles are configured
        // because `self` exists. No stack is used, and the registers changed are named.
        unsafe {
            asm!(
                "test {start}, {start}",
                "jz 2f",
                "tileloadd tmm0, [{start} + {start_stride}]",
                "tileloadd tmm1, [{start} + {start_stride} + 64]",
                "tileloadd tmm2, [{start_low} + {start_stride}]",
                "tileloadd tmm3, [{start_low} + {start_stride} + 64]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                "tileloadd tmm4, [{a} + {row}]",
                "tileloadd tmm6, [{b} + {row}]",
                "tileloadd tmm7, [{b} + {row} + 1024]",
                "tileloadd tmm5, [{a} + {row} + 1024]",
                // The right operand streams from the second-level cache: ask for the step after
                // next.
                ".irp line, 0, 64, 128, 192, 256, 320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960, 1024, 1088, 1152, 1216, 1280, 1344, 1408, 1472, 1536, 1600, 1664, 1728, 1792, 1856, 1920, 1984",
                "prefetcht0 [{b} + 4096 + \\line]",
                ".endr",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a}, 2048",
                "add {b}, 2048",
                "dec {steps}",
                "jnz 3b",
                "tilestored [{out} + {out_stride}], tmm0",
                "tilestored [{out} + {out_stride} + 64], tmm1",
                "tilestored [{out_low} + {out_stride}], tmm2",
                "tilestored [{out_low} + {out_stride} + 64], tmm3",
                start = in(reg) start,
                start_low = in(reg) start.wrapping_byte_add(16 * start_stride),
                start_stride = in(reg) start_stride,
                a = inout(reg) a.as_ptr() => _,
                b = inout(reg) b.as_ptr() => _,
                row = in(reg) 64usize,
                steps = inout(reg) a.len() / 2 => _,
                out = in(reg) out,
                out_low = in(reg) out.wrapping_byte_add(16 * out_stride),
                out_stride = in(reg) out_stride,
                options(nostack),
            );
        }
    }
}

impl Drop for TileConfiguration {
    fn drop(&mut self) {
        // SAFETY: AMX is available, since `self` was made; the tiles hold nothing that is needed.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}
