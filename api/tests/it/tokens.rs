//! Tokens over REST: the secret is told once, changes are recorded, and nobody locks everybody out.

use serde_json::{Value, json};
use sightline_api::state::Role;

use crate::support::{START_TOKEN, Server};

fn create(server: &Server, body: &Value) -> Value {
    let (status, made) = server.post("/v1/tokens", body);
    assert_eq!(status, 201, "{made}");
    made
}

fn revoke(server: &Server, token: &str, id: &Value) -> (u16, Value) {
    server.call("DELETE", &format!("/v1/tokens/{}", id.as_str().unwrap()), Some(token), None)
}

#[test]
fn a_token_is_made_used_listed_and_revoked() {
    let server = Server::start();
    server.cameras(&["gate", "yard"]);
    let body = json!({
        "name": " night desk ", "role": "operator", "cameras": ["gate"], "expires_at": "2999-01-01T00:00:00Z",
    });
    let made = create(&server, &body);
    let (secret, id) = (made["secret"].as_str().unwrap().to_owned(), made["id"].clone());
    assert_eq!(
        (&made["name"], &made["role"], &made["works"]),
        (&json!("night desk"), &json!("operator"), &json!(true))
    );
    let (status, seen) = server.call("GET", "/v1/cameras", Some(&secret), None);
    assert_eq!((status, seen["cameras"].as_array().unwrap().len(), &seen["role"]), (200, 1, &json!("operator")));
    let (status, all) = server.get("/v1/tokens");
    let listed = all["tokens"].as_array().unwrap();
    assert_eq!((status, listed.len(), &listed[0]["id"]), (200, 2, &json!("start")));
    assert_eq!((&listed[1]["id"], &listed[1]["cameras"]), (&id, &json!(["gate"])));
    assert!(listed[1]["last_used_at"].is_string() && listed[1]["revoked_at"].is_null(), "{all}");
    assert!(!all.to_string().contains(&secret) && listed[1].get("secret").is_none(), "{all}");
    assert_eq!(revoke(&server, START_TOKEN, &id).0, 204);
    assert_eq!(server.call("GET", "/v1/cameras", Some(&secret), None).0, 401, "at once");
    assert_eq!(server.get("/v1/tokens").1["tokens"][1]["works"], json!(false));
    let (status, again) = revoke(&server, START_TOKEN, &id);
    assert_eq!((status, &again["code"]), (404, &json!("not_found")));
    let records = server.get("/v1/audit").1["records"].clone();
    let told =
        [&records[0], &records[1]].map(|r| (r["action"].clone(), r["detail"]["token"].clone(), r["who"].clone()));
    let by = json!("start (start)");
    assert_eq!(told, [(json!("token.revoke"), id.clone(), by.clone()), (json!("token.create"), id, by)]);
    assert!(!records.to_string().contains(&secret), "the trail has no secret");
}

#[test]
fn the_last_administrator_cannot_be_removed_and_the_start_token_can() {
    let server = Server::start();
    let start = json!("start");
    let (status, refused) = revoke(&server, START_TOKEN, &start);
    assert_eq!((status, &refused["code"]), (409, &json!("conflict")), "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("create another one first"), "{refused}");
    let admin = create(&server, &json!({ "name": "admin", "role": "admin" }));
    assert_eq!(revoke(&server, START_TOKEN, &start).0, 204, "its own, too");
    assert_eq!(server.get("/v1/tokens").0, 401);
    let secret = admin["secret"].as_str().unwrap();
    assert_eq!(revoke(&server, secret, &admin["id"]).0, 409);
    assert_eq!(server.call("GET", "/v1/tokens", Some(secret), None).0, 200, "it still works");
    // On the machine itself it can be.
    assert!(server.app.state().revoke_token(admin["id"].as_str().unwrap()).unwrap());
}

#[test]
fn tokens_are_for_administrators_of_all_cameras() {
    let server = Server::start();
    server.cameras(&["gate"]);
    let others = [
        server.token(Role::Viewer, None),
        server.token(Role::Operator, None),
        server.token(Role::Auditor, None),
        server.token(Role::Metrics, None),
        server.token(Role::Admin, Some(&["gate"])),
    ];
    let before = server.get("/v1/tokens").1;
    for token in &others {
        for (method, path) in [("GET", "/v1/tokens"), ("POST", "/v1/tokens"), ("DELETE", "/v1/tokens/start")] {
            let body = json!({ "name": "mine", "role": "admin" });
            let (status, answer) = server.call(method, path, Some(token), (method == "POST").then_some(&body));
            assert_eq!((status, &answer["code"]), (403, &json!("forbidden")), "{method} {answer}");
        }
    }
    assert_eq!(
        server.get("/v1/tokens").1["tokens"].as_array().unwrap().len(),
        before["tokens"].as_array().unwrap().len()
    );
}

#[test]
fn bad_tokens_are_not_made() {
    let server = Server::start();
    for (body, code, part) in [
        (json!({ "name": "  ", "role": "viewer" }), "invalid_request", "name"),
        (json!({ "name": "x".repeat(101), "role": "viewer" }), "invalid_request", "100"),
        (json!({ "name": "x" }), "invalid_request", "role"),
        (json!({ "name": "x", "role": "owner" }), "invalid_request", "owner"),
        (json!({ "name": "x", "role": "viewer", "cameras": [] }), "invalid_request", "empty"),
        (json!({ "name": "x", "role": "viewer", "cameras": ["cellar"] }), "unknown_camera", "cellar"),
        (json!({ "name": "x", "role": "viewer", "expires_at": "2020-01-01T00:00:00Z" }), "invalid_request", "future"),
        (json!({ "name": "x", "role": "viewer", "days": 3 }), "invalid_request", "days"),
    ] {
        let (status, answer) = server.post("/v1/tokens", &body);
        assert_eq!((status, answer["code"].as_str()), (400, Some(code)), "{body}");
        assert!(answer["message"].as_str().unwrap().contains(part), "{answer}");
    }
    assert_eq!(server.get("/v1/tokens").1["tokens"].as_array().unwrap().len(), 1);
}
