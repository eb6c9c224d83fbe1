//! State that must survive a restart besides vectors and pictures: cameras, access tokens and the
//! audit trail, in one SQLite file in the data folder.
//!
//! One connection writes and a few read. Write-ahead logging lets them work side by side, and lets
//! `sightline token ...` use the file while the server runs. Only the owner may read the file,
//! because camera addresses hold passwords.

mod anchor;
mod audit;
mod cameras;
mod erasures;
mod notes;
mod readers;
mod role;
mod schema;
mod token_cache;
mod token_changes;
mod tokens;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

use rusqlite::Connection;
use sightline_search::DiskReserve;

use audit::Trail;
use notes::Notes;
use readers::Readers;
use token_cache::TokenCache;

pub use anchor::FILE as ANCHOR_FILE;
pub use audit::{AuditEntry, AuditRecord};
pub use cameras::{CameraRow, CameraSource, Erasure};
pub use erasures::{ErasureJob, ErasureReceipt, Expiry, JobState, NewErasureJob};
pub use role::Role;
pub use token_changes::new_secret;
pub use tokens::{NewToken, START_TOKEN_ID, TokenRow, hash_token};
pub use verify::Verdict;

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
        /// `state.db`, or the folder that it should be in.
        path: PathBuf,
        /// What the operating system or SQLite says.
        why: String,
    },
    /// There is no database, and the caller must not create one.
    #[error(
        "there is no data of Sightline in {folder} (state.db is missing): name the server's data folder with --data, or \
         start the server once"
    )]
    Missing {
        /// Folder in which `state.db` was looked for.
        folder: PathBuf,
    },
    /// The file was written by a newer version.
    #[error("the state database has layout {found}, this version knows {known}: use the newer Sightline")]
    TooNew {
        /// Layout version of the file.
        found: i64,
        /// Newest layout version that this build knows.
        known: i64,
    },
    /// SQLite failed: the disk is full, or the file is locked or damaged.
    #[error("SQLite: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A stored value cannot be read.
    #[error("stored {what} cannot be read: {why}")]
    Corrupt {
        /// Kind of value: camera, token, erasure.
        what: &'static str,
        /// What does not fit.
        why: String,
    },
    /// The head of the audit trail cannot be anchored.
    #[error("the anchor of the audit trail (audit.head) cannot be written: {0}")]
    Anchor(std::io::Error),
    /// No token of this id works.
    #[error("there is no token of this id that still works")]
    NoToken,
    /// The change would leave no token that works and may administer the server.
    #[error("no other token of an administrator works")]
    LastAdmin,
    /// The blocking task was cancelled because the process stops.
    #[error("the process is stopping")]
    Stopping,
}

/// Open database; clones share it. What is noted and not yet recorded is written when the last
/// clone is dropped.
#[derive(Clone)]
pub struct State {
    inner: Arc<Inner>,
}

struct Inner {
    writer: Mutex<Connection>,
    readers: Readers,
    trail: Trail,
    notes: Mutex<Notes>,
    tokens: TokenCache,
    /// Disk space for audit records and erasures.
    reserve: DiskReserve,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.flush(true) {
            tracing::error!(%error, "the last audit records are lost");
        }
    }
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
        let trail = Trail::new(folder);
        // The records of a layout without anchor are taken as they are.
        if !schema::has_table(&conn, "audit_base")? {
            schema::migrate(&mut conn)?;
            trail.anchor_now(&conn)?;
        }
        schema::migrate(&mut conn)?;
        let inner = Inner {
            writer: Mutex::new(conn),
            readers: Readers::new(path),
            trail,
            notes: Mutex::default(),
            tokens: TokenCache::default(),
            reserve: DiskReserve::of(folder),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Opens `state.db` in `folder` if it is there.
    ///
    /// # Errors
    /// [`StateError::Missing`], or as [`State::open`].
    pub fn open_existing(folder: &Path) -> Result<Self, StateError> {
        match folder.join(FILE).try_exists() {
            Ok(false) => Err(StateError::Missing { folder: folder.to_owned() }),
            _ => Self::open(folder),
        }
    }

    /// Runs `work` on the writing connection and blocks the calling thread. What only reads belongs
    /// to [`State::read`].
    ///
    /// # Errors
    /// The errors of `work`.
    pub fn with<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T, StateError>) -> Result<T, StateError> {
        self.inner.with(work)
    }

    /// Runs `work` on a reading connection and blocks the calling thread. A writer is not waited
    /// for, and does not wait.
    ///
    /// # Errors
    /// The errors of `work`.
    pub fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, StateError>) -> Result<T, StateError> {
        self.inner.readers.with(work)
    }

    /// Runs `work` on the writing connection if nobody else uses it at the moment.
    fn try_with<T>(&self, work: impl FnOnce(&mut Connection) -> T) -> Option<T> {
        match self.inner.writer.try_lock() {
            Ok(mut conn) => Some(work(&mut conn)),
            Err(TryLockError::Poisoned(conn)) => Some(work(&mut conn.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Returns the disk space that is set aside for audit records and erasures.
    pub fn reserve(&self) -> &DiskReserve {
        &self.inner.reserve
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

impl Inner {
    fn with<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T, StateError>) -> Result<T, StateError> {
        // rusqlite rolls an open transaction back when its guard is dropped, so a poisoned lock is
        // still consistent.
        work(&mut self.writer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// As [`Inner::with`], for what must be written when the disk is full: an audit record, an
    /// erasure. `work` is repeated once after the reserve is released.
    fn with_reserve<T>(&self, mut work: impl FnMut(&mut Connection) -> Result<T, StateError>) -> Result<T, StateError> {
        match self.with(&mut work) {
            Err(StateError::Sqlite(e))
                if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) && self.reserve.release() =>
            {
                self.with(work)
            }
            done => done,
        }
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
    fn reading_goes_on_while_somebody_writes() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = State::open(dir.path()).expect("opens");
        let cameras = state
            .with(|c| {
                let tx = c.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
                tx.execute("DELETE FROM tokens", [])?;
                // One writer at a time: on the writing connection this would wait for ever.
                let cameras =
                    state.read(|c| Ok(c.query_row("SELECT count(*) FROM cameras", [], |r| r.get::<_, i64>(0))?));
                tx.commit()?;
                cameras
            })
            .expect("read");
        assert_eq!(cameras, 0);
        assert!(state.read(|c| Ok(c.execute("DELETE FROM tokens", [])?)).is_err(), "readers only read");
    }

    #[test]
    fn a_missing_database_is_not_made_by_accident() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let wrong = dir.path().join("wrong");
        let refused = State::open_existing(&wrong).err().expect("refused").to_string();
        assert!(refused.contains("--data") && refused.contains("wrong"), "{refused}");
        assert!(!wrong.exists());
        drop(State::open(dir.path()).expect("made"));
        assert!(State::open_existing(dir.path()).is_ok());
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
