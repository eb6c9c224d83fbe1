//! The audit trail. Its readings are recorded in it.

use serde_json::json;

use super::{Auditor, Desk};
use crate::error::Error;
use crate::state::{AuditRecord, Verdict};

impl Desk<Auditor> {
    /// Returns up to `limit` records before position `before`, newest first, and whether there are
    /// more. The reading is recorded behind them.
    ///
    /// # Errors
    /// When the state database cannot be read or written.
    pub async fn audit(&self, before: Option<i64>, limit: usize) -> Result<(Vec<AuditRecord>, bool), Error> {
        let mut records = self.app.state().run(move |s| s.audit(before, limit + 1)).await?;
        self.record("audit.read", None, json!({ "before": before, "limit": limit })).await?;
        let more = records.len() > limit;
        records.truncate(limit);
        Ok((records, more))
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
