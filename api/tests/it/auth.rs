//! Tokens, roles, camera scopes, rate limits, and what of it is audited.

use serde_json::{Value, json};
use sightline_api::state::{Role, START_TOKEN_ID};
use sightline_search::VectorStore as _;

use crate::support::{START_TOKEN, Server, camera, point};

fn search(server: &Server, token: &str, body: &Value) -> (u16, Value) {
    server.call("POST", "/v1/search", Some(token), Some(body))
}

#[test]
fn every_protected_route_wants_a_token() {
    let server = Server::start();
    let id = "73b30d71-03e5-5a9c-865f-72d4ebb03402";
    for (method, path) in [
        ("POST", "/v1/search".to_owned()),
        ("GET", format!("/v1/sightings/{id}")),
        ("GET", format!("/v1/sightings/{id}/thumbnail.jpg")),
        ("GET", "/v1/cameras".into()),
        ("POST", "/v1/cameras".into()),
        ("GET", "/v1/cameras/a".into()),
        ("DELETE", "/v1/cameras/a".into()),
        ("POST", "/v1/erasures".into()),
        ("GET", "/v1/erasures".into()),
        ("GET", format!("/v1/erasures/{id}")),
        ("GET", "/v1/tokens".into()),
        ("POST", "/v1/tokens".into()),
        ("DELETE", "/v1/tokens/start".into()),
        ("GET", "/v1/audit".into()),
        ("GET", "/v1/audit/verify".into()),
        ("GET", "/metrics".into()),
    ] {
        for token in [None, Some("wrong"), Some("")] {
            let (status, body) = server.call(method, &path, token, None);
            assert_eq!((status, &body["code"]), (401, &json!("unauthorized")), "{method} {path}");
        }
    }
    let raw = server.raw("GET", "/v1/cameras", &[("authorization", "Basic c3RhcnQ6dG9rZW4=")], b"");
    assert_eq!(raw.status, 401);
    assert!(raw.header("www-authenticate").starts_with("Bearer"));
    // A token in the query is refused, even beside a header, and the message says what to do.
    for path in ["/v1/cameras?token=", "/?token=", "/v1/cameras?x=1&token="] {
        let (status, body) = server.call("GET", &format!("{path}{START_TOKEN}"), Some(START_TOKEN), None);
        assert_eq!((status, &body["code"]), (400, &json!("token_in_query")), "{path}");
        assert!(body["message"].as_str().unwrap().contains("#token="), "{body}");
    }
    for open in ["/healthz", "/readyz", "/openapi.json", "/"] {
        assert_eq!(server.call("GET", open, None, None).0, 200, "{open}");
    }
}

#[test]
fn roles() {
    let server = Server::start();
    server.cameras(&["gate"]);
    let (viewer, operator, admin) =
        (server.token(Role::Viewer, None), server.token(Role::Operator, None), server.token(Role::Admin, None));
    let query = json!({ "query": "a man" });
    for (token, want) in [(&viewer, 403), (&operator, 200), (&admin, 200)] {
        assert_eq!(search(&server, token, &query).0, want);
    }
    let (auditor, metrics) = (server.token(Role::Auditor, None), server.token(Role::Metrics, None));
    for (token, audit, numbers, cameras) in [
        (&viewer, 403, 403, 200),
        (&operator, 403, 403, 200),
        (&auditor, 200, 403, 403),
        (&metrics, 403, 200, 403),
        (&admin, 200, 200, 200),
    ] {
        assert_eq!(server.call("GET", "/v1/audit", Some(token), None).0, audit);
        assert_eq!(server.call("GET", "/v1/audit/verify", Some(token), None).0, audit);
        assert_eq!(server.call("GET", "/metrics", Some(token), None).0, numbers);
        assert_eq!(server.call("GET", "/v1/cameras", Some(token), None).0, cameras);
    }
    let new = json!({ "id": "yard", "url": "rtsp://yard" });
    for (token, want) in [(&viewer, 403), (&operator, 403), (&admin, 201)] {
        assert_eq!(server.call("POST", "/v1/cameras", Some(token), Some(&new)).0, want);
    }
    let erasure = json!({ "camera": "gate" });
    for (token, refused) in [(&viewer, true), (&operator, true), (&admin, false)] {
        let want = if refused { 403 } else { 202 };
        assert_eq!(server.call("DELETE", "/v1/cameras/yard", Some(token), None).0, want);
        assert_eq!(server.call("POST", "/v1/erasures", Some(token), Some(&erasure)).0, want);
        let want = if refused { 403 } else { 200 };
        assert_eq!(server.call("GET", "/v1/erasures", Some(token), None).0, want);
    }
    let shown = |token| server.call("GET", "/v1/cameras", Some(token), None).1["cameras"][0].clone();
    assert_eq!(shown(&viewer)["url"], Value::Null, "addresses are for administrators");
    assert_eq!(shown(&admin)["url"], "rtsp://cam/gate");
}

