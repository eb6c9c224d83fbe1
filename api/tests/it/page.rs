//! The page's files, their security headers, and the OpenAPI description.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::Server;

#[test]
fn the_page_is_served_whole_and_loads_nothing_from_elsewhere() {
    let server = Server::start();
    let page = server.raw("GET", "/", &[], b"");
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let html = String::from_utf8(page.body).unwrap();
    for (path, kind) in [
        ("/style.css", "text/css"),
        ("/app.js", "text/javascript"),
        ("/dialogs.js", "text/javascript"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        assert!(html.contains(&format!("\"{path}\"")), "the page uses {path}");
        let file = server.raw("GET", path, &[], b"");
        assert_eq!(file.status, 200, "{path}");
        assert!(file.header("content-type").starts_with(kind), "{path}");
        assert!(file.body.len() > 100, "{path} is not empty");
        let again = server.raw("GET", path, &[("if-none-match", file.header("etag"))], b"");
        assert_eq!(again.status, 304, "{path}");
        let text = String::from_utf8(file.body).unwrap();
        assert!(!text.contains("//cdn") && !text.contains("@import"), "{path} loads nothing");
    }
    // The content policy forbids inline scripts and styles, so there must be none.
    assert!(!html.contains("<style") && !html.contains(" style=") && !html.contains(" onclick="));
    assert_eq!(html.matches("<script").count(), html.matches("<script src=").count());
}

#[test]
fn security_headers_are_on_every_answer() {
    let server = Server::start();
    for path in ["/", "/app.js", "/healthz", "/v1/cameras", "/nothing"] {
        let answer = server.raw("GET", path, &[], b"");
        let policy = answer.header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"));
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), "", "{path}");
    }
    let auth = ("authorization", "Bearer start-token");
    assert_eq!(server.raw("GET", "/v1/cameras", &[auth], b"").header("cache-control"), "no-store");
}

#[test]
fn the_description_lists_exactly_the_routes_served() {
    let server = Server::start();
    let (status, api) = server.get("/openapi.json");
    assert_eq!(status, 200);
    let described: BTreeSet<String> = api["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let wanted: BTreeSet<String> = [
        "POST /v1/search",
        "GET /v1/sightings/{id}",
        "GET /v1/sightings/{id}/thumbnail.jpg",
        "GET /v1/cameras",
        "POST /v1/cameras",
        "GET /v1/cameras/{id}",
        "DELETE /v1/cameras/{id}",
        "POST /v1/erasures",
        "GET /v1/erasures",
        "GET /v1/erasures/{id}",
        "GET /v1/tokens",
        "POST /v1/tokens",
        "DELETE /v1/tokens/{id}",
        "GET /v1/audit",
        "GET /v1/audit/verify",
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
    ]
    .map(String::from)
    .into();
    assert_eq!(described, wanted);
    for route in &described {
        let (method, path) = route.split_once(' ').unwrap();
        let path = path.replace("{id}", "73b30d71-03e5-5a9c-865f-72d4ebb03402");
        let (status, body) = server.call(method, &path, None, None);
        assert!(status == 401 || status == 200, "{route} is served: {status} {body}");
    }
    assert_eq!(api["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    let fields = &api["components"]["schemas"]["SearchBody"]["properties"];
    assert!(fields["min_probability"].is_object() && fields["explain"].is_null(), "{fields}");
    assert_ne!(api["components"]["schemas"]["ErrorBody"], Value::Null);
}
