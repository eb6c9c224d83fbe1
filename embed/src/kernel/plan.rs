//! Splits a product into tasks for threads and passes for caches.

/// Panels of the left operand in a task: 256 lines. Each panel of the right operand is multiplied
/// by all of them while it stays in the first-level cache.
const LEFT_PANELS_PER_PACK: usize = 8;
/// Tiles of the left operand that a task packs at a time: 512 KiB, half of a second-level cache of
/// today. What is packed is read again for each panel of the right operand, and the output is read
/// and written once for all passes over what is packed.
const LEFT_TILES_PER_PACK: usize = 512;
/// Tiles of steps per pass: a panel of the right operand is then 32 KiB and stays in the
/// first-level cache.
const STEPS_PER_PASS: usize = 16;
/// Tasks per thread, so that other threads can take work from a slow one.
const TASKS_PER_THREAD: usize = 3;
/// Multiply-adds below which one thread does it all.
const PARALLEL_FROM: usize = 64 * 64 * 64;

/// Size of the tasks and passes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockPlan {
    /// Panels of the left operand in a task.
    pub(super) row_panels: usize,
    /// Panels of the right operand in a task.
    pub(super) col_panels: usize,
    /// Tiles of steps in a pass.
    pub(super) steps: usize,
    /// Tiles of steps for which the left operand is packed at a time: whole passes.
    pub(super) packed_steps: usize,
}

impl BlockPlan {
    /// For a product of `m x k` by `k x n`, in panels of 32 lines and tiles of `step` steps. With
    /// `single_pass` all steps are one pass.
    pub(super) fn new((m, n, k): (usize, usize, usize), step: usize, single_pass: bool, threads: usize) -> Self {
        let (rows, cols, steps) = (m.div_ceil(32).max(1), n.div_ceil(32).max(1), k.div_ceil(step).max(1));
        let passes = if single_pass { 1 } else { steps.div_ceil(STEPS_PER_PASS) };
        let wanted = if threads == 1 || m * n * k < PARALLEL_FROM { 1 } else { TASKS_PER_THREAD * threads };
        let fewest = rows.div_ceil(LEFT_PANELS_PER_PACK);
        // The left operand is packed again for each task across, the right one streamed again for
        // each task down; packing is about twice the work of streaming.
        let (down, across) = (fewest..=rows)
            .map(|down| (down, wanted.div_ceil(down).min(cols)))
            .min_by_key(|&(down, across)| (shortfall(wanted, down * across), across * 2 * rows + down * cols))
            .unwrap_or((rows, 1));
        let (row_panels, steps) = (rows.div_ceil(down), steps.div_ceil(passes));
        let packed_passes = (LEFT_TILES_PER_PACK / (2 * row_panels * steps)).max(1);
        Self { row_panels, col_panels: cols.div_ceil(across), steps, packed_steps: packed_passes * steps }
    }
}

fn shortfall(wanted: usize, got: usize) -> usize {
    wanted.saturating_sub(got)
}
