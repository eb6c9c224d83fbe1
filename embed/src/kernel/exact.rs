//! The `f32` path: the `gemm` crate, then the epilogue over the finished rows.

use gemm::Parallelism;

use super::{Add, Epilogue, Mat, MatMut};

/// Below this many multiply-adds a second thread costs more than it brings.
const PARALLEL_FROM: usize = 64 * 64 * 64;

/// `c = epilogue(a b)`; shapes are checked by the caller.
pub(super) fn multiply(a: Mat<'_>, b: Mat<'_>, mut c: MatMut<'_>, epilogue: Epilogue<'_>, threads: usize) {
    let (m, n, k) = (a.rows(), b.cols(), a.cols());
    assert!(b.rows() == k && c.rows() == m && c.cols() == n, "shapes are checked before");
    if m == 0 || n == 0 {
        return;
    }
    // Without an activation, sums commute: what the product is added to can be put into the output first.
    if let (true, Add::Output) = (epilogue.gelu, epilogue.add) {
        let mut product = vec![0.0; m * n];
        let whole = MatMut::new(&mut product, m, n).expect("m x n numbers were allocated");
        multiply(a, b, whole, Epilogue { add: Add::Nothing, ..epilogue }, threads);
        product.chunks_exact(n).enumerate().for_each(|(i, from)| {
            c.row(i).iter_mut().zip(from).for_each(|(x, y)| *x += y);
        });
        return;
    }
    let accumulate = matches!(epilogue.add, Add::Output);
    if k == 0 {
        if !accumulate {
            (0..m).for_each(|i| c.row(i).fill(0.0));
        }
    } else {
        let work = m.saturating_mul(n).saturating_mul(k);
        let parallelism =
            if threads == 1 || work < PARALLEL_FROM { Parallelism::None } else { Parallelism::Rayon(threads) };
        let ((a_row, a_col), (b_row, b_col), c_row) = (a.strides(), b.strides(), c.row_stride());
        let signed = |stride: usize| stride as isize;
        // SAFETY: every element a stride and a shape reach lies inside the slices the views borrow (checked when they
        // were made), shapes agree (asserted above), and `c` is borrowed exclusively.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                c.as_mut_ptr(),
                1,
                signed(c_row),
                accumulate,
                a.data().as_ptr(),
                signed(a_col),
                signed(a_row),
                b.data().as_ptr(),
                signed(b_col),
                signed(b_row),
                1.0,
                1.0,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
    let rest = Epilogue { add: if accumulate { Add::Nothing } else { epilogue.add }, ..epilogue };
    if rest.bias.is_some() || rest.gelu || matches!(rest.add, Add::Matrix(_)) {
        finish(c, rest, threads);
    }
}

/// The epilogue over row blocks, in parallel when it is worth it.
fn finish(mut c: MatMut<'_>, epilogue: Epilogue<'_>, threads: usize) {
    const ROWS: usize = 64;
    let (m, n) = (c.rows(), c.cols());
    if threads == 1 || m * n < PARALLEL_FROM {
        epilogue.apply(&mut c);
        return;
    }
    rayon::scope(|scope| {
        let mut from = 0;
        let mut left = c;
        while left.rows() > 0 {
            let rows = left.rows().min(ROWS);
            let (mut block, below) = left.split_rows(rows);
            let part = epilogue.window(from, rows, 0, n);
            scope.spawn(move |_| part.apply(&mut block));
            from += rows;
            left = below;
        }
    });
}
