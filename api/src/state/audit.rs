//! Audit trail: who did what, when and why. Each record holds the SHA-256 of itself and of the
//! previous record, so that a record that is changed, removed or inserted later breaks the chain
//! there.
//!
//! A hash chain reveals tampering with single records. It cannot reveal that the whole file was
//! rewritten; copy the newest hash to another place regularly if that matters.

use rusqlite::{OptionalExtension, Row, TransactionBehavior, params};
use serde::Serialize;
use sha2::{Digest, Sha256};
use sightline_core::Timestamp;
use utoipa::ToSchema;

use super::{State, StateError};

/// Audit record to add.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    /// Token name and id, or `local` for the command line.
    pub who: String,
    /// Action: `search`, `view`, `camera.add`, `camera.remove`, `token.create`, `token.revoke`,
    /// `reindex`.
    pub action: &'static str,
    /// Purpose, in the caller's words.
    pub purpose: Option<String>,
    /// Details: query, filters, counts.
    pub detail: serde_json::Value,
}

/// Stored audit record.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct AuditRecord {
    /// Position in the chain, from 1.
    pub seq: i64,
    /// Time of the record.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Token name and id, or `local` for the command line.
    pub who: String,
    /// Action.
    pub action: String,
    /// Purpose, in the caller's words.
    pub purpose: Option<String>,
    /// Details: query, filters, counts.
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
    /// SHA-256 (hex) of this record and the hash of the previous one.
    pub hash: String,
}

/// Result of verifying the whole chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Verdict {
    /// Whether every record matches its hash and the previous record.
    pub intact: bool,
    /// Number of records verified.
    pub records: i64,
    /// Position of the first record that does not match.
    pub broken_at: Option<i64>,
}

struct Raw {
    seq: i64,
    at: i64,
    who: String,
    action: String,
    purpose: Option<String>,
    detail: String,
    prev: Vec<u8>,
    hash: Vec<u8>,
}

impl Raw {
    const COLUMNS: &'static str = "seq, at, who, action, purpose, detail, prev, hash";

    fn read(r: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: r.get(0)?,
            at: r.get(1)?,
            who: r.get(2)?,
            action: r.get(3)?,
            purpose: r.get(4)?,
            detail: r.get(5)?,
            prev: r.get(6)?,
            hash: r.get(7)?,
        })
    }

    /// SHA-256 of the previous hash and all fields, each preceded by its length, so that no two
    /// records have the same input.
    fn digest(&self) -> [u8; 32] {
        let mut h = Sha256::new();
        let mut field = |bytes: &[u8]| {
            h.update((bytes.len() as u64).to_le_bytes());
            h.update(bytes);
        };
        field(&self.prev);
        field(&self.seq.to_le_bytes());
        field(&self.at.to_le_bytes());
        field(self.who.as_bytes());
        field(self.action.as_bytes());
        field(&[u8::from(self.purpose.is_some())]);
        field(self.purpose.as_deref().unwrap_or_default().as_bytes());
        field(self.detail.as_bytes());
        h.finalize().into()
    }
}

impl State {
    /// Appends a record to the chain.
    ///
    /// # Errors
    /// When the database fails. An action that cannot be recorded must not be done.
    pub fn record(&self, entry: &AuditEntry) -> Result<i64, StateError> {
        self.with_reserve(|c| {
            // An immediate transaction: no other process may insert a record between reading the
            // last one and adding this one.
            let tx = c.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let last: Option<(i64, Vec<u8>)> = tx
                .query_row("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1", [], |r| Ok((r.get(0)?, r.get(1)?)))
                .optional()?;
            let (seq, prev) = last.map_or((1, vec![0; 32]), |(seq, hash)| (seq + 1, hash));
            let mut raw = Raw {
                seq,
                at: Timestamp::now().as_micros(),
                who: entry.who.clone(),
                action: entry.action.to_owned(),
                purpose: entry.purpose.clone(),
                detail: entry.detail.to_string(),
                prev,
                hash: Vec::new(),
            };
            raw.hash = raw.digest().to_vec();
            tx.execute(
                "INSERT INTO audit (seq, at, who, action, purpose, detail, prev, hash) VALUES (?,?,?,?,?,?,?,?)",
                params![raw.seq, raw.at, raw.who, raw.action, raw.purpose, raw.detail, raw.prev, raw.hash],
            )?;
            tx.commit()?;
            Ok(seq)
        })
    }

