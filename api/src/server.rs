//! HTTP server: routes, layers and graceful shutdown.
//!
//! The outermost layer is the *envelope*: it assigns the request id, writes the body of every
//! error, sets the security headers, and counts and times requests. The next layer turns panics
//! into errors; the innermost authenticates the protected routes.

use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use sightline_core::shutdown::Shutdown;
use tokio::net::TcpListener;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument as _;
use utoipa::openapi::OpenApi;
use uuid::Uuid;

use crate::app::App;
use crate::auth::authenticate;
use crate::desk::Gate;
use crate::error::{Error, ErrorBody, Problem};
use crate::{openapi, page};

/// Time that requests in flight get to finish when the server stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(4);

/// Security headers of every answer.
const SECURITY_HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, page::CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // The page is opened with a token in its address, which no other site may learn.
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Builds the router of all routes and its OpenAPI description.
pub fn router(app: App) -> (Router, OpenApi) {
    let (open, protected) = crate::routes::all();
    let protected = protected.route_layer(from_fn_with_state(app.clone(), authenticate));
    let (routes, api) = openapi::base().merge(open).merge(protected).split_for_parts();
    let described = api.clone();
    let mut routes = routes.route(
        openapi::PATH,
        axum::routing::get(move || {
            let described = described.clone();
            async move { Json(described) }
        }),
    );
    for (path, name) in page::FILES {
        let serve = move |headers: HeaderMap| async move { page::file(name, &headers) };
        routes = routes.route(path, axum::routing::get(serve));
    }
    let router = routes
        .fallback(async |request: Request| Error::NotFound(format!("there is no {}", request.uri().path())))
        .method_not_allowed_fallback(async |method: Method| Error::MethodNotAllowed(method.to_string()))
        .layer(DefaultBodyLimit::max(app.server().max_body_bytes))
        .layer(CatchPanicLayer::custom(|panic: Box<dyn std::any::Any + Send>| {
            let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            Error::Internal(format!("a handler panicked: {text}")).into_response()
        }))
        .layer(from_fn(envelope))
        .with_state(Gate::new(app));
    (router, api)
}

/// Serves until `shutdown`, then waits for the requests in flight.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, app: App, shutdown: Shutdown) -> std::io::Result<()> {
    let (router, _) = router(app);
    let stop = shutdown.clone();
    let serving = axum::serve(listener, router).with_graceful_shutdown(async move { stop.triggered().await });
    tokio::select! {
        done = async { serving.await } => done,
        () = async { shutdown.triggered().await; tokio::time::sleep(SHUTDOWN_GRACE).await } => {
            tracing::warn!(seconds = SHUTDOWN_GRACE.as_secs(), "requests under way were cut off");
            Ok(())
        }
    }
}

async fn envelope(request: Request, next: Next) -> Response {
    let id = Uuid::new_v4().to_string();
    let method = request.method().clone();
    // Metrics are labelled with the route's pattern, not its path, so that no id becomes a label.
    // The query string is never logged.
    let route = request.extensions().get::<MatchedPath>().map_or("(none)".to_owned(), |m| m.as_str().to_owned());
    let started = Instant::now();
    let span = tracing::info_span!("request", %id, %method, %route);
    let mut response = next.run(request).instrument(span.clone()).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        span.in_scope(|| tracing::info!(code = problem.code, message = %problem.message, "refused"));
        let body = ErrorBody { code: problem.code.into(), message: problem.message, request_id: id.clone() };
        let (mut parts, _) = response.into_parts();
        parts.headers.remove(header::CONTENT_LENGTH);
        let (json, body) = Json(body).into_response().into_parts();
        parts.headers.extend(json.headers);
        response = Response::from_parts(parts, body);
    }
    let headers = response.headers_mut();
    for (name, value) in SECURITY_HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    let status = response.status().as_u16().to_string();
    let labels = [("method", method.to_string()), ("route", route), ("status", status)];
    metrics::counter!("sightline_api_requests_total", &labels).increment(1);
    metrics::histogram!("sightline_api_request_seconds", &labels[..2]).record(started.elapsed().as_secs_f64());
    response
}
