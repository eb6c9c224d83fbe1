//! The outbox: records that wait for the broker, in a SQLite database on this machine's disk.
//!
//! Records are read in the order in which they were pushed, and acknowledged in any order. After a
//! restart every record that was not acknowledged is read again, so readers must tolerate
//! duplicates (Sightline's deterministic ids make a duplicate an overwrite). A killed process loses
//! no record, since each commit reaches the operating system at once (write-ahead log); a power
//! failure loses what the system had not written yet.
//!
//! SQLite detects damage to its own structure, but not to a record's bytes, so every record has a
//! checksum: a record that was changed on disk is skipped and counted. A database that can no
//! longer be used is set aside, and the records that can still be read are copied.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, params};
use sightline_core::Timestamp;

/// File name of the database. SQLite puts `-wal` and `-shm` beside it.
const FILE: &str = "outbox.db";
/// Suffixes of SQLite's files.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];
/// Bytes that a record needs besides camera and payload: its row, and its share of the pages.
const ROW_BYTES: u64 = 64;
/// Number of unused pages (of 4 KiB) from which an empty outbox returns them to the file system.
const GIVE_BACK_PAGES: i64 = 2048;

/// Why an operation on the outbox failed.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// There is no room; the record was not stored.
    #[error("the outbox is full: {bytes} of {limit} bytes")]
    Full {
        /// Bytes held.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The database reported an error.
    #[error("outbox {path}: {source}")]
    Database {
        /// The folder.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A file or folder operation failed.
    #[error("outbox {path}: {source}")]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl OutboxError {
    /// Whether the database itself is damaged, so that a retry cannot help.
    pub fn is_damage(&self) -> bool {
        let Self::Database { source, .. } = self else { return false };
        matches!(source.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
    }
}

pub(super) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> OutboxError + '_ {
    move |source| OutboxError::Io { path: path.to_owned(), source }
}

fn database_error(folder: &Path) -> impl FnOnce(rusqlite::Error) -> OutboxError + '_ {
    move |source| OutboxError::Database { path: folder.to_owned(), source }
}

/// When, and in which placement epoch, a record of a placed camera was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacementStamp {
    /// The epoch in which this node took the camera.
    pub epoch: i64,
    /// When the record was written, by this machine's clock.
    pub recorded_at: Timestamp,
}

/// A record that waits for the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Id, which is also the order of the records in this outbox.
    pub id: i64,
    /// The camera's id: the key on the bus.
    pub camera: String,
    /// The message as it is sent over the bus.
    pub payload: Vec<u8>,
    /// `None`: the camera is the node's own, and nobody else runs it.
    pub placed: Option<PlacementStamp>,
}

/// Result of [`Outbox::take`].
#[derive(Debug, Default)]
pub struct Taken {
    /// Sound records, oldest first.
    pub records: Vec<StoredRecord>,
    /// Number of records that were changed on disk; they are deleted.
    pub damaged: u64,
}

/// The records of one camera node, for one thread at a time.
#[derive(Debug)]
pub struct Outbox {
    folder: PathBuf,
    database: Connection,
    limit: u64,
    /// Bytes of all records.
    bytes: u64,
    /// Number of all records.
    waiting: u64,
    /// Id of the last record that was read.
    read_to: i64,
    /// Records that could not be read when the outbox was opened.
    lost: u64,
}

impl Outbox {
    /// Opens the outbox in `folder` (created if missing), limited to `limit` bytes.
    ///
    /// # Errors
    /// A folder or a database that cannot be read or written.
    pub fn open(folder: &Path, limit: u64) -> Result<Self, OutboxError> {
        std::fs::create_dir_all(folder).map_err(io_error(folder))?;
        match Self::connect(folder, limit) {
            Err(error) if error.is_damage() => Self::salvage(folder, limit, None),
            opened => opened,
        }
    }

