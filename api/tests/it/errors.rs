//! Every error has its documented status, its stable code, and the body `{code, message,
//! request_id}`.

use serde_json::{Value, json};

use crate::support::{START_TOKEN, Server, model_view};

const JSON: (&str, &str) = ("content-type", "application/json");
const AUTH: (&str, &str) = ("authorization", "Bearer start-token");

/// Asserts status, code and that the body has exactly the three fields; returns the message.
fn refused((status, body): (u16, Value), want: (u16, &str)) -> String {
    assert_eq!((status, body["code"].as_str().unwrap_or_default()), want, "{body}");
    let keys: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["code", "message", "request_id"]);
    body["message"].as_str().unwrap().to_owned()
}

fn sent(server: &Server, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
    let raw = server.raw("POST", "/v1/search", headers, body.as_bytes());
    (raw.status, serde_json::from_slice(&raw.body).unwrap())
}

#[test]
fn bad_bodies() {
    let server = Server::start();
    let m = refused(sent(&server, &[AUTH, JSON], "{\"query\": \"a man"), (400, "invalid_request"));
    assert!(m.starts_with("malformed JSON") && m.contains("line 1"), "{m}");
    let m = refused(sent(&server, &[AUTH, JSON], ""), (400, "invalid_request"));
    assert!(m.contains("EOF"), "{m}");
    let m = refused(server.post("/v1/search", &json!({ "query": "a man", "qurey": 1 })), (400, "invalid_request"));
    assert!(m.contains("qurey") && m.contains("unknown field"), "{m}");
    let m = refused(server.post("/v1/search", &json!({ "query": 7 })), (400, "invalid_request"));
    assert!(m.contains("query"), "{m}");
    refused(sent(&server, &[AUTH], "{\"query\": \"a man\"}"), (415, "unsupported_media_type"));
    let huge = format!("{{\"query\": \"{}\"}}", "a".repeat(70_000));
    let m = refused(sent(&server, &[AUTH, JSON], &huge), (413, "body_too_large"));
    assert!(m.contains("65536"), "{m}");
    assert_eq!(server.get("/healthz").0, 200, "alive after all that");
}

#[test]
fn bad_queries() {
    let server = Server::start();
    server.cameras(&["gate"]);
    let search = |body: Value| server.post("/v1/search", &body);
    let words = "word ".repeat(10_000);
    let m = refused(search(json!({ "query": words })), (400, "query_too_long"));
    assert!(m.contains("50000") && m.contains("2000"), "{m}");
    for empty in ["", "   ", "\u{1F600}\u{1F9E5}\u{1F468}\u{200D}\u{1F469}", "?! ... --"] {
        refused(search(json!({ "query": empty })), (400, "empty_query"));
    }
    let m = refused(search(json!({ "query": "a man", "cameras": ["gaet"] })), (400, "unknown_camera"));
    assert!(m.contains("gaet"), "{m}");
    for (body, part) in [
        (json!({}), "query, image and like"),
        (json!({ "query": "a man", "limit": 0 }), "1 to 200"),
        (json!({ "query": "a man", "limit": 201 }), "1 to 200"),
        (json!({ "query": "a man", "limit": -1 }), "limit"),
        (json!({ "query": "a man", "rerank": 5000 }), "256"),
        (json!({ "query": "a man", "min_probability": 1.5 }), "0 to 1"),
        (json!({ "query": "a man", "cameras": [] }), "empty"),
        (json!({ "query": "a man", "from": "yesterday" }), "RFC 3339"),
        (json!({ "query": "a man", "from": "2026-05-02T00:00:00Z", "to": "2026-05-01T00:00:00Z" }), "later"),
        (json!({ "query": "a man", "sort": "random" }), "relevance"),
        (json!({ "like": "not-an-id" }), "like"),
        (json!({ "cursor": "0.0", "query": "a man" }), "alone"),
        (json!({ "like": "73b30d71-03e5-5a9c-865f-72d4ebb03402" }), "no sighting"),
    ] {
        let m = refused(search(body.clone()), (400, "invalid_request"));
        assert!(m.contains(part), "{body}: {m}");
    }
    for (image, part) in [("%%%", "base64"), ("aGVsbG8=", "JPEG"), ("/9j/4AAQSkZJRgABAQAAAQABAAD/", "")] {
        let m = refused(search(json!({ "image": image })), (400, "invalid_image"));
        assert!(m.contains(part), "{m}");
    }
    let records = server.get("/v1/audit").1["records"].as_array().unwrap().len();
    assert_eq!(records, 1, "the camera's; none of these was a search");
}

