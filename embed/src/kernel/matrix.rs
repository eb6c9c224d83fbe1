//! Views of `f32` matrices with strides: the shapes are checked once, when a view is made, so that
//! the kernels can rely on them.

use std::marker::PhantomData;

use super::KernelError;

/// Read-only matrix view: any strides, so that a transpose is a view.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// Whether element (rows - 1, cols - 1) lies inside `len` numbers.
fn fits(len: usize, rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> bool {
    if rows == 0 || cols == 0 {
        return true;
    }
    let last = (rows - 1)
        .checked_mul(row_stride)
        .zip((cols - 1).checked_mul(col_stride))
        .and_then(|(down, across)| down.checked_add(across));
    last.is_some_and(|last| last < len)
}

impl<'a> Mat<'a> {
    /// Row-major, rows adjacent: element (i, j) is `data[i * cols + j]`.
    ///
    /// # Errors
    /// [`KernelError::Extent`] when `data` is too short.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Result<Self, KernelError> {
        Self::strided(data, rows, cols, cols, 1)
    }

    /// Element (i, j) is `data[i * row_stride + j * col_stride]`.
    ///
    /// # Errors
    /// [`KernelError::Extent`] when `data` is too short.
    pub fn strided(
        data: &'a [f32],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Result<Self, KernelError> {
        if fits(data.len(), rows, cols, row_stride, col_stride) {
            Ok(Self { data, rows, cols, row_stride, col_stride })
        } else {
            Err(KernelError::Extent { rows, cols, row_stride, col_stride, len: data.len() })
        }
    }

    /// The transpose, without a copy.
    #[must_use]
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    pub(super) fn strides(&self) -> (usize, usize) {
        (self.row_stride, self.col_stride)
    }

    pub(super) fn data(&self) -> &'a [f32] {
        self.data
    }

    /// The first of `rows` x `cols` elements from (i, j) and the row stride, where rows are
    /// adjacent numbers.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(super) fn block_ptr(&self, i: usize, j: usize, rows: usize, cols: usize) -> Option<(*const f32, usize)> {
        assert!(i + rows <= self.rows && j + cols <= self.cols, "a block must lie inside its matrix");
        (self.col_stride == 1).then(|| (self.data[i * self.row_stride + j..].as_ptr(), self.row_stride))
    }

    /// Row `i` as a slice, where its elements are adjacent.
    pub(super) fn row(&self, i: usize) -> Option<&'a [f32]> {
        let start = i * self.row_stride;
        (self.col_stride == 1 && i < self.rows).then(|| &self.data[start..start + self.cols])
    }

    /// Rows `i..i + rows` and columns `j..j + cols`.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(super) fn window(&self, i: usize, rows: usize, j: usize, cols: usize) -> Self {
        assert!(i + rows <= self.rows && j + cols <= self.cols, "a window must lie inside its matrix");
        let empty = rows == 0 || cols == 0;
        let start = if empty { self.data.len() } else { i * self.row_stride + j * self.col_stride };
        Self { data: &self.data[start..], rows, cols, ..*self }
    }

    /// Element (i, j).
    ///
    /// # Panics
    /// Outside the matrix.
    #[must_use]
    pub fn at(&self, i: usize, j: usize) -> f32 {
        assert!(i < self.rows && j < self.cols, "({i}, {j}) lies outside a {} x {} matrix", self.rows, self.cols);
        self.data[i * self.row_stride + j * self.col_stride]
    }
}

/// Mutable matrix view: row-major, rows `row_stride` apart. It can be split into disjoint blocks
/// for several threads.
#[derive(Debug)]
pub struct MatMut<'a> {
    data: *mut f32,
    rows: usize,
    cols: usize,
    row_stride: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: a `MatMut` is an exclusive borrow of the `f32` elements it covers (disjoint from every
// other `MatMut`, see `split_rows` and `split_cols`), and `f32` may move between threads.
unsafe impl Send for MatMut<'_> {}

impl<'a> MatMut<'a> {
    /// Rows adjacent: element (i, j) is `data[i * cols + j]`.
    ///
    /// # Errors
    /// [`KernelError::Extent`] when `data` is too short.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Result<Self, KernelError> {
        Self::strided(data, rows, cols, cols)
    }

    /// Element (i, j) is `data[i * row_stride + j]`; rows may not overlap (`row_stride >= cols`).
    ///
    /// # Errors
    /// [`KernelError::Extent`] when `data` is too short or rows would overlap.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Result<Self, KernelError> {
        if fits(data.len(), rows, cols, row_stride, 1) && (rows < 2 || row_stride >= cols) {
            Ok(Self { data: data.as_mut_ptr(), rows, cols, row_stride, borrow: PhantomData })
        } else {
            Err(KernelError::Extent { rows, cols, row_stride, col_stride: 1, len: data.len() })
        }
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    pub(super) fn row_stride(&self) -> usize {
        self.row_stride
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.data
    }

    /// The first of `rows` x `cols` elements from (i, j).
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(super) fn block_ptr(&mut self, i: usize, j: usize, rows: usize, cols: usize) -> *mut f32 {
        assert!(rows > 0 && cols > 0 && i + rows <= self.rows && j + cols <= self.cols, "a block must lie inside");
        // SAFETY: element (i, j) lies inside the borrowed slice.
        unsafe { self.data.add(i * self.row_stride + j) }
    }

    /// Row `i`.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        if self.cols == 0 {
            return &mut [];
        }
        // SAFETY: row i and its `cols` elements lie inside the borrowed slice (checked when the
        // view was made; splitting only shrinks it), and `&mut self` keeps other borrows of this
        // view away.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.row_stride), self.cols) }
    }

    /// A reborrow: the same elements, for as long as `self` is not used.
    pub(super) fn reborrow(&mut self) -> MatMut<'_> {
        MatMut { borrow: PhantomData, ..*self }
    }

    /// The first `at` rows and the others.
    pub(super) fn split_rows(self, at: usize) -> (Self, Self) {
        assert!(at <= self.rows, "cannot split {} rows at {at}", self.rows);
        let offset = if at == self.rows { 0 } else { at * self.row_stride };
        // SAFETY: when rows remain below the cut, the first of them lies inside the borrowed slice;
        // otherwise the lower part has no rows and keeps the same base. The parts share no element.
        let below = unsafe { self.data.add(offset) };
        (Self { rows: at, ..self }, Self { data: below, rows: self.rows - at, ..self })
    }

    /// The first `at` columns and the others.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(super) fn split_cols(self, at: usize) -> (Self, Self) {
        assert!(at <= self.cols, "cannot split {} columns at {at}", self.cols);
        let offset = if at == self.cols || self.rows == 0 { 0 } else { at };
        // SAFETY: as in `split_rows`: the offset is that of an element inside the slice, or zero
        // for an empty part.
        let right = unsafe { self.data.add(offset) };
        (Self { cols: at, ..self }, Self { data: right, cols: self.cols - at, ..self })
    }
}
