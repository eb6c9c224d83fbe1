//! How a batch is cut into chunks of rows, one a task, and the memory of what a task computes on its way.

use std::ops::{Deref, DerefMut, Range};

use super::rows::Rows;
use crate::kernel::Buffer;

/// Rows of sublayers' tensors that one task takes through a whole sublayer: with their intermediates they fill half of a
/// second-level cache of two megabytes.
pub const CHUNK_ROWS: usize = 256;

/// Rows a chunk should have so that every one of `threads` gets as many chunks as the others, of at most [`CHUNK_ROWS`] rows.
#[must_use]
pub fn rows_per_chunk(rows: usize, threads: usize) -> usize {
    rows.div_ceil(rows.div_ceil(CHUNK_ROWS).next_multiple_of(threads.max(1)).max(1)).max(1)
}

/// Whole items in chunks of about [`rows_per_chunk`] rows, of `rows` or of `side`, whichever has more.
pub(super) fn of_items(rows: &Rows, side: &Rows, threads: usize) -> Vec<Range<usize>> {
    let target = rows_per_chunk(rows.count().max(side.count()), threads);
    let (mut chunks, mut from) = (Vec::new(), 0);
    while from < rows.items() {
        let full = |to: usize| (rows.before(to) - rows.before(from)).max(side.before(to) - side.before(from)) >= target;
        let to = (from + 1..rows.items()).find(|&to| full(to)).unwrap_or(rows.items());
        chunks.push(from..to);
        from = to;
    }
    chunks
}

/// `all` cut into pieces of `sizes`; empty ones of nothing.
pub fn pieces<'a>(all: &'a [f32], sizes: &[usize]) -> Vec<&'a [f32]> {
    let mut rest = all;
    let next = |size: &usize| {
        let (piece, behind) = rest.split_at((*size).min(rest.len()));
        rest = behind;
        piece
    };
    sizes.iter().map(next).collect()
}

/// The same to write.
pub fn pieces_mut<'a>(all: &'a mut [f32], sizes: &[usize]) -> Vec<&'a mut [f32]> {
    let mut rest = all;
    let next = |size: &usize| {
        let size = (*size).min(rest.len());
        let (piece, behind) = std::mem::take(&mut rest).split_at_mut(size);
        rest = behind;
        piece
    };
    sizes.iter().map(next).collect()
}

/// Room for an intermediate of one chunk: a piece of what the backward pass will read, or scratch.
pub(super) enum Room<'a> {
    Kept(&'a mut [f32]),
    Scratch(Buffer),
}

impl<'a> Room<'a> {
    /// `piece` when intermediates are kept, else `len` numbers of scratch.
    pub(super) fn of(piece: Option<&'a mut [f32]>, len: usize) -> Self {
        piece.map_or_else(|| Self::Scratch(Buffer::take(len)), Self::Kept)
    }
}

impl Deref for Room<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Kept(piece) => piece,
            Self::Scratch(buffer) => buffer,
        }
    }
}

impl DerefMut for Room<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        match self {
            Self::Kept(piece) => piece,
            Self::Scratch(buffer) => buffer,
        }
    }
}

/// An intermediate of a whole batch: kept for the backward pass, or nothing.
pub(super) fn keep(numbers: usize, keep: bool) -> Option<Buffer> {
    keep.then(|| Buffer::take(numbers))
}

/// The pieces of an intermediate, one a chunk.
pub(super) fn rooms<'a>(all: &'a mut Option<Buffer>, sizes: &[usize]) -> Vec<Option<&'a mut [f32]>> {
    match all {
        Some(all) => pieces_mut(all, sizes).into_iter().map(Some).collect(),
        None => sizes.iter().map(|_| None).collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chunks_hold_every_item_once_and_keep_all_threads_busy(
            lengths in proptest::collection::vec(1usize..300, 1..60), threads in 1usize..33,
        ) {
            let rows = Rows::new(lengths.iter().copied(), 8);
            let chunks = of_items(&rows, &rows, threads);
            prop_assert_eq!(chunks.iter().cloned().flatten().collect::<Vec<_>>(), (0..lengths.len()).collect::<Vec<_>>());
            let longest = lengths.iter().copied().max().unwrap_or(0);
            for chunk in &chunks {
                prop_assert!(rows.before(chunk.end) - rows.before(chunk.start) < CHUNK_ROWS + longest);
            }
        }
    }

    #[test]
    fn sixteen_threads_get_sixteen_chunks() {
        let rows = Rows::even(64, 40, 8);
        for threads in [1, 2, 4, 16] {
            assert_eq!(of_items(&rows, &rows, threads).len() % threads, 0, "{threads} threads");
        }
        assert!(of_items(&rows, &rows, 16).len() >= 16);
    }
}
