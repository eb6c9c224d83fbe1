//! Atomic file writes, and the lock that keeps a second process out of a folder.
//!
//! A picture or a manifest is written to a temporary file, synced to the disk and then renamed, so
//! that a reader sees the whole file or none, after a kill or a power cut alike.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A failed file operation, with its action and path.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}")]
pub struct FileError {
    /// Action that failed, for example "write".
    pub action: &'static str,
    /// Path of the file or folder.
    pub path: PathBuf,
    /// What the operating system says.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// Returns what makes an I/O error on `path` a `FileError`, for `map_err`.
    pub fn new(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self { action, path, source }
    }

    /// Whether the disk, or the user's share of it, is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Writes `parts` one after the other to `temporary`, syncs it to the disk and renames it to
/// `target`, whose folder must be on the same file system. The rename itself is durable only after
/// [`sync_folder`].
///
/// # Errors
/// When the file cannot be written or renamed, for example because the disk is full.
pub fn write_whole(temporary: &Path, target: &Path, parts: &[&[u8]]) -> Result<(), FileError> {
    let written = (|| {
        let mut file = File::create(temporary)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.sync_data()?;
        fs::rename(temporary, target)
    })();
    written.map_err(|source| {
        // A full disk must not keep the unfinished file.
        let _ = fs::remove_file(temporary);
        FileError { action: "write", path: target.to_path_buf(), source }
    })
}

/// Syncs the names inside `folder` to the disk.
///
/// # Errors
/// When the folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> Result<(), FileError> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(FileError::new("sync", folder))
}

/// Creates `folder` and its missing parents; the new names are durable when it returns.
///
/// # Errors
/// When a folder cannot be created or synced.
pub fn create_folder(folder: &Path) -> Result<(), FileError> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_folder(parent)?;
    }
    match fs::create_dir(folder) {
        Ok(()) => parent.map_or(Ok(()), sync_folder),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(source) => Err(FileError { action: "create", path: folder.to_path_buf(), source }),
    }
}

/// Removes a file; `false` when it does not exist.
pub(crate) fn remove(path: &Path) -> Result<bool, FileError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(FileError { action: "delete", path: path.to_path_buf(), source }),
    }
}

/// Sets a damaged journal aside under the name `<name>.damaged`, logs and counts it. It must not
/// stop the start: what it guards is small, and an operator can look at it later.
pub(crate) fn set_aside(path: &Path, reason: &str) -> Result<(), FileError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".damaged");
    tracing::error!(path = %path.display(), reason, "a damaged journal is set aside as .damaged");
    metrics::counter!("sightline_index_damaged_journals_total").increment(1);
    fs::rename(path, &aside).map_err(FileError::new("set aside", path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Removes a folder with its contents, if it exists.
pub(crate) fn remove_folder(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(FileError::new("delete", path)),
    }
}

/// Renames a folder within the same file system; durable when it returns. It fails when a folder of
/// that name exists and is not empty.
pub(crate) fn rename_folder(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(FileError::new("rename", from))?;
    to.parent().into_iter().chain(from.parent()).try_for_each(sync_folder)
}

/// Returns the bytes that this user can still write to the file system of `folder`.
pub(crate) fn available(folder: &Path) -> Result<u64, FileError> {
    let room = rustix::fs::statvfs(folder).map_err(|e| FileError::new("measure", folder)(e.into()))?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

/// Lists the paths in a folder; empty when the folder is missing.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(FileError::new("read", folder))?,
    };
    entries.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>().map_err(FileError::new("read", folder))
}

/// Reads a whole file; `None` when it does not exist.
///
/// # Errors
/// When it exists and cannot be read.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match fs::read(path) {
        Ok(data) => Ok(Some(data)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError { action: "read", path: path.to_path_buf(), source }),
    }
}

/// Lock on a folder, either exclusive ([`DataLock::acquire`]) or shared by several processes
/// ([`DataLock::share`]), until the value is dropped. The operating system releases it when the
/// process dies for whatever reason, so a left-over lock file locks nobody out.
#[derive(Debug)]
pub struct DataLock {
    file: File,
}

impl DataLock {
    /// Locks `folder` exclusively (the file `lock` inside), and creates the folder when it is
    /// missing.
    ///
    /// # Errors
    /// When the folder is in use ([`io::ErrorKind::WouldBlock`]), or the file cannot be created.
    pub fn acquire(folder: &Path) -> Result<Self, FileError> {
        Self::lock(folder, File::try_lock)
    }

    /// Locks `folder` together with other sharing processes. On a file system without locks it
    /// succeeds and keeps nobody out.
    ///
    /// # Errors
    /// When another process has the exclusive lock, or the file cannot be created.
    pub fn share(folder: &Path) -> Result<Self, FileError> {
        Self::lock(folder, |file| match file.try_lock_shared() {
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => Ok(()),
            other => other,
        })
    }

    fn lock(folder: &Path, lock: impl FnOnce(&File) -> Result<(), TryLockError>) -> Result<Self, FileError> {
        create_folder(folder)?;
        let path = folder.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(FileError::new("open", &path))?;
        match lock(&file) {
            Ok(()) => Ok(Self { file }),
            Err(TryLockError::WouldBlock) => {
                let source = io::Error::new(io::ErrorKind::WouldBlock, "another running Sightline uses this folder");
                Err(FileError { action: "lock", path: folder.to_path_buf(), source })
            }
            Err(TryLockError::Error(source)) => Err(FileError { action: "lock", path, source }),
        }
    }
}

impl Drop for DataLock {
    fn drop(&mut self) {
        // Closing the file releases the lock as well; this only fixes the moment.
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_used_once_at_a_time() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let folder = dir.path().join("a/b");
        let first = DataLock::acquire(&folder).expect("free");
        let second = DataLock::acquire(&folder).expect_err("in use");
        assert_eq!(second.source.kind(), io::ErrorKind::WouldBlock);
        assert!(second.to_string().contains("another running Sightline"), "{second}");
        assert!(DataLock::share(&folder).is_err(), "in use");
        drop(first);
        let (one, two) = (DataLock::share(&folder).expect("free again"), DataLock::share(&folder).expect("shared"));
        assert!(DataLock::acquire(&folder).is_err(), "shared by others");
        drop((one, two));
        DataLock::acquire(&folder).expect("free once more");
    }

    #[test]
    fn a_file_is_whole_or_absent() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (temporary, target) = (dir.path().join("t"), dir.path().join("file"));
        assert_eq!(read(&target).expect("readable"), None);
        write_whole(&temporary, &target, &[b"ab", b"cd"]).expect("written");
        assert_eq!(read(&target).expect("readable").as_deref(), Some(&b"abcd"[..]));
        assert!(!temporary.exists());
        let nowhere = dir.path().join("missing/file");
        let error = write_whole(&temporary, &nowhere, &[b"x"]).expect_err("no such folder");
        assert!(error.to_string().contains("missing/file"), "{error}");
        assert!(!temporary.exists(), "the unfinished file is gone");
        assert!(remove(&target).expect("removed"));
        assert!(!remove(&target).expect("already gone"));
        assert!(available(dir.path()).expect("a file system") > 0);
        assert!(available(&nowhere).is_err());
    }
}
