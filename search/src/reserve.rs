//! Reserve of disk space: a file of 16 MB in the data folder that is emptied when the disk is full,
//! so that an erasure and its audit record can still be written. Erasing makes room; refusing it
//! for want of room would be a trap.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::files;

/// Size of the reserve in bytes: thousands of tombstones, and as many audit records.
const SIZE: u64 = 16 << 20;

/// Free space beside the reserve that must be left when it is filled, in bytes.
const MARGIN: u64 = 4 * SIZE;

/// The reserve of a data folder. The file is the only state, so any number of values may stand for
/// the same one.
#[derive(Clone, Debug)]
pub struct DiskReserve {
    path: PathBuf,
}

impl DiskReserve {
    /// Names the reserve of this data folder without creating it.
    pub fn of(data: &Path) -> Self {
        Self { path: data.join("reserve") }
    }

    /// Fills the reserve if it is not full and the disk has room for much more. A failure is logged:
    /// a service without a reserve works until the disk is full.
    pub fn fill(&self) {
        let folder = self.path.parent().unwrap_or(&self.path);
        let full = std::fs::metadata(&self.path).is_ok_and(|m| m.len() == SIZE);
        if full || files::available(folder).is_ok_and(|room| room < SIZE + MARGIN) {
            return;
        }
        if let Err(error) = self.write() {
            tracing::warn!(path = %self.path.display(), %error, "no disk space is set aside for erasures");
            drop(OpenOptions::new().write(true).open(&self.path).and_then(|file| file.set_len(0)));
        }
    }

    /// Fills the reserve again if it was set aside at the start and released since.
    pub fn refill(&self) {
        if self.path.exists() {
            self.fill();
        }
    }

    /// Writes real bytes: a sparse file would set nothing aside.
    fn write(&self) -> io::Result<()> {
        let mut file = File::create(&self.path)?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..SIZE >> 20 {
            file.write_all(&zeros)?;
        }
        file.sync_all()
    }

    /// Empties the reserve; `false` when there was nothing in it.
    pub fn release(&self) -> bool {
        let empty = |file: File| {
            let held = file.metadata()?.len();
            file.set_len(0)?;
            file.sync_all()?;
            Ok::<_, io::Error>(held > 0)
        };
        let released = OpenOptions::new().write(true).open(&self.path).and_then(empty).unwrap_or(false);
        if released {
            metrics::counter!("sightline_index_disk_reserve_releases_total").increment(1);
            tracing::warn!(path = %self.path.display(), "the disk is full; the space set aside for erasures is released");
        }
        released
    }
}

/// Repeats `write` once after releasing the reserve, if the disk is full.
pub(crate) fn with_reserve<T, E>(
    data: &Path,
    is_full: impl Fn(&E) -> bool,
    mut write: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    match write() {
        Err(error) if is_full(&error) && DiskReserve::of(data).release() => write(),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_released_once_and_filled_again() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let reserve = DiskReserve::of(dir.path());
        assert!(!reserve.release(), "nothing is set aside yet");
        let size = || std::fs::metadata(dir.path().join("reserve")).expect("there").len();
        reserve.fill();
        assert_eq!(size(), SIZE);
        assert!(reserve.release() && size() == 0 && !reserve.release());
        reserve.fill();
        assert_eq!(size(), SIZE);
    }

    #[test]
    fn a_write_is_repeated_with_the_released_space() {
        let dir = tempfile::tempdir().expect("temporary folder");
        DiskReserve::of(dir.path()).fill();
        let mut attempts = 0;
        let mut full_once = || {
            attempts += 1;
            if attempts == 1 { Err(io::ErrorKind::StorageFull) } else { Ok(attempts) }
        };
        let full = |e: &io::ErrorKind| *e == io::ErrorKind::StorageFull;
        assert_eq!(with_reserve(dir.path(), full, &mut full_once), Ok(2));
        let never = || Err::<(), _>(io::ErrorKind::StorageFull);
        assert_eq!(with_reserve(dir.path(), full, never), Err(io::ErrorKind::StorageFull), "the reserve is used up");
    }
}
