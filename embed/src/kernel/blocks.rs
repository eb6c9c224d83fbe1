//! The product over packed panels: tasks, passes over `k`, 32 x 32 blocks, epilogue.

use std::cell::Cell;

use rayon::prelude::*;

use super::pack::{Format, PANEL, Side, Tile, pack};
use super::plan::BlockPlan;
use super::{Add, Engine, Epilogue, Mat, MatMut, amx, gelu, unpacked, vectors};

/// The right operand, k x n, packed into tiles: panel after panel, each over all of `k`.
#[derive(Clone, Copy)]
pub(super) struct PackedRight<'a> {
    pub(super) tiles: &'a [Tile],
    pub(super) k: usize,
    pub(super) n: usize,
}

thread_local! {
    /// Buffers kept between calls: page faults of new memory would take longer than the product.
    static LEFT: Cell<Vec<Tile>> = const { Cell::new(Vec::new()) };
    static RIGHT: Cell<Vec<Tile>> = const { Cell::new(Vec::new()) };
}

/// Calls `work` with `len` tiles of this thread's buffer. A nested call (a rayon thread may start
/// another product while it waits) gets a new buffer.
fn with_buffer<R>(
    slot: &'static std::thread::LocalKey<Cell<Vec<Tile>>>,
    len: usize,
    work: impl FnOnce(&mut [Tile]) -> R,
) -> R {
    let mut buffer = slot.take();
    if buffer.len() < len {
        buffer.resize(len, Tile::ZERO);
    }
    let result = work(&mut buffer[..len]);
    slot.set(buffer);
    result
}

impl Engine {
    /// What it reads; of an engine of packed operands.
    fn format(self) -> Format {
        if self.is_bf16() { Format::Bf16 } else { Format::F32 }
    }
}

/// Number of tiles of an operand of `lines` lines packed for `engine`.
pub(super) fn tiles(engine: Engine, lines: usize, k: usize) -> usize {
    2 * lines.div_ceil(PANEL) * k.div_ceil(engine.format().steps())
}

/// `c = epilogue(a b)`; shapes and the engine are checked by the caller.
pub(super) fn multiply(engine: Engine, a: Mat<'_>, b: Mat<'_>, c: MatMut<'_>, epilogue: Epilogue<'_>, threads: usize) {
    let (n, k) = (b.cols(), b.rows());
    if k == 0 {
        return unpacked::multiply(a, b, c, epilogue, threads);
    }
    with_buffer(&RIGHT, tiles(engine, n, k), |buffer| {
        pack_right(engine, b, buffer, threads);
        multiply_packed(engine, a, PackedRight { tiles: buffer, k, n }, c, epilogue, threads);
    });
}

/// Packs all of `b` (k x n).
pub(super) fn pack_right(engine: Engine, b: Mat<'_>, out: &mut [Tile], threads: usize) {
    assert!(engine != Engine::Gemm && engine.available(), "packing needs an engine of packed operands");
    let (lines, per_panel) = (b.t(), tiles(engine, 1, b.rows()));
    if out.is_empty() {
        return;
    }
    // If lines are adjacent in memory, wide chunks read long pieces of each row.
    let panels = lines.rows().div_ceil(PANEL);
    let panels = if threads == 1 { panels } else { (panels / (2 * threads)).clamp(1, 8) };
    let one = |(chunk, out): (usize, &mut [Tile])| {
        let line0 = chunk * panels * PANEL;
        let count = (lines.rows() - line0).min(panels * PANEL);
        // SAFETY: every bf16 engine is available only with AVX-512 F, BW and BF16 (asserted above).
        unsafe { pack(engine.format(), lines, Side::Right, (line0, count), 0, out) };
    };
    if threads == 1 || out.len() < 64 {
        out.chunks_mut(panels * per_panel).enumerate().for_each(one);
    } else {
        out.par_chunks_mut(panels * per_panel).enumerate().for_each(one);
    }
}

