//! Reading connections of the state database: a few, opened when they are first needed and handed
//! out one at a time.

use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags};

use super::{BUSY, StateError};

/// Largest number of reading connections. A read takes far less than a millisecond, so that four
/// serve some ten thousand requests a second; each holds up to 2 MB of pages.
const READERS: usize = 4;

/// Pool of reading connections.
pub(super) struct Readers {
    path: PathBuf,
    pool: Mutex<Pool>,
    freed: Condvar,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Connection>,
    open: usize,
}

/// A connection, or the place for one, out of the pool; it goes back on drop.
struct Taken<'a> {
    readers: &'a Readers,
    conn: Option<Connection>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, pool: Mutex::default(), freed: Condvar::new() }
    }

    /// Runs `work` on a connection; waits for one when all are in use.
    ///
    /// # Errors
    /// When another connection cannot be opened, and the errors of `work`.
    pub(super) fn with<T>(&self, work: impl FnOnce(&Connection) -> Result<T, StateError>) -> Result<T, StateError> {
        let mut taken = self.take();
        let conn = match taken.conn.take() {
            Some(conn) => conn,
            None => self.open()?,
        };
        work(taken.conn.insert(conn))
    }

    fn take(&self) -> Taken<'_> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(conn) = pool.idle.pop() {
                return Taken { readers: self, conn: Some(conn) };
            }
            if pool.open < READERS {
                pool.open += 1;
                return Taken { readers: self, conn: None };
            }
            pool = self.freed.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn open(&self) -> Result<Connection, StateError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&self.path, flags)?;
        conn.busy_timeout(BUSY)?;
        Ok(conn)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut pool = self.readers.pool.lock().unwrap_or_else(PoisonError::into_inner);
        match self.conn.take() {
            // A transaction that somebody left open would hold back the write-ahead log.
            Some(conn) if conn.is_autocommit() => pool.idle.push(conn),
            _ => pool.open -= 1,
        }
        self.readers.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_few_and_come_back() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("some.db");
        Connection::open(&path).expect("made").execute_batch("CREATE TABLE t (x)").expect("written");
        let readers = Readers::new(path);
        std::thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| {
                    let count =
                        readers.with(|c| Ok(c.query_row("SELECT count(*) FROM t", [], |r| r.get::<_, i64>(0))?));
                    assert_eq!(count.expect("read"), 0);
                });
            }
        });
        let pool = readers.pool.lock().expect("sound");
        assert!((1..=READERS).contains(&pool.open) && pool.idle.len() == pool.open, "{}", pool.open);
    }

    #[test]
    fn a_failed_opening_takes_no_place() {
        let readers = Readers::new(PathBuf::from("/nowhere/at/all.db"));
        for _ in 0..=READERS {
            assert!(readers.with(|_| Ok(())).is_err());
        }
        assert_eq!(readers.pool.lock().expect("sound").open, 0);
    }
}
