//! Nodes that appear, stop reporting and return, without Kafka and without Qdrant.

use super::*;

use sightline_core::CameraState;
use sightline_core::message::Origin;
use sightline_search::{CameraCoverage, CoverageLedger, RemoteCoverage, StoreError};

#[derive(Default)]
struct MemoryLedger {
    entries: Mutex<BTreeMap<CameraId, CameraCoverage>>,
    down: Mutex<bool>,
}

impl MemoryLedger {
    fn report(&self, camera: &str, at: Timestamp, seq: u64) {
        let camera: CameraId = camera.parse().expect("valid");
        let report = NodeReport {
            origin: Origin::of_camera("ingest@one", seq, &camera),
            camera: camera.clone(),
            at,
            state: CameraState::Decoding,
            reason: None,
            since: at,
            connection: 0,
            frames_decoded: 0,
            frames_analysed: 0,
            frames_dropped: 0,
            crops: 0,
            crops_dropped: 0,
            retry_in_s: None,
            spooled_bytes: 0,
        };
        let entry = CameraCoverage { report: Some(report), ..CameraCoverage::default() };
        self.entries.lock().expect("sound").insert(camera, entry);
    }
}

impl CoverageLedger for MemoryLedger {
    fn read(&self, _: &[CameraId]) -> Result<BTreeMap<CameraId, CameraCoverage>, StoreError> {
        self.all()
    }
    fn all(&self) -> Result<BTreeMap<CameraId, CameraCoverage>, StoreError> {
        if *self.down.lock().expect("sound") {
            return Err(StoreError::Engine("gone".into()));
        }
        Ok(self.entries.lock().expect("sound").clone())
    }
    fn write(&self, _: &BTreeMap<CameraId, CameraCoverage>) -> Result<(), StoreError> {
        Ok(())
    }
    fn forget(&self, camera: &CameraId) -> Result<(), StoreError> {
        self.entries.lock().expect("sound").remove(camera);
        Ok(())
    }
}

/// A topic that reads back every change at once, unless it is slow.
#[derive(Default)]
struct Topic {
    cameras: Mutex<BTreeMap<CameraId, CameraConfig>>,
    slow: bool,
    down: bool,
}

impl CameraTopic for Topic {
    fn put(&self, camera: &CameraConfig) -> Result<(), String> {
        if self.down {
            return Err("no broker".into());
        }
        if !self.slow {
            self.cameras.lock().expect("sound").insert(camera.id.clone(), camera.clone());
        }
        Ok(())
    }
    fn remove(&self, camera: &CameraId) -> Result<(), String> {
        if !self.slow {
            self.cameras.lock().expect("sound").remove(camera);
        }
        Ok(())
    }
    fn all(&self) -> BTreeMap<CameraId, CameraConfig> {
        self.cameras.lock().expect("sound").clone()
    }
    fn fault(&self) -> Option<String> {
        self.down.then(|| "no broker".into())
    }
}

fn camera(id: &str) -> CameraConfig {
    serde_json::from_value(serde_json::json!({ "id": id, "url": "rtsp://cam/1" })).expect("valid")
}

/// Coverage that is polled continuously.
fn read(ledger: &Arc<MemoryLedger>) -> RemoteCoverage {
    RemoteCoverage::start(Arc::clone(ledger) as Arc<dyn CoverageLedger>, Duration::from_millis(1)).expect("a thread")
}

fn nodes(coverage: &RemoteCoverage, topic: Option<Topic>) -> RemoteNodes {
    RemoteNodes::new(coverage.coverage(), topic.map(|t| Arc::new(t) as Arc<dyn CameraTopic>))
}

