//! Attention of one head, both ways, on chunks that are in the cache.

use super::super::attention::MASKED;
use super::super::gemm::At;
use super::super::simd::{softmax_grad_row, softmax_row};
use super::super::small::{padded, product, transpose};

/// Rows of a head: numbers of one head at the front of rows `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
}

/// The same to write, perhaps interleaved with other heads of one buffer: an address of a buffer that the task owns.
#[derive(Clone, Copy)]
pub(super) struct HeadMut {
    pub(super) ptr: *mut f32,
    pub(super) stride: usize,
}

impl Head<'_> {
    fn at(&self, rows: usize, width: usize) -> At<*const f32> {
        assert!(rows == 0 || (rows - 1) * self.stride + width <= self.values.len(), "a head lies inside its tensor");
        At::new(self.values.as_ptr(), self.stride, 1)
    }
}

impl HeadMut {
    /// The head that begins at number `from` of `values`, for `rows` rows of `width` numbers.
    pub(super) fn of(values: &mut [f32], from: usize, stride: usize, rows: usize, width: usize) -> Self {
        assert!(rows == 0 || from + (rows - 1) * stride + width <= values.len(), "a head lies inside its tensor");
        Self { ptr: values.as_mut_ptr().wrapping_add(from), stride }
    }

    fn at(self) -> At<*mut f32> {
        At::new(self.ptr, self.stride, 1)
    }
}

/// Queries, keys and numbers of a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadShape {
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) width: usize,
}

impl HeadShape {
    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// Numbers of scratch that both passes need.
    pub(super) fn scratch(&self) -> usize {
        self.width * padded(self.keys) + self.queries * self.keys
    }

    /// Probabilities into `p` (queries x keys) and `out = p v`. `seen(i)` is how many keys query `i` may see.
    ///
    /// # Safety
    /// `out` is a head of this shape that nobody else reads or writes meanwhile.
    pub(super) unsafe fn forward(
        &self,
        [q, k, v]: [Head<'_>; 3],
        p: &mut [f32],
        out: HeadMut,
        seen: Option<impl Fn(usize) -> usize>,
        scratch: &mut [f32],
    ) {
        let Self { queries: n, keys: m, width: w } = *self;
        assert_eq!(p.len(), n * m, "one probability a query and key");
        transpose(k.values, m, w, k.stride, scratch);
        let scores = At::new(p.as_mut_ptr(), m, 1);
        let keys = At::new(scratch.as_ptr(), padded(m), 1);
        // SAFETY: heads are checked to lie inside their tensors, p and scratch hold n x m and w x padded(m) numbers.
        unsafe { product((n, m, w), scores, q.at(n, w), keys) };
        for (i, row) in p.chunks_exact_mut(m).enumerate() {
            if let Some(seen) = &seen {
                row[seen(i)..].iter_mut().for_each(|s| *s += MASKED / self.scale());
            }
            softmax_row(row, self.scale());
        }
        // SAFETY: as above; `out` is the caller's promise.
        unsafe { product((n, w, m), out.at(), At::new(p.as_ptr(), m, 1), v.at(m, w)) };
    }

    /// Writes the gradients of q, k and v for the gradient `g` of the output.
    ///
    /// # Safety
    /// The gradients are heads of this shape, apart from each other, that nobody else reads or writes meanwhile.
    pub(super) unsafe fn backward(
        &self,
        [q, k, v]: [Head<'_>; 3],
        p: &[f32],
        g: Head<'_>,
        [dq, dk, dv]: [HeadMut; 3],
        scratch: &mut [f32],
    ) {
        let Self { queries: n, keys: m, width: w } = *self;
        assert_eq!(p.len(), n * m, "one probability a query and key");
        let (turned, dp) = scratch.split_at_mut(w * padded(m));
        let dp = &mut dp[..n * m];
        transpose(v.values, m, w, v.stride, turned);
        let by_key = |p: &[f32]| At::new(p.as_ptr(), 1, m);
        // SAFETY: as in `forward`; the gradients are the caller's promise.
        unsafe {
            product((m, w, n), dv.at(), by_key(p), g.at(n, w));
            let values = At::new(turned.as_ptr(), padded(m), 1);
            product((n, m, w), At::new(dp.as_mut_ptr(), m, 1), g.at(n, w), values);
        }
        for (p, dp) in p.chunks_exact(m).zip(dp.chunks_exact_mut(m)) {
            softmax_grad_row(p, dp, self.scale());
        }
        // SAFETY: as above.
        unsafe {
            product((n, w, m), dq.at(), At::new(dp.as_ptr(), m, 1), k.at(m, w));
            product((m, w, n), dk.at(), by_key(dp), q.at(n, w));
        }
    }
}
