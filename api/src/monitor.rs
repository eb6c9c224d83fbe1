//! Health and metrics on a separate address without a token, for probes and Prometheus on the
//! operator's network: `monitor.listen` of `sightline-api`, as in every separate role, and
//! `server.metrics_listen` of `sightline serve`. At the API's own address `/metrics` needs a token
//! of the role `metrics`, and `/readyz` tells strangers no details.

use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use sightline_core::http::{self, Limits, Plain};
use sightline_core::shutdown::Shutdown;
use tokio::net::TcpListener;

use crate::app::App;
use crate::desk::{Readiness, readiness, render_metrics};
use crate::error::Error;
use crate::routes::health;

/// Serves health and metrics until `shutdown`.
pub async fn serve(listener: TcpListener, app: App, shutdown: Shutdown) {
    let routes = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(app);
    http::serve(listener, routes, Limits::default(), Plain, shutdown).await;
}

async fn readyz(State(app): State<App>) -> (axum::http::StatusCode, Json<Readiness>) {
    let readiness = readiness(&app).await;
    (health::status(readiness.ready), Json(readiness))
}

async fn metrics(State(app): State<App>) -> Result<Response, Error> {
    Ok(health::metrics_text(render_metrics(&app)?))
}
