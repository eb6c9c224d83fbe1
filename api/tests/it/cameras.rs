//! Cameras are added and removed while the server runs.

use serde_json::{Value, json};
use sightline_core::Timestamp;

use crate::support::{START_TOKEN, Server, camera};

fn delete(server: &Server, path: &str) -> (u16, Value) {
    server.call("DELETE", path, Some(START_TOKEN), None)
}

#[test]
fn a_camera_becomes_searchable_only_when_the_index_has_heard_of_it() {
    let server = Server::start();
    server.cameras(&["gate"]);
    let state = || server.get("/v1/cameras/gate").1;
    assert_eq!(state()["state"], "decoding");
    assert!(state()["reason"].as_str().unwrap().contains("no footage"), "{}", state());
    let now = Timestamp::now();
    server.world.progress(&camera("gate"), now - std::time::Duration::from_secs(60), false);
    assert_eq!(state()["state"], "decoding");
    assert!(state()["reason"].as_str().unwrap().contains("behind"));
    server.world.progress(&camera("gate"), now, false);
    assert_eq!((&state()["state"], &state()["reason"]), (&json!("searchable"), &Value::Null));
}

#[test]
fn refusals() {
    let server = Server::start();
    let add = |body: Value| server.post("/v1/cameras", &body);
    for (body, code) in [
        (json!({ "id": "A B", "url": "rtsp://a" }), "invalid_request"),
        (json!({ "id": "a" }), "invalid_request"),
        (json!({ "id": "a", "url": "rtsp://a", "colour": "red" }), "invalid_request"),
        (json!({ "id": "a", "url": "gopher://a" }), "invalid_request"),
    ] {
        let (status, answer) = add(body.clone());
        assert_eq!((status, answer["code"].as_str()), (400, Some(code)), "{body}");
    }
    server.cameras(&["a", "b"]);
    let (status, answer) = add(json!({ "id": "a", "url": "rtsp://a" }));
    assert_eq!(status, 409);
    assert!(answer["message"].as_str().unwrap().contains("already"));
    let (status, answer) = add(json!({ "id": "c", "url": "rtsp://c" }));
    assert_eq!(status, 409);
    assert!(answer["message"].as_str().unwrap().contains("2 cameras"), "a full node says so: {answer}");
    assert_eq!(server.get("/v1/cameras/c").0, 404, "a refused camera is not remembered");
    assert_eq!(delete(&server, "/v1/cameras/c").0, 404);
}

#[test]
fn a_camera_keeps_the_settings_that_it_has_for_itself() {
    let server = Server::start();
    let own = json!({
        "id": "gate", "url": "rtsp://cam/1", "fps": 2.5, "max_height": 720, "stall_seconds": 9.0, "connect_seconds": 20.0,
        "backoff_first_seconds": 1.0, "backoff_last_seconds": 2.0, "rtsp_transport": "udp", "rtsp_latency_ms": 900,
        "score_threshold": 0.75, "start_time": null, "loop": false, "realtime": true, "node": "ingest@rack-1"
    });
    assert_eq!(server.post("/v1/cameras", &own).0, 201);
    let stored = server.app.state().cameras().unwrap().remove(0).spec;
    let mut written = serde_json::to_value(&stored).unwrap();
    written["start_time"] = Value::Null;
    assert_eq!(written, own);
    let (status, answer) = server.post("/v1/cameras", &json!({ "id": "yard", "url": "rtsp://cam/2", "stall": 9.0 }));
    let said = answer["message"].as_str().unwrap();
    assert!(status == 400 && said.contains("stall") && said.contains("stall_seconds"), "{answer}");
    assert_eq!(
        server.post("/v1/cameras", &json!({ "id": "yard", "url": "rtsp://c", "rtsp_transport": "tcpip" })).0,
        400
    );
}

#[test]
fn removing_a_camera_erases_its_people() {
    let server = Server::start();
    server.cameras(&["gate", "yard"]);
    let gone = server.world.put(&camera("gate"), 100, 0);
    server.world.put(&camera("gate"), 100, 1);
    let stays = server.world.put(&camera("yard"), 100, 0);
    let (status, removal) = delete(&server, "/v1/cameras/gate");
    assert_eq!(status, 202);
    assert_eq!((&removal["kept"], &removal["returns_at_restart"]), (&json!(false), &json!(false)));
    assert_eq!(removal["erasure"]["removes_camera"], "gate");
    let job = server.erased(&removal["erasure"]);
    assert_eq!(job["erased"], json!({ "sightings": 2, "files": 4 }));
    assert_eq!(server.get(&format!("/v1/sightings/{gone}")).0, 404);
    assert_eq!(server.get(&format!("/v1/sightings/{stays}")).0, 200);
    assert_eq!(server.get("/v1/cameras/gate").0, 404);
    assert!(!server.node.running.lock().unwrap().contains_key(&camera("gate")));
    assert!(server.app.state().pending_erasures().unwrap().is_empty());
    let (status, _) = server.post("/v1/search", &json!({ "query": "a man", "cameras": ["gate"] }));
    assert_eq!(status, 400);
}

