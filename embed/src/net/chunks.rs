//! How a batch is cut into chunks of rows, one a task, and the memory of what a task computes on its way.

use std::ops::{Deref, DerefMut, Range};

use super::rows::Rows;
use crate::kernel::Buffer;

/// Rows of sublayers' tensors that one task takes through a whole sublayer: with their intermediates they fill half of a
/// second-level cache of two megabytes.
pub const CHUNK_ROWS: usize = 256;

/// Number of chunks for `rows` rows, of at most [`CHUNK_ROWS`] rows each, as many for one thread as for another.
fn count(rows: usize, threads: usize) -> usize {
    rows.div_ceil(CHUNK_ROWS).next_multiple_of(threads.max(1)).max(1)
}

/// Rows of a chunk when `rows` rows are cut for `threads` threads.
#[must_use]
pub fn rows_per_chunk(rows: usize, threads: usize) -> usize {
    rows.div_ceil(count(rows, threads)).max(1)
}

/// Whole items in chunks of about [`CHUNK_ROWS`] rows, of `rows` or of `side`, whichever has more.
pub(super) fn of_items(rows: &Rows, side: &Rows, threads: usize) -> Vec<Range<usize>> {
    let longer = if rows.count() >= side.count() { rows } else { side };
    let (all, chunks) = (longer.count(), count(longer.count(), threads));
    let (mut ranges, mut from) = (Vec::with_capacity(chunks), 0);
    for chunk in 1..=chunks {
        // The chunk ends with the item that reaches its share of all rows.
        let mut to = from;
        while to < rows.items() && longer.before(to) * chunks < all * chunk {
            to += 1;
        }
        if chunk == chunks {
            to = rows.items();
        }
        if to > from {
            ranges.push(from..to);
        }
        from = to;
    }
    ranges
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
    fn every_thread_gets_as_many_chunks_as_the_others() {
        let rows = Rows::even(64, 40, 8);
        for threads in [1, 2, 4, 16] {
            let chunks = of_items(&rows, &rows, threads);
            assert!(chunks.len().is_multiple_of(threads), "{threads} threads, {} chunks", chunks.len());
            assert_eq!(rows_per_chunk(rows.count(), threads), rows.count().div_ceil(count(rows.count(), threads)));
        }
    }
}