    fn connect(folder: &Path, limit: u64) -> Result<Self, OutboxError> {
        let prepared = || -> rusqlite::Result<(Connection, u64, u64)> {
            let database = Connection::open(folder.join(FILE))?;
            // SQLite applies `auto_vacuum` to an empty database only.
            database.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
            database.pragma_update(None, "journal_mode", "WAL")?;
            database.pragma_update(None, "synchronous", "NORMAL")?;
            // Ids are never reused, so every new record has a larger id than those already read.
            database.execute_batch(
                "CREATE TABLE IF NOT EXISTS records (
                     id INTEGER PRIMARY KEY AUTOINCREMENT,
                     camera TEXT NOT NULL,
                     payload BLOB NOT NULL,
                     checksum INTEGER NOT NULL,
                     epoch INTEGER,
                     recorded_at INTEGER
                 )",
            )?;
            add_missing_columns(&database)?;
            let sums = "SELECT count(*), coalesce(sum(length(camera) + length(payload)), 0) FROM records";
            let (count, bytes) =
                database.query_row(sums, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
            let (count, bytes) = (count.unsigned_abs(), bytes.unsigned_abs());
            Ok((database, count, bytes + count * ROW_BYTES))
        };
        let (database, waiting, bytes) = prepared().map_err(database_error(folder))?;
        Ok(Self { folder: folder.to_owned(), database, limit, bytes, waiting, read_to: 0, lost: 0 })
    }

