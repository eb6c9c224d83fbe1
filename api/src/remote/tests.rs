//! Nodes that come, fall silent and come back, without Kafka and without Qdrant.

use super::*;

use sightline_core::NodeState;
use sightline_core::message::Origin;
use sightline_search::{CameraCoverage, CoverageLedger, RemoteCoverage, StoreError};

#[derive(Default)]
struct Book {
    entries: Mutex<BTreeMap<CameraId, CameraCoverage>>,
    down: Mutex<bool>,
}

impl Book {
    fn report(&self, camera: &str, at: Timestamp, seq: u64) {
        let camera: CameraId = camera.parse().expect("valid");
        let report = NodeReport {
            origin: Origin::of_camera("ingest@one", seq, &camera),
            camera: camera.clone(),
            at,
            state: NodeState::Decoding,
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

impl CoverageLedger for Book {
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

/// A topic that says at once what it was told, unless it is slow.
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

/// Coverage that is read all the time.
fn read(book: &Arc<Book>) -> RemoteCoverage {
    RemoteCoverage::start(Arc::clone(book) as Arc<dyn CoverageLedger>, Duration::from_millis(1)).expect("a thread")
}

fn nodes(coverage: &RemoteCoverage, topic: Option<Topic>) -> RemoteNodes {
    RemoteNodes::new(coverage.coverage(), topic.map(|t| Arc::new(t) as Arc<dyn CameraTopic>))
}

/// Waits until what is in the book has been read.
fn settle(nodes: &RemoteNodes, book: &Book) {
    let until = Instant::now() + Duration::from_secs(10);
    let down = *book.down.lock().expect("sound");
    let same = || nodes.coverage.all() == *book.entries.lock().expect("sound");
    while nodes.coverage.fault().is_some() != down || !(down || same()) {
        assert!(Instant::now() < until, "never read");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn silence(nodes: &RemoteNodes) -> Vec<f64> {
    nodes.status().iter().map(|h| h.silent_s.round()).collect()
}

#[test]
fn silence_is_counted_from_the_last_news_and_only_while_news_could_come() {
    let (book, start) = (Arc::new(Book::default()), Instant::now());
    let coverage = read(&book);
    let nodes = nodes(&coverage, None);
    let clock = Timestamp::from_micros(1_000_000_000);
    let at = |s: u64| start + Duration::from_secs(s);
    let look = |s: u64| {
        settle(&nodes, &book);
        nodes.hear(at(s), clock + Duration::from_secs(s));
    };
    book.report("gate", clock - Duration::from_secs(40), 1);
    look(0);
    assert_eq!(silence(&nodes), [40.0], "an old report of a node that may be gone");
    // The clock of the node does not count any more once its reports change.
    book.report("gate", clock - Duration::from_secs(39), 2);
    look(1);
    assert_eq!(silence(&nodes), [0.0]);
    look(15);
    assert_eq!(silence(&nodes), [14.0]);
    *book.down.lock().expect("sound") = true;
    look(30);
    assert_eq!(silence(&nodes), [14.0], "the store is away: that is not the node's silence");
    assert!(nodes.fault().expect("told").contains("gone"));
    *book.down.lock().expect("sound") = false;
    look(31);
    assert_eq!((silence(&nodes), nodes.fault()), (vec![30.0], None));
}

#[test]
fn a_nodes_own_cameras_appear_by_themselves_and_cannot_be_removed_here() {
    let book = Arc::new(Book::default());
    let coverage = read(&book);
    let nodes = nodes(&coverage, Some(Topic::default()));
    let gate: CameraId = "gate".parse().expect("valid");
    book.report("gate", Timestamp::now(), 1);
    settle(&nodes, &book);
    nodes.hear(Instant::now(), Timestamp::now());
    let known: Vec<_> = nodes.elsewhere().into_iter().map(|(c, s)| (c.id.to_string(), s)).collect();
    assert_eq!(known, [("gate".to_owned(), CameraSource::Node)]);
    let refused = nodes.removable(&gate).expect_err("it would come back").to_string();
    assert!(refused.contains("ingest@one"), "{refused}");
    nodes.remove(&gate).expect("not in the topic: nothing to do");
    book.report("gate", Timestamp::now() - Duration::from_secs(60), 0);
    settle(&nodes, &book);
    let later = RemoteNodes::new(nodes.coverage.clone(), None);
    later.hear(Instant::now(), Timestamp::now());
    later.removable(&gate).expect("its node is gone");
}

#[test]
fn what_was_told_counts_before_the_topic_says_it() {
    let book = Arc::new(Book::default());
    let coverage = read(&book);
    let nodes = nodes(&coverage, Some(Topic { slow: true, ..Topic::default() }));
    nodes.add(camera("gate")).expect("told");
    let ids = || nodes.elsewhere().into_iter().map(|(c, _)| c.id.to_string()).collect::<Vec<_>>();
    assert_eq!(ids(), ["gate"]);
    nodes.remove(&"gate".parse().expect("valid")).expect("told");
    assert!(ids().is_empty());
}

#[test]
fn without_a_way_to_steer_it_says_so() {
    let book = Arc::new(Book::default());
    let coverage = read(&book);
    let without = nodes(&coverage, None).add(camera("gate")).expect_err("no topic");
    assert!(matches!(without, CameraRefused::Unsupported(_)), "{without}");
    let down = nodes(&coverage, Some(Topic { down: true, ..Topic::default() }));
    assert!(matches!(down.add(camera("gate")), Err(CameraRefused::Down(_))));
    assert!(down.fault().expect("told").contains("no broker"));
    let bad = CameraConfig { url: "nothing".into(), ..camera("gate") };
    let up = nodes(&coverage, Some(Topic::default()));
    assert!(matches!(up.add(bad), Err(CameraRefused::Invalid(_))));
}