#[test]
fn the_role_is_checked_before_the_body_is_read() {
    let server = Server::start();
    let viewer = format!("Bearer {}", server.token(Role::Viewer, None));
    let headers = [("authorization", viewer.as_str()), ("content-type", "application/json")];
    for path in ["/v1/search", "/v1/cameras"] {
        let refused = server.raw("POST", path, &headers, b"{ no JSON");
        assert_eq!(refused.status, 403, "{path}");
    }
}

#[test]
fn a_revoked_token_stops_working_at_once() {
    let server = Server::start();
    let token = server.token(Role::Operator, None);
    assert_eq!(server.call("GET", "/v1/cameras", Some(&token), None).0, 200);
    let tokens = server.app.state().tokens().unwrap();
    let id = tokens.into_iter().map(|t| t.id).find(|id| id != START_TOKEN_ID).unwrap();
    assert!(server.app.state().revoke_token(&id).unwrap());
    assert_eq!(server.call("GET", "/v1/cameras", Some(&token), None).0, 401);
    // So does the token that the server printed at its start.
    assert_eq!(server.get("/v1/cameras").0, 200);
    assert!(server.app.state().revoke_token(START_TOKEN_ID).unwrap());
    assert_eq!(server.get("/v1/cameras").0, 401);
}

#[test]
fn a_limited_token_sees_its_cameras_only() {
    let server = Server::start();
    server.cameras(&["gate", "yard"]);
    let at_gate = server.world.put(&camera("gate"), 100, 0);
    let at_yard = server.world.put(&camera("yard"), 200, 0);
    let token = server.token(Role::Operator, Some(&["gate"]));
    let cameras = |v: &Value| -> Vec<String> {
        v.as_array().unwrap().iter().map(|r| r["camera"].as_str().unwrap().to_owned()).collect()
    };
    // The unlimited search finds both; the limited one has the scope inside its filter and its
    // coverage.
    let (_, all) = server.post("/v1/search", &json!({ "query": "a man" }));
    assert_eq!(all["results"].as_array().unwrap().len(), 2);
    let (status, found) = search(&server, &token, &json!({ "query": "a man" }));
    assert_eq!(status, 200);
    assert_eq!((cameras(&found["results"]), cameras(&found["coverage"])), (vec!["gate".into()], vec!["gate".into()]));
    // Also behind a thousand better ones: the filter is inside the search.
    let better: Vec<_> = (0..1000).map(|i| point(&camera("yard"), 1000 + i, 0, 1)).collect();
    server.world.store.upsert(&better).unwrap();
    let (_, found) = search(&server, &token, &json!({ "query": "axis 1" }));
    assert_eq!(found["results"][0]["sighting_id"], json!(at_gate), "{found}");
    // A camera outside the scope is refused like one that does not exist.
    let (status, body) = search(&server, &token, &json!({ "query": "a man", "cameras": ["gate", "yard"] }));
    assert_eq!((status, &body["code"]), (400, &json!("unknown_camera")));
    let (status, _) = search(&server, &token, &json!({ "like": at_yard }));
    assert_eq!(status, 400, "an example out of scope is not compared with");
    assert_eq!(search(&server, &token, &json!({ "like": at_gate })).0, 200);
    for (path, want) in [
        (format!("/v1/sightings/{at_gate}"), 200),
        (format!("/v1/sightings/{at_yard}"), 404),
        (format!("/v1/sightings/{at_gate}/thumbnail.jpg"), 200),
        (format!("/v1/sightings/{at_yard}/thumbnail.jpg"), 404),
        ("/v1/cameras/gate".into(), 200),
        ("/v1/cameras/yard".into(), 404),
    ] {
        assert_eq!(server.call("GET", &path, Some(&token), None).0, want, "{path}");
    }
    let listed = server.call("GET", "/v1/cameras", Some(&token), None).1;
    assert_eq!(listed["cameras"].as_array().unwrap().len(), 1);
    // Requests that concern all cameras are refused even to a limited administrator.
    let admin = server.token(Role::Admin, Some(&["gate"]));
    for path in ["/v1/audit", "/metrics"] {
        assert_eq!(server.call("GET", path, Some(&admin), None).0, 403, "{path}");
    }
    assert_eq!(server.call("DELETE", "/v1/cameras/yard", Some(&admin), None).0, 403);
    assert_eq!(server.call("GET", "/v1/erasures", Some(&admin), None).0, 403);
    assert_eq!(server.call("POST", "/v1/erasures", Some(&admin), Some(&json!({ "camera": "gate" }))).0, 403);
    let nowhere = server.token(Role::Operator, Some(&["cellar"]));
    assert_eq!(search(&server, &nowhere, &json!({ "query": "a man" })).0, 403);
}

