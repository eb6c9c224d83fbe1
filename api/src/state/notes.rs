//! Audit records that are written in groups, because one each would cost a sync of the disk for
//! every picture of a page, and would let a stranger fill the trail.
//!
//! - *Pictures* that somebody looked at: one record a second for each token, with the ids.
//! - *Failed log-ins*: one record and one line of the log a minute, with counts by address.
//!
//! A kill or a power cut loses what was noted since the last writing: pictures of up to a second,
//! failed log-ins of up to a minute. An orderly stop loses nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use serde_json::json;
use sightline_core::{SightingId, Timestamp};

use super::audit::AuditEntry;
use super::{Inner, State, StateError};

/// Shortest interval between two records of failed log-ins.
const FAILED_INTERVAL: Duration = Duration::from_secs(60);

/// Number of noted pictures that are written at once, without waiting for the second to pass.
const PICTURES: usize = 500;

/// Largest number of addresses that one record of failed log-ins names.
const ADDRESSES: usize = 100;

/// What is noted and not yet recorded.
#[derive(Default)]
pub(super) struct Notes {
    pictures: BTreeMap<String, BTreeSet<SightingId>>,
    failed: Option<FailedLogins>,
    failed_written: Option<Instant>,
}

/// Failed log-ins since the last record.
#[derive(Clone)]
struct FailedLogins {
    since: Timestamp,
    count: u64,
    by_address: BTreeMap<IpAddr, u64>,
}

impl FailedLogins {
    fn add(&mut self, address: IpAddr, count: u64) {
        self.count += count;
        if self.by_address.len() < ADDRESSES || self.by_address.contains_key(&address) {
            *self.by_address.entry(address).or_default() += count;
        }
    }

    fn entry(&self) -> AuditEntry {
        let named: u64 = self.by_address.values().sum();
        let detail = json!({
            "since": self.since, "count": self.count, "by_address": self.by_address,
            "from_other_addresses": self.count - named,
        });
        AuditEntry::own("login.failed", detail)
    }
}

impl Notes {
    fn pictures(&self) -> usize {
        self.pictures.values().map(BTreeSet::len).sum()
    }

    /// Takes out what is to be written.
    fn take(&mut self, now: bool) -> Self {
        let due = now || self.failed_written.is_none_or(|at| at.elapsed() >= FAILED_INTERVAL);
        let failed = if due { self.failed.take() } else { None };
        if failed.is_some() {
            self.failed_written = Some(Instant::now());
        }
        Self { pictures: std::mem::take(&mut self.pictures), failed, failed_written: None }
    }

    fn entries(&self) -> Vec<AuditEntry> {
        let pictures = self.pictures.iter().map(|(who, sightings)| AuditEntry {
            who: who.clone(),
            action: "pictures",
            purpose: None,
            detail: json!({ "sightings": sightings }),
        });
        pictures.chain(self.failed.as_ref().map(FailedLogins::entry)).collect()
    }

    /// Puts back what could not be written.
    fn put_back(&mut self, taken: Self) {
        for (who, sightings) in taken.pictures {
            self.pictures.entry(who).or_default().extend(sightings);
        }
        if let Some(mut failed) = taken.failed {
            if let Some(newer) = self.failed.take() {
                newer.by_address.iter().for_each(|(address, count)| failed.add(*address, *count));
                failed.count += newer.count - newer.by_address.values().sum::<u64>();
            }
            self.failed = Some(failed);
            self.failed_written = None;
        }
    }
}

impl Inner {
    pub(super) fn write_notes(&self, now: bool) -> Result<(), StateError> {
        let taken = self.notes.lock().unwrap_or_else(PoisonError::into_inner).take(now);
        let entries = taken.entries();
        if entries.is_empty() {
            return Ok(());
        }
        if let Err(e) = self.append(&entries, |_| Ok(())) {
            self.notes.lock().unwrap_or_else(PoisonError::into_inner).put_back(taken);
            return Err(e);
        }
        if let Some(failed) = &taken.failed {
            tracing::warn!(count = failed.count, since = %failed.since, by_address = ?failed.by_address, "failed log-ins");
        }
        Ok(())
    }
}

