//! Reading the audit trail.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::app::App;
use crate::auth::Caller;
use crate::error::{Error, ErrorBody};
use crate::extract::ApiQuery;
use crate::state::{AuditRecord, Role, Verdict};

/// Most records in one answer.
const MAX: usize = 1000;

/// Which part of the trail.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditParams {
    /// Only records before this position.
    pub before: Option<i64>,
    /// At most so many records (1 to 1000, default 100).
    pub limit: Option<usize>,
    /// Also walk the whole chain and say whether it is intact.
    #[serde(default)]
    pub verify: bool,
}

/// A part of the audit trail.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditPage {
    /// Newest first.
    pub records: Vec<AuditRecord>,
    /// The next `before`, when there is more.
    pub next_before: Option<i64>,
    /// The state of the whole chain, when asked for.
    pub chain: Option<Verdict>,
}

/// Who searched what, when and why; newest first. For administrators.
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
