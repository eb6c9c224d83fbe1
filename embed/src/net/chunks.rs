//! Chunks: how the rows of a batch are divided among tasks, and the memory of a task's
//! intermediates.

use std::ops::{Deref, DerefMut, Range};

use super::rows::Rows;
use crate::kernel::Buffer;

/// Rows that one task takes through a whole sublayer: with their intermediates they fill half of a
/// second-level cache of two megabytes.
pub const CHUNK_ROWS: usize = 256;

/// Number of chunks for `rows` rows: at most [`CHUNK_ROWS`] rows per chunk, and as many chunks for
/// one thread as for another.
fn chunk_count(rows: usize, threads: usize) -> usize {
    rows.div_ceil(CHUNK_ROWS).next_multiple_of(threads.max(1)).max(1)
}

/// Rows per chunk when `rows` rows are cut for `threads` threads.
#[must_use]
pub fn rows_per_chunk(rows: usize, threads: usize) -> usize {
    rows.div_ceil(chunk_count(rows, threads)).max(1)
}

/// Divides the items into chunks of about [`CHUNK_ROWS`] rows, counted in `rows` or in `side`,
/// whichever has more. No item is split.
pub(super) fn item_chunks(rows: &Rows, side: &Rows, threads: usize) -> Vec<Range<usize>> {
    let longer = if rows.count() >= side.count() { rows } else { side };
    let (all, chunks) = (longer.count(), chunk_count(longer.count(), threads));
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

/// Cuts `all` into pieces of `sizes`; the pieces of an empty `all` are empty.
pub fn pieces<'a>(all: &'a [f32], sizes: &[usize]) -> Vec<&'a [f32]> {
    let mut rest = all;
    let next = |size: &usize| {
        let (piece, behind) = rest.split_at((*size).min(rest.len()));
        rest = behind;
        piece
    };
    sizes.iter().map(next).collect()
}

/// Cuts `all` into mutable pieces of `sizes`, as [`pieces`] does.
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

/// An intermediate result of one chunk: a piece of what is saved for the backward pass, or scratch.
pub(super) enum Intermediate<'a> {
    Saved(&'a mut [f32]),
    Scratch(Buffer),
}

impl<'a> Intermediate<'a> {
    /// `piece` if intermediates are saved, else `len` numbers of scratch.
    pub(super) fn new(piece: Option<&'a mut [f32]>, len: usize) -> Self {
        piece.map_or_else(|| Self::Scratch(Buffer::take(len)), Self::Saved)
    }
}

impl Deref for Intermediate<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Saved(piece) => piece,
            Self::Scratch(buffer) => buffer,
        }
    }
}

impl DerefMut for Intermediate<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        match self {
            Self::Saved(piece) => piece,
            Self::Scratch(buffer) => buffer,
        }
    }
}

/// Buffer of `numbers` numbers for an intermediate of a whole batch, saved for the backward pass;
/// `None` without `save`.
pub(super) fn saved_buffer(numbers: usize, save: bool) -> Option<Buffer> {
    save.then(|| Buffer::take(numbers))
}

/// Pieces of a saved buffer, one per chunk; `None` for every chunk without a buffer.
pub(super) fn saved_pieces<'a>(all: &'a mut Option<Buffer>, sizes: &[usize]) -> Vec<Option<&'a mut [f32]>> {
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
            let chunks = item_chunks(&rows, &rows, threads);
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
            let chunks = item_chunks(&rows, &rows, threads);
            assert!(chunks.len().is_multiple_of(threads), "{threads} threads, {} chunks", chunks.len());
            assert_eq!(
                rows_per_chunk(rows.count(), threads),
                rows.count().div_ceil(chunk_count(rows.count(), threads))
            );
        }
    }
}
