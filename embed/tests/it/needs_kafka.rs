//! The worker as a process of its own, against a real broker: `kill -9` in mid-stream loses
//! nothing, two workers share the partitions, and what can never be embedded is set aside with the
//! reason.
//!
//! Needs a broker: `KAFKA_BROKERS`; `docker/kafka/kafka.sh` starts one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sightline_bus::wire;
use sightline_bus::{self as bus, Consumer, Incoming, Outgoing, Producer, TopicSpec};
use sightline_core::config::BusConfig;
use sightline_core::shutdown::Shutdown;
use sightline_core::{CameraEvent, Config, IndexEvent, SightingId};
use sightline_testing::{Process, binary, until};

use crate::folder;
use crate::stage::{crop, end, jpeg, label, progress};

/// Long enough for a busy machine of two cores.
const LONG: Duration = Duration::from_secs(300);
const CAMERAS: [&str; 6] = ["north", "south", "east", "west", "up", "down"];

/// Topics of a test of its own on the broker.
fn bus() -> BusConfig {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let brokers = std::env::var("KAFKA_BROKERS")
        .expect("this test needs a broker: docker/kafka/kafka.sh starts one; set KAFKA_BROKERS to its host:port");
    let name = format!("embed-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let bus = BusConfig {
        brokers,
        crops_topic: format!("{name}-crops"),
        sightings_topic: format!("{name}-sightings"),
        partitions: 6,
        ..Config::layered(None, []).unwrap().bus
    };
    let dead = bus::dead_letter_topic(&bus, &bus.crops_topic);
    let topics = [&bus.crops_topic, &bus.sightings_topic, &dead].map(TopicSpec::aging);
    bus::await_topics(&bus, &topics, &Shutdown::new()).unwrap();
    bus
}

fn write_config(folder: &Path, model: &Path, bus: &BusConfig, node: &str) -> PathBuf {
    let mut text = String::new();
    writeln!(text, "[model]\nfolder = {model:?}").unwrap();
    writeln!(text, "[embed]\nprecision = \"f32\"\nthreads = 1\nbatch = 4\nlinger_ms = 5").unwrap();
    writeln!(text, "[monitor]\nlisten = \"127.0.0.1:0\"\nnode = {node:?}").unwrap();
    writeln!(
        text,
        "[bus]\nbrokers = {:?}\ncrops_topic = {:?}\nsightings_topic = {:?}\npartitions = {}",
        bus.brokers, bus.crops_topic, bus.sightings_topic, bus.partitions
    )
    .unwrap();
    let path = folder.join(format!("{node}.toml"));
    std::fs::write(&path, text).unwrap();
    path
}

fn start(config: &Path) -> Process {
    Process::start(Command::new(binary("sightline-embed")).arg("--config").arg(config))
}

fn wait_ready(worker: &Process) {
    until(LONG, "the worker is ready", || worker.is_ready());
}

/// Puts `count` crops on the topic, cameras in turns, every tenth followed by its track's end and
/// progress.
fn produce(bus: &BusConfig, count: u64) -> BTreeSet<SightingId> {
    let pictures: Vec<Vec<u8>> = folder::pictures().iter().map(jpeg).collect();
    let producer = Producer::start(bus, "test").unwrap();
    let mut ids = BTreeSet::new();
    for n in 0..count {
        let camera = CAMERAS[n as usize % CAMERAS.len()];
        let event = crop(camera, n, pictures[n as usize % pictures.len()].clone());
        if let CameraEvent::Crop(c) = &event {
            ids.insert(c.id());
        }
        send(&producer, bus, wire::encode_camera_event(&event).unwrap(), camera);
        if n % 10 == 9 {
            for event in [end(camera, n), progress(camera, n)] {
                send(&producer, bus, wire::encode_camera_event(&event).unwrap(), camera);
            }
        }
    }
    assert!(producer.flush(LONG));
    ids
}

fn send(producer: &Producer, bus: &BusConfig, payload: Bytes, camera: &str) {
    let record = Outgoing { topic: bus.crops_topic.clone(), key: camera.into(), payload, headers: Vec::new() };
    producer.send(record, |outcome| outcome.unwrap()).unwrap();
}

/// Everything in a topic, from its beginning, until `enough`.
fn read(bus: &BusConfig, topic: &str, enough: impl Fn(&[Incoming]) -> bool) -> Vec<Incoming> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let group = format!("{topic}-reader-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let consumer = Consumer::start(bus, &group, &[topic], "test").unwrap();
    let (mut records, deadline) = (Vec::new(), Instant::now() + LONG);
    while !enough(&records) {
        assert!(Instant::now() < deadline, "only {} records in {topic}", records.len());
        if let Some(delivery) = consumer.next(Duration::from_millis(200)) {
            records.push(delivery.event);
            delivery.receipt.complete();
        }
    }
    records
}

