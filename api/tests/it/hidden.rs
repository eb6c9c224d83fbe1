//! What is erased is shown to nobody, from the answer to the request on: not while the job waits,
//! deletes or fails, not after a restart, not when the tombstone cannot be written, and not when a
//! picture arrives late.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use sightline_api::state::NewErasureJob;
use sightline_core::{SightingId, TrackId};
use sightline_search::{Journals, Scope, StoreError, Tombstone, TombstoneLedger};
use uuid::Uuid;

use crate::support::{START_TOKEN, Server, camera, model_view};

/// A ledger that several servers share, and that can be away.
#[derive(Clone, Default)]
struct Ledger {
    stored: Arc<Mutex<BTreeMap<Uuid, Tombstone>>>,
    away: Arc<AtomicBool>,
}

impl Ledger {
    fn sound(&self) -> Result<(), StoreError> {
        let away = self.away.load(Ordering::SeqCst);
        if away { Err(StoreError::Engine("the ledger is away".into())) } else { Ok(()) }
    }
}

impl TombstoneLedger for Ledger {
    fn all(&self) -> Result<Vec<Tombstone>, StoreError> {
        // Readings work: only a new tombstone finds no room.
        Ok(self.stored.lock().unwrap().values().cloned().collect())
    }

    fn put(&self, tombstone: &Tombstone) -> Result<(), StoreError> {
        self.sound()?;
        self.stored.lock().unwrap().insert(tombstone.id, tombstone.clone());
        Ok(())
    }

    fn remove(&self, id: Uuid) -> Result<(), StoreError> {
        self.sound()?;
        self.stored.lock().unwrap().remove(&id);
        Ok(())
    }
}

fn ids(list: &Value) -> Vec<Value> {
    list.as_array().unwrap().iter().map(|h| h["sighting_id"].clone()).collect()
}

/// Pictures that must not be shown, with a further page of a search from before.
struct Gone {
    sightings: Vec<SightingId>,
    cursor: Value,
}

impl Gone {
    fn of(server: &Server, sightings: Vec<SightingId>) -> Self {
        let (_, first) = server.post("/v1/search", &json!({ "query": "axis 0", "limit": 1 }));
        Self { sightings, cursor: first["next_cursor"].clone() }
    }

    /// Asks for them in every way that there is.
    fn is_shown_nowhere(&self, server: &Server, when: &str) {
        let gone = |list: &Value| ids(list).iter().any(|id| self.sightings.iter().any(|s| json!(s) == *id));
        let (status, found) = server.post("/v1/search", &json!({ "query": "axis 0" }));
        assert!(status == 200 && !gone(&found["results"]), "{when}: {found}");
        let misses = json!({ "query": "axis 0", "min_probability": 0.999 });
        let (_, found) = server.post("/v1/search", &misses);
        assert!(found["nearest_misses"].is_null() || !gone(&found["nearest_misses"]), "{when}: {found}");
        let mut cursor = self.cursor.clone();
        while !cursor.is_null() {
            let (status, page) = server.post("/v1/search", &json!({ "cursor": cursor }));
            assert!(status == 200 && !gone(&page["results"]), "{when}, a page from before: {page}");
            cursor = page["next_cursor"].clone();
        }
        for id in &self.sightings {
            for path in [format!("/v1/sightings/{id}"), format!("/v1/sightings/{id}/thumbnail.jpg")] {
                assert_eq!(server.get(&path).0, 404, "{when}: {path}");
            }
            let (status, answer) = server.post("/v1/search", &json!({ "like": id }));
            assert_eq!(status, 400, "{when}, as an example: {answer}");
        }
    }
}

/// A server with two cameras, and one more picture that stays.
fn filled(server: &Server) -> (Vec<SightingId>, SightingId) {
    server.cameras(&["gate", "yard"]);
    let gone = (1..4).map(|s| server.world.put(&camera("gate"), 100 * s, 0)).collect();
    (gone, server.world.put_like(&camera("yard"), 100, 0, 0, 3.0))
}

#[test]
fn from_the_answer_to_the_last_chunk() {
    for request in ["remove", "camera", "span", "sightings"] {
        let server = Server::start();
        let (sightings, stays) = filled(&server);
        let gone = Gone::of(&server, sightings.clone());
        // Nothing is deleted while the first is held, and nothing is finished while the second is.
        let (hold, hold_flush) =
            (server.world.store.hold.lock().unwrap(), server.world.store.hold_flush.lock().unwrap());
        let job = match request {
            "remove" => {
                let (status, removal) = server.call("DELETE", "/v1/cameras/gate", Some(START_TOKEN), None);
                assert_eq!(status, 202, "{removal}");
                assert_eq!(server.get("/v1/cameras/gate").0, 404, "nor is the camera listed");
                let (_, found) = server.post("/v1/search", &json!({ "query": "axis 0" }));
                let covered: Vec<&Value> = found["coverage"].as_array().unwrap().iter().map(|c| &c["camera"]).collect();
                assert_eq!(covered, [&json!("yard")], "nor is its coverage told");
                removal["erasure"].clone()
            }
            _ => {
                let body = match request {
                    "camera" => json!({ "camera": "gate" }),
                    "span" => json!({ "camera": "gate", "from": "1970-01-01T00:01:00Z", "to": "1970-01-01T00:10:00Z" }),
                    _ => json!({ "sightings": sightings }),
                };
                let (status, job) = server.post("/v1/erasures", &body);
                assert_eq!(status, 202, "{job}");
                job
            }
        };
        assert_eq!(server.world.stored(), 4, "{request}: nothing is deleted yet");
        gone.is_shown_nowhere(&server, &format!("{request}, answered"));
        drop(hold);
        server.until("the pictures are deleted", || (server.world.stored() == 1).then_some(()));
        gone.is_shown_nowhere(&server, &format!("{request}, not finished"));
        drop(hold_flush);
        server.erased(&job);
        gone.is_shown_nowhere(&server, &format!("{request}, done"));
        // A worker that had not read of it stores what was on its way.
        for s in 1..4 {
            server.world.put(&camera("gate"), 100 * s, 0);
        }
        gone.is_shown_nowhere(&server, &format!("{request}, late pictures"));
        let (_, found) = server.post("/v1/search", &json!({ "query": "axis 0" }));
        assert_eq!(ids(&found["results"]), [json!(stays)], "{request}: and nobody else is hidden");
    }
}

