//! Health, readiness and metrics of the process.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::auth::Known;
use crate::engine::ModelView;
use crate::error::{Error, ErrorBody};

/// Time limit of the index's count. An unreachable server takes longer to time out, and probes do
/// not wait that long.
const COUNT_TIMEOUT: Duration = Duration::from_secs(2);

/// Readiness of one part.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Check {
    /// Name of the part: `model`, `index`, `state`, `indexer` or `cameras`.
    pub name: &'static str,
    /// Whether the part works.
    pub ok: bool,
    /// State of the part, in words.
    pub detail: String,
}

/// Readiness of the server.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Readiness {
    /// Whether searches are answered.
    pub ready: bool,
    /// Readiness of each part.
    pub checks: Vec<Check>,
    /// Model in use and the device that computes it.
    pub model: Option<ModelView>,
    /// Version of this build.
    pub version: &'static str,
}

impl Readiness {
    /// 200 when ready, otherwise 503.
    pub fn status(&self) -> StatusCode {
        if self.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
    }
}

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
pub async fn readyz(State(app): State<App>, Known(caller): Known) -> Response {
    let readiness = readiness(&app).await;
    match caller {
        Some(_) => (readiness.status(), Json(readiness)).into_response(),
        None => (readiness.status(), Json(ReadyOrNot { ready: readiness.ready })).into_response(),
    }
}

/// Checks every part.
pub(crate) async fn readiness(app: &App) -> Readiness {
    let mut checks = Vec::new();
    let mut check = |name, outcome: Result<String, String>| {
        let (ok, detail) = outcome.map_or_else(|e| (false, e), |d| (true, d));
        checks.push(Check { name, ok, detail });
    };
    let mut model = None;
    match app.engine() {
        Ok(engine) => {
            let m = engine.model();
            check("model", Ok(format!("{} {} on {} ({})", m.name, m.id, m.device, m.dtype).trim_start().to_owned()));
            model = Some(m);
            let counted = tokio::time::timeout(COUNT_TIMEOUT, engine.count()).await;
            let counted = counted.map_err(|_| format!("no answer within {} s", COUNT_TIMEOUT.as_secs()));
            check("index", counted.and_then(|n| n.map(|n| format!("{n} sightings")).map_err(|e| e.to_string())));
        }
        Err(_) => check("model", Err(app.phase())),
    }
    let state = app.state().run(|s| s.pending_erasures()).await;
    check("state", state.map(|_| "open".to_owned()).map_err(|e| e.to_string()));
    let ready = checks.iter().all(|c| c.ok);
    // A full disk keeps new footage out, but stored pictures are still found, so it is reported and
    // does not make the server unready.
    if let Ok(engine) = app.engine() {
        let fault = engine.fault();
        checks.push(Check { name: "indexer", ok: fault.is_none(), detail: fault.unwrap_or_else(|| "storing".into()) });
    }
    if let Ok(control) = app.control()
        && control.remote()
    {
        let fault = control.fault();
        checks.push(Check { name: "cameras", ok: fault.is_none(), detail: fault.unwrap_or_else(|| "heard".into()) });
    }
    Readiness { ready, checks, model, version: env!("CARGO_PKG_VERSION") }
}

/// Returns counters and timings in the Prometheus text format. Labels name cameras, so it needs a
/// token of the role metrics or admin.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, body = String, content_type = "text/plain"), (status = 403, body = ErrorBody)))]
pub async fn metrics(State(app): State<App>) -> Result<Response, Error> {
    render_metrics(&app)
}

/// Renders the metrics of this process.
pub(crate) fn render_metrics(app: &App) -> Result<Response, Error> {
    let why = || "this process records no metrics".to_owned();
    let handle = app.metrics().ok_or_else(|| Error::Unavailable { part: "the metrics recorder", why: why() })?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], handle.render()).into_response())
}