#[test]
fn the_rate_is_limited_by_token() {
    let server = Server::with(true, |c| c.server.rate_per_minute = 3);
    let token = server.token(Role::Viewer, None);
    let header = format!("Bearer {token}");
    let list = || server.raw("GET", "/v1/cameras", &[("authorization", &header)], b"");
    for _ in 0..3 {
        assert_eq!(list().status, 200);
    }
    let refused = list();
    assert_eq!(refused.status, 429);
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=20).contains(&wait), "{wait}");
    let body: Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!(body["code"], "rate_limited");
    assert_eq!(server.get("/v1/cameras").0, 200, "other tokens are not affected");
}

#[test]
fn the_rate_is_limited_by_address_before_the_token() {
    let server = Server::with(true, |c| {
        c.server.address_rate_per_minute = 4;
        c.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    });
    let from = |client: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        server.raw("GET", "/v1/cameras", &[("authorization", &bearer), ("x-forwarded-for", client)], b"").status
    };
    // Wrong tokens count, and what the client itself wrote into the header changes nothing.
    let answers: Vec<u16> = (0..6).map(|n| from(&format!("10.0.0.{n}, 192.0.2.1"), "wrong")).collect();
    assert_eq!(answers, [401, 401, 401, 401, 429, 429]);
    assert_eq!(from("192.0.2.1", START_TOKEN), 429);
    assert_eq!(from("192.0.2.2", START_TOKEN), 200, "other addresses are not affected");
}

#[test]
fn wrong_tokens_wait_for_no_writer_and_are_recorded_together() {
    let server = Server::start();
    let state = server.app.state().clone();
    state.flush().unwrap();
    let answers: Vec<u16> = state
        .with(|_| Ok((0..20).map(|_| server.call("GET", "/v1/cameras", Some("wrong"), None).0).collect()))
        .unwrap();
    assert_eq!(answers, [401; 20], "answered while somebody writes to the database");
    assert!(state.audit(None, 10).unwrap().is_empty(), "none of them waits for a record");
    state.flush().unwrap();
    let records = state.audit(None, 10).unwrap();
    assert_eq!((records.len(), records[0].action.as_str()), (1, "login.failed"));
    assert_eq!(
        (&records[0].detail["count"], &records[0].detail["by_address"]),
        (&json!(20), &json!({ "127.0.0.1": 20 }))
    );
}

