//! Health, readiness and metrics of the process.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::desk::{Desk, Metrics, PublicDesk, Readiness};
use crate::error::Error;

/// What a caller without a token learns.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct ReadyOrNot {
    /// Whether searches are answered.
    pub ready: bool,
}

/// Answers 200 while the process runs.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()), responses((status = 200, body = String)))]
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// Answers 200 when searches are answered: the model has passed its self-test, and the index and
/// the state database work. Otherwise 503. With a token that works the answer has the reasons and
/// the model; without one only `ready`.
#[utoipa::path(get, path = "/readyz", tag = "health", security((), ("token" = [])),
    responses((status = 200, body = Readiness), (status = 503, body = Readiness, description = "not ready")))]
pub async fn readyz(desk: PublicDesk) -> Response {
    let readiness = desk.readiness().await;
    let status = status(readiness.ready);
    if desk.knows_caller() {
        (status, Json(readiness)).into_response()
    } else {
        (status, Json(ReadyOrNot { ready: readiness.ready })).into_response()
    }
}

/// 200 when ready, otherwise 503.
pub(crate) fn status(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// Returns counters and timings in the Prometheus text format. Labels name cameras, so it needs a
/// token of the role metrics or admin.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, body = String, content_type = "text/plain")))]
pub async fn metrics(desk: Desk<Metrics>) -> Result<Response, Error> {
    Ok(metrics_text(desk.metrics()?))
}

/// Answers with metrics in the Prometheus text format.
pub(crate) fn metrics_text(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
