//! Erasures as jobs: what a request may ask for, how a job is followed, and that it outlives the
//! process.

use serde_json::{Value, json};
use sightline_core::Timestamp;

use crate::support::{START_TOKEN, Server, camera};

#[test]
fn a_job_is_followed_from_its_start_to_its_receipt() {
    let server = Server::start();
    server.cameras(&["gate"]);
    server.engine.put(&camera("gate"), 100, 0);
    server.engine.put(&camera("gate"), 200, 0);
    let hold = server.engine.hold.blocking_lock();
    let auth = format!("Bearer {START_TOKEN}");
    let headers = [("authorization", auth.as_str()), ("content-type", "application/json")];
    let body = json!({ "camera": "gate", "to": "1970-01-01T00:02:00Z", "purpose": "request 17" }).to_string();
    let answer = server.raw("POST", "/v1/erasures", &headers, body.as_bytes());
    let job: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(answer.status, 202, "{job}");
    let path = answer.header("location").to_owned();
    assert_eq!(path, format!("/v1/erasures/{}", job["id"].as_str().unwrap()));
    assert_eq!(
        (&job["state"], &job["receipt"], &job["removes_camera"]),
        (&json!("running"), &Value::Null, &Value::Null)
    );
    let scope = json!({ "camera": "gate", "track_id": null, "from": null, "to": "1970-01-01T00:02:00.000000Z" });
    assert_eq!(job["scopes"], json!([scope]));
    server.until("progress is shown", || (server.get(&path).1["progress"] == 0.25).then_some(()));
    drop(hold);
    let done = server.erased(&job);
    assert_eq!((&done["progress"], &done["erased"]), (&json!(1.0), &json!({ "sightings": 1, "files": 2 })));
    let receipt = &done["receipt"];
    assert_eq!((&receipt["sightings"], &receipt["vectors_by_model"]), (&json!(1), &json!({ "m1": 1 })));
    let expires: Vec<&str> =
        receipt["expires"].as_array().unwrap().iter().map(|e| e["what"].as_str().unwrap()).collect();
    assert!(expires.contains(&"backups and dumps made before"), "what it does not reach is said: {expires:?}");
    assert_eq!(server.get("/v1/erasures").1["erasures"], json!([done]));
    // The request and its end are in the audit trail.
    let records = server.get("/v1/audit").1["records"].clone();
    let of = |seq: &Value| records.as_array().unwrap().iter().find(|r| r["seq"] == *seq).unwrap().clone();
    let (asked, ended) = (of(&done["audit_seq"]), of(&receipt["audit_seq"]));
    assert_eq!((&asked["action"], &asked["purpose"]), (&json!("erasure.start"), &json!("request 17")));
    assert_eq!((&ended["action"], &ended["detail"]["sightings"]), (&json!("erasure.done"), &json!(1)));
    assert_eq!(server.engine.stored.lock().unwrap().len(), 1, "what was taken later stays");
    assert_eq!(server.get("/v1/cameras/gate").0, 200, "its camera goes on");
}

#[test]
fn requests_that_erase_nothing_are_refused() {
    let server = Server::start();
    server.cameras(&["gate"]);
    let seen = server.engine.put(&camera("gate"), 100, 0);
    let many: Vec<_> = (0..1001).map(uuid::Uuid::from_u128).collect();
    for (body, status, code) in [
        (json!({}), 400, "invalid_request"),
        (json!({ "camera": "gate", "sightings": [seen] }), 400, "invalid_request"),
        (json!({ "camera": "nowhere" }), 400, "unknown_camera"),
        (
            json!({ "camera": "gate", "from": "2026-05-02T00:00:00Z", "to": "2026-05-01T00:00:00Z" }),
            400,
            "invalid_request",
        ),
        (json!({ "sightings": [] }), 400, "invalid_request"),
        (json!({ "sightings": many }), 400, "invalid_request"),
        (json!({ "sightings": [seen], "to": "2026-05-01T00:00:00Z" }), 400, "invalid_request"),
        (json!({ "sightings": [uuid::Uuid::nil()] }), 404, "not_found"),
        (json!({ "camera": "gate", "everything": true }), 400, "invalid_request"),
    ] {
        let (got, answer) = server.post("/v1/erasures", &body);
        assert_eq!((got, answer["code"].as_str()), (status, Some(code)), "{body}");
    }
    assert_eq!(server.get("/v1/erasures").1["erasures"], json!([]));
    assert_eq!(server.get("/v1/erasures?limit=0").0, 400);
    assert_eq!(server.get("/v1/erasures/73b30d71-03e5-5a9c-865f-72d4ebb03402").0, 404);
    // Without an end, or with one in the future, it ends at the present: the camera goes on.
    let (status, job) = server.post("/v1/erasures", &json!({ "camera": "gate", "to": "2999-01-01T00:00:00Z" }));
    let to: Timestamp = job["scopes"][0]["to"].as_str().unwrap().parse().unwrap();
    assert!(status == 202 && to <= Timestamp::now(), "{job}");
}

#[test]
fn a_failed_attempt_is_told_and_repeated_without_another_request() {
    let server = Server::start();
    server.cameras(&["gate"]);
    let seen = server.engine.put(&camera("gate"), 100, 0);
    *server.engine.broken.lock().unwrap() = Some("the server is away");
    let (status, job) = server.post("/v1/erasures", &json!({ "sightings": [seen] }));
    assert_eq!(status, 202, "{job}");
    let path = format!("/v1/erasures/{}", job["id"].as_str().unwrap());
    let failed = server.until("it fails", || Some(server.get(&path).1).filter(|job| job["state"] == "failed"));
    assert_eq!(failed["attempts"], 1);
    assert!(
        failed["error"].as_str().unwrap().contains("the server is away") && failed["retry_at"].is_string(),
        "{failed}"
    );
    *server.engine.broken.lock().unwrap() = None;
    let done = server.erased(&job);
    assert_eq!(
        (&done["error"], &done["retry_at"], &done["erased"]["sightings"]),
        (&Value::Null, &Value::Null, &json!(1))
    );
}

#[test]
fn a_job_that_a_crash_interrupted_goes_on_at_the_next_start() {
    use sightline_api::state::NewErasureJob;
    use sightline_search::Scope;
    let server = Server::with(false, |_| ());
    let gate = camera("gate");
    let (removes, scopes) = (Some(gate.clone()), vec![Scope::camera(gate.clone())]);
    let new = NewErasureJob { removes, scopes, requested_by: "desk (ab12)".into(), audit_seq: 3 };
    let job = server.app.state().start_erasure(&new).unwrap();
    server.engine.put(&gate, 100, 0);
    // The start opens the index, and nobody asks.
    server.app.set_engine(server.engine.clone());
    server.app.set_cameras(server.node.clone());
    let done = server.erased(&json!({ "id": job.id }));
    assert_eq!((&done["erased"]["sightings"], &done["requested_by"]), (&json!(1), &json!("desk (ab12)")));
    assert!(server.app.state().pending_erasures().unwrap().is_empty());
}
