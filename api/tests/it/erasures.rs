//! Erasures as jobs: what a request may ask for, how a job is followed, and that it outlives the
//! process.

use bytes::Bytes;
use serde_json::{Value, json};
use sightline_api::state::Role;
use sightline_core::{PatchFeatures, SightingId, Timestamp};
use sightline_search::{CropHash, GalleryEntry, Point, Scope, VectorStore as _};

use crate::support::{JPEG, START_TOKEN, Server, camera, model_view, point};

fn ids(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|h| h["sighting_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_job_is_followed_from_its_start_to_its_receipt() {
    let server = Server::start();
    server.cameras(&["gate"]);
    server.world.put(&camera("gate"), 100, 0);
    server.world.put(&camera("gate"), 200, 0);
    let hold = server.world.store.hold_flush.lock().unwrap();
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
    let shown = server.until("progress is shown", || Some(server.get(&path).1).filter(|job| job["progress"] != 0.0));
    assert_eq!((&shown["state"], &shown["erased"]["sightings"]), (&json!("running"), &json!(1)), "{shown}");
    assert!((0.0..1.0).contains(&shown["progress"].as_f64().unwrap()), "{shown}");
    drop(hold);
    let done = server.erased(&job);
    assert_eq!((&done["progress"], &done["erased"]), (&json!(1.0), &json!({ "sightings": 1, "files": 2 })));
    let receipt = &done["receipt"];
    assert_eq!((&receipt["sightings"], &receipt["vectors_by_model"]), (&json!(1), &json!({ "double": 1 })));
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
    assert_eq!(server.world.stored(), 1, "what was taken later stays");
    assert_eq!(server.get("/v1/cameras/gate").0, 200, "its camera goes on");
}

#[test]
fn requests_that_erase_nothing_are_refused() {
    let server = Server::start();
    server.cameras(&["gate"]);
    let seen = server.world.put(&camera("gate"), 100, 0);
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
    let seen = server.world.put(&camera("gate"), 100, 0);
    *server.world.store.broken.lock().unwrap() = Some("the server is away");
    let (status, job) = server.post("/v1/erasures", &json!({ "sightings": [seen] }));
    assert_eq!(status, 202, "{job}");
    let path = format!("/v1/erasures/{}", job["id"].as_str().unwrap());
    let failed = server.until("it fails", || Some(server.get(&path).1).filter(|job| job["state"] == "failed"));
    assert_eq!(failed["attempts"], 1);
    assert!(
        failed["error"].as_str().unwrap().contains("the server is away") && failed["retry_at"].is_string(),
        "{failed}"
    );
    *server.world.store.broken.lock().unwrap() = None;
    let done = server.erased(&job);
    assert_eq!(
        (&done["error"], &done["retry_at"], &done["erased"]["sightings"]),
        (&Value::Null, &Value::Null, &json!(1))
    );
}

#[test]
fn a_job_that_a_crash_interrupted_goes_on_at_the_next_start() {
    use sightline_api::state::NewErasureJob;
    let server = Server::with(false, |_| ());
    let gate = camera("gate");
    let (removes, scopes) = (Some(gate.clone()), vec![Scope::camera(gate.clone())]);
    let new = NewErasureJob { removes, scopes, requested_by: "desk (ab12)".into(), audit_seq: 3 };
    let job = server.app.state().start_erasure(&new).unwrap();
    server.world.put(&gate, 100, 0);
    // The start opens the index, and nobody asks.
    server.app.set_index(server.world.index.clone(), model_view()).unwrap();
    server.app.set_cameras(server.node.clone());
    let done = server.erased(&json!({ "id": job.id }));
    assert_eq!((&done["erased"]["sightings"], &done["requested_by"]), (&json!(1), &json!("desk (ab12)")));
    assert!(server.app.state().pending_erasures().unwrap().is_empty());
}

#[test]
fn a_span_of_time_and_the_tracks_of_sightings_are_erased() {
    let server = Server::start();
    server.cameras(&["gate"]);
    let put: Vec<SightingId> = (1..=6).map(|s| server.world.put(&camera("gate"), s, 0)).collect();
    let span = json!({ "camera": "gate", "from": "1970-01-01T00:00:02Z", "to": "1970-01-01T00:00:03Z" });
    let (status, job) = server.post("/v1/erasures", &span);
    assert_eq!(status, 202, "{job}");
    let job = server.erased(&job);
    assert_eq!((&job["receipt"]["sightings"], &job["receipt"]["files"]), (&json!(2), &json!(4)));
    let (status, job) = server.post("/v1/erasures", &json!({ "sightings": [put[5]], "purpose": "request 17" }));
    assert_eq!(status, 202, "{job}");
    assert_eq!(server.erased(&job)["scopes"][0]["camera"], "gate");
    let (_, found) = server.post("/v1/search", &json!({ "query": "axis 0" }));
    let mut left = ids(&found["results"]);
    left.sort();
    let mut wanted = [put[0], put[3], put[4]].map(|id| id.to_string());
    wanted.sort();
    assert_eq!(left, wanted);
}

/// Puts a better picture into the slot of the first one of this track, as the indexer does.
fn replace(server: &Server, born_s: i64, jpeg: &'static [u8]) {
    let mut better = point(&camera("gate"), born_s, 0, 0);
    let old = server.world.store.get(&[better.id]).unwrap().remove(0);
    better.payload.crop = Some(CropHash::of(jpeg));
    let patches = PatchFeatures { rows: 1, width: 1, data: Bytes::from_static(&[0, 0]) };
    let gallery = server.world.index.gallery();
    gallery.put(&[GalleryEntry { key: better.key(), jpeg: Bytes::from_static(jpeg), patches }]).unwrap();
    server.world.store.upsert(std::slice::from_ref(&better)).unwrap();
    gallery.retire(&[old.key()], Timestamp::now()).unwrap();
    gallery.prune(&[better.key()]).unwrap();
}

#[test]
fn the_picture_that_was_judged_stays_and_a_later_one_never_stands_for_it() {
    let server = Server::start();
    server.cameras(&["gate"]);
    let id = server.world.put(&camera("gate"), 1, 0);
    let (_, found) = server.post("/v1/search", &json!({ "query": "axis 0" }));
    let judged = found["results"][0]["thumbnail"].as_str().unwrap().to_owned();
    assert!(judged.ends_with(&format!("?crop={}", CropHash::of(JPEG))), "{judged}");
    let auth = [("authorization", "Bearer start-token")];
    assert_eq!(server.raw("GET", &judged, &auth, b"").body, JPEG);
    replace(&server, 1, b"\xff\xd8better");
    let bare = format!("/v1/sightings/{id}/thumbnail.jpg");
    assert_eq!(server.raw("GET", &bare, &auth, b"").body, b"\xff\xd8better");
    assert_eq!(server.raw("GET", &judged, &auth, b"").body, JPEG, "the list on the screen still shows it");
    assert_eq!(server.raw("GET", &format!("{bare}?crop=xyz"), &auth, b"").status, 400);
    assert_eq!(server.raw("GET", &format!("{bare}?crop={}", CropHash::of(b"no such")), &auth, b"").status, 404);
    let other = server.token(Role::Viewer, Some(&["yard"]));
    assert_eq!(server.call("GET", &judged, Some(&other), None).0, 404, "it has its camera's scope");
    // Two hours later it is gone, and nothing stands for it.
    let later = Timestamp::now() + std::time::Duration::from_secs(2 * 3600);
    server.world.index.gallery().expire_replaced(later).unwrap();
    let (status, body) = server.get(&judged);
    assert_eq!(status, 404, "{body}");
    assert!(body["message"].as_str().unwrap().contains("a later one has replaced it"), "{body}");
}

#[test]
fn a_replaced_picture_is_erased_with_its_span_and_hidden_at_once() {
    let server = Server::start();
    server.cameras(&["gate"]);
    server.world.put(&camera("gate"), 100, 0);
    let (_, found) = server.post("/v1/search", &json!({ "query": "axis 0" }));
    let judged = found["results"][0]["thumbnail"].as_str().unwrap().to_owned();
    // The present picture was captured after the span, the replaced one inside.
    replace(&server, 100, b"\xff\xd8better");
    let mut late = server.world.store.get(&[point(&camera("gate"), 100, 0, 0).id]).unwrap().remove(0);
    late.payload.captured_at = Timestamp::from_micros(108_000_000);
    let bare = format!("/v1/sightings/{}/thumbnail.jpg", late.id);
    let vector = vec![1.0, 0.0, 0.0, 0.0];
    server.world.store.upsert(&[Point { id: late.id, vector, payload: late.payload }]).unwrap();
    let hold = server.world.store.hold.lock().unwrap();
    let span = json!({ "camera": "gate", "from": "1970-01-01T00:01:40Z", "to": "1970-01-01T00:01:42Z" });
    let (status, job) = server.post("/v1/erasures", &span);
    assert_eq!((status, server.get(&judged).0), (202, 404), "{job}");
    drop(hold);
    let done = server.erased(&job);
    assert_eq!(done["erased"], json!({ "sightings": 0, "files": 1 }));
    let auth = [("authorization", "Bearer start-token")];
    assert_eq!(server.get(&judged).0, 404);
    assert_eq!(server.raw("GET", &bare, &auth, b"").body, b"\xff\xd8better", "the present one stays");
}