#[test]
fn wrong_routes_and_methods() {
    let server = Server::start();
    refused(server.get("/v1/nothing"), (404, "not_found"));
    refused(server.get("/v1/watches"), (404, "not_found"));
    refused(server.call("GET", "/v1/search", Some(START_TOKEN), None), (405, "method_not_allowed"));
    refused(server.call("PATCH", "/v1/cameras", Some(START_TOKEN), None), (405, "method_not_allowed"));
    refused(server.call("POST", "/", Some(START_TOKEN), Some(&json!({}))), (405, "method_not_allowed"));
    refused(server.get("/v1/sightings/12"), (400, "invalid_request"));
    refused(server.get("/v1/sightings/73b30d71-03e5-5a9c-865f-72d4ebb03402"), (404, "not_found"));
    refused(server.get("/v1/cameras/Not%20An%20Id"), (400, "invalid_request"));
    refused(server.get("/v1/cameras/nowhere"), (404, "not_found"));
    refused(server.get("/v1/audit?limit=0"), (400, "invalid_request"));
    refused(server.get("/v1/audit?lmit=5"), (400, "invalid_request"));
}

#[test]
fn what_is_down_is_named_and_never_an_empty_list() {
    let server = Server::start();
    *server.world.store.broken.lock().unwrap() = Some("the disk is full");
    let m = refused(server.post("/v1/search", &json!({ "query": "a man" })), (503, "unavailable"));
    assert!(m.contains("the vector store") && m.contains("the disk is full"), "{m}");
}

#[test]
fn before_the_model_is_loaded() {
    let server = Server::with(false, |_| ());
    server.app.set_phase("loading the model");
    assert_eq!(server.get("/healthz").0, 200);
    let (status, ready) = server.get("/readyz");
    assert_eq!((status, &ready["ready"]), (503, &json!(false)));
    assert_eq!(ready["checks"][0], json!({ "name": "model", "ok": false, "detail": "loading the model" }));
    let m = refused(server.post("/v1/search", &json!({ "query": "a man" })), (503, "unavailable"));
    assert!(m.contains("loading the model"), "{m}");
    refused(server.post("/v1/cameras", &json!({ "id": "a", "url": "rtsp://a" })), (503, "unavailable"));
    server.app.set_index(server.world.index.clone(), model_view()).unwrap();
    let (status, ready) = server.get("/readyz");
    assert_eq!((status, &ready["ready"]), (200, &json!(true)));
    assert_eq!(ready["model"]["provenance"]["trained_on"], "nothing");
    assert_eq!(ready["model"]["self_test"], "spread only");
}

#[test]
fn a_panic_is_an_error_like_any_other_and_the_service_lives() {
    let server = Server::start();
    let m = refused(server.post("/v1/search", &json!({ "query": "panic please" })), (500, "internal"));
    assert!(!m.contains("as asked"), "no innards: {m}");
    assert_eq!(server.post("/v1/search", &json!({ "query": "a man" })).0, 200);
}

#[test]
fn the_request_id_is_in_header_and_body() {
    let server = Server::start();
    let a = server.raw("GET", "/v1/nothing", &[AUTH], b"");
    let body: Value = serde_json::from_slice(&a.body).unwrap();
    assert_eq!(body["request_id"], a.header("x-request-id"));
    assert_eq!(a.header("content-type"), "application/json");
    let b = server.raw("GET", "/v1/nothing", &[AUTH], b"");
    assert_ne!(a.header("x-request-id"), b.header("x-request-id"));
}
