//! Audit trail: who did what, when and why. Each record holds the SHA-256 of itself and of the
//! previous record, so that a record that is changed, removed or inserted later breaks the chain
//! there; [`super::anchor`] keeps the newest hash outside the table, so that records cut off at the
//! end are missed too.
//!
//! Records expire, the oldest first. The hash before the oldest kept record stands in the table
//! `audit_base`, and in the record that tells of the expiry, which is itself part of the chain.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use sightline_core::Timestamp;
use utoipa::ToSchema;

use super::anchor::{Anchor, Head, hex};
use super::{Inner, State, StateError};

/// Action of the record that tells of an expiry.
pub(super) const EXPIRED: &str = "audit.expire";

/// Largest number of records that one call of [`State::expire_audit`] deletes; it bounds how long
/// the writer is held.
const EXPIRE_AT_ONCE: i64 = 10_000;

/// Shortest interval between two writes of the anchor; it bounds the number of syncs of the disk,
/// and how many of the newest records a power cut can leave without an anchor.
const ANCHOR_INTERVAL: Duration = Duration::from_secs(1);

/// What is told of one action when it is recorded.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    /// Token name and id, `local` for the command line, or `sightline` for the service itself.
    pub who: String,
    /// Action: `search`, `view`, `pictures`, `camera.add`, `camera.remove`, `erasure.start`,
    /// `erasure.done`, `token.create`, `token.revoke`, `login.failed`, `audit.read`,
    /// `audit.verify`, `audit.expire`, `audit.cut`, `audit.unanchored`, `reindex`.
    pub action: &'static str,
    /// Purpose, in the caller's words.
    pub purpose: Option<String>,
    /// Details: query, filters, counts.
    pub detail: serde_json::Value,
}

impl AuditEntry {
    /// A record of the service itself.
    pub(super) fn own(action: &'static str, detail: serde_json::Value) -> Self {
        Self { who: "sightline".into(), action, purpose: None, detail }
    }
}

/// A link of the audit chain.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct AuditRecord {
    /// Position in the chain, from 1.
    pub seq: i64,
    /// Time of the record.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Token name and id, `local` for the command line, or `sightline` for the service itself.
    pub who: String,
    /// What was done; see [`AuditEntry::action`].
    pub action: String,
    /// Purpose, in the caller's words.
    pub purpose: Option<String>,
    /// Details: query, filters, counts.
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
    /// SHA-256 (hex) of this record and the hash of the previous one.
    pub hash: String,
}

pub(super) struct Raw {
    pub seq: i64,
    at: i64,
    who: String,
    pub action: String,
    purpose: Option<String>,
    pub detail: String,
    pub prev: Vec<u8>,
    pub hash: Vec<u8>,
}

impl Raw {
    pub(super) const COLUMNS: &'static str = "seq, at, who, action, purpose, detail, prev, hash";

