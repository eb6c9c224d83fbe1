//! The operator's page, compiled into the binary: plain files that load nothing from other hosts.

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rust_embed::RustEmbed;

use crate::error::Error;

#[derive(RustEmbed)]
#[folder = "page/"]
struct Page;

/// Content security policy of the page: scripts and styles come from this server only. Pictures are
/// fetched with the token and shown through object URLs, hence `blob:`.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Files of the page and the paths that they are served under.
pub const FILES: [(&str, &str); 5] = [
    ("/", "index.html"),
    ("/style.css", "style.css"),
    ("/app.js", "app.js"),
    ("/dialogs.js", "dialogs.js"),
    ("/icon.svg", "icon.svg"),
];

/// Answers with one file of the page, or with 304 when the browser's copy is current.
///
/// # Errors
/// [`Error::NotFound`] when the binary was built without the page.
pub fn file(name: &str, headers: &HeaderMap) -> Result<Response, Error> {
    let file = Page::get(name).ok_or_else(|| Error::NotFound(format!("there is no {name}")))?;
    let kind = match name.rsplit_once('.').map(|(_, ext)| ext) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    };
    let hash: String = file.metadata.sha256_hash()[..8].iter().map(|b| format!("{b:02x}")).collect();
    Ok(with_etag(headers, kind, &hash, "no-cache", file.data.into_owned()))
}

/// Answers with a body and its `ETag`, or with 304 when the request's `If-None-Match` matches.
pub fn with_etag(
    headers: &HeaderMap,
    kind: &str,
    hash: &str,
    cache: &str,
    body: impl Into<axum::body::Body>,
) -> Response {
    let etag = format!("\"{hash}\"");
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let fixed = [(header::ETAG, etag.clone()), (header::CACHE_CONTROL, cache.to_owned())];
    if known.split(',').map(str::trim).any(|k| k == "*" || k.trim_start_matches("W/") == etag) {
        return (StatusCode::NOT_MODIFIED, fixed).into_response();
    }
    (fixed, [(header::CONTENT_TYPE, kind.to_owned())], body.into()).into_response()
}
