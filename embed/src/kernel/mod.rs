//! Matrix multiplication on the CPU, for inference and for training.
//!
//! Matrices are `f32` in memory. At [`Precision::Bf16`] both operands are rounded to bfloat16
//! (round to nearest even) while they are packed, and products are accumulated in `f32`: AMX tiles
//! (`tdpbf16ps`) where the CPU has them, else AVX-512 (`vdpbf16ps`), else the `f32` path. At
//! [`Precision::F32`] products with weights that are packed once take AVX-512 or AVX2 over the same
//! tiles, and all others the `gemm` crate. The choice is made once, at run time
//! ([`Engine::for_weights`], [`Engine::for_product`]); the [`CpuLevel`] bounds it.
//!
//! Strides describe the operands, so `x Wᵀ`, `g W` and `gᵀ x` (the three products of a linear layer
//! and its backward) are one function, [`matmul`]. [`PackedWeights`] packs the right operand once,
//! for weights that do not change. The bias, GELU and a residual are applied to each block while it
//! is still in the first-level cache ([`Epilogue`]).
//!
//! A dot product at bf16 is off by at most `2⁻⁷ Σ|aᵢ bᵢ|` (each factor carries a relative error of
//! up to `2⁻⁸`; errors of either sign cancel, so that long sums are far inside), plus `f32`
//! accumulation error. NaN and infinities propagate; bf16 keeps the exponent range of `f32`, but
//! subnormal numbers count as zero.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod blocks;
mod depthwise;
mod engine;
mod epilogue;
mod gemm;
mod heads;
mod level;
mod matrix;
#[cfg(target_arch = "x86_64")]
mod pack;
#[cfg(target_arch = "x86_64")]
mod plan;
mod pool;
mod precision;
mod rows;
pub(crate) mod simd;
mod small;
mod unpacked;
#[cfg(target_arch = "x86_64")]
mod vectors;
mod weights;

pub use depthwise::{Window, depthwise_relu6, relu6};
pub use engine::Engine;
pub use epilogue::{Add, Epilogue, gelu, gelu_grad, gelu_into};
pub use heads::{AttentionShape, MASKED, ProjectionGradients, Projections};
pub use level::CpuLevel;
pub use matrix::{Mat, MatMut};
pub use pool::Buffer;
pub use precision::Precision;
pub use rows::{add_assign, column_sums, layer_norm, layer_norm_grad};
pub use weights::PackedWeights;

/// Operands that do not fit together, or an engine this CPU lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// A slice is too short for its shape and strides.
    #[error("a {rows} x {cols} matrix with strides {row_stride} and {col_stride} does not fit in {len} numbers")]
    Extent {
        /// Number of rows of the view.
        rows: usize,
        /// Number of columns of the view.
        cols: usize,
        /// Numbers from one row to the next.
        row_stride: usize,
        /// Numbers from one column to the next.
        col_stride: usize,
        /// Numbers in the slice.
        len: usize,
    },
    /// Shapes that cannot be multiplied or added.
    #[error("{what} is {got_rows} x {got_cols}, expected {rows} x {cols}")]
    Shape {
        /// Name of the operand.
        what: &'static str,
        /// Rows of the operand.
        got_rows: usize,
        /// Columns of the operand.
        got_cols: usize,
        /// The rows it must have.
        rows: usize,
        /// The columns it must have.
        cols: usize,
    },
    /// The requested engine is not offered by this CPU or operating system, or lies above the
    /// [`CpuLevel`].
    #[error("the {0:?} engine is not available on this machine")]
    Unavailable(Engine),
}

pub(crate) fn expect_shape(
    what: &'static str,
    (got_rows, got_cols): (usize, usize),
    (rows, cols): (usize, usize),
) -> Result<(), KernelError> {
    if (got_rows, got_cols) == (rows, cols) {
        Ok(())
    } else {
        Err(KernelError::Shape { what, got_rows, got_cols, rows, cols })
    }
}

/// `c = epilogue(a b)` with `a` of m x k, `b` of k x n and `c` of m x n.
///
/// `threads` bounds the parallelism inside rayon's current pool; 1 stays on the calling thread, 0
/// means the whole pool.
///
/// # Errors
/// [`KernelError::Shape`] when the shapes do not fit.
pub fn matmul(
    a: Mat<'_>,
    b: Mat<'_>,
    c: MatMut<'_>,
    precision: Precision,
    epilogue: Epilogue<'_>,
    threads: usize,
) -> Result<(), KernelError> {
    matmul_on(Engine::for_product(precision), a, b, c, epilogue, threads)
}

/// [`matmul`] into new memory, m x n row-major. It begins as zeros, so that [`Add::Output`] adds
/// nothing.
///
/// # Errors
/// As [`matmul`].
pub fn product(
    a: Mat<'_>,
    b: Mat<'_>,
    precision: Precision,
    epilogue: Epilogue<'_>,
    threads: usize,
) -> Result<Vec<f32>, KernelError> {
    let mut out = vec![0.0; a.rows() * b.cols()];
    matmul(a, b, MatMut::new(&mut out, a.rows(), b.cols())?, precision, epilogue, threads)?;
    Ok(out)
}

/// [`matmul`] on an engine chosen by name: for tests and measurements.
///
/// # Errors
/// As [`matmul`], and [`KernelError::Unavailable`] when this machine lacks the engine.
pub fn matmul_on(
    engine: Engine,
    a: Mat<'_>,
    b: Mat<'_>,
    c: MatMut<'_>,
    epilogue: Epilogue<'_>,
    threads: usize,
) -> Result<(), KernelError> {
    let (m, k, n) = (a.rows(), a.cols(), b.cols());
    expect_shape("the right operand", (b.rows(), n), (k, n))?;
    expect_shape("the output", (c.rows(), c.cols()), (m, n))?;
    epilogue.check(m, n)?;
    if !engine.available() {
        return Err(KernelError::Unavailable(engine));
    }
    let threads = if threads == 0 { rayon::current_num_threads() } else { threads };
    match engine {
        #[cfg(target_arch = "x86_64")]
        Engine::AmxBf16 | Engine::Avx512Bf16 | Engine::Avx512F32 | Engine::Avx2F32 => {
            blocks::multiply(engine, a, b, c, epilogue, threads);
        }
        _ => unpacked::multiply(a, b, c, epilogue, threads),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