    /// Sets the database aside and starts a new one from the records that can still be read.
    /// `known` is the number of records it held, if known.
    fn salvage(folder: &Path, limit: u64, known: Option<u64>) -> Result<Self, OutboxError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let aside = format!("damaged-{now}.db");
        for suffix in SUFFIXES {
            let (from, to) = (folder.join(format!("{FILE}{suffix}")), folder.join(format!("{aside}{suffix}")));
            match std::fs::rename(&from, to) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error(&from)(e)),
                _ => {}
            }
        }
        let mut new = Self::connect(folder, limit)?;
        let aside = folder.join(aside);
        // Reading stops at the first error: what follows cannot be told from damage.
        let counted = new.copy_readable(&aside).ok().flatten();
        new.lost = known.or(counted).unwrap_or(new.waiting + 1).saturating_sub(new.waiting).max(1);
        tracing::error!(
            kept = new.waiting,
            lost = new.lost,
            set_aside = %aside.display(),
            "the outbox was damaged on disk; what could be read of it is kept"
        );
        Ok(new)
    }

    /// Copies the records of the database `from` up to the first unreadable one. Returns how many
    /// records `from` held, if that can be read.
    fn copy_readable(&mut self, from: &Path) -> Result<Option<u64>, OutboxError> {
        let database = Connection::open(from).map_err(database_error(from))?;
        // An error says that reading will fail, too.
        let _ = add_missing_columns(&database);
        let counted = database.query_row("SELECT count(*) FROM records", [], |row| row.get::<_, i64>(0)).ok();
        let mut statement = database.prepare(ALL_FROM).map_err(database_error(from))?;
        let mut rows = statement.query(params![0, i64::MAX]).map_err(database_error(from))?;
        while let Ok(Some(row)) = rows.next() {
            if let Ok((record, true)) = read(row) {
                self.push_beyond_limit(&record.camera, &record.payload, record.placed)?;
            }
        }
        Ok(counted.map(i64::unsigned_abs))
    }

    /// Recovers from damage found while the outbox is open: sets the database aside and keeps the
    /// records that can be read. Returns the number of lost records.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn recover(&mut self) -> Result<u64, OutboxError> {
        // The files can be moved only when nobody has them open.
        let nothing = Connection::open_in_memory().map_err(database_error(&self.folder))?;
        drop(std::mem::replace(&mut self.database, nothing));
        *self = Self::salvage(&self.folder, self.limit, Some(self.waiting))?;
        Ok(std::mem::take(&mut self.lost))
    }

    /// Returns and resets the number of records that could not be read when the outbox was opened.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Number of records that are not acknowledged yet.
    pub fn len(&self) -> u64 {
        self.waiting
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Bytes of the records. The database itself is larger by a few per cent and keeps its largest
    /// size until the outbox is empty.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends a record.
    ///
    /// # Errors
    /// [`OutboxError::Full`] when the record does not fit and was not stored, or an error of the
    /// database.
    pub fn push(&mut self, camera: &str, payload: &[u8], placed: Option<PlacementStamp>) -> Result<(), OutboxError> {
        if self.bytes + record_bytes(camera, payload) > self.limit {
            return Err(OutboxError::Full { bytes: self.bytes, limit: self.limit });
        }
        self.push_beyond_limit(camera, payload, placed)
    }

    /// Appends a record whatever the limit: one that is taken over from elsewhere.
    ///
    /// # Errors
    /// The database's.
    pub(super) fn push_beyond_limit(
        &mut self,
        camera: &str,
        payload: &[u8],
        placed: Option<PlacementStamp>,
    ) -> Result<(), OutboxError> {
        let insert = "INSERT INTO records (camera, payload, checksum, epoch, recorded_at) VALUES (?1, ?2, ?3, ?4, ?5)";
        let (epoch, recorded_at) = (placed.map(|p| p.epoch), placed.map(|p| p.recorded_at.as_micros()));
        let checksum = i64::from(crc32fast::hash(payload));
        let mut statement = self.database.prepare_cached(insert).map_err(database_error(&self.folder))?;
        statement
            .execute(params![camera, payload, checksum, epoch, recorded_at])
            .map_err(database_error(&self.folder))?;
        self.bytes += record_bytes(camera, payload);
        self.waiting += 1;
        Ok(())
    }

    /// The next records, oldest first: at most `max_records`, and about `bytes` bytes (at least one
    /// record if there is any). A record is returned once, unless [`Outbox::rewind`] is called.
    /// After an error no record counts as read.
    ///
    /// # Errors
    /// The database's.
    pub fn take(&mut self, max_records: usize, bytes: usize) -> Result<Taken, OutboxError> {
        let (mut taken, mut damaged, mut sum, mut read_to) = (Taken::default(), Vec::new(), 0, self.read_to);
        {
            let failed = |source| OutboxError::Database { path: self.folder.clone(), source };
            let mut statement = self.database.prepare_cached(ALL_FROM).map_err(failed)?;
            let max_records = i64::try_from(max_records).unwrap_or(i64::MAX);
            let mut rows = statement.query(params![self.read_to, max_records]).map_err(failed)?;
            while (taken.records.is_empty() || sum < bytes)
                && let Some(row) = rows.next().map_err(failed)?
            {
                let (record, sound) = read(row).map_err(failed)?;
                read_to = record.id;
                if sound {
                    sum += record.payload.len();
                    taken.records.push(record);
                } else {
                    damaged.push(record.id);
                }
            }
        }
        if !damaged.is_empty() {
            self.acknowledge(&damaged)?;
            taken.damaged = damaged.len() as u64;
        }
        self.read_to = read_to;
        Ok(taken)
    }

    /// Deletes the records `ids`, which the broker has acknowledged. Unknown ids are ignored.
    ///
    /// # Errors
    /// The database's; then no record is deleted.
    pub fn acknowledge(&mut self, ids: &[i64]) -> Result<(), OutboxError> {
        let delete = "DELETE FROM records WHERE id = ?1 RETURNING length(camera) + length(payload)";
        let deleted = || -> rusqlite::Result<(u64, u64)> {
            let transaction = self.database.unchecked_transaction()?;
            let (mut count, mut bytes) = (0, 0);
            {
                let mut statement = transaction.prepare_cached(delete)?;
                for id in ids {
                    for size in statement.query_map([id], |row| row.get::<_, i64>(0))? {
                        count += 1;
                        bytes += size?.unsigned_abs() + ROW_BYTES;
                    }
                }
            }
            transaction.commit()?;
            Ok((count, bytes))
        };
        let (count, bytes) = deleted().map_err(database_error(&self.folder))?;
        self.waiting = self.waiting.saturating_sub(count);
        self.bytes = self.bytes.saturating_sub(bytes);
        if self.is_empty() {
            self.give_back_space().map_err(database_error(&self.folder))?;
        }
        Ok(())
    }

    /// Shrinks the file of an empty outbox.
    fn give_back_space(&self) -> rusqlite::Result<()> {
        let unused: i64 = self.database.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
        if unused < GIVE_BACK_PAGES {
            return Ok(());
        }
        // Every step gives one page back.
        let mut vacuum = self.database.prepare("PRAGMA incremental_vacuum")?;
        let mut steps = vacuum.query([])?;
        while steps.next()?.is_some() {}
        drop(steps);
        drop(vacuum);
        self.database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    /// Makes [`Outbox::take`] start again at the oldest record that is not acknowledged.
    pub fn rewind(&mut self) {
        self.read_to = 0;
    }

    /// Moves all records of `other` here, whatever the limit; returns their number. They are
    /// deleted there once all of them are stored here.
    ///
    /// # Errors
    /// Either database's.
    pub fn take_over(&mut self, mut other: Self) -> Result<u64, OutboxError> {
        other.rewind();
        let mut ids = Vec::new();
        loop {
            let taken = other.take(512, 1 << 20)?;
            self.lost += taken.damaged;
            if taken.records.is_empty() && taken.damaged == 0 {
                break;
            }
            for record in taken.records {
                self.push_beyond_limit(&record.camera, &record.payload, record.placed)?;
                ids.push(record.id);
            }
        }
        self.lost += other.take_lost();
        other.acknowledge(&ids)?;
        Ok(ids.len() as u64)
    }

    /// Adds records that could not be taken over to the number of lost records.
    pub(super) fn note_lost(&mut self, records: u64) {
        self.lost += records;
    }

    /// Deletes the files of the outbox in `folder`, which nobody may have open.
    ///
    /// # Errors
    /// A file that cannot be deleted.
    pub(super) fn delete_files(folder: &Path) -> Result<(), OutboxError> {
        for suffix in SUFFIXES {
            let path = folder.join(format!("{FILE}{suffix}"));
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error(&path)(e)),
                _ => {}
            }
        }
        Ok(())
    }
}

