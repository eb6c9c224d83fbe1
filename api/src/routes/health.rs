//! Health, readiness and metrics of the process.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::desk::{Admin, Desk, PublicDesk, Readiness};
use crate::error::{Error, ErrorBody};

/// Answers 200 while the process runs.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()), responses((status = 200, body = String)))]
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// Answers 200 when searches are answered: the model has passed its self-test, and the index and
/// the state database work. Otherwise 503 with the reason.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()),
    responses((status = 200, body = Readiness), (status = 503, body = Readiness, description = "not ready")))]
pub async fn readyz(desk: PublicDesk) -> Response {
    let readiness = desk.readiness().await;
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

/// Returns counters and timings in the Prometheus text format. Labels name cameras, so it needs an
/// administrator's token.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, body = String, content_type = "text/plain"), (status = 403, body = ErrorBody)))]
pub async fn metrics(desk: Desk<Admin>) -> Result<Response, Error> {
    let text = desk.metrics()?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
