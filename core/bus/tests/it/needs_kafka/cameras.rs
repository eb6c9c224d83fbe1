//! Cameras on the bus, on a real broker: nodes share them by their capacities, whatever
//! the number of partitions, and take over; the directory knows all of
//! them; removal survives compaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use sightline_bus::placement::CameraChange;
use sightline_bus::{
    CameraDirectory, CameraPlacement, CameraPublisher, Consumer, Producer, TopicSpec, ensure_topics, request_drain,
};
use sightline_core::config::{BusConfig, CameraConfig};
use sightline_core::{CameraId, Timestamp};

use super::support::{LONG, config, take, until};

fn camera(id: &str, fps: f64) -> CameraConfig {
    let value = serde_json::json!({"id": id, "url": "videotestsrc://", "fps": fps});
    serde_json::from_value(value).unwrap()
}

fn id(id: &str) -> CameraId {
    id.parse().unwrap()
}

type Running = Arc<Mutex<BTreeMap<CameraId, CameraConfig>>>;

/// A camera node that only starts and stops cameras.
struct Node {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    running: Running,
    placement: Arc<CameraPlacement>,
}

impl Node {
    /// `all` collects the cameras of every node: none may run twice.
    fn start(config: &BusConfig, name: &str, capacity: u32, all: &Arc<Mutex<BTreeSet<CameraId>>>) -> Self {
        let producer = Producer::start(config, name).unwrap();
        let placement = Arc::new(CameraPlacement::start(config, producer, name, capacity).unwrap());
        let (stop, running) = (Arc::new(AtomicBool::new(false)), Running::default());
        let (own_stop, own_running, all) = (Arc::clone(&stop), Arc::clone(&running), Arc::clone(all));
        let own = Arc::clone(&placement);
        let thread = std::thread::spawn(move || {
            let since = Timestamp::now();
            while !own_stop.load(Ordering::SeqCst) {
                own.set_covered(own_running.lock().unwrap().keys().map(|id| (id.clone(), since)).collect());
                for change in own.next(Duration::from_millis(100)) {
                    match change {
                        CameraChange::Run(camera) => {
                            let new = own_running.lock().unwrap().insert(camera.id.clone(), camera.clone()).is_none();
                            assert!(all.lock().unwrap().insert(camera.id.clone()) || !new, "{} runs twice", camera.id);
                        }
                        CameraChange::Stop(id) => {
                            // Stopping takes a while; no other node may start the camera meanwhile.
                            std::thread::sleep(Duration::from_millis(100));
                            assert!(own_running.lock().unwrap().remove(&id).is_some(), "{id} does not run");
                            assert!(all.lock().unwrap().remove(&id));
                        }
                    }
                }
            }
            for id in own_running.lock().unwrap().keys() {
                all.lock().unwrap().remove(id);
            }
        });
        Self { stop, thread: Some(thread), running, placement }
    }

    fn cameras(&self) -> BTreeMap<CameraId, CameraConfig> {
        self.running.lock().unwrap().clone()
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        assert!(self.placement.leave(LONG));
    }
}

fn topics(config: &BusConfig) -> [TopicSpec; 2] {
    [TopicSpec::compacted(&config.cameras_topic), TopicSpec::ordered(&config.nodes_topic)]
}

#[test]
fn nodes_share_cameras_and_take_over() {
    let config = BusConfig { partitions: 2, ..config() };
    ensure_topics(&config, &topics(&config)).unwrap();
    let publisher = CameraPublisher::new(Producer::start(&config, "test").unwrap(), &config);
    let names: Vec<String> = (0..20).map(|n| format!("gate-{n}")).collect();
    for name in &names {
        publisher.put(&camera(name, 5.0)).unwrap();
    }
    publisher.put(&camera("early", 5.0)).unwrap();
    publisher.remove(&id("early")).unwrap();
    let all = Arc::new(Mutex::new(BTreeSet::new()));
    let first = Node::start(&config, "node-1", 30, &all);
    until("the first node has all", || first.cameras().len() == 20);
    assert_eq!(first.placement.fault(), None);
    let second = Node::start(&config, "node-2", 30, &all);
    until("they share", || second.cameras().len() >= 4 && first.cameras().len() + second.cameras().len() == 20);
    assert!(first.cameras().len() >= 4, "{:?}", first.cameras().keys());
    // Changes reach the node that runs the camera.
    publisher.put(&camera("gate-3", 2.0)).unwrap();
    publisher.put(&camera("late", 1.0)).unwrap();
    publisher.remove(&id("gate-4")).unwrap();
    let both = || first.cameras().into_iter().chain(second.cameras()).collect::<BTreeMap<_, _>>();
    until("changes arrive", || {
        let both = both();
        both.len() == 20
            && both.get(&id("gate-3")).is_some_and(|c| c.fps == Some(2.0))
            && !both.contains_key(&id("gate-4"))
    });
    let wanted = both();
    first.end();
    until("the other one takes over", || second.cameras() == wanted);
    // Drained, it gives all away, here to nobody; somebody reports that.
    request_drain(&config, "node-2", true).unwrap();
    until("it has given all away", || second.cameras().is_empty() && second.placement.unplaced().len() == 20);
    request_drain(&config, "node-2", false).unwrap();
    until("it has them again", || second.cameras() == wanted);
    second.end();
}

