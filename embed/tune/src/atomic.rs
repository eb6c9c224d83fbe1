//! Atomic writes: a file or folder is written next to its destination and then renamed to it.
//!
//! After a kill or on a full disk, the old content is still complete.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Result, TrainError};

/// Temporary path `.name.<process id>.part` in the same folder as `path`, so that renaming stays
/// within one file system.
fn part(path: &Path) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{}.part", std::process::id()))
}

/// Replaces the content of `path` with `bytes`.
///
/// # Errors
/// A file that cannot be written, such as on a full disk; the old file stays.
pub fn file(path: &Path, bytes: &[u8]) -> Result<()> {
    with(path, |part| fs::write(part, bytes).map_err(TrainError::io(path)))
}

/// Replaces `path` with the file that `write` writes to the path it is given.
///
/// # Errors
/// The error of `write`, or a folder that cannot be written to; the old file stays.
pub fn with(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let part = part(path);
    let moved = write(&part).and_then(|()| fs::rename(&part, path).map_err(TrainError::io(path)));
    if moved.is_err() {
        let _ = fs::remove_file(&part);
    }
    moved
}

/// Replaces `out` with a new folder that `fill` writes into. An existing folder is replaced only
/// with `force`, and only after `fill` has succeeded.
///
/// # Errors
/// A folder that exists (without `force`) or cannot be written, or the error of `fill`; `out` stays
/// unchanged.
pub fn folder(out: &Path, force: bool, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if out.exists() && !force {
        return Err(TrainError::content(out, "it exists already; --force replaces it"));
    }
    if let Some(above) = out.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(above).map_err(TrainError::io(above))?;
    }
    let part = part(out);
    let _ = fs::remove_dir_all(&part);
    fs::create_dir(&part).map_err(TrainError::io(out))?;
    let done = fill(&part).and_then(|()| replace(&part, out, &part.with_extension("old")));
    if done.is_err() {
        let _ = fs::remove_dir_all(&part);
    }
    done
}

/// Renames the folder `part` to `out`. Between the two renames the old folder is at `old`; a kill
/// at that moment leaves it there.
///
/// # Errors
/// A folder that cannot be renamed; `out` stays.
pub fn replace(part: &Path, out: &Path, old: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(old);
    if out.exists() {
        fs::rename(out, old).map_err(TrainError::io(out))?;
    }
    if let Err(e) = fs::rename(part, out) {
        let _ = fs::rename(old, out);
        return Err(TrainError::io(out)(e));
    }
    let _ = fs::remove_dir_all(old);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_or_not_at_all() {
        let place = tempfile::tempdir().expect("a folder");
        let out = place.path().join("a/model");
        let write = |text: &'static str| move |to: &Path| fs::write(to.join("x"), text).map_err(TrainError::io(to));
        folder(&out, false, write("one")).expect("new");
        assert!(folder(&out, false, write("two")).expect_err("it exists").to_string().contains("--force"));
        let failed = folder(&out, true, |to| Err(TrainError::content(to, "no")));
        assert!(failed.is_err());
        assert_eq!(fs::read(out.join("x")).expect("the first one"), b"one");
        folder(&out, true, write("two")).expect("forced");
        assert_eq!(fs::read(out.join("x")).expect("the second one"), b"two");
        file(&out.join("x"), b"three").expect("written");
        assert_eq!(fs::read(out.join("x")).expect("the third one"), b"three");
        let left: Vec<_> = fs::read_dir(place.path().join("a")).expect("a folder").collect();
        assert_eq!(left.len(), 1, "nothing is left beside it");
        assert!(file(&place.path().join("no/such/x"), b"").is_err());
    }
}
