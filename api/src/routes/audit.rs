//! `GET /v1/audit`: the audit trail.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::app::App;
use crate::auth::Caller;
use crate::error::{Error, ErrorBody};
use crate::extract::ApiQuery;
use crate::state::{AuditRecord, Role, Verdict};

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

/// Lists who searched or changed what, when and why; newest first. Needs an administrator's token.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(AuditParams),
    responses((status = 200, body = AuditPage), (status = 400, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub async fn audit(
    State(app): State<App>,
    caller: Caller,
    ApiQuery(p): ApiQuery<AuditParams>,
) -> Result<Json<AuditPage>, Error> {
    caller.require(Role::Admin)?;
    caller.require_all_cameras()?;
    let limit = p.limit.unwrap_or(100);
    if !(1..=MAX).contains(&limit) {
        return Err(Error::Invalid(format!("limit {limit} is out of range: 1 to {MAX}")));
    }
    let page = app
        .state()
        .run(move |s| {
            let mut records = s.audit(p.before, limit + 1)?;
            let more = records.len() > limit;
            records.truncate(limit);
            let next_before = records.last().filter(|_| more).map(|r| r.seq);
            let chain = p.verify.then(|| s.verify_audit()).transpose()?;
            Ok(AuditPage { records, next_before, chain })
        })
        .await?;
    Ok(Json(page))
}
