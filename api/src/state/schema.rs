//! Database schema and its migrations; `user_version` counts the migrations that a file has had.

use rusqlite::{Connection, TransactionBehavior};

use super::StateError;

/// One migration per layout, in order. A released migration is never changed; add another one.
const STEPS: &[&str] = &[
    // Times are microseconds since the Unix epoch, UTC.
    "CREATE TABLE cameras (
        id       TEXT PRIMARY KEY,
        spec     TEXT NOT NULL,                                      -- JSON of the camera's configuration
        source   TEXT NOT NULL CHECK (source IN ('config', 'api')),
        added_at INTEGER NOT NULL,
        archived INTEGER NOT NULL DEFAULT 0                          -- stopped; its footage is still searchable
     ) STRICT;
     CREATE TABLE erasures (                                         -- begun, not finished: taken up again at start
        camera       TEXT PRIMARY KEY,
        requested_at INTEGER NOT NULL
     ) STRICT;
     CREATE TABLE tokens (
        id           TEXT PRIMARY KEY,
        name         TEXT NOT NULL,
        hash         BLOB NOT NULL UNIQUE,                           -- SHA-256 of the secret
        role         TEXT NOT NULL CHECK (role IN ('admin', 'operator', 'viewer')),
        cameras      TEXT,                                           -- JSON list; NULL: every camera
        created_at   INTEGER NOT NULL,
        expires_at   INTEGER,
        last_used_at INTEGER,
        revoked_at   INTEGER
     ) STRICT;
     CREATE TABLE audit (
        seq     INTEGER PRIMARY KEY,
        at      INTEGER NOT NULL,
        who     TEXT NOT NULL,
        action  TEXT NOT NULL,
        purpose TEXT,
        detail  TEXT NOT NULL,                                       -- JSON
        prev    BLOB NOT NULL,
        hash    BLOB NOT NULL
     ) STRICT;
     CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit trail only grows'); END;
     CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit trail only grows'); END;",
    // Pictures of cameras in other processes may arrive long after the erasure, so it is watched
    // for a while.
    "ALTER TABLE erasures ADD COLUMN watched_since INTEGER;              -- erased; NULL: not finished",
    // More roles (a CHECK cannot be altered), and an audit trail that may lose its oldest records.
    "CREATE TABLE tokens_3 (
        id           TEXT PRIMARY KEY,
        name         TEXT NOT NULL,
        hash         BLOB NOT NULL UNIQUE,                           -- SHA-256 of the secret
        role         TEXT NOT NULL CHECK (role IN ('admin', 'operator', 'viewer', 'auditor', 'metrics')),
        cameras      TEXT,                                           -- JSON list; NULL: every camera
        created_at   INTEGER NOT NULL,
        expires_at   INTEGER,
        last_used_at INTEGER,
        revoked_at   INTEGER
     ) STRICT;
     INSERT INTO tokens_3 SELECT id, name, hash, role, cameras, created_at, expires_at, last_used_at, revoked_at FROM tokens;
     DROP TABLE tokens;
     ALTER TABLE tokens_3 RENAME TO tokens;
     CREATE TABLE audit_base (                                       -- one row: the last expired record, 0 before the first
        seq  INTEGER NOT NULL,
        hash BLOB NOT NULL
     ) STRICT;
     INSERT INTO audit_base VALUES (0, zeroblob(32));
     DROP TRIGGER audit_no_delete;
     CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit WHEN OLD.seq > (SELECT seq FROM audit_base)
        BEGIN SELECT RAISE(ABORT, 'the audit trail only grows'); END;",
    // Every erasure is a job. Those that an earlier version had begun become jobs.
    "CREATE TABLE erasure_jobs (
        id           TEXT PRIMARY KEY,                               -- UUID
        removes      TEXT,                                           -- camera that is removed; NULL: it goes on
        scopes       TEXT NOT NULL,                                  -- JSON list
        requested_at INTEGER NOT NULL,
        requested_by TEXT NOT NULL,
        audit_seq    INTEGER NOT NULL,
        state        TEXT NOT NULL CHECK (state IN ('running', 'done', 'failed')),
        attempts     INTEGER NOT NULL DEFAULT 0,                     -- failed ones
        error        TEXT,                                           -- of the last attempt
        retry_at     INTEGER,
        progress     REAL NOT NULL DEFAULT 0,                        -- 0 to 1
        erased       TEXT NOT NULL DEFAULT '{\"points\":0,\"files\":0,\"by_model\":{}}', -- JSON, of all attempts
        receipt      TEXT,                                           -- JSON, when done
        finished_at  INTEGER
     ) STRICT;
     CREATE INDEX erasure_jobs_unfinished ON erasure_jobs (state) WHERE state != 'done';
     INSERT INTO erasure_jobs (id, removes, scopes, requested_at, requested_by, audit_seq, state)
        SELECT lower(hex(randomblob(16))), camera, '[{\"camera\":\"' || camera || '\"}]', requested_at,
               'an earlier version', 0, 'running'
        FROM erasures WHERE watched_since IS NULL;",
];

/// Whether the file has this table.
pub(super) fn has_table(conn: &Connection, name: &str) -> Result<bool, StateError> {
    let sql = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1";
    Ok(conn.query_row(sql, [name], |r| r.get::<_, i64>(0))? > 0)
}

/// Runs the migrations that the file lacks, each in a transaction of its own.
pub(super) fn migrate(conn: &mut Connection) -> Result<(), StateError> {
    let known = STEPS.len() as i64;
    loop {
        // The version is read inside the transaction, because two processes may open a new file at
        // the same moment.
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found: i64 = tx.pragma_query_value(None, "user_version", |r| r.get(0))?;
        if found > known {
            return Err(StateError::TooNew { found, known });
        }
        let Some(step) = usize::try_from(found).ok().and_then(|i| STEPS.get(i)) else { return Ok(()) };
        tx.execute_batch(step)?;
        tx.pragma_update(None, "user_version", found + 1)?;
        tx.commit()?;
    }
}
