//! Cameras of other processes: known from their reports, and erased again when pictures arrive
//! late.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use sightline_api::erasure::late::Sweeper;
use sightline_core::Timestamp;

use crate::support::{START_TOKEN, Server, camera, report};

/// Starts a server whose cameras run in other processes.
fn remote() -> Server {
    let server = Server::start();
    server.node.remote.store(true, Ordering::SeqCst);
    server
}

fn delete(server: &Server, path: &str) -> (u16, Value) {
    server.call("DELETE", path, Some(START_TOKEN), None)
}

fn sweep(sweeper: &mut Sweeper) {
    tokio::runtime::Runtime::new().unwrap().block_on(sweeper.round());
}

fn sweeper(server: &Server) -> Sweeper {
    Sweeper::new(server.app.clone(), Duration::from_secs(3600))
}

#[test]
fn they_are_known_by_being_heard_and_not_kept_in_the_database() {
    let server = remote();
    assert_eq!(server.get("/v1/cameras").1["cameras"], json!([]));
    server.node.running.lock().unwrap().insert(camera("yard"), report(&camera("yard")));
    assert_eq!(server.get("/v1/cameras/yard").1["state"], "decoding");
    server.cameras(&["gate"]);
    assert_eq!(server.get("/v1/cameras").1["cameras"].as_array().unwrap().len(), 2);
    assert!(server.app.state().cameras().unwrap().is_empty(), "they are remembered where they run");
    let (status, found) = server.post("/v1/search", &json!({ "query": "a man", "cameras": ["yard"] }));
    assert_eq!((status, &found["coverage"][0]["camera"]), (200, &json!("yard")));
    let (status, answer) = server.post("/v1/cameras", &json!({ "id": "yard", "url": "rtsp://yard" }));
    assert_eq!(status, 409, "{answer}");
}

#[test]
fn what_comes_late_of_a_removed_camera_is_erased_too() {
    let server = remote();
    server.cameras(&["gate"]);
    server.world.put(&camera("gate"), 100, 0);
    let (status, removal) = delete(&server, "/v1/cameras/gate");
    assert_eq!((status, &removal["watched"]), (202, &json!(true)));
    assert_eq!(server.erased(&removal["erasure"])["erased"]["sightings"], 1);
    assert_eq!(server.get("/v1/cameras/gate").0, 404);

    // The node still reports, and a picture in flight arrives.
    let mut sweeper = sweeper(&server);
    server.node.running.lock().unwrap().insert(camera("gate"), report(&camera("gate")));
    server.world.put(&camera("gate"), 200, 0);
    assert_eq!(server.get("/v1/cameras/gate").0, 404, "a removed camera does not come back by being heard");
    sweep(&mut sweeper);
    assert!(server.world.stored() == 0);
    assert!(!server.node.running.lock().unwrap().contains_key(&camera("gate")), "told once more");
    assert_eq!(server.app.state().pending_erasures().unwrap(), [camera("gate")]);

    // No reports arrive any more: from now on the erasure is only watched.
    sweep(&mut sweeper);
    assert!(server.app.state().pending_erasures().unwrap().is_empty());
    server.world.put(&camera("gate"), 300, 0);
    sweep(&mut sweeper);
    assert!(server.world.stored() == 0, "a node that was cut off sends hours later");

    // Wanted again: its pictures stay.
    server.cameras(&["gate"]);
    server.world.put(&camera("gate"), 400, 0);
    sweep(&mut sweeper);
    assert_eq!(server.world.stored(), 1);
    assert!(server.app.state().erasures().unwrap().is_empty());
}

#[test]
fn a_watched_camera_that_its_own_node_runs_again_is_left_alone() {
    let server = remote();
    let gate = camera("gate");
    let begun = "INSERT INTO erasures (camera, requested_at) VALUES ('gate', 1)";
    server.app.state().with(|c| Ok(c.execute_batch(begun)?)).unwrap();
    server.app.state().watch_erasure(&gate).unwrap();
    // What the job of the removal left behind: the camera's pictures are refused.
    let tombstone = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, b"erased/gate");
    let scopes = vec![sightline_search::Scope::camera(gate.clone())];
    let erased = server.world.index.erase(tombstone, scopes, sightline_core::shutdown::Shutdown::new(), |_| ());
    tokio::runtime::Runtime::new().unwrap().block_on(erased).unwrap();
    let later = Timestamp::now() + Duration::from_secs(90);
    assert!(server.world.refuses(&gate, later));
    let mut again = report(&gate);
    again.at = later;
    server.node.running.lock().unwrap().insert(gate.clone(), again);
    server.world.put(&gate, 100, 0);
    sweep(&mut sweeper(&server));
    assert_eq!(server.world.stored(), 1);
    assert_eq!(server.get("/v1/cameras/gate").0, 200);
    assert!(!server.world.refuses(&gate, later), "the index stores its pictures again");
}

#[test]
fn an_erasure_that_failed_is_taken_up_without_being_asked_for() {
    let server = remote();
    server.cameras(&["gate"]);
    server.world.put(&camera("gate"), 100, 0);
    *server.world.store.broken.lock().unwrap() = Some("the server is away");
    let (_, removal) = delete(&server, "/v1/cameras/gate");
    let path = format!("/v1/erasures/{}", removal["erasure"]["id"].as_str().unwrap());
    server.until("an attempt fails", || (server.get(&path).1["state"] == "failed").then_some(()));
    assert_eq!(server.world.stored(), 1, "still away");
    *server.world.store.broken.lock().unwrap() = None;
    assert_eq!(server.erased(&removal["erasure"])["erased"]["sightings"], 1);
    assert!(server.world.stored() == 0);
}

#[test]
fn one_that_is_kept_stays_searchable() {
    let server = remote();
    server.cameras(&["gate"]);
    let kept = server.world.put(&camera("gate"), 100, 0);
    let (status, receipt) = delete(&server, "/v1/cameras/gate?keep=true");
    assert_eq!((status, &receipt["watched"]), (200, &json!(false)));
    assert_eq!(server.get("/v1/cameras/gate").1["state"], "ended");
    let (_, found) = server.post("/v1/search", &json!({ "query": "a man", "cameras": ["gate"] }));
    assert_eq!(found["results"][0]["sighting_id"], json!(kept));
    sweep(&mut sweeper(&server));
    assert_eq!(server.world.stored(), 1);
}

#[test]
fn nobody_erases_beside_the_job_that_removes_the_camera() {
    let server = remote();
    server.cameras(&["gate"]);
    server.world.put(&camera("gate"), 100, 0);
    let hold = server.world.store.hold.lock().unwrap();
    let (_, removal) = delete(&server, "/v1/cameras/gate");
    // The removal is published, and the job is erasing.
    server.until("the camera stops", || {
        (!server.node.running.lock().unwrap().contains_key(&camera("gate"))).then_some(())
    });
    let (app, (tell, told)) = (server.app.clone(), std::sync::mpsc::channel());
    std::thread::spawn(move || {
        sweep(&mut Sweeper::new(app, Duration::from_secs(3600)));
        let _ = tell.send(());
    });
    told.recv_timeout(Duration::from_secs(10)).expect("it is left to the job");
    drop(hold);
    assert_eq!(server.erased(&removal["erasure"])["erased"]["sightings"], 1, "and all of it is counted there");
}
