//! Pictures that are made at their first use and kept as bytes at the model's size, up to a memory limit; those beyond the
//! limit are made at every use.

use std::borrow::Cow;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Result;

/// RGB bytes of pictures by number.
pub(crate) struct KeptPictures {
    kept: Vec<OnceLock<Box<[u8]>>>,
    /// How many more may be kept.
    room: AtomicUsize,
}

impl KeptPictures {
    /// `count` pictures of `size` (height, width), which may take `memory` bytes.
    pub fn new(count: usize, [height, width]: [usize; 2], memory: usize) -> Self {
        let kept = (0..count).map(|_| OnceLock::new()).collect();
        Self { kept, room: AtomicUsize::new(memory / (height * width * 3).max(1)) }
    }

    /// Picture `index`, by `make` unless it is kept.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn get(&self, index: usize, make: impl FnOnce() -> Result<Vec<u8>>) -> Result<Cow<'_, [u8]>> {
        if let Some(bytes) = self.kept[index].get() {
            return Ok(Cow::Borrowed(bytes));
        }
        let bytes = make()?;
        let fits = self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(1)).is_ok();
        if fits { Ok(Cow::Borrowed(self.kept[index].get_or_init(|| bytes.into()))) } else { Ok(Cow::Owned(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_beyond_the_limit_are_made_again() {
        let kept = KeptPictures::new(2, [1, 2], 11);
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
}