/// `c = epilogue(a b)` with a packed `b`.
pub(super) fn multiply_packed(
    engine: Engine,
    a: Mat<'_>,
    b: PackedRight<'_>,
    c: MatMut<'_>,
    epilogue: Epilogue<'_>,
    threads: usize,
) {
    let (m, n, k) = (a.rows(), b.n, b.k);
    assert!(
        a.cols() == k && c.rows() == m && c.cols() == n && b.tiles.len() == tiles(engine, n, k),
        "shapes are checked before"
    );
    assert!(
        k > 0 && engine != Engine::Gemm && engine.available(),
        "blocks need an engine of packed operands and something to sum"
    );
    if m == 0 || n == 0 {
        return;
    }
    // With an activation, the old output is added after the sum is complete, so it cannot hold
    // partial sums.
    let single_pass = epilogue.gelu && matches!(epilogue.add, Add::Output);
    let plan = BlockPlan::new((m, n, k), engine.format().steps(), single_pass, threads);
    let mut tasks = Vec::new();
    let (mut i, mut below) = (0, c);
    while below.rows() > 0 {
        let rows = below.rows().min(plan.row_panels * PANEL);
        let (mut right, rest) = below.split_rows(rows);
        let mut j = 0;
        while right.cols() > 0 {
            let cols = right.cols().min(plan.col_panels * PANEL);
            let (block, rest) = right.split_cols(cols);
            let per_panel = tiles(engine, 1, k);
            let tiles = &b.tiles[j / PANEL * per_panel..(j + cols).div_ceil(PANEL) * per_panel];
            tasks.push(Task {
                engine,
                a: a.window(i, rows, 0, k),
                b: tiles,
                c: block,
                epilogue: epilogue.window(i, rows, j, cols),
                plan,
            });
            (j, right) = (j + cols, rest);
        }
        (i, below) = (i + rows, rest);
    }
    if threads == 1 || tasks.len() == 1 {
        tasks.into_iter().for_each(Task::run);
    } else {
        tasks.into_par_iter().with_max_len(1).for_each(Task::run);
    }
}

/// A block of the output that one thread computes.
struct Task<'a> {
    engine: Engine,
    a: Mat<'a>,
    b: &'a [Tile],
    c: MatMut<'a>,
    epilogue: Epilogue<'a>,
    plan: BlockPlan,
}

/// A 32 x 32 block outside the output.
#[repr(C, align(64))]
struct Scratch([f32; PANEL * PANEL]);

impl Task<'_> {
    fn run(mut self) {
        let format = self.engine.format();
        let (m, n, all) = (self.c.rows(), self.c.cols(), self.a.cols().div_ceil(format.steps()));
        let row_panels = m.div_ceil(PANEL);
        let kernel = BlockKernel::new(self.engine);
        let mut scratch = Scratch([0.0; PANEL * PANEL]);
        with_buffer(&LEFT, 2 * row_panels * self.plan.packed_steps.min(all), |buffer| {
            for start in (0..all).step_by(self.plan.packed_steps) {
                let packed = self.plan.packed_steps.min(all - start);
                let lefts = &mut buffer[..2 * row_panels * packed];
                // SAFETY: the engine is available (asserted in `multiply_packed`).
                unsafe { pack(format, self.a, Side::Left, (0, m), start, lefts) };
                for j in 0..n.div_ceil(PANEL) {
                    for from in (0..packed).step_by(self.plan.steps) {
                        let steps = self.plan.steps.min(packed - from);
                        let pass = KPass { first: start + from == 0, last: start + from + steps == all };
                        let right = &self.b[2 * (j * all + start + from)..][..2 * steps];
                        for i in 0..row_panels {
                            let left = &lefts[2 * (i * packed + from)..][..2 * steps];
                            self.block(&kernel, left, right, (i * PANEL, j * PANEL), pass, &mut scratch);
                        }
                    }
                }
            }
        });
    }

    /// Computes one block of sums, from row `i` and column `j`. A whole block without an activation
    /// is written straight into the output; any other goes through a scratch block.
    #[inline]
    fn block(
        &mut self,
        kernel: &BlockKernel,
        left: &[Tile],
        right: &[Tile],
        (i, j): (usize, usize),
        pass: KPass,
        scratch: &mut Scratch,
    ) {
        let (rows, cols) = ((self.c.rows() - i).min(PANEL), (self.c.cols() - j).min(PANEL));
        let inside = rows == PANEL && cols == PANEL;
        let epilogue = &self.epilogue;
        // Without an activation the sums start with the added matrix and the bias. With one, the
        // matrix is added last.
        let start = match (pass.first, epilogue.add) {
            (false, _) => Add::Output,
            (true, add) if !epilogue.gelu => add,
            (true, _) => Add::Nothing,
        };
        let bias = epilogue.bias.filter(|_| pass.first);
        let rest = pass.last && epilogue.gelu;
        let c_stride = self.c.row_stride();
        let from = match (start, bias) {
            (Add::Output, None) if inside => Some((self.c.block_ptr(i, j, PANEL, PANEL).cast_const(), c_stride)),
            (Add::Matrix(other), None) if inside => other.block_ptr(i, j, PANEL, PANEL),
            (Add::Nothing, None) => Some((std::ptr::null(), 0)),
            (Add::Nothing, Some(bias)) => bias[j..].first_chunk::<PANEL>().map(|bias| (bias.as_ptr(), 0)),
            _ => None,
        };
        let from = from.unwrap_or_else(|| {
            for (r, row) in scratch.0.chunks_exact_mut(PANEL).enumerate().take(rows) {
                let row = &mut row[..cols];
                match start {
                    Add::Output => row.copy_from_slice(&self.c.row(i + r)[j..j + cols]),
                    Add::Matrix(other) => match other.row(i + r) {
                        Some(own) => row.copy_from_slice(&own[j..j + cols]),
                        None => row.iter_mut().enumerate().for_each(|(c, x)| *x = other.at(i + r, j + c)),
                    },
                    Add::Nothing => row.fill(0.0),
                }
                if let Some(bias) = bias {
                    row.iter_mut().zip(&bias[j..]).for_each(|(x, b)| *x += b);
                }
            }
            (scratch.0.as_ptr(), PANEL)
        });
        if inside && !rest {
            let out = self.c.block_ptr(i, j, PANEL, PANEL);
            // SAFETY: `out` is a block of the output, which this task borrows exclusively; `from`
            // is null, one row read again and again (stride 0), or 32 x 32 readable numbers.
            unsafe { kernel.block(left, right, rows, from, (out, c_stride)) };
            return;
        }
        let out = scratch.0.as_mut_ptr();
        let from = if std::ptr::eq(from.0, out) { (out.cast_const(), PANEL) } else { from };
        // SAFETY: `out` is 32 x 32 numbers of this frame; `from` as above.
        unsafe { kernel.block(left, right, rows, from, (out, PANEL)) };
        for (r, sums) in scratch.0.chunks_exact_mut(PANEL).enumerate().take(rows) {
            let sums = &mut sums[..cols];
            if rest {
                finish(sums, epilogue, (i + r, j), &mut self.c);
            }
            self.c.row(i + r)[j..j + cols].copy_from_slice(sums);
        }
    }
}