#[test]
fn footage_can_be_kept_and_stays_searchable() {
    let server = Server::start();
    server.cameras(&["gate"]);
    let kept = server.world.put(&camera("gate"), 100, 0);
    let (status, receipt) = delete(&server, "/v1/cameras/gate?keep=true");
    assert_eq!((status, &receipt["kept"]), (200, &json!(true)));
    let shown = server.get("/v1/cameras/gate").1;
    assert_eq!((&shown["state"], &shown["archived"]), (&json!("ended"), &json!(true)));
    let (_, found) = server.post("/v1/search", &json!({ "query": "a man", "cameras": ["gate"] }));
    assert_eq!(found["results"][0]["sighting_id"], json!(kept));
    server.cameras(&["gate"]);
    assert_eq!(server.get("/v1/cameras/gate").1["archived"], false, "added again, it runs again");
    delete(&server, "/v1/cameras/gate?keep=true");
    assert_eq!(server.remove("gate")["erased"]["sightings"], 1, "a kept one can still be erased");
}

#[test]
fn an_erasure_waits_for_what_is_under_way() {
    let server = Server::start();
    server.cameras(&["gate"]);
    server.node.running.lock().unwrap().get_mut(&camera("gate")).unwrap().frames_analysed = 5;
    // The last picture reaches the index half a second after the camera was stopped, and its end
    // after that.
    let job = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(500));
            server.world.put(&camera("gate"), 100, 0);
            server.world.progress(&camera("gate"), Timestamp::now(), true);
        });
        server.remove("gate")
    });
    assert_eq!(job["erased"]["sightings"], 1);
    assert!(server.world.stored() == 0);
}

#[test]
fn a_failed_erasure_is_kept_in_mind_and_can_be_repeated() {
    let server = Server::start();
    server.cameras(&["gate"]);
    server.world.put(&camera("gate"), 100, 0);
    *server.world.store.broken.lock().unwrap() = Some("the disk is full");
    let (status, removal) = delete(&server, "/v1/cameras/gate");
    assert_eq!(status, 202);
    let path = format!("/v1/erasures/{}", removal["erasure"]["id"].as_str().unwrap());
    let failed = server.until("the attempt fails", || Some(server.get(&path).1).filter(|job| job["state"] == "failed"));
    assert!(
        failed["error"].as_str().unwrap().contains("the disk is full") && failed["retry_at"].is_string(),
        "{failed}"
    );
    assert_eq!(server.app.state().pending_erasures().unwrap(), [camera("gate")]);
    let (status, _) = server.post("/v1/cameras", &json!({ "id": "gate", "url": "rtsp://gate" }));
    assert_eq!(status, 409, "not added again while its old footage is still there");
    *server.world.store.broken.lock().unwrap() = None;
    let (status, again) = delete(&server, "/v1/cameras/gate");
    assert_eq!((status, &again["erasure"]["id"]), (202, &removal["erasure"]["id"]), "the same job, tried at once");
    assert_eq!(server.erased(&again["erasure"])["erased"]["sightings"], 1);
    assert!(server.app.state().pending_erasures().unwrap().is_empty());
    assert_eq!(delete(&server, "/v1/cameras/gate").0, 404);
}

#[test]
fn a_caller_who_hangs_up_does_not_leave_an_erasure_half_done() {
    use std::io::Write as _;
    let server = Server::start();
    server.cameras(&["gate"]);
    server.world.put(&camera("gate"), 100, 0);
    server.node.running.lock().unwrap().get_mut(&camera("gate")).unwrap().frames_analysed = 5;
    let mut socket = std::net::TcpStream::connect(server.base.strip_prefix("http://").unwrap()).unwrap();
    write!(socket, "DELETE /v1/cameras/gate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {START_TOKEN}\r\n\r\n")
        .unwrap();
    // The server is waiting for the camera's last footage when the caller disconnects.
    while server.app.state().pending_erasures().unwrap().is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    drop(socket);
    std::thread::sleep(std::time::Duration::from_millis(200));
    server.world.progress(&camera("gate"), Timestamp::now(), true);
    sightline_testing::until(std::time::Duration::from_secs(5), "the erasure outlives its caller", || {
        server.app.state().pending_erasures().unwrap().is_empty()
    });
    assert!(server.world.stored() == 0);
}

#[test]
fn other_cameras_come_and_go_while_one_is_erased() {
    let server = Server::start();
    server.cameras(&["gate"]);
    server.world.put(&camera("gate"), 100, 0);
    let hold = server.world.store.hold.lock().unwrap();
    let (status, removal) = delete(&server, "/v1/cameras/gate");
    assert_eq!((status, &removal["erasure"]["state"]), (202, &json!("running")), "answered while it erases");
    assert_eq!(server.get("/v1/cameras/gate").0, 404);
    let (_, found) = server.post("/v1/search", &json!({ "query": "a man" }));
    assert_eq!(found["results"], json!([]), "its people are not found from the answer on");
    server.cameras(&["yard"]);
    let kept = delete(&server, "/v1/cameras/yard?keep=true");
    assert_eq!((kept.0, &kept.1["erasure"]), (200, &Value::Null));
    let (status, refused) = server.post("/v1/cameras", &json!({ "id": "gate", "url": "rtsp://gate" }));
    assert_eq!(status, 409, "{refused}");
    drop(hold);
    server.erased(&removal["erasure"]);
    let refused = |at| server.world.refuses(&camera("gate"), at);
    let before = Timestamp::now();
    assert!(refused(before) && refused(Timestamp::from_micros(i64::MAX)), "whatever arrives late");
    server.cameras(&["gate"]);
    assert!(refused(before) && !refused(Timestamp::now()), "it records anew, and its past stays erased");
}
