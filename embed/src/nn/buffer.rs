//! Memory that training uses again and again.
//!
//! A step needs the same hundreds of megabytes as the step before. Fresh memory for them would have to be zeroed, and
//! that costs as much as the arithmetic, so buffers go back to a pool and come out of it with their old numbers.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

static POOL: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// When nothing in the pool fits and it holds more numbers than this, its memory is of sizes no longer in use.
const TOO_MUCH: usize = 256 << 20;

fn pool() -> MutexGuard<'static, Vec<Vec<f32>>> {
    // The list is whole between any two statements.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `len` numbers from the pool, back in it when dropped.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    data: Vec<f32>,
    len: usize,
}

impl Buffer {
    /// Numbers of any value: whoever takes a buffer writes before reading.
    pub(super) fn take(len: usize) -> Self {
        let mut pool = pool();
        let fits = |v: &Vec<f32>| v.len() >= len && v.len() <= 2 * len + 4096;
        let best = pool.iter().enumerate().filter(|(_, v)| fits(v)).min_by_key(|(_, v)| v.len()).map(|(i, _)| i);
        let data = match best {
            Some(i) => pool.swap_remove(i),
            None => {
                if pool.iter().map(Vec::len).sum::<usize>() > TOO_MUCH {
                    pool.clear();
                }
                drop(pool);
                // A little more than asked for, so that batches whose texts differ in length share buffers.
                let unit = (len.next_power_of_two() / 8).max(1024);
                vec![0.0; len.div_ceil(unit) * unit]
            }
        };
        Self { data, len }
    }

    /// Zeros.
    pub(super) fn zeros(len: usize) -> Self {
        let mut buffer = Self::take(len);
        buffer.fill(0.0);
        buffer
    }

    /// The numbers as a vector of their own, out of the pool for good.
    pub(super) fn into_vec(mut self) -> Vec<f32> {
        let mut data = std::mem::take(&mut self.data);
        data.truncate(self.len);
        data
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !self.data.is_empty() {
            pool().push(std::mem::take(&mut self.data));
        }
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