#[test]
fn more_nodes_than_partitions_share_cameras_within_their_capacities() {
    let config = BusConfig { partitions: 2, ..config() };
    ensure_topics(&config, &topics(&config)).unwrap();
    let publisher = CameraPublisher::new(Producer::start(&config, "test").unwrap(), &config);
    for n in 0..24 {
        publisher.put(&camera(&format!("gate-{n}"), 5.0)).unwrap();
    }
    let all = Arc::new(Mutex::new(BTreeSet::new()));
    let mut nodes: Vec<Node> = (0..6).map(|n| Node::start(&config, &format!("node-{n}"), 5, &all)).collect();
    let loads = |nodes: &[Node]| nodes.iter().map(|n| n.cameras().len()).collect::<Vec<_>>();
    until("all run", || loads(&nodes).iter().sum::<usize>() == 24);
    assert!(loads(&nodes).iter().all(|load| (1..=5).contains(load)), "{:?}", loads(&nodes));
    // Without one node they are exactly full; without two, some cameras run nowhere, and one node
    // says so.
    nodes.remove(0).end();
    until("all run on five", || loads(&nodes).iter().sum::<usize>() == 24);
    nodes.remove(0).end();
    until("four are full", || loads(&nodes).iter().all(|load| *load == 5));
    let unplaced = || nodes.iter().flat_map(|n| n.placement.unplaced()).collect::<Vec<_>>();
    until("the rest is reported", || unplaced().len() == 4);
    assert!(unplaced().iter().all(|(_, why)| why.contains("4 of them take 20 cameras")), "{:?}", unplaced());
}

#[test]
fn the_directory_knows_all_and_follows() {
    let config = config();
    ensure_topics(&config, &[TopicSpec::compacted(&config.cameras_topic)]).unwrap();
    let producer = Producer::start(&config, "test").unwrap();
    let publisher = CameraPublisher::new(producer.clone(), &config);
    publisher.put(&camera("a", 1.0)).unwrap();
    publisher.put(&camera("b", 1.0)).unwrap();
    publisher.remove(&id("a")).unwrap();
    // An invalid record does not hide the others.
    let bad = super::support::record(&config.cameras_topic, "c", "{\"id\": \"d\", \"url\": \"x\"}");
    producer.send_and_wait(bad, LONG).unwrap();
    let directory = CameraDirectory::start(&config, "test").unwrap();
    assert!(directory.loaded(LONG));
    assert_eq!(directory.all().into_values().collect::<Vec<_>>(), [camera("b", 1.0)]);
    let seen = directory.changes(0, Duration::ZERO);
    assert_eq!(directory.changes(seen, Duration::from_millis(300)), seen, "nothing happens");
    publisher.put(&camera("b", 9.0)).unwrap();
    assert!(directory.changes(seen, LONG) > seen);
    until("the change is there", || directory.all().get(&id("b")) == Some(&camera("b", 9.0)));
    until("no fault", || directory.fault().is_none());
}

#[test]
fn removed_cameras_stay_removed_when_the_topic_is_compacted() {
    let config = BusConfig { partitions: 1, ..config() };
    ensure_topics(&config, &[TopicSpec::compacted(&config.cameras_topic)]).unwrap();
    // With the topic's default settings compaction takes minutes; here it shall take seconds.
    let admin: AdminClient<_> =
        rdkafka::ClientConfig::new().set("bootstrap.servers", &config.brokers).create().unwrap();
    let eager = AlterConfig::new(ResourceSpecifier::Topic(&config.cameras_topic))
        .set("cleanup.policy", "compact")
        .set("segment.ms", "200")
        .set("min.cleanable.dirty.ratio", "0.001")
        .set("delete.retention.ms", "100");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(admin.alter_configs(&[eager], &AdminOptions::new())).unwrap();
    let publisher = CameraPublisher::new(Producer::start(&config, "test").unwrap(), &config);
    for n in 0..20 {
        publisher.put(&camera("stays", f64::from(n + 1))).unwrap();
        publisher.put(&camera("goes", 1.0)).unwrap();
    }
    publisher.remove(&id("goes")).unwrap();
    let mut rounds = 0;
    until("old records are gone", || {
        // A segment is closed when a record comes after the segment's time.
        std::thread::sleep(Duration::from_millis(500));
        publisher.put(&camera("clock", f64::from(rounds + 1))).unwrap();
        rounds += 1;
        let reader = Consumer::start(&config, &format!("reader-{rounds}"), &[&config.cameras_topic], "test").unwrap();
        let first = take(&reader, 1).remove(0).0;
        first.offset > 30
    });
    let directory = CameraDirectory::start(&config, "test").unwrap();
    assert!(directory.loaded(LONG));
    let all = directory.all();
    assert_eq!(all.keys().map(CameraId::as_str).collect::<Vec<_>>(), ["clock", "stays"]);
    assert_eq!(all[&id("stays")], camera("stays", 20.0));
}
