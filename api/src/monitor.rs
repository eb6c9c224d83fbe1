//! Health and metrics on a separate address (`monitor.listen`) without a token, as in every
//! separate role: for probes and Prometheus on the operator's network. The API's own address has
//! the same; there `/metrics` needs an administrator's token.

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sightline_core::shutdown::Shutdown;
use tokio::net::TcpListener;

use crate::app::App;
use crate::desk::Gate;
use crate::error::Error;
use crate::routes::health;

/// Serves health and metrics until `shutdown`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, app: App, shutdown: Shutdown) -> std::io::Result<()> {
    let measured = app.clone();
    let routes = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(async move || metrics(&measured)))
        .with_state(Gate::new(app));
    axum::serve(listener, routes).with_graceful_shutdown(async move { shutdown.triggered().await }).await
}

fn metrics(app: &App) -> Result<Response, Error> {
    let why = || "this process records no metrics".to_owned();
    let handle = app.metrics().ok_or_else(|| Error::Unavailable { part: "the metrics recorder", why: why() })?;
    handle.run_upkeep();
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], handle.render()).into_response())
}
