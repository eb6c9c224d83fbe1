//! The OpenAPI description names every error that a route can answer with. Each of these tests
//! drives all described routes into one error and looks it up there.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use sightline_api::state::Role;

use crate::support::{Raw, START_TOKEN, Server};

/// A described route, with a path that leads to it.
struct Route {
    method: String,
    path: String,
    operation: Value,
}

impl Route {
    /// Returns all routes of the description.
    fn all(server: &Server) -> Vec<Self> {
        let (_, api) = server.get("/openapi.json");
        let mut routes = Vec::new();
        for (path, item) in api["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let path = path.replace("{id}", "73b30d71-03e5-5a9c-865f-72d4ebb03402");
                routes.push(Self { method: method.to_uppercase(), path, operation: operation.clone() });
            }
        }
        assert!(routes.len() > 15, "{}", routes.len());
        routes
    }

    fn needs_token(&self) -> bool {
        !self.operation["security"].as_array().is_some_and(|any| any.contains(&json!({})))
    }

    fn has_body(&self) -> bool {
        !self.operation["requestBody"].is_null()
    }

    fn call(&self, server: &Server, token: Option<&str>, content_type: &str, body: &str) -> Raw {
        let authorization = format!("Bearer {}", token.unwrap_or_default());
        let mut headers = vec![];
        if token.is_some() {
            headers.push(("authorization", authorization.as_str()));
        }
        if !content_type.is_empty() {
            headers.push(("content-type", content_type));
        }
        server.raw(&self.method, &self.path, &headers, body.as_bytes())
    }

    /// Asserts that the answer has this status, that it is described, and that it has `Retry-After`
    /// where that is described as certain.
    fn described(&self, answer: &Raw, status: u16) {
        let Self { method, path, operation } = self;
        let said = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, status, "{method} {path}: {said}");
        let response = &operation["responses"][status.to_string()];
        let schema = &response["content"]["application/json"]["schema"]["$ref"];
        assert_eq!(schema, "#/components/schemas/ErrorBody", "{method} {path}: {status}: {response}");
        let retry = !response["headers"]["retry-after"].is_null();
        assert_eq!(retry, matches!(status, 429 | 503), "{method} {path}: {response}");
        let waits = answer.header("retry-after").parse::<u64>().is_ok();
        assert_eq!(waits, retry, "{method} {path}: {status} with Retry-After {:?}", answer.header("retry-after"));
    }
}

#[test]
fn a_token_that_is_missing_too_weak_or_in_the_query() {
    let server = Server::start();
    let (metrics, viewer) = (server.token(Role::Metrics, None), server.token(Role::Viewer, None));
    for route in Route::all(&server) {
        let in_query = format!("{}?token=x", route.path);
        route.described(&server.raw(&route.method, &in_query, &[], b""), 400);
        if !route.needs_token() {
            continue;
        }
        route.described(&route.call(&server, None, "", ""), 401);
        // Neither role includes the other, and no route is for both.
        let weak = [&metrics, &viewer].map(|token| route.call(&server, Some(token), "application/json", "{}"));
        let refused: Vec<&Raw> = weak.iter().filter(|answer| answer.status == 403).collect();
        assert!(!refused.is_empty(), "{} {} is for everybody", route.method, route.path);
        refused.into_iter().for_each(|answer| route.described(answer, 403));
    }
}

#[test]
fn a_body_that_is_too_large_or_no_json_or_never_ends() {
    let server = Server::with(true, |c| c.server.body_seconds = 0.3);
    let mut bodies = 0;
    for route in Route::all(&server) {
        if !route.has_body() {
            assert!(route.operation["responses"]["413"].is_null(), "{} reads no body", route.path);
            continue;
        }
        bodies += 1;
        let large = format!("{{\"x\": \"{}\"}}", "x".repeat(70_000));
        route.described(&route.call(&server, Some(START_TOKEN), "application/json", &large), 413);
        route.described(&route.call(&server, Some(START_TOKEN), "text/plain", "{}"), 415);
        let mut slow = TcpStream::connect(server.base.trim_start_matches("http://")).unwrap();
        slow.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let head = format!(
            "{} {} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {START_TOKEN}\r\ncontent-type: application/json\r\n\
             content-length: 100\r\n\r\n{{",
            route.method, route.path
        );
        slow.write_all(head.as_bytes()).unwrap();
        let mut answer = [0; 64];
        let n = slow.read(&mut answer).unwrap();
        assert!(answer[..n].starts_with(b"HTTP/1.1 408"), "{}: {}", route.path, String::from_utf8_lossy(&answer[..n]));
        assert!(!route.operation["responses"]["408"].is_null(), "{} {}", route.method, route.path);
    }
    assert!(bodies >= 4, "{bodies}");
}

#[test]
fn too_many_requests_from_an_address() {
    let server = Server::with(true, |c| c.server.address_rate_per_minute = 1);
    let routes = Route::all(&server);
    for route in &routes {
        route.described(&route.call(&server, Some(START_TOKEN), "application/json", "{}"), 429);
    }
}

#[test]
fn too_much_at_work() {
    let server = Server::with(true, |c| c.server.max_requests = 1);
    server.cameras(&["gate"]);
    let routes = Route::all(&server);
    let hold = server.world.encoder.hold.lock().unwrap();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| server.post("/v1/search", &json!({ "query": "axis 0" })).0);
        // It is recorded once it is at work.
        let recorded = || server.app.state().audit(None, 9).unwrap().iter().any(|r| r.action == "search");
        server.until("the search runs", || recorded().then_some(()));
        for route in routes.iter().filter(|route| route.needs_token()) {
            route.described(&route.call(&server, Some(START_TOKEN), "application/json", "{}"), 503);
        }
        drop(hold);
        assert_eq!(running.join().unwrap(), 200);
    });
}