fn events(records: &[Incoming]) -> Vec<IndexEvent> {
    records.iter().map(|r| wire::decode_index_event(r.payload.clone()).unwrap()).collect()
}

fn sightings(records: &[Incoming]) -> Vec<SightingId> {
    let all = events(records);
    all.iter().filter_map(|e| if let IndexEvent::Sighting(s) = e { Some(s.id()) } else { None }).collect()
}

#[test]
fn kill_9_in_mid_stream_loses_no_crop() {
    let (folder, model, bus) = (tempfile::tempdir().unwrap(), folder::model(), bus());
    let ids = produce(&bus, 1500);
    let config = write_config(folder.path(), model.path(), &bus, "hit");
    for enough in [50, 400, 800] {
        let worker = start(&config);
        read(&bus, &bus.sightings_topic, |r| r.len() >= enough);
        worker.kill_9();
    }
    let worker = start(&config);
    let all = |r: &[Incoming]| sightings(r).into_iter().collect::<BTreeSet<_>>();
    let records = read(&bus, &bus.sightings_topic, |r| r.len() >= 1800 && all(r) == ids);
    println!("{} records for {} crops, {} sightings", records.len(), ids.len(), sightings(&records).len());
    // In every camera's order, as far as first arrivals go: an end never comes before its crops.
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for event in events(&records) {
        let seen = seen.entry(event.camera().to_string()).or_default();
        if let IndexEvent::TrackEnd(e) = &event {
            assert!(seen.contains(&format!("{} crop {}", e.camera, e.origin.seq)), "{}", label(&event));
        }
        seen.insert(label(&event));
    }
    assert!(worker.stop().took < Duration::from_secs(15));
    // What was committed at the end does not come again.
    let worker = start(&config);
    wait_ready(&worker);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(worker.metric("sightline_bus_consumed_records_total"), 0.0);
}

#[test]
fn two_workers_share_the_partitions() {
    let (folder, model, bus) = (tempfile::tempdir().unwrap(), folder::model(), bus());
    let start = |name: &str| start(&write_config(folder.path(), model.path(), &bus, name));
    let one = start("one");
    wait_ready(&one);
    let ready = one.ask("/readyz");
    assert!(ready.contains(r#""device":"cpu""#) && ready.contains(r#""model":""#), "{ready}");
    let two = start("two");
    wait_ready(&two);
    let ids = produce(&bus, 600);
    let all = |r: &[Incoming]| sightings(r).into_iter().collect::<BTreeSet<_>>();
    let records = read(&bus, &bus.sightings_topic, |r| r.len() >= 720 && all(r) == ids);
    let shares = [one, two].map(|w| w.metric("sightline_embed_published_records_total"));
    assert!(shares.iter().all(|s| *s >= 100.0), "{shares:?}");
    assert_eq!((shares[0] + shares[1], records.len()), (720.0, 720), "nothing twice without a failure");
}

#[test]
fn what_can_never_be_embedded_is_set_aside_with_the_reason() {
    let (folder, model, bus) = (tempfile::tempdir().unwrap(), folder::model(), bus());
    let producer = Producer::start(&bus, "test").unwrap();
    let picture = jpeg(&folder::pictures()[0]);
    let broken = wire::encode_camera_event(&crop("east", 1, picture[..60].to_vec())).unwrap();
    let good = wire::encode_camera_event(&crop("east", 2, picture)).unwrap();
    let poison = Bytes::from_static(b"\xff\xff no protobuf");
    for payload in [poison.clone(), broken.clone(), good] {
        send(&producer, &bus, payload, "east");
    }
    assert!(producer.flush(LONG));
    let worker = start(&write_config(folder.path(), model.path(), &bus, "one"));
    let records = read(&bus, &bus.sightings_topic, |r| !r.is_empty());
    assert_eq!(events(&records).iter().map(label).collect::<Vec<_>>(), ["east crop 2"]);
    let dead = read(&bus, &bus::dead_letter_topic(&bus, &bus.crops_topic), |r| r.len() >= 2);
    let by_payload = |payload: &Bytes| dead.iter().find(|r| r.payload == *payload).unwrap();
    for (payload, reason, offset) in [(&poison, "not a Sightline record", "0"), (&broken, "not a picture", "1")] {
        let record = by_payload(payload);
        assert!(record.header("reason").is_some_and(|r| r.contains(reason)), "{:?}", record.headers);
        assert_eq!(record.header("topic"), Some(bus.crops_topic.as_str()));
        assert_eq!((record.header("offset"), record.header("stage")), (Some(offset), Some("embed")));
    }
    worker.stop();
    // The records were committed: the next worker does not read them again.
    let again = start(&write_config(folder.path(), model.path(), &bus, "two"));
    wait_ready(&again);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(again.metric("sightline_bus_consumed_records_total"), 0.0);
}
