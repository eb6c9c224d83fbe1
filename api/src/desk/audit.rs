//! The audit trail. Its readings are recorded in it.

use serde_json::json;

use super::{Auditor, Desk};
use crate::error::Error;
use crate::state::{AuditRecord, Verdict};

/// Part of the audit trail.
pub struct AuditReading {
    /// Records, newest first.
    pub records: Vec<AuditRecord>,
    /// Whether there are older ones.
    pub more: bool,
    /// Whether the whole chain is intact, if asked for.
    pub chain: Option<Verdict>,
}

impl Desk<Auditor> {
    /// Returns up to `limit` records before position `before`, newest first, whether there are more,
    /// and with `verify` whether the whole chain is intact. The reading is recorded behind them.
    ///
    /// # Errors
    /// When the state database cannot be read or written.
    pub async fn audit(&self, before: Option<i64>, limit: usize, verify: bool) -> Result<AuditReading, Error> {
        let mut reading = self
            .app
            .state()
            .run(move |s| {
                let chain = verify.then(|| s.verify_audit()).transpose()?;
                Ok(AuditReading { records: s.audit(before, limit + 1)?, more: false, chain })
            })
            .await?;
        self.record("audit.read", None, json!({ "before": before, "limit": limit, "verify": verify })).await?;
        reading.more = reading.records.len() > limit;
        reading.records.truncate(limit);
        Ok(reading)
    }

    /// Verifies the whole hash chain of the audit trail, and records that it was verified.
    ///
    /// # Errors
    /// When the state database cannot be read or written.
    pub async fn verify_audit(&self) -> Result<Verdict, Error> {
        let verdict = self.app.state().run(|s| s.verify_audit()).await?;
        let detail = json!({ "intact": verdict.intact, "records": verdict.records });
        self.record("audit.verify", None, detail).await?;
        Ok(verdict)
    }
}
