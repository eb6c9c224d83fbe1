//! `sightline-index` as a process of its own, between a real broker and the test double of Qdrant:
//! `kill -9` in mid-stream neither loses nor doubles anything, two workers share the partitions, an
//! unreachable server is retried, and messages that can never be stored go to the dead letters, are
//! listed and replayed.
//!
//! Needs a broker: `KAFKA_BROKERS`; `docker/kafka/kafka.sh` starts one.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use sightline_bus::wire::{Coding, encode_index_event};
use sightline_bus::{Outgoing, Producer};
use sightline_core::config::{BusConfig, VectorsConfig};
use sightline_core::{CameraId, Config, IndexEvent, Sighting, SightingId};
use sightline_double::DoubleThread;
use sightline_embed::ModelFolder;
use sightline_search::{
    CameraCoverage, CoverageLedger, Filter, FolderGallery, Gallery, QdrantStore, ServerCoverage, VectorStore,
};
use sightline_testing::{Process, binary, repository};

use crate::outages;
use crate::server::ANY_PORT;
use crate::support::{camera, progress, random, rng, sighting};

const WORKER: &str = "sightline-index";
/// Time limit of every wait, for two cores that are busy otherwise.
const LONG: Duration = Duration::from_secs(240);
const CAMERAS: [&str; 6] = ["north", "south", "east", "west", "up", "down"];