/// Somebody asks all the time, from before the request until the job is done.
#[test]
fn at_no_moment() {
    let server = Server::with(true, |c| {
        (c.server.rate_per_minute, c.server.address_rate_per_minute) = (1_000_000, 1_000_000);
    });
    server.cameras(&["gate"]);
    for s in 0..1500 {
        server.world.put(&camera("gate"), s, 0);
    }
    let one = server.world.put(&camera("gate"), 5000, 0);
    let (accepted, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let asked = Mutex::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                let must_be_hidden = accepted.load(Ordering::SeqCst);
                let (status, found) = server.post("/v1/search", &json!({ "query": "axis 0", "rerank": 0 }));
                let shown = found["results"].as_array().map_or(0, Vec::len);
                let picture = server.get(&format!("/v1/sightings/{one}/thumbnail.jpg")).0;
                if must_be_hidden {
                    assert_eq!((status, shown, picture), (200, 0, 404));
                    *asked.lock().unwrap() += 1;
                }
            }
        });
        let (status, job) = server.post("/v1/erasures", &json!({ "camera": "gate" }));
        accepted.store(true, Ordering::SeqCst);
        assert_eq!(status, 202, "{job}");
        let job = server.erased(&job);
        server.until("a look after the end", || (*asked.lock().unwrap() > 1).then_some(()));
        done.store(true, Ordering::SeqCst);
        assert_eq!(job["erased"]["sightings"], 1501);
    });
}

/// The process was killed after the job was stored and before its tombstone was.
#[test]
fn after_a_crash_before_the_tombstone() {
    let server = Server::with(false, |_| ());
    let row = serde_json::from_value(json!({ "id": "gate", "url": "rtsp://cam/1" })).unwrap();
    server.app.state().add_camera(&row).unwrap();
    let id = server.world.put(&camera("gate"), 100, 0);
    let track = TrackId { born: sightline_core::Timestamp::from_micros(100_000_000), ordinal: 0 };
    let scopes = vec![Scope::track(camera("gate"), track)];
    let new = NewErasureJob { removes: None, scopes, requested_by: "desk (ab12)".into(), audit_seq: 1 };
    let job = server.app.state().start_erasure(&new).unwrap();
    // The task that takes the job up waits for its turn.
    let turn = server.world.store.hold.lock().unwrap();
    server.app.set_index(server.world.index.clone(), model_view()).unwrap();
    let gone = Gone { sightings: vec![id], cursor: Value::Null };
    gone.is_shown_nowhere(&server, "the first moment after the start");
    drop(turn);
    server.erased(&json!({ "id": job.id }));
    gone.is_shown_nowhere(&server, "done");
}

#[test]
fn while_the_tombstone_cannot_be_written() {
    let ledger = Ledger::default();
    let server = Server::remembering(Journals::shared(Arc::new(ledger.clone())).unwrap());
    let (sightings, _) = filled(&server);
    let gone = Gone::of(&server, sightings);
    ledger.away.store(true, Ordering::SeqCst);
    let (status, removal) = server.call("DELETE", "/v1/cameras/gate", Some(START_TOKEN), None);
    assert_eq!(status, 202, "the job is stored: {removal}");
    gone.is_shown_nowhere(&server, "no tombstone is written");
    // Longer than the ledger is believed without another reading.
    std::thread::sleep(Duration::from_millis(700));
    gone.is_shown_nowhere(&server, "the ledger was read again, without it");
    assert_eq!(server.world.stored(), 4, "no attempt gets that far");
    ledger.away.store(false, Ordering::SeqCst);
    server.erased(&removal["erasure"]);
    gone.is_shown_nowhere(&server, "done");
    assert!(ledger.stored.lock().unwrap().values().any(|t| !t.open), "it is written");
}

/// Two processes share the tombstones, but not the database.
#[test]
fn by_another_process_that_shares_the_tombstones() {
    let ledger = Ledger::default();
    let journals = || Journals::shared(Arc::new(ledger.clone())).unwrap();
    let (one, other) = (Server::remembering(journals()), Server::remembering(journals()));
    let ((_, stays), (sightings, _)) = (filled(&one), filled(&other));
    let gone = Gone::of(&other, sightings.clone());
    let hold = one.world.store.hold.lock().unwrap();
    let (status, job) = one.post("/v1/erasures", &json!({ "sightings": sightings }));
    assert_eq!(status, 202, "{job}");
    // As old as a reading of the tombstones may be.
    std::thread::sleep(Duration::from_millis(600));
    gone.is_shown_nowhere(&other, "within half a second");
    drop(hold);
    one.erased(&job);
    std::thread::sleep(Duration::from_millis(600));
    gone.is_shown_nowhere(&other, "done there, and still stored here");
    let (_, found) = other.post("/v1/search", &json!({ "query": "axis 0" }));
    assert_eq!(ids(&found["results"]), [json!(stays)]);
}