const ALL_FROM: &str =
    "SELECT id, camera, payload, checksum, epoch, recorded_at FROM records WHERE id > ?1 ORDER BY id LIMIT ?2";

/// Brings a database of a version that knew no placement up to date; that version can still open
/// it.
fn add_missing_columns(database: &Connection) -> rusqlite::Result<()> {
    for column in ["epoch", "recorded_at"] {
        let there = "SELECT count(*) FROM pragma_table_info('records') WHERE name = ?1";
        if database.query_row(there, [column], |row| row.get::<_, i64>(0))? == 0 {
            database.execute(&format!("ALTER TABLE records ADD COLUMN {column} INTEGER"), [])?;
        }
    }
    Ok(())
}

/// Reads a row of [`ALL_FROM`]; also returns whether the checksum matches.
fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<(StoredRecord, bool)> {
    let placed = match (row.get(4)?, row.get::<_, Option<i64>>(5)?) {
        (Some(epoch), Some(at)) => Some(PlacementStamp { epoch, recorded_at: Timestamp::from_micros(at) }),
        _ => None,
    };
    let record = StoredRecord { id: row.get(0)?, camera: row.get(1)?, payload: row.get(2)?, placed };
    let sound = i64::from(crc32fast::hash(&record.payload)) == row.get::<_, i64>(3)?;
    Ok((record, sound))
}

fn record_bytes(camera: &str, payload: &[u8]) -> u64 {
    (camera.len() + payload.len()) as u64 + ROW_BYTES
}

#[cfg(test)]
mod tests;