    pub(super) fn read(r: &Row<'_>) -> rusqlite::Result<Self> {
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
    pub(super) fn digest(&self) -> [u8; 32] {
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

/// What is known of the chain outside its table.
pub(super) struct Trail {
    anchor: Anchor,
    /// Newest record that this process wrote, and when it anchored one.
    head: Mutex<(Option<Head>, Option<Instant>)>,
}

impl Trail {
    pub(super) fn new(folder: &Path) -> Self {
        Self { anchor: Anchor::new(folder), head: Mutex::default() }
    }

    /// Anchors the head of the table, whatever was anchored before.
    pub(super) fn anchor_now(&self, c: &Connection) -> Result<(), StateError> {
        self.anchor.advance(&table_head(c)?).map_err(StateError::Anchor)
    }

    /// The heads that the table must contain: the anchored one (or what is wrong with the anchor),
    /// and the newest of this process.
    pub(super) fn heads(&self) -> (Result<Head, String>, Option<Head>) {
        let own = self.head.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
        (self.anchor.read(), own)
    }

    /// Anchors what is not anchored yet; at most once a second unless `now`.
    fn keep_anchored(&self, now: bool) -> Result<(), StateError> {
        let mut head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(newest), at) = &mut *head else { return Ok(()) };
        let due = now || at.is_none_or(|at| at.elapsed() >= ANCHOR_INTERVAL);
        if due && !self.anchor.read().is_ok_and(|anchored| anchored.seq >= newest.seq) {
            self.anchor.advance(newest).map_err(StateError::Anchor)?;
            *at = Some(Instant::now());
        }
        Ok(())
    }
}

/// Position and hash of the newest record of the table; where there is none, of the last expired
/// one.
fn table_head(c: &Connection) -> Result<Head, StateError> {
    let newest = c
        .query_row("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1", [], |r| {
            Ok(Head::new(r.get(0)?, &r.get::<_, Vec<u8>>(1)?))
        })
        .optional()?;
    newest.map_or_else(|| base(c), Ok)
}

/// Position and hash of the last expired record.
pub(super) fn base(c: &Connection) -> Result<Head, StateError> {
    let read = |r: &Row<'_>| Ok(Head::new(r.get(0)?, &r.get::<_, Vec<u8>>(1)?));
    Ok(c.query_row("SELECT seq, hash FROM audit_base", [], read)?)
}

fn insert(tx: &Transaction<'_>, after: &Head, entry: &AuditEntry) -> Result<Head, StateError> {
    let prev = after
        .bytes()
        .ok_or_else(|| StateError::Corrupt { what: "hash of an audit record", why: format!("record {}", after.seq) })?;
    let mut raw = Raw {
        seq: after.seq + 1,
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
    Ok(Head::new(raw.seq, &raw.hash))
}

impl Inner {
    /// Appends records and does `more` in the same transaction; returns the newest position.
    pub(super) fn append(
        &self,
        entries: &[AuditEntry],
        mut more: impl FnMut(&Transaction<'_>) -> Result<(), StateError>,
    ) -> Result<i64, StateError> {
        let head = self.with_reserve(|c| {
            // An immediate transaction: no other process may insert a record between reading the
            // last one and adding this one.
            let tx = c.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut head = self.continue_chain(&tx)?;
            for entry in entries {
                head = insert(&tx, &head, entry)?;
            }
            more(&tx)?;
            tx.commit()?;
            Ok(head)
        })?;
        let seq = head.seq;
        {
            let mut newest = self.trail.head.lock().unwrap_or_else(PoisonError::into_inner);
            if newest.0.as_ref().is_none_or(|n| n.seq < seq) {
                newest.0 = Some(head);
            }
        }
        // The record is on the disk; a failing anchor is tried again every second.
        if let Err(error) = self.trail.keep_anchored(false) {
            tracing::error!(%error, "the head of the audit trail is not anchored");
        }
        Ok(seq)
    }

    /// Returns the record that the next one follows. When the table no longer has the anchored
    /// record, a record says so, behind the gap that the missing ones leave for ever.
    fn continue_chain(&self, tx: &Transaction<'_>) -> Result<Head, StateError> {
        let last = table_head(tx)?;
        let (anchored, own) = self.trail.heads();
        if let (Err(why), None) = (&anchored, &own) {
            tracing::error!(why, "the end of the audit trail cannot be checked; a record says so");
            return insert(tx, &last, &AuditEntry::own("audit.unanchored", json!({ "why": why })));
        }
        let known = anchored.ok().into_iter().chain(own).max_by_key(|h| h.seq);
        let Some(known) = known.filter(|k| k.seq > last.seq || (k.seq == last.seq && k.hash != last.hash)) else {
            return Ok(last);
        };
        tracing::error!(anchored = known.seq, found = last.seq, "audit records are missing; a record says so");
        let detail = json!({ "anchored": known, "found": last });
        insert(tx, &known, &AuditEntry::own("audit.cut", detail))
    }

    /// Writes what was noted, and anchors the head; see [`State::flush`].
    pub(super) fn flush(&self, now: bool) -> Result<(), StateError> {
        self.write_notes(now)?;
        self.trail.keep_anchored(now)
    }
}

impl State {
    /// Appends a record to the chain.
    ///
    /// # Errors
    /// When the database fails. An action that cannot be recorded must not be done.
    pub fn record(&self, entry: &AuditEntry) -> Result<i64, StateError> {
        self.inner.append(std::slice::from_ref(entry), |_| Ok(()))
    }

    /// Writes the records that were only noted, and anchors the head of the chain. The service
    /// calls it every second and at its stop.
    ///
    /// # Errors
    /// When the database or the anchor cannot be written. What was noted is kept.
    pub fn flush(&self) -> Result<(), StateError> {
        self.inner.flush(false)
    }

    /// Deletes the records from before `before`, oldest first, at most 10,000 of them, and returns
    /// how many. A record tells of it.
    ///
    /// # Errors
    /// When the database fails.
    pub fn expire_audit(&self, before: Timestamp) -> Result<u64, StateError> {
        let (base, last) = self.read(|c| {
            let base = base(c)?;
            let kept: Option<i64> = c
                .query_row("SELECT seq FROM audit WHERE at >= ?1 ORDER BY seq LIMIT 1", [before.as_micros()], |r| {
                    r.get(0)
                })
                .optional()?;
            let last = c
                .query_row(
                    "SELECT seq, hash FROM audit WHERE seq < ?1 AND seq <= ?2 ORDER BY seq DESC LIMIT 1",
                    [kept.unwrap_or(i64::MAX), base.seq.saturating_add(EXPIRE_AT_ONCE)],
                    |r| Ok(Head::new(r.get(0)?, &r.get::<_, Vec<u8>>(1)?)),
                )
                .optional()?;
            Ok((base, last))
        })?;
        let Some((last, hash)) = last.and_then(|l| l.bytes().map(|hash| (l, hash))) else { return Ok(0) };
        let mut deleted = 0;
        let entry = AuditEntry::own(EXPIRED, json!({ "before": before, "from": base, "through": last }));
        self.inner.append(&[entry], |tx| {
            tx.execute("UPDATE audit_base SET seq = ?1, hash = ?2", params![last.seq, hash])?;
            deleted = tx.execute("DELETE FROM audit WHERE seq <= ?1", [last.seq])?;
            Ok(())
        })?;
        Ok(deleted as u64)
    }

    /// Returns at most `limit` records before `before`, newest first.
    ///
    /// # Errors
    /// When the database fails or holds an unreadable value.
    pub fn audit(&self, before: Option<i64>, limit: usize) -> Result<Vec<AuditRecord>, StateError> {
        self.read(|c| {
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
                    hash: hex(&raw.hash),
                    who: raw.who,
                    action: raw.action,
                    purpose: raw.purpose,
                })
            })
            .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::ANCHOR_FILE;
    use crate::state::verify::tests::filled;

    #[test]
    fn pages_run_backwards() {
        let (_dir, state) = filled();
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
    fn old_records_expire_and_the_chain_of_the_others_holds() {
        let (dir, state) = filled();
        let all = state.audit(None, 9).expect("read");
        let third = all.iter().find(|r| r.seq == 3).expect("there").at;
        assert_eq!(state.expire_audit(third).expect("expired"), 2);
        assert_eq!(state.expire_audit(third).expect("nothing left"), 0);
        let kept: Vec<(i64, String)> =
            state.audit(None, 9).expect("read").into_iter().map(|r| (r.seq, r.action)).collect();
        assert_eq!(kept.first().map(|(_, action)| action.as_str()), Some(EXPIRED), "the expiry is recorded");
        assert_eq!(kept.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [6, 5, 4, 3]);
        let verdict = state.verify_audit().expect("walked");
        assert!(verdict.intact && verdict.records == 4 && verdict.oldest == Some(3), "{verdict:?}");
        assert!(state.with(|c| Ok(c.execute("DELETE FROM audit WHERE seq = 3", [])?)).is_err(), "no other way out");

        // Everything expires, twice, and the numbers go on.
        let later = Timestamp::now() + Duration::from_secs(60);
        assert_eq!(state.expire_audit(later).expect("expired"), 4);
        assert_eq!(state.expire_audit(later).expect("expired"), 1, "the record of the first expiry");
        drop(state);
        let state = State::open(dir.path()).expect("opens again");
        let verdict = state.verify_audit().expect("walked");
        assert!(verdict.intact && verdict.oldest == Some(8), "{verdict:?}");
    }

    #[test]
    fn a_burst_is_anchored_within_a_second_and_at_the_stop() {
        let (dir, state) = filled();
        let anchored = || Anchor::new(dir.path()).read().expect("anchored").seq;
        std::thread::sleep(ANCHOR_INTERVAL);
        state.flush().expect("written");
        assert_eq!(anchored(), 5);
        state.record(&AuditEntry::own("test", json!({}))).expect("recorded");
        drop(state);
        assert_eq!(anchored(), 6);
        assert!(dir.path().join(ANCHOR_FILE).exists());
    }
}
