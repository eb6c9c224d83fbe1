//! Memory pools for buffers that every pass needs.
//!
//! A pass needs the same megabytes as the pass before. New memory would have to be zeroed, which
//! for activations takes as long as the arithmetic. Buffers therefore return to a pool and are
//! reused with their old content.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Unused pieces of memory.
pub(super) struct Pool<T> {
    pieces: Mutex<Vec<Vec<T>>>,
    /// Largest number of elements that the pool holds.
    max_elements: usize,
}

impl<T: Copy> Pool<T> {
    pub(super) const fn new(max_elements: usize) -> Self {
        Self { pieces: Mutex::new(Vec::new()), max_elements }
    }

    fn pieces(&self) -> MutexGuard<'_, Vec<Vec<T>>> {
        // The list is whole between any two statements.
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Exactly `len` elements of arbitrary value: for sizes that are the same in every pass.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(super) fn take_exact(&self, len: usize, zero: T) -> Vec<T> {
        let found = {
            let mut pieces = self.pieces();
            let found = pieces.iter().position(|v| v.len() == len);
            found.map(|i| pieces.swap_remove(i))
        };
        found.unwrap_or_else(|| vec![zero; len])
    }

    /// At least `len` elements of arbitrary value, and at most little more than twice as many. New
    /// pieces are rounded up, so that batches whose texts differ in length share memory.
    pub(super) fn take(&self, len: usize, zero: T) -> Vec<T> {
        let mut pieces = self.pieces();
        let fits = |v: &Vec<T>| v.len() >= len && v.len() <= 2 * len + 4096;
        let best = pieces.iter().enumerate().filter(|(_, v)| fits(v)).min_by_key(|(_, v)| v.len()).map(|(i, _)| i);
        if let Some(i) = best {
            return pieces.swap_remove(i);
        }
        // No piece fits. If the pool is half full, its sizes are no longer in use, and it is
        // emptied.
        if pieces.iter().map(Vec::len).sum::<usize>() > self.max_elements / 2 {
            pieces.clear();
        }
        drop(pieces);
        let unit = (len.next_power_of_two() / 8).max(1024);
        vec![zero; len.div_ceil(unit) * unit]
    }

    /// Returns a piece to the pool, or frees it if the pool is full.
    pub(super) fn put_back(&self, piece: Vec<T>) {
        if piece.is_empty() {
            return;
        }
        let mut pieces = self.pieces();
        if pieces.iter().map(Vec::len).sum::<usize>() + piece.len() <= self.max_elements {
            pieces.push(piece);
        }
    }
}

/// The pool of all [`Buffer`]s: at most 2 GiB.
static F32_POOL: Pool<f32> = Pool::new(512 << 20);

/// f32 numbers from the pool, returned to it when dropped.
#[derive(Debug, Default)]
pub struct Buffer {
    data: Vec<f32>,
    len: usize,
}

impl Buffer {
    /// `len` numbers with arbitrary content; write before reading.
    #[must_use]
    pub fn take(len: usize) -> Self {
        if len == 0 {
            return Self::default();
        }
        Self { data: F32_POOL.take(len, 0.0), len }
    }

    /// `len` zeros.
    #[must_use]
    pub fn zeros(len: usize) -> Self {
        let mut buffer = Self::take(len);
        buffer.fill(0.0);
        buffer
    }

    /// The numbers as a vector that does not return to the pool.
    #[must_use]
    pub fn into_vec(mut self) -> Vec<f32> {
        let mut data = std::mem::take(&mut self.data);
        data.truncate(self.len);
        data
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        F32_POOL.put_back(std::mem::take(&mut self.data));
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::Buffer;

    #[test]
    fn buffers_have_the_length_asked_for() {
        for len in [0usize, 1, 1000, 5000, 70_000] {
            let mut buffer = Buffer::take(len);
            assert_eq!(buffer.len(), len);
            buffer.fill(1.0);
            drop(buffer);
            assert!(Buffer::zeros(len).iter().all(|v| *v == 0.0));
            assert_eq!(Buffer::take(len).into_vec().len(), len);
        }
    }
}
