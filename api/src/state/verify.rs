//! Verification of the audit chain, in slices on a reading connection: it holds up nobody, however
//! long the trail is.

use serde::Serialize;
use utoipa::ToSchema;

use super::anchor::Head;
use super::audit::{EXPIRED, Raw, base};
use super::{State, StateError};

/// Records of one slice: a few milliseconds of hashing.
const SLICE: usize = 1000;

/// Result of verifying the whole chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Verdict {
    /// Whether every record matches its hash and the previous record, and none is missing at the
    /// beginning or the end.
    pub intact: bool,
    /// Number of records verified.
    pub records: i64,
    /// Position of the oldest record; the ones before it have expired.
    pub oldest: Option<i64>,
    /// Position of the first record that does not match or is missing.
    pub broken_at: Option<i64>,
    /// What is wrong, in words.
    pub why: Option<String>,
}

impl Verdict {
    /// Keeps the first fault.
    fn broken(&mut self, at: Option<i64>, why: impl Into<String>) {
        if self.intact {
            (self.intact, self.broken_at, self.why) = (false, at, Some(why.into()));
        }
    }
}

/// How far a verification has come.
struct Walk {
    verdict: Verdict,
    /// Last record seen.
    last: Head,
    /// Heads from outside the table, which it must contain.
    anchors: Vec<Head>,
    /// What the newest record of an expiry says was expired.
    expired: Option<Head>,
}

impl Walk {
    fn step(&mut self, raw: &Raw) {
        self.verdict.records += 1;
        self.verdict.oldest.get_or_insert(raw.seq);
        let hash = Head::new(raw.seq, &raw.hash);
        if raw.seq != self.last.seq + 1 {
            self.verdict.broken(Some(self.last.seq + 1), format!("record {} is missing", self.last.seq + 1));
        } else if Head::new(self.last.seq, &raw.prev) != self.last || raw.hash != raw.digest() {
            self.verdict.broken(Some(raw.seq), format!("record {} was changed", raw.seq));
        } else if self.anchors.iter().any(|a| a.seq == raw.seq && *a != hash) {
            self.verdict.broken(Some(raw.seq), format!("record {} is not the one that was anchored", raw.seq));
        }
        if raw.action == EXPIRED {
            let through = serde_json::from_str(&raw.detail).ok().map(|mut d: serde_json::Value| d["through"].take());
            self.expired = through.and_then(|t| serde_json::from_value(t).ok());
        }
        self.last = hash;
    }
}

