//! All calls of the `gemm` crate: f32 matrix products on pointers with strides.

pub(super) use gemm::Parallelism;

/// A matrix in memory: the pointer to element (0, 0), and the strides of rows and columns in
/// elements.
#[derive(Clone, Copy)]
pub(super) struct Strided<P> {
    pub(super) ptr: P,
    pub(super) rs: usize,
    pub(super) cs: usize,
}

impl<P> Strided<P> {
    pub(super) fn new(ptr: P, rs: usize, cs: usize) -> Self {
        Self { ptr, rs, cs }
    }
}

/// `dst = lhs @ rhs`, plus `dst` as it was when `accumulate`; `lhs` is `m x k`, `rhs` is `k x n`.
///
/// # Safety
/// Every element the shapes and strides name must be valid for reading (`lhs`, `rhs`) or writing
/// (`dst`), and nothing else may read or write `dst` during the call.
pub(super) unsafe fn product(
    (m, n, k): (usize, usize, usize),
    dst: Strided<*mut f32>,
    lhs: Strided<*const f32>,
    rhs: Strided<*const f32>,
    accumulate: bool,
    parallelism: Parallelism,
) {
    // SAFETY: the caller's promise; strides of slices in memory fit an isize.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.ptr,
            dst.cs as isize,
            dst.rs as isize,
            accumulate,
            lhs.ptr,
            lhs.cs as isize,
            lhs.rs as isize,
            rhs.ptr,
            rhs.cs as isize,
            rhs.rs as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}
