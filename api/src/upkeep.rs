//! Background work on the state database: every second what was noted is recorded and the audit
//! chain's head anchored, and every hour expired audit records are deleted.

use std::time::{Duration, Instant};

use sightline_core::Timestamp;
use sightline_core::config::AuditConfig;
use sightline_core::shutdown::Shutdown;

use crate::state::{State, StateError};

/// Interval between two writings.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// Interval between two deletions of expired records.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(3600);

/// Shortest interval between two log lines about a database that cannot be written.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Works until `shutdown`, and writes everything before it returns; run it as a task of its own.
pub async fn run(state: State, audit: AuditConfig, shutdown: Shutdown) {
    let (mut expired_at, mut complained_at): (Option<Instant>, Option<Instant>) = (None, None);
    let due = |at: Option<Instant>, interval| at.is_none_or(|at| at.elapsed() >= interval);
    loop {
        let mut outcome = state.run(State::flush).await;
        if outcome.is_ok() && audit.retention_days > 0.0 && due(expired_at, EXPIRE_INTERVAL) {
            let keep = Duration::from_secs_f64(audit.retention_days * 86_400.0);
            outcome = expire(&state, keep).await;
            expired_at = Some(Instant::now());
        }
        // The process ends without waiting for this task; the state writes the rest when it is
        // dropped.
        if matches!(outcome, Err(StateError::Stopping)) {
            return;
        }
        if let Err(error) = outcome
            && due(complained_at, COMPLAINT_INTERVAL)
        {
            tracing::error!(%error, "audit records cannot be written; trying again");
            complained_at = Some(Instant::now());
        }
        if shutdown.is_triggered() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(FLUSH_INTERVAL) => {}
            // Once more, for what was noted since.
            () = shutdown.triggered() => {}
        }
    }
}

/// Deletes the records older than `keep`, in pieces between which others may write.
async fn expire(state: &State, keep: Duration) -> Result<(), StateError> {
    let age = i64::try_from(keep.as_micros()).unwrap_or(i64::MAX);
    let before = Timestamp::from_micros(Timestamp::now().as_micros().saturating_sub(age));
    let mut all = 0;
    loop {
        match state.run(move |s| s.expire_audit(before)).await? {
            0 => break,
            deleted => all += deleted,
        }
    }
    if all > 0 {
        tracing::info!(records = all, %before, "audit records have expired");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::AuditEntry;
    use serde_json::json;

    #[tokio::test]
    async fn expired_records_go_and_noted_ones_come() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = State::open(dir.path()).expect("opens");
        let entry = AuditEntry { who: "desk".into(), action: "search", purpose: None, detail: json!({}) };
        state.record(&entry).expect("recorded");
        tokio::time::sleep(Duration::from_millis(100)).await;
        state.note_failed_login([10, 0, 0, 1].into());
        let shutdown = Shutdown::new();
        let a_moment = AuditConfig { retention_days: 0.05 / 86_400.0 };
        let running = tokio::spawn(run(state.clone(), a_moment, shutdown.clone()));
        tokio::time::sleep(Duration::from_millis(500)).await;
        state
            .note_picture("desk", serde_json::from_value(json!(uuid::Uuid::nil())).expect("an id"))
            .await
            .expect("noted");
        shutdown.trigger();
        running.await.expect("ends");
        let actions: Vec<String> = state.audit(None, 9).expect("read").into_iter().map(|r| r.action).collect();
        assert_eq!(actions, ["pictures", "audit.expire", "login.failed"]);
        assert!(state.verify_audit().expect("walked").intact);
    }
}
