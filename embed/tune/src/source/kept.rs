//! Cache of pictures: each is decoded at its first use and kept as bytes at the model's size, up to
//! a memory limit. Pictures beyond the limit are decoded at every use.

use std::borrow::Cow;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Result;

/// Cached RGB bytes of pictures by number.
pub(crate) struct PictureCache {
    kept: Vec<OnceLock<Box<[u8]>>>,
    /// Number of pictures that may still be kept.
    room: AtomicUsize,
}

impl PictureCache {
    /// Creates a cache of `count` pictures of `size` (height, width), which may take `memory`
    /// bytes.
    pub fn new(count: usize, [height, width]: [usize; 2], memory: usize) -> Self {
        let kept = (0..count).map(|_| OnceLock::new()).collect();
        Self { kept, room: AtomicUsize::new(memory / (height * width * 3).max(1)) }
    }

    /// Returns picture `index` from the cache, or from `make` if it is not cached.
    ///
    /// # Errors
    /// The errors of `make`.
    pub fn get(&self, index: usize, make: impl FnOnce() -> Result<Vec<u8>>) -> Result<Cow<'_, [u8]>> {
        if let Some(bytes) = self.kept[index].get() {
            return Ok(Cow::Borrowed(bytes));
        }
        let bytes = make()?;
        let fits = self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(1)).is_ok();
        if !fits {
            return Ok(Cow::Owned(bytes));
        }
        let mut first = false;
        let kept = self.kept[index].get_or_init(|| {
            first = true;
            bytes.into()
        });
        if !first {
            // Another thread made the same picture and kept it, in a place of its own.
            self.room.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Cow::Borrowed(kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_beyond_the_limit_are_made_again() {
        let kept = PictureCache::new(2, [1, 2], 11);
        let made = AtomicUsize::new(0);
        let get = |index| {
            let make = || Ok(vec![made.fetch_add(1, Ordering::Relaxed) as u8; 6]);
            kept.get(index, make).expect("made").to_vec()
        };
        assert_eq!([get(0), get(0)], [vec![0; 6], vec![0; 6]], "kept: there is room for one");
        assert_eq!([get(1), get(1)], [vec![1; 6], vec![2; 6]]);
        assert!(kept.get(1, || Err(crate::TrainError::Stopped)).is_err());
        assert_eq!(get(0), vec![0; 6]);
    }

    #[test]
    fn a_picture_made_twice_at_once_takes_one_place() {
        let kept = PictureCache::new(2, [1, 2], 12);
        // While one picture is made, another caller makes and keeps the same one.
        let both = kept.get(0, || {
            kept.get(0, || Ok(vec![1; 6])).expect("made");
            Ok(vec![2; 6])
        });
        assert_eq!(both.expect("made").to_vec(), vec![1; 6], "the one that was kept");
        kept.get(1, || Ok(vec![3; 6])).expect("made");
        let again = kept.get(1, || Err(crate::TrainError::Stopped)).expect("there is room for both");
        assert_eq!(again.to_vec(), vec![3; 6]);
    }
}
