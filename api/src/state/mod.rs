//! What must survive a restart besides vectors and pictures: cameras, access tokens and the audit trail, in one SQLite
//! file in the data folder.
//!
//! Write-ahead logging lets `sightline token ...` work on the file while the server runs. The file is readable by its
//! owner alone: camera addresses hold passwords.

mod audit;
mod cameras;
mod schema;
mod tokens;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

pub use audit::{AuditEntry, AuditRecord, Verdict};
pub use cameras::{CameraRow, CameraSource, Erasure};
pub use tokens::{NewToken, Role, TokenRow, hash_token, new_secret};

/// Name of the file in the data folder.
pub const FILE: &str = "state.db";

/// How long a statement waits for another process that is writing.
const BUSY: Duration = Duration::from_secs(5);

/// Why the state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The folder or file cannot be made or opened.
    #[error("cannot open {path}: {why}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The file was written by a newer version.
    #[error("the state database has layout {found}, this version knows {known}: use the newer Sightline")]
    TooNew {
        /// Layout in the file.
        found: i64,
        /// Newest layout known here.
        known: i64,
    },
    /// SQLite refused.
    #[error("SQLite: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A stored value cannot be read back.
    #[error("stored {what} cannot be read: {why}")]
    Corrupt {
        /// Which value.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// The blocking task was cancelled because the process stops.
    #[error("the process is stopping")]
    Stopping,
}

/// The open database. Cloning shares it.
#[derive(Clone)]
pub struct State {
    conn: Arc<Mutex<Connection>>,
}

impl State {
    /// Opens (and on first use creates) `state.db` in `folder`.
    ///
    /// # Errors
    /// An unusable folder, a file that is not a database, or one of a newer layout.
    pub fn open(folder: &Path) -> Result<Self, StateError> {
        let path = folder.join(FILE);
        let failed = |why: String| StateError::Open { path: path.clone(), why };
        std::fs::create_dir_all(folder).map_err(|e| failed(e.to_string()))?;
        let mut conn = Connection::open(&path).map_err(|e| failed(e.to_string()))?;
        owner_only(&path).map_err(|e| failed(e.to_string()))?;
        conn.busy_timeout(BUSY)?;
        // The first statement that reads the file tells whether it is a database at all.
        conn.pragma_update(None, "journal_mode", "WAL").map_err(|e| failed(e.to_string()))?;
        conn.pragma_update(None, "synchronous", "FULL")?;
        conn.pragma_update(None, "foreign_keys", true)?;
        schema::migrate(&mut conn)?;
        Ok(Self { conn: Arc::new(Mutex::new(conn)) })
    }

    /// Runs `work` on the connection, blocking the calling thread.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn with<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T, StateError>) -> Result<T, StateError> {
        // rusqlite rolls an open transaction back when its guard is dropped, so a poisoned lock is still sound.
        work(&mut self.conn.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs `work` on a thread that may block, for callers in async code.
    ///
    /// # Errors
    /// Those of `work`, or [`StateError::Stopping`].
    pub async fn run<T, F>(&self, work: F) -> Result<T, StateError>
    where
        T: Send + 'static,
        F: FnOnce(&Self) -> Result<T, StateError> + Send + 'static,
    {
        let state = self.clone();
        tokio::task::spawn_blocking(move || work(&state)).await.map_err(|_| StateError::Stopping)?
    }
}

/// Makes a file readable and writable by its owner alone.
///
/// # Errors
/// When the file system refuses.
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
    fn a_newer_layout_is_refused() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = State::open(dir.path()).expect("opens");
        state.with(|c| Ok(c.pragma_update(None, "user_version", 999)?)).expect("written");
        drop(state);
        assert!(matches!(State::open(dir.path()).err(), Some(StateError::TooNew { found: 999, .. })));
    }
}