impl State {
    /// Notes that somebody looked at a picture; [`State::flush`] records it.
    ///
    /// # Errors
    /// When so many pictures are noted that they must be written first, and that fails.
    pub async fn note_picture(&self, who: &str, sighting: SightingId) -> Result<(), StateError> {
        let noted = {
            let mut notes = self.inner.notes.lock().unwrap_or_else(PoisonError::into_inner);
            notes.pictures.entry(who.to_owned()).or_default().insert(sighting);
            notes.pictures()
        };
        if noted >= PICTURES { self.run(Self::flush).await } else { Ok(()) }
    }

    /// Notes a log-in with a token that does not work; [`State::flush`] records and logs it.
    pub fn note_failed_login(&self, address: IpAddr) {
        let mut notes = self.inner.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let none = || FailedLogins { since: Timestamp::now(), count: 0, by_address: BTreeMap::new() };
        notes.failed.get_or_insert_with(none).add(address, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::AuditRecord;

    fn open() -> (tempfile::TempDir, State) {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = State::open(dir.path()).expect("opens");
        (dir, state)
    }

    fn records(state: &State) -> Vec<AuditRecord> {
        state.audit(None, 1000).expect("read")
    }

    fn sighting(n: u128) -> SightingId {
        serde_json::from_value(json!(uuid::Uuid::from_u128(n))).expect("an id")
    }

    #[tokio::test]
    async fn pictures_are_recorded_in_groups() {
        let (_dir, state) = open();
        for n in 0..30 {
            state.note_picture("desk (ab12)", sighting(n % 20)).await.expect("noted");
            state.note_picture("gate (cd34)", sighting(1)).await.expect("noted");
        }
        assert!(records(&state).is_empty(), "no sync for each");
        state.flush().expect("written");
        let all = records(&state);
        let groups: Vec<(&str, usize)> =
            all.iter().map(|r| (r.who.as_str(), r.detail["sightings"].as_array().map_or(0, Vec::len))).collect();
        assert_eq!(groups, [("gate (cd34)", 1), ("desk (ab12)", 20)]);
        state.flush().expect("nothing left");
        assert_eq!(records(&state).len(), 2);
        for n in 0..PICTURES as u128 {
            state.note_picture("desk (ab12)", sighting(n)).await.expect("noted");
        }
        assert_eq!(records(&state).len(), 3, "what is noted is bounded");
    }

    #[test]
    fn failed_logins_are_one_record_a_minute() {
        let (dir, state) = open();
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        state.note_failed_login(address(1));
        state.flush().expect("written");
        for n in 0..=200 {
            (0..5).for_each(|_| state.note_failed_login(address(n)));
        }
        state.flush().expect("nothing is due");
        assert_eq!(records(&state).len(), 1);
        drop(state);
        let state = State::open(dir.path()).expect("opens again");
        let all = records(&state);
        assert_eq!((all.len(), all[0].action.as_str()), (2, "login.failed"), "the stop loses nothing");
        assert_eq!(all[0].detail["count"], 1005);
        assert_eq!(all[0].detail["by_address"]["10.0.0.7"], 5);
        assert_eq!(all[0].detail["from_other_addresses"], 505);
    }

    #[test]
    fn what_cannot_be_written_is_kept() {
        let (_dir, state) = open();
        state.note_failed_login(IpAddr::from([10, 0, 0, 1]));
        state.with(|c| Ok(c.execute_batch("ALTER TABLE audit RENAME TO away")?)).expect("broken");
        assert!(state.flush().is_err());
        state.note_failed_login(IpAddr::from([10, 0, 0, 2]));
        state.with(|c| Ok(c.execute_batch("ALTER TABLE away RENAME TO audit")?)).expect("mended");
        state.flush().expect("written");
        assert_eq!(records(&state)[0].detail["count"], 2);
    }
}
