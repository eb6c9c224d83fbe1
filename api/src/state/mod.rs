//! State that must survive a restart besides vectors and pictures: cameras, access tokens and the
//! audit trail, in one SQLite file in the data folder.
//!
//! Write-ahead logging lets `sightline token ...` use the file while the server runs. Only the
//! owner may read the file, because camera addresses hold passwords.

mod audit;
mod cameras;
mod erasures;
mod schema;
mod tokens;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use sightline_search::DiskReserve;

pub use audit::{AuditEntry, AuditRecord, Verdict};
pub use cameras::{CameraRow, CameraSource, Erasure};
pub use erasures::{ErasureJob, ErasureReceipt, Expiry, JobState, NewErasureJob};
pub use tokens::{NewToken, Role, TokenRow, hash_token, new_secret};

/// Name of the database file in the data folder.
pub const FILE: &str = "state.db";

/// Longest wait of a statement for another writing process.
const BUSY: Duration = Duration::from_secs(5);

/// Reason why the state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The folder or file cannot be created or opened.
    #[error("cannot open {path}: {why}")]
    Open {
        /// Path of the file.
        path: PathBuf,
        /// Cause.
        why: String,
    },
    /// The file was written by a newer version.
    #[error("the state database has layout {found}, this version knows {known}: use the newer Sightline")]
    TooNew {
        /// Layout version of the file.
        found: i64,
        /// Newest layout version that this build knows.
        known: i64,
    },
    /// SQLite failed.
    #[error("SQLite: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A stored value cannot be read.
    #[error("stored {what} cannot be read: {why}")]
    Corrupt {
        /// Name of the value.
        what: &'static str,
        /// Cause.
        why: String,
    },
    /// The blocking task was cancelled because the process stops.
    #[error("the process is stopping")]
    Stopping,
}

/// Open database; clones share it.
#[derive(Clone)]
pub struct State {
    conn: Arc<Mutex<Connection>>,
    /// Disk space for audit records and erasures.
    reserve: DiskReserve,
}

impl State {
    /// Opens `state.db` in `folder`, and creates it on first use.
    ///
    /// # Errors
    /// When the folder is unusable, the file is not a database, or it has a newer layout.
    pub fn open(folder: &Path) -> Result<Self, StateError> {
        let path = folder.join(FILE);
        let failed = |why: String| StateError::Open { path: path.clone(), why };
        std::fs::create_dir_all(folder).map_err(|e| failed(e.to_string()))?;
        let mut conn = Connection::open(&path).map_err(|e| failed(e.to_string()))?;
        owner_only(&path).map_err(|e| failed(e.to_string()))?;
        conn.busy_timeout(BUSY)?;
        // The first statement that reads the file shows whether it is a database.
        conn.pragma_update(None, "journal_mode", "WAL").map_err(|e| failed(e.to_string()))?;
        conn.pragma_update(None, "synchronous", "FULL")?;
        conn.pragma_update(None, "foreign_keys", true)?;
        schema::migrate(&mut conn)?;
        Ok(Self { conn: Arc::new(Mutex::new(conn)), reserve: DiskReserve::of(folder) })
    }

    /// Runs `work` on the connection and blocks the calling thread.
    ///
    /// # Errors
    /// The errors of `work`.
    pub fn with<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T, StateError>) -> Result<T, StateError> {
        // rusqlite rolls an open transaction back when its guard is dropped, so a poisoned lock is
        // still consistent.
        work(&mut self.conn.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the disk space that is set aside for audit records and erasures.
    pub fn reserve(&self) -> &DiskReserve {
        &self.reserve
    }

    /// As [`State::with`], for what must be written when the disk is full: an audit record, an
    /// erasure. `work` is repeated once after the reserve is released.
    pub(super) fn with_reserve<T>(
        &self,
        mut work: impl FnMut(&mut Connection) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        match self.with(&mut work) {
            Err(StateError::Sqlite(e))
                if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) && self.reserve.release() =>
            {
                self.with(work)
            }
            done => done,
        }
    }

    /// Runs `work` on a thread of the blocking pool, for async callers.
    ///
    /// # Errors
    /// The errors of `work`, or [`StateError::Stopping`].
    pub async fn run<T, F>(&self, work: F) -> Result<T, StateError>
    where
        T: Send + 'static,
        F: FnOnce(&Self) -> Result<T, StateError> + Send + 'static,
    {
        let state = self.clone();
        tokio::task::spawn_blocking(move || work(&state)).await.map_err(|_| StateError::Stopping)?
    }
}

/// Makes a file readable and writable by its owner only.
///
/// # Errors
/// When the file system fails.
pub fn owner_only(path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_database_is_named() {
        let dir = tempfile::tempdir().expect("temporary folder");
        std::fs::write(dir.path().join(FILE), vec![7u8; 4096]).expect("writable");
        let e = State::open(dir.path()).err().expect("refused").to_string();
        assert!(e.contains(FILE) && e.contains("not a database"), "{e}");
    }

    #[test]
    fn the_file_is_private_and_opens_twice() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let first = State::open(dir.path()).expect("opens");
        let second = State::open(dir.path()).expect("opens again while the first is open");
        drop((first, second));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(dir.path().join(FILE)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_full_disk_releases_the_reserve_for_an_audit_record() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = State::open(dir.path()).expect("opens");
        DiskReserve::of(dir.path()).fill();
        let size = || std::fs::metadata(dir.path().join("reserve")).expect("there").len();
        assert_eq!(size(), 16 << 20);
        // SQLite reports this limit as a full disk.
        state.with(|c| Ok(c.pragma_update(None, "max_page_count", 1)?)).expect("limited");
        let detail = serde_json::json!({ "query": "x".repeat(100_000) });
        let entry = AuditEntry { who: "desk".into(), action: "search", purpose: None, detail };
        let error = state.record(&entry).expect_err("the limit stays").to_string();
        assert!(error.contains("full"), "{error}");
        assert_eq!(size(), 0, "it was released, and the record tried again");
        state.with(|c| Ok(c.pragma_update(None, "max_page_count", 1_000_000)?)).expect("there is room again");
        assert_eq!(state.record(&entry).expect("recorded"), 1);
    }

    #[test]
    fn a_newer_layout_is_refused() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = State::open(dir.path()).expect("opens");
        state.with(|c| Ok(c.pragma_update(None, "user_version", 999)?)).expect("written");
        drop(state);
        assert!(matches!(State::open(dir.path()).err(), Some(StateError::TooNew { found: 999, .. })));
    }
}
