//! The audit trail.

use super::{Admin, Desk};
use crate::error::Error;
use crate::state::{AuditRecord, Verdict};

impl Desk<Admin> {
    /// Returns up to `limit` records before position `before`, newest first, and whether there are
    /// more.
    ///
    /// # Errors
    /// When the state database cannot be read.
    pub async fn audit(&self, before: Option<i64>, limit: usize) -> Result<(Vec<AuditRecord>, bool), Error> {
        let mut records = self.app.state().run(move |s| s.audit(before, limit + 1)).await?;
        let more = records.len() > limit;
        records.truncate(limit);
        Ok((records, more))
    }

    /// Verifies the whole hash chain of the audit trail.
    ///
    /// # Errors
    /// When the state database cannot be read.
    pub async fn verify_audit(&self) -> Result<Verdict, Error> {
        Ok(self.app.state().run(|s| s.verify_audit()).await?)
    }
}
