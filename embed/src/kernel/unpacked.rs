//! Products of two `f32` operands that are not packed: the `gemm` crate multiplies, then the
//! epilogue is applied to the finished rows.

use super::gemm::{Parallelism, Strided, product};
use super::{Add, Epilogue, Mat, MatMut};

/// Below this many multiply-adds a second thread costs more time than it saves.
const PARALLEL_FROM: usize = 64 * 64 * 64;

/// `c = epilogue(a b)`; shapes are checked by the caller.
pub(super) fn multiply(a: Mat<'_>, b: Mat<'_>, mut c: MatMut<'_>, epilogue: Epilogue<'_>, threads: usize) {
    let (m, n, k) = (a.rows(), b.cols(), a.cols());
    assert!(b.rows() == k && c.rows() == m && c.cols() == n, "shapes are checked before");
    if m == 0 || n == 0 {
        return;
    }
    // With an activation, the old output is added last, so the product goes into memory of its own.
    if let (true, Add::Output) = (epilogue.gelu, epilogue.add) {
        let mut product = vec![0.0; m * n];
        let whole = MatMut::new(&mut product, m, n).expect("m x n numbers were allocated");
        multiply(a, b, whole, Epilogue { add: Add::Nothing, ..epilogue }, threads);
        product.chunks_exact(n).enumerate().for_each(|(i, from)| {
            c.row(i).iter_mut().zip(from).for_each(|(x, y)| *x += y);
        });
        return;
    }
    let start = match (epilogue.add, epilogue.bias) {
        (Add::Output, _) => InitialOutput::Output,
        (_, Some(bias)) => InitialOutput::Bias(bias),
        (_, None) => InitialOutput::Zero,
    };
    if let InitialOutput::Bias(bias) = start {
        for_row_blocks(&mut c, threads, |_, mut block| fill(&mut block, bias));
    }
    if k == 0 {
        if matches!(start, InitialOutput::Zero) {
            fill(&mut c, &vec![0.0; n]);
        }
    } else {
        let work = m.saturating_mul(n).saturating_mul(k);
        let parallelism =
            if threads == 1 || work < PARALLEL_FROM { Parallelism::None } else { Parallelism::Rayon(threads) };
        let at = |m: Mat<'_>| {
            let (rows, cols) = m.strides();
            Strided::new(m.data().as_ptr(), rows, cols)
        };
        let to = Strided::new(c.as_mut_ptr(), c.row_stride(), 1);
        // SAFETY: every element a stride and a shape reach lies inside the slices the views borrow
        // (checked when they were made), shapes agree (asserted above), and `c` is borrowed
        // exclusively.
        unsafe { product((m, n, k), to, at(a), at(b), !matches!(start, InitialOutput::Zero), parallelism) };
    }
    let rest = match start {
        InitialOutput::Output => Epilogue { add: Add::Nothing, ..epilogue },
        InitialOutput::Bias(_) => Epilogue { bias: None, ..epilogue },
        InitialOutput::Zero => epilogue,
    };
    if rest.bias.is_some() || rest.gelu || matches!(rest.add, Add::Matrix(_)) {
        for_row_blocks(&mut c, threads, |from, mut block| rest.window(from, block.rows(), 0, n).apply(&mut block));
    }
}

/// Content of the output before the product is added to it.
#[derive(Clone, Copy)]
enum InitialOutput<'a> {
    Zero,
    Bias(&'a [f32]),
    Output,
}

/// Copies `row` into every row of `c`.
fn fill(c: &mut MatMut<'_>, row: &[f32]) {
    assert_eq!(row.len(), c.cols(), "one number a column");
    for i in 0..c.rows() {
        c.row(i).copy_from_slice(row);
    }
}

/// Calls `work(first row, block)` for blocks of rows, in parallel for large outputs.
fn for_row_blocks(c: &mut MatMut<'_>, threads: usize, work: impl Fn(usize, MatMut<'_>) + Sync) {
    const ROWS: usize = 64;
    if threads == 1 || c.rows() * c.cols() < PARALLEL_FROM {
        return work(0, c.reborrow());
    }
    rayon::scope(|scope| {
        let (mut from, mut left, work) = (0, c.reborrow(), &work);
        while left.rows() > 0 {
            let rows = left.rows().min(ROWS);
            let (block, below) = left.split_rows(rows);
            scope.spawn(move |_| work(from, block));
            (from, left) = (from + rows, below);
        }
    });
}