/// Waits until the coverage equals the ledger.
fn wait_for_poll(nodes: &RemoteNodes, ledger: &MemoryLedger) {
    let until = Instant::now() + Duration::from_secs(10);
    let down = *ledger.down.lock().expect("sound");
    let same = || nodes.coverage.all() == *ledger.entries.lock().expect("sound");
    while nodes.coverage.fault().is_some() != down || !(down || same()) {
        assert!(Instant::now() < until, "never read");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn report_ages(nodes: &RemoteNodes) -> Vec<f64> {
    nodes.status().iter().map(|h| h.age_s.round()).collect()
}

#[test]
fn report_age_grows_only_while_the_coverage_is_readable() {
    let (ledger, start) = (Arc::new(MemoryLedger::default()), Instant::now());
    let coverage = read(&ledger);
    let nodes = nodes(&coverage, None);
    let clock = Timestamp::from_micros(1_000_000_000);
    let at = |s: u64| start + Duration::from_secs(s);
    let poll_at = |s: u64| {
        wait_for_poll(&nodes, &ledger);
        nodes.poll(at(s), clock + Duration::from_secs(s));
    };
    ledger.report("gate", clock - Duration::from_secs(40), 1);
    poll_at(0);
    assert_eq!(report_ages(&nodes), [40.0], "an old report of a node that may be gone");
    // The node's clock no longer counts once its reports change.
    ledger.report("gate", clock - Duration::from_secs(39), 2);
    poll_at(1);
    assert_eq!(report_ages(&nodes), [0.0]);
    poll_at(15);
    assert_eq!(report_ages(&nodes), [14.0]);
    *ledger.down.lock().expect("sound") = true;
    poll_at(30);
    assert_eq!(report_ages(&nodes), [14.0], "the store is away: that is not the node's silence");
    assert!(nodes.fault().expect("told").contains("gone"));
    *ledger.down.lock().expect("sound") = false;
    poll_at(31);
    assert_eq!((report_ages(&nodes), nodes.fault()), (vec![30.0], None));
}

#[test]
fn a_nodes_own_cameras_appear_by_themselves_and_cannot_be_removed_here() {
    let ledger = Arc::new(MemoryLedger::default());
    let coverage = read(&ledger);
    let nodes = nodes(&coverage, Some(Topic::default()));
    let gate: CameraId = "gate".parse().expect("valid");
    ledger.report("gate", Timestamp::now(), 1);
    wait_for_poll(&nodes, &ledger);
    nodes.poll(Instant::now(), Timestamp::now());
    let known: Vec<_> = nodes.remote_cameras().into_iter().map(|(c, s)| (c.id.to_string(), s)).collect();
    assert_eq!(known, [("gate".to_owned(), CameraSource::Node)]);
    let refused = nodes.removable(&gate).expect_err("it would come back").to_string();
    assert!(refused.contains("ingest@one"), "{refused}");
    nodes.remove(&gate).expect("not in the topic: nothing to do");
    ledger.report("gate", Timestamp::now() - Duration::from_secs(60), 0);
    wait_for_poll(&nodes, &ledger);
    let later = RemoteNodes::new(nodes.coverage.clone(), None);
    later.poll(Instant::now(), Timestamp::now());
    later.removable(&gate).expect("its node is gone");
}

#[test]
fn a_published_change_counts_before_it_is_read_back() {
    let ledger = Arc::new(MemoryLedger::default());
    let coverage = read(&ledger);
    let nodes = nodes(&coverage, Some(Topic { slow: true, ..Topic::default() }));
    nodes.add(camera("gate")).expect("told");
    let ids = || nodes.remote_cameras().into_iter().map(|(c, _)| c.id.to_string()).collect::<Vec<_>>();
    assert_eq!(ids(), ["gate"]);
    nodes.remove(&"gate".parse().expect("valid")).expect("told");
    assert!(ids().is_empty());
}

#[test]
fn without_a_topic_cameras_cannot_be_changed() {
    let ledger = Arc::new(MemoryLedger::default());
    let coverage = read(&ledger);
    let without = nodes(&coverage, None).add(camera("gate")).expect_err("no topic");
    assert!(matches!(without, CameraRefused::Unsupported(_)), "{without}");
    let down = nodes(&coverage, Some(Topic { down: true, ..Topic::default() }));
    assert!(matches!(down.add(camera("gate")), Err(CameraRefused::Down(_))));
    assert!(down.fault().expect("told").contains("no broker"));
    let bad = CameraConfig { url: "nothing".into(), ..camera("gate") };
    let up = nodes(&coverage, Some(Topic::default()));
    assert!(matches!(up.add(bad), Err(CameraRefused::Invalid(_))));
    // What no node would run is not published.
    let ingest = sightline_core::Config::layered(None, []).expect("default").ingest;
    let up = up.checked_by(ingest);
    let slow = CameraConfig { fps: Some(0.0), ..camera("gate") };
    assert!(matches!(up.add(slow), Err(CameraRefused::Invalid(why)) if why.starts_with("fps = 0")));
    let file = CameraConfig { url: "file:///etc/passwd".into(), ..camera("gate") };
    assert!(matches!(up.add(file), Err(CameraRefused::Invalid(why)) if why.contains("ingest.sources")));
    assert!(up.published().is_empty());
    assert!(up.add(CameraConfig { stall_seconds: Some(9.0), ..camera("gate") }).is_ok());
    assert_eq!(up.published().len(), 1);
}