    /// Returns at most `limit` records before `before`, newest first.
    ///
    /// # Errors
    /// When the database fails or holds an unreadable value.
    pub fn audit(&self, before: Option<i64>, limit: usize) -> Result<Vec<AuditRecord>, StateError> {
        self.with(|c| {
            let sql = format!("SELECT {} FROM audit WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2", Raw::COLUMNS);
            let mut statement = c.prepare(&sql)?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let rows = statement.query_map(params![before.unwrap_or(i64::MAX), limit], Raw::read)?;
            rows.map(|raw| {
                let raw = raw?;
                Ok(AuditRecord {
                    seq: raw.seq,
                    at: Timestamp::from_micros(raw.at),
                    detail: serde_json::from_str(&raw.detail)
                        .map_err(|e| StateError::Corrupt { what: "audit record", why: e.to_string() })?,
                    hash: raw.hash.iter().map(|b| format!("{b:02x}")).collect(),
                    who: raw.who,
                    action: raw.action,
                    purpose: raw.purpose,
                })
            })
            .collect()
        })
    }

    /// Verifies the whole chain from its first record.
    ///
    /// # Errors
    /// When the database fails.
    pub fn verify_audit(&self) -> Result<Verdict, StateError> {
        self.with(|c| {
            let mut statement = c.prepare(&format!("SELECT {} FROM audit ORDER BY seq", Raw::COLUMNS))?;
            let mut prev = vec![0; 32];
            let mut verdict = Verdict { intact: true, records: 0, broken_at: None };
            for raw in statement.query_map([], Raw::read)? {
                let raw = raw?;
                verdict.records += 1;
                let fits = raw.seq == verdict.records && raw.prev == prev && raw.hash == raw.digest();
                if !fits && verdict.intact {
                    verdict.intact = false;
                    verdict.broken_at = Some(raw.seq);
                }
                prev = raw.hash;
            }
            Ok(verdict)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> (tempfile::TempDir, State) {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = State::open(dir.path()).expect("opens");
        for i in 0..5 {
            let entry = AuditEntry {
                who: "desk (ab12)".into(),
                action: "search",
                purpose: (i % 2 == 0).then(|| "lost child".into()),
                detail: serde_json::json!({ "query": format!("number {i}") }),
            };
            assert_eq!(state.record(&entry).expect("recorded"), i + 1);
        }
        (dir, state)
    }

    /// Changes the file as somebody with an SQLite shell would.
    fn tamper(state: &State, sql: &str) {
        state
            .with(|c| {
                c.execute_batch("DROP TRIGGER audit_no_update; DROP TRIGGER audit_no_delete;")?;
                Ok(c.execute_batch(sql)?)
            })
            .expect("tampered");
    }

    #[test]
    fn the_chain_holds_and_pages_run_backwards() {
        let (_dir, state) = filled();
        assert_eq!(state.verify_audit().expect("walked"), Verdict { intact: true, records: 5, broken_at: None });
        let newest: Vec<i64> = state.audit(None, 2).expect("read").iter().map(|r| r.seq).collect();
        let next: Vec<i64> = state.audit(Some(4), 2).expect("read").iter().map(|r| r.seq).collect();
        assert_eq!((newest, next), (vec![5, 4], vec![3, 2]));
    }

    #[test]
    fn records_cannot_be_changed_by_accident() {
        let (_dir, state) = filled();
        assert!(state.with(|c| Ok(c.execute("UPDATE audit SET who = 'x'", [])?)).is_err());
        assert!(state.with(|c| Ok(c.execute("DELETE FROM audit", [])?)).is_err());
    }

    #[test]
    fn every_kind_of_tampering_breaks_the_chain() {
        for (sql, at) in [
            ("UPDATE audit SET detail = '{}' WHERE seq = 3", Some(3)),
            ("UPDATE audit SET purpose = '' WHERE seq = 2", Some(2)),
            ("DELETE FROM audit WHERE seq = 2", Some(3)),
            ("UPDATE audit SET at = at + 1 WHERE seq = 5", Some(5)),
        ] {
            let (_dir, state) = filled();
            tamper(&state, sql);
            let verdict = state.verify_audit().expect("walked");
            assert_eq!((verdict.intact, verdict.broken_at), (false, at), "{sql}");
        }
    }
}
