//! `GET /v1/audit`: the audit trail, and `GET /v1/audit/verify`: whether its chain is intact. Both
//! are recorded in it.

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::desk::{AuditReading, Auditor, Desk};
use crate::error::Error;
use crate::extract::ApiQuery;
use crate::state::{AuditRecord, Verdict};

/// Largest number of records in one answer.
const MAX: usize = 1000;

/// Selection of audit records.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditParams {
    /// Only records before this position in the chain.
    pub before: Option<i64>,
    /// Largest number of records (1 to 1000, default 100).
    pub limit: Option<usize>,
    /// Verify the whole hash chain and report whether it is intact.
    #[serde(default)]
    pub verify: bool,
}

/// A page of the audit trail.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditPage {
    /// Audit records, newest first.
    pub records: Vec<AuditRecord>,
    /// Value of `before` for the next page; `null` on the last page.
    pub next_before: Option<i64>,
    /// Result of verifying the whole chain, if requested.
    pub chain: Option<Verdict>,
}

/// Lists who searched or changed what, when and why; newest first. Needs a token of the role
/// auditor or admin. The reading is recorded, behind the records that it returns.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(AuditParams),
    responses((status = 200, body = AuditPage)))]
pub async fn audit(desk: Desk<Auditor>, ApiQuery(p): ApiQuery<AuditParams>) -> Result<Json<AuditPage>, Error> {
    let limit = p.limit.unwrap_or(100);
    if !(1..=MAX).contains(&limit) {
        return Err(Error::Invalid(format!("limit {limit} is out of range: 1 to {MAX}")));
    }
    let AuditReading { records, more, chain } = desk.audit(p.before, limit, p.verify).await?;
    let next_before = records.last().filter(|_| more).map(|r| r.seq);
    Ok(Json(AuditPage { records, next_before, chain }))
}

/// Verifies the whole hash chain of the audit trail: that no record was changed, removed or
/// inserted, and that none is missing at the end. Needs a token of the role auditor or admin.
#[utoipa::path(get, path = "/v1/audit/verify", tag = "audit",
    responses((status = 200, body = Verdict)))]
pub async fn verify(desk: Desk<Auditor>) -> Result<Json<Verdict>, Error> {
    Ok(Json(desk.verify_audit().await?))
}