/// Applies the activation and the addition after it to one row of a block.
fn finish(sums: &mut [f32], epilogue: &Epilogue<'_>, (i, j): (usize, usize), output: &mut MatMut<'_>) {
    gelu(sums);
    match epilogue.add {
        Add::Nothing => {}
        Add::Output => sums.iter_mut().zip(&output.row(i)[j..]).for_each(|(x, y)| *x += y),
        Add::Matrix(other) => other.window(i, 1, j, sums.len()).add_row_to(0, sums),
    }
}

#[derive(Clone, Copy)]
struct KPass {
    first: bool,
    last: bool,
}

enum BlockKernel {
    AmxBf16(amx::TileConfiguration),
    Avx512Bf16,
    Avx512F32,
    Avx2F32,
}

impl BlockKernel {
    fn new(engine: Engine) -> Self {
        match engine {
            // SAFETY: the engine is available (asserted in `multiply_packed`).
            Engine::AmxBf16 => Self::AmxBf16(unsafe { amx::TileConfiguration::new() }),
            Engine::Avx512Bf16 => Self::Avx512Bf16,
            Engine::Avx512F32 => Self::Avx512F32,
            Engine::Avx2F32 => Self::Avx2F32,
            Engine::Gemm => unreachable!("asserted in `multiply_packed`"),
        }
    }

    /// `out = start + a b` for a 32 x 32 block, of which the first `rows` rows are needed; the
    /// others may hold anything afterwards.
    ///
    /// # Safety
    /// As [`amx::TileConfiguration::block`].
    unsafe fn block(&self, a: &[Tile], b: &[Tile], rows: usize, start: (*const f32, usize), out: (*mut f32, usize)) {
        let bytes = |numbers: usize| numbers * size_of::<f32>();
        // SAFETY: the caller's promise; a kernel is made only for an available engine.
        unsafe {
            match self {
                Self::AmxBf16(tiles) => tiles.block(a, b, start.0, bytes(start.1), out.0, bytes(out.1)),
                Self::Avx512Bf16 => vectors::bf16_block(a, b, rows, start, out),
                Self::Avx512F32 => vectors::f32x16_block(a, b, rows, start, out),
                Self::Avx2F32 => vectors::f32x8_block(a, b, rows, start, out),
            }
        }
    }
}