impl State {
    /// Verifies the whole chain, from the oldest record that has not expired to the anchored head.
    ///
    /// # Errors
    /// When the database fails.
    pub fn verify_audit(&self) -> Result<Verdict, StateError> {
        // Before the records: those that are added meanwhile come behind it.
        let (anchored, own) = self.inner.trail.heads();
        let mut first = self.read(base)?;
        let verdict = Verdict { intact: true, records: 0, oldest: None, broken_at: None, why: None };
        let unanchored = anchored.as_ref().err().cloned();
        let anchors = anchored.ok().into_iter().chain(own).collect();
        let mut walk = Walk { verdict, last: first.clone(), anchors, expired: None };
        loop {
            let slice = self.read(|c| {
                // One snapshot for both: records may expire between two slices.
                let tx = c.unchecked_transaction()?;
                let base = base(&tx)?;
                let sql = format!("SELECT {} FROM audit WHERE seq > ?1 ORDER BY seq LIMIT {SLICE}", Raw::COLUMNS);
                let mut statement = tx.prepare(&sql)?;
                let rows = statement.query_map([walk.last.seq.max(base.seq)], Raw::read)?;
                Ok((base, rows.collect::<Result<Vec<_>, _>>()?))
            });
            let (base, rows) = slice?;
            if base.seq > walk.last.seq {
                walk.last = base.clone();
            }
            first = base;
            if rows.is_empty() {
                break;
            }
            rows.iter().for_each(|raw| walk.step(raw));
        }
        if first.seq > 0 && walk.expired.as_ref() != Some(&first) {
            walk.verdict.broken(Some(first.seq), "the oldest records are missing, and no record tells of their expiry");
        }
        if let Some(head) = walk.anchors.iter().max_by_key(|a| a.seq).filter(|a| a.seq > walk.last.seq) {
            let missing = walk.last.seq + 1;
            walk.verdict.broken(Some(missing), format!("records {missing} to {} are missing at the end", head.seq));
        }
        // A trail without records needs no anchor.
        if let Some(why) = unanchored.filter(|_| walk.verdict.records > 0) {
            walk.verdict.broken(None, format!("{why}: nobody can tell whether the newest records are there"));
        }
        Ok(walk.verdict)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::state::{ANCHOR_FILE, AuditEntry};

    fn entry(i: i64) -> AuditEntry {
        AuditEntry {
            who: "desk (ab12)".into(),
            action: "search",
            purpose: (i % 2 == 0).then(|| "lost child".into()),
            detail: serde_json::json!({ "query": format!("number {i}") }),
        }
    }

    /// A state with five records.
    pub(in crate::state) fn filled() -> (tempfile::TempDir, State) {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = State::open(dir.path()).expect("opens");
        for i in 0..5 {
            assert_eq!(state.record(&entry(i)).expect("recorded"), i + 1);
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
    fn an_untouched_chain_holds() {
        let (dir, state) = filled();
        let whole = Verdict { intact: true, records: 5, oldest: Some(1), broken_at: None, why: None };
        assert_eq!(state.verify_audit().expect("walked"), whole);
        drop(state);
        let state = State::open(dir.path()).expect("opens again");
        assert_eq!(state.verify_audit().expect("walked"), whole);
    }

    #[test]
    fn every_kind_of_tampering_breaks_the_chain() {
        for (sql, at) in [
            ("UPDATE audit SET detail = '{}' WHERE seq = 3", Some(3)),
            ("UPDATE audit SET purpose = '' WHERE seq = 2", Some(2)),
            ("DELETE FROM audit WHERE seq = 2", Some(2)),
            ("UPDATE audit SET at = at + 1 WHERE seq = 5", Some(5)),
            ("DELETE FROM audit WHERE seq = 5", Some(5)),
            ("DELETE FROM audit WHERE seq > 2", Some(3)),
            ("DELETE FROM audit", Some(1)),
            (
                "UPDATE audit_base SET seq = 2, hash = (SELECT hash FROM audit WHERE seq = 2);
              DELETE FROM audit WHERE seq <= 2",
                Some(2),
            ),
        ] {
            let (_dir, state) = filled();
            tamper(&state, sql);
            let verdict = state.verify_audit().expect("walked");
            assert_eq!((verdict.intact, verdict.broken_at), (false, at), "{sql}: {:?}", verdict.why);
        }
    }

    #[test]
    fn a_cut_tail_is_noticed_in_another_process_and_stays_on_record() {
        let (dir, state) = filled();
        tamper(&state, "DELETE FROM audit WHERE seq >= 4");
        drop(state);
        let state = State::open(dir.path()).expect("opens again");
        let verdict = state.verify_audit().expect("walked");
        assert_eq!((verdict.intact, verdict.broken_at), (false, Some(4)), "{:?}", verdict.why);
        // The next record does not close the gap, and another one tells of it.
        assert_eq!(state.record(&entry(9)).expect("recorded"), 7);
        let newest = state.audit(None, 2).expect("read");
        assert_eq!((newest[1].seq, newest[1].action.as_str()), (6, "audit.cut"));
        assert_eq!(newest[1].detail["found"]["seq"], 3, "{}", newest[1].detail);
        assert_eq!(state.verify_audit().expect("walked").broken_at, Some(4));
    }

    #[test]
    fn a_removed_anchor_is_noticed_and_recorded() {
        let (dir, state) = filled();
        drop(state);
        std::fs::remove_file(dir.path().join(ANCHOR_FILE)).expect("removed");
        let state = State::open(dir.path()).expect("opens again");
        let verdict = state.verify_audit().expect("walked");
        assert!(!verdict.intact && verdict.why.as_ref().is_some_and(|w| w.contains(ANCHOR_FILE)), "{verdict:?}");
        state.record(&entry(9)).expect("recorded");
        let actions: Vec<String> = state.audit(None, 2).expect("read").into_iter().map(|r| r.action).collect();
        assert_eq!(actions, ["search", "audit.unanchored"]);
        assert!(state.verify_audit().expect("walked").intact, "from here on it is anchored again");
    }

    #[test]
    fn verifying_waits_for_no_writer() {
        let (_dir, state) = filled();
        let many: Vec<AuditEntry> = (0..3 * SLICE as i64).map(entry).collect();
        state.inner.append(&many, |_| Ok(())).expect("recorded");
        let verdict = state.with(|_| state.verify_audit()).expect("walked, while the writer is held");
        assert_eq!((verdict.intact, verdict.records), (true, 3 * SLICE as i64 + 5), "{verdict:?}");
    }
}