/// Everything that a worker needs: a broker's topics, a server, a gallery and a model.
struct Stage {
    folder: tempfile::TempDir,
    bus: BusConfig,
    vectors: VectorsConfig,
    model: ModelFolder,
    server: DoubleThread,
    producer: Producer,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let brokers = std::env::var("KAFKA_BROKERS")
            .expect("this test needs a broker: docker/kafka/kafka.sh starts one; set KAFKA_BROKERS to its host:port");
        let name = format!("index-{}", uuid::Uuid::new_v4().simple());
        let defaults = Config::load(None).unwrap();
        let bus = BusConfig { brokers, sightings_topic: name.clone(), partitions: 6, ..defaults.bus };
        let server = outages::start(&folder.path().join("qdrant"), ANY_PORT);
        let vectors = VectorsConfig { url: server.url(), timeout_seconds: 2.0, ..defaults.vectors };
        let model = ModelFolder::open(&repository("embed/models/default")).unwrap();
        let producer = Producer::start(&bus, "test").unwrap();
        Self { folder, bus, vectors, model, server, producer }
    }

    fn config(&self, node: &str) -> PathBuf {
        let (mut text, bus, v) = (String::new(), &self.bus, &self.vectors);
        let gallery = self.folder.path().join("gallery");
        writeln!(text, "[model]\nfolder = {:?}", self.model.path).unwrap();
        writeln!(text, "[monitor]\nlisten = \"127.0.0.1:0\"\nnode = {node:?}").unwrap();
        writeln!(text, "[bus]\nbrokers = {:?}\nsightings_topic = {:?}", bus.brokers, bus.sightings_topic).unwrap();
        writeln!(text, "partitions = {}\ndrain_seconds = 5.0\nin_flight_bytes = 2000000", bus.partitions).unwrap();
        writeln!(text, "[vectors]\nstore = \"server\"\nurl = {:?}\ntimeout_seconds = 2.0", v.url).unwrap();
        writeln!(text, "[gallery]\nurl = \"file://{}\"", gallery.display()).unwrap();
        writeln!(text, "[index]\nbatch = 32").unwrap();
        let path = self.folder.path().join(format!("{node}.toml"));
        std::fs::write(&path, text).unwrap();
        path
    }

    fn store(&self) -> QdrantStore {
        QdrantStore::open(&self.vectors, &self.model.id, self.model.config.architecture.embed_dim).unwrap()
    }

    fn coverage(&self, name: &str) -> Option<CameraCoverage> {
        let ledger = ServerCoverage::open(&self.vectors).unwrap();
        ledger.read(&[camera(name)]).unwrap().remove(&camera(name))
    }

    /// Returns the `n`-th sighting, the same at every call.
    fn nth(&self, n: i64) -> Sighting {
        let name = CAMERAS[n as usize % CAMERAS.len()];
        let feature = random(&mut rng(n as u64), self.model.config.architecture.embed_dim);
        let mut s = sighting(name, n / 12, (n / 6 % 3) as u8, n, feature);
        s.model_id.clone_from(&self.model.id);
        // As large as real pictures, so that the waiting records far exceed the memory limit.
        s.crop.jpeg = vec![n as u8; 20_000].into();
        s
    }

    fn send(&self, event: &IndexEvent) {
        self.send_bytes(event.camera(), encode_index_event(event, Coding::F16).unwrap());
    }

    fn send_bytes(&self, camera: &CameraId, payload: Bytes) {
        let (topic, key) = (self.bus.sightings_topic.clone(), camera.to_string());
        self.producer.send(Outgoing { topic, key, payload, headers: Vec::new() }, |sent| sent.unwrap()).unwrap();
    }

    fn send_sightings(&self, range: std::ops::Range<i64>) -> BTreeSet<SightingId> {
        let mut ids = BTreeSet::new();
        for n in range {
            let s = self.nth(n);
            ids.insert(s.id());
            let passed = progress(s.crop.camera.as_str(), 0, n, false);
            self.send(&IndexEvent::Sighting(Box::new(s)));
            self.send(&IndexEvent::Progress(passed));
        }
        assert!(self.producer.flush(LONG), "{:?}", self.producer.fault());
        ids
    }

    /// Asserts that everything is stored once, with its pictures.
    fn check(&self, ids: &BTreeSet<SightingId>) {
        let stored = self.store().ids(&Filter::default()).unwrap();
        assert_eq!(stored.len(), ids.len(), "nothing twice, nothing lost");
        assert_eq!(&stored.into_iter().collect::<BTreeSet<_>>(), ids);
        let gallery = FolderGallery::open_shared(&self.folder.path().join("gallery"), &self.model.id).unwrap();
        assert_eq!(&gallery.ids().unwrap().into_iter().collect::<BTreeSet<_>>(), ids);
    }

    fn worker(&self, node: &str) -> Process {
        Process::start(Command::new(binary(WORKER)).arg("--config").arg(self.config(node)))
    }

    fn dead_letters(&self, action: &str) -> Vec<serde_json::Value> {
        let output = Command::new(binary(WORKER))
            .args(["dead-letters", action, "--json", "--topic", &self.bus.sightings_topic, "--config"])
            .arg(self.config("letters"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }
}

fn until(what: &str, reached: impl FnMut() -> bool) {
    sightline_testing::until(LONG, what, reached);
}

#[test]
fn kills_and_a_second_worker_lose_and_double_nothing() {
    let stage = Stage::new();
    let first = stage.worker("one");
    let mut ids = stage.send_sightings(0..60);
    until("it is ready", || first.is_ready());
    let store = stage.store();
    let mut worker = first;
    for round in 0..4i64 {
        ids.extend(stage.send_sightings(60 + round * 60..120 + round * 60));
        // Somewhere in the middle of storing them.
        until("some are stored", || store.count(&Filter::default()).unwrap() > 60 * round as u64 + 20);
        drop(worker);
        worker = stage.worker(&format!("again-{round}"));
    }
    let second = stage.worker("two");
    ids.extend(stage.send_sightings(300..420));
    until("everything is stored", || store.count(&Filter::default()).unwrap() == ids.len() as u64);
    until("the last progress has passed", || {
        CAMERAS
            .iter()
            .all(|c| stage.coverage(c).and_then(|c| c.searchable_through).is_some_and(|t| t.as_micros() >= 414))
    });
    stage.check(&ids);
    until("both have partitions", || second.is_ready());
    ids.extend(stage.send_sightings(420..600));
    until("everything is stored", || store.count(&Filter::default()).unwrap() == ids.len() as u64);
    let (a, b) = (worker.metric("sightline_index_sightings_total"), second.metric("sightline_index_sightings_total"));
    println!("4 kills and a rebalance: {} sightings, none lost or doubled; {a} and {b} by the last two", ids.len());
    let (one, two) = (worker.stop().took, second.stop().took);
    assert!(one.max(two) < Duration::from_secs(10), "{one:?} {two:?}");
    stage.check(&ids);
}

#[test]
fn a_server_that_is_away_holds_up_everything_and_costs_nothing() {
    let mut stage = Stage::new();
    let mut worker = stage.worker("one");
    let mut ids = stage.send_sightings(0..60);
    let store = stage.store();
    let count = || store.count(&Filter::default()).unwrap_or_default();
    until("the first are stored", || count() == 60);
    let address = stage.server.address();
    stage.server.stop().unwrap();
    ids.extend(stage.send_sightings(60..600));
    until("the fault is told", || worker.ask("/readyz").contains("storage"));
    std::thread::sleep(Duration::from_secs(3));
    // Bounded by bus.in_flight_bytes: not all waiting records have been read.
    let open = worker.metric("sightline_bus_open_bytes");
    assert!(open < 3_000_000.0, "{open} bytes are open");
    // A stop meanwhile commits nothing that is not stored, and ends in time.
    assert!(worker.stop().took < Duration::from_secs(15));
    worker = stage.worker("one");
    until("it waits for the server", || worker.ask("/readyz").contains("vectors"));
    stage.server = outages::start(&stage.folder.path().join("qdrant"), address);
    until("everything is stored", || count() == ids.len() as u64);
    println!("away: {} sightings, none lost; {open} bytes open meanwhile", ids.len());
    until("it is ready again", || worker.is_ready());
    stage.check(&ids);
}

#[test]
fn what_can_never_be_stored_is_set_aside_listed_and_replayed() {
    let stage = Stage::new();
    let worker = stage.worker("one");
    let good = stage.send_sightings(0..6);
    stage.send_bytes(&camera("north"), Bytes::from_static(b"\xff\xffno protobuf"));
    let mut foreign = stage.nth(6);
    foreign.model_id = "another".to_owned();
    stage.send(&IndexEvent::Sighting(Box::new(foreign)));
    stage.send(&IndexEvent::Progress(progress("north", 0, 99, true)));
    assert!(stage.producer.flush(LONG));
    let letters = |wanted: usize| {
        let mut found = Vec::new();
        until("the dead letters are there", || {
            found = stage.dead_letters("list");
            found.len() == wanted
        });
        found
    };
    let found = letters(2);
    let reasons: Vec<&str> = found.iter().map(|l| l["reason"].as_str().unwrap()).collect();
    assert!(reasons.iter().any(|r| r.contains("not a Sightline record")), "{reasons:?}");
    assert!(reasons.iter().any(|r| r.contains("another")), "{reasons:?}");
    assert!(found.iter().all(|l| l["stage"] == "index"
        && l["topic"] == stage.bus.sightings_topic.as_str()
        && l["offset"].as_i64() >= Some(0)));
    until("the camera has ended", || stage.coverage("north").is_some_and(|c| c.ended));
    assert_eq!(stage.coverage("north").unwrap().rejected, 1, "the one of another model");
    stage.check(&good);
    // The cause is not fixed, so they return.
    assert_eq!(stage.dead_letters("replay")[0]["replayed"], 2);
    letters(2);
    stage.check(&good);
    assert!(worker.metric("sightline_bus_dead_letters_total") >= 4.0);
    worker.stop();
}