#[test]
fn strangers_learn_only_whether_it_is_ready() {
    let server = Server::start();
    for token in [None, Some("wrong")] {
        let (status, answer) = server.call("GET", "/readyz", token, None);
        assert_eq!((status, answer), (200, json!({ "ready": true })));
    }
    let viewer = server.token(Role::Viewer, None);
    let (_, details) = server.call("GET", "/readyz", Some(&viewer), None);
    assert_eq!(details["model"]["id"], "double", "{details}");
    assert_eq!(Server::with(false, |_| ()).call("GET", "/readyz", None, None), (503, json!({ "ready": false })));
}

#[test]
fn without_required_tokens_only_localhost_is_answered() {
    let server = Server::with(true, |c| c.server.require_tokens = false);
    assert_eq!(server.call("GET", "/v1/cameras", None, None).0, 200);
    assert_eq!(server.raw("GET", "/v1/cameras", &[("host", "evil.example")], b"").status, 401);
    // What a proxy on this machine passes on is not local, whatever host it names.
    for header in ["x-forwarded-for", "forwarded", "x-real-ip", "via"] {
        assert_eq!(server.raw("GET", "/v1/cameras", &[(header, "127.0.0.1")], b"").status, 401, "{header}");
    }
}

#[test]
fn searches_and_changes_are_audited() {
    let server = Server::start();
    server.cameras(&["gate"]);
    let seen = server.world.put(&camera("gate"), 100, 0);
    let token = server.token(Role::Operator, None);
    let query = json!({ "query": "a red jacket", "cameras": ["gate"], "purpose": "lost child" });
    assert_eq!(search(&server, &token, &query).0, 200);
    assert_eq!(server.call("GET", &format!("/v1/sightings/{seen}"), Some(&token), None).0, 200);
    let (status, page) = server.get("/v1/audit?verify=true");
    assert_eq!(status, 200);
    let actions: Vec<&str> =
        page["records"].as_array().unwrap().iter().map(|r| r["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["view", "search", "camera.add"]);
    let record = &page["records"][1];
    assert!(record["who"].as_str().unwrap().starts_with("operator ("), "{record}");
    assert_eq!((&record["purpose"], &record["detail"]["query"]), (&json!("lost child"), &json!("a red jacket")));
    let intact =
        |records: i64| json!({ "intact": true, "records": records, "oldest": 1, "broken_at": null, "why": null });
    assert_eq!(page["chain"], intact(3));
    let (_, first) = server.get("/v1/audit?limit=2");
    assert_eq!((&first["records"][0]["action"], &first["next_before"]), (&json!("audit.read"), &json!(3)));
    let (_, rest) = server.get("/v1/audit?limit=2&before=2");
    assert_eq!((rest["records"][0]["seq"].as_i64(), &rest["next_before"]), (Some(1), &Value::Null));
    let picture = format!("/v1/sightings/{seen}/thumbnail.jpg");
    assert_eq!(server.raw("GET", &picture, &[("authorization", &format!("Bearer {token}"))], b"").status, 200);
    server.app.state().flush().unwrap();
    assert_eq!(server.get("/v1/audit/verify"), (200, intact(7)));
    let (_, page) = server.get("/v1/audit?limit=2");
    assert_eq!(page["records"][0]["action"], "audit.verify");
    let looked = &page["records"][1];
    assert_eq!((&looked["action"], &looked["detail"]["sightings"]), (&json!("pictures"), &json!([seen])));
    assert!(looked["who"].as_str().unwrap().starts_with("operator ("), "{looked}");
}
