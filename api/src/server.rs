//! HTTP server: routes, layers and graceful shutdown. [`sightline_core::http`] accepts the
//! connections.
//!
//! The layers of a request, from the outside to the handler:
//!
//! 1. request id, security headers, compression;
//! 2. the *envelope*: it writes the body of every error, and counts and times requests;
//! 3. panics become errors;
//! 4. the limit of the client's address ([`crate::auth::admit`]);
//! 5. size and time-out of the body;
//! 6. protected routes: token, role, and the number of requests at work.

use std::time::{Duration, Instant};

use axum::Router;
use axum::error_handling::HandleErrorLayer;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use sightline_core::http::{self, Limits, Plain};
use sightline_core::shutdown::Shutdown;
use tokio::net::TcpListener;
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::request_id::PropagateRequestIdLayer;
use tower_http::set_header::{SetRequestHeaderLayer, SetResponseHeaderLayer};
use tower_http::timeout::RequestBodyDeadlineLayer;
use tracing::Instrument as _;
use utoipa::openapi::OpenApi;
use uuid::Uuid;

use crate::app::App;
use crate::auth::{admit, authenticate};
use crate::desk::Gate;
use crate::error::{Error, ErrorBody, Problem};
use crate::tls::{Tls, TlsError};
use crate::{openapi, page};

/// Header with the id of a request.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest time without the client taking a byte of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Security headers of every answer.
const SECURITY_HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, page::CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // Cameras and times stand in the page's address, which no other site may learn.
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Builds the router of all routes and its OpenAPI description.
pub fn router(app: App) -> (Router, OpenApi) {
    let (open, protected) = crate::routes::all();
    let (open, protected) = (openapi::describe_errors(open, false), openapi::describe_errors(protected, true));
    let shed = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(|_: tower::BoxError| async { Error::Overloaded }))
        .layer(LoadShedLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(app.server().max_requests));
    let protected = protected.route_layer(shed).route_layer(from_fn_with_state(app.clone(), authenticate));
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
    let mut router = routes
        .fallback(async |request: Request| Error::NotFound(format!("there is no {}", request.uri().path())))
        .method_not_allowed_fallback(async |method: Method| Error::MethodNotAllowed(method.to_string()))
        .layer(DefaultBodyLimit::max(app.server().max_body_bytes))
        .layer(RequestBodyDeadlineLayer::new(Duration::from_secs_f64(app.server().body_seconds)))
        .layer(from_fn_with_state(app.clone(), admit))
        .layer(CatchPanicLayer::custom(|panic: Box<dyn std::any::Any + Send>| {
            let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            Error::Internal(format!("a handler panicked: {text}")).into_response()
        }))
        .layer(from_fn(envelope))
        .layer(CompressionLayer::new())
        .layer(SetResponseHeaderLayer::if_not_present(header::CACHE_CONTROL, HeaderValue::from_static("no-store")));
    for (name, value) in SECURITY_HEADERS {
        router = router.layer(SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value)));
    }
    let router = router
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        // Our own id in every case: what a client sends would stand in the log.
        .layer(SetRequestHeaderLayer::overriding(REQUEST_ID, |_: &Request| {
            HeaderValue::from_str(&Uuid::new_v4().to_string()).ok()
        }))
        .with_state(Gate::new(app));
    (router, api)
}

/// Serves until `shutdown`, then waits for the requests in flight. With a certificate in the
/// configuration it speaks TLS.
///
/// # Errors
/// When certificate and key cannot be used.
pub async fn serve(listener: TcpListener, app: App, shutdown: Shutdown) -> Result<(), TlsError> {
    let limits = limits(&app);
    let tls = Tls::of(app.server())?;
    let (router, _) = router(app);
    match tls {
        Some(tls) => http::serve(listener, router, limits, tls, shutdown).await,
        None => http::serve(listener, router, limits, Plain, shutdown).await,
    }
    Ok(())
}

fn limits(app: &App) -> Limits {
    let server = app.server();
    let proxies = server.trusted_proxies.clone();
    Limits {
        connections: server.max_connections,
        per_address: server.max_connections_per_address,
        // On this machine: `sightline search` and the like, and a proxy that is not configured.
        exempt: std::sync::Arc::new(move |ip| ip.is_loopback() || proxies.iter().any(|net| net.contains(&ip))),
        header: Duration::from_secs_f64(server.header_seconds),
        write: WRITE_TIMEOUT,
    }
}

/// Name of a method in metrics and logs. Clients may invent methods, and each would be a time
/// series of its own.
fn method_label(method: &Method) -> &'static str {
    const KNOWN: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}

async fn envelope(request: Request, next: Next) -> Response {
    let id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    let method = method_label(request.method());
    // Metrics are labelled with the route's pattern, not its path, so that no id becomes a label.
    // The query string is never logged.
    let route = request.extensions().get::<MatchedPath>().map_or("(none)".to_owned(), |m| m.as_str().to_owned());
    let started = Instant::now();
    let span = tracing::info_span!("request", %id, method, %route);
    let mut response = next.run(request).instrument(span.clone()).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        // A refused token costs no line of the log: a count of them is logged once a minute.
        if response.status() == axum::http::StatusCode::UNAUTHORIZED {
            span.in_scope(|| tracing::debug!(code = problem.code, message = %problem.message, "refused"));
        } else {
            span.in_scope(|| tracing::info!(code = problem.code, message = %problem.message, "refused"));
        }
        let body = ErrorBody { code: problem.code.into(), message: problem.message, request_id: id };
        let (mut parts, _) = response.into_parts();
        parts.headers.remove(header::CONTENT_LENGTH);
        let (json, body) = Json(body).into_response().into_parts();
        parts.headers.extend(json.headers);
        response = Response::from_parts(parts, body);
    }
    let status = response.status().as_u16().to_string();
    let labels = [("method", method.to_owned()), ("route", route), ("status", status)];
    metrics::counter!("sightline_api_requests_total", &labels).increment(1);
    metrics::histogram!("sightline_api_request_seconds", &labels[..2]).record(started.elapsed().as_secs_f64());
    response
}
