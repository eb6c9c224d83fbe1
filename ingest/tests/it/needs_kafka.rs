//! The node as a process of its own, on a real broker: events it has accepted survive `kill -9`,
//! cameras of the topic are run, and those of a dead node are taken over.
//!
//! Needs a broker (`KAFKA_BROKERS`; `docker/kafka/kafka.sh` starts one) and the detector's weights
//! (`make build`).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sightline_bus::wire;
use sightline_bus::{CameraPublisher, Consumer, Producer, TopicSpec, await_topics};
use sightline_core::config::BusConfig;
use sightline_core::shutdown::Shutdown;
use sightline_core::{CameraEvent, CameraState, Config, SightingId};
use sightline_testing::{Process, binary, free_address, repository, until};

use crate::util::{config, launch};

/// Long enough for two busy cores.
const LONG: Duration = Duration::from_secs(300);

/// Configuration with topics of one test alone.
fn bus() -> BusConfig {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let brokers = std::env::var("KAFKA_BROKERS")
        .expect("this test needs a broker: docker/kafka/kafka.sh starts one; set KAFKA_BROKERS to its host:port");
    let name = format!("ingest-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    BusConfig {
        brokers,
        crops_topic: format!("{name}-crops"),
        cameras_topic: format!("{name}-cameras"),
        nodes_topic: format!("{name}-nodes"),
        partitions: 4,
        ..Config::layered(None, []).unwrap().bus
    }
}

/// The first minute of the demo's footage.
fn footage() -> &'static Path {
    static ONCE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = ONCE.get_or_init(|| {
        let whole = repository("docker/demo/one-by-one-person-detection.mp4");
        assert!(whole.is_file(), "{} is missing", whole.display());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("minute.avi");
        let (from, to) = (whole.display(), path.display());
        launch(&format!(
            "filesrc location={from} ! decodebin ! identity eos-after=601 ! videoconvert ! jpegenc ! avimux \
             ! filesink location={to}"
        ));
        (folder, path)
    });
    path
}

/// Configuration of one camera that plays as fast as the machine can.
fn file_camera() -> String {
    format!(
        "[[cameras]]\nid = \"hall\"\nurl = \"file://{}\"\nstart_time = \"2026-05-01T08:00:00Z\"\nrealtime = false\n",
        footage().display()
    )
}

fn write_config(folder: &Path, bus: &BusConfig, node: &str, cameras: &str) -> PathBuf {
    let weights = repository("models/nanodet-g.safetensors");
    assert!(weights.is_file(), "{} is missing: `make build` makes it", weights.display());
    let mut text = String::new();
    writeln!(text, "[data]\nfolder = {:?}", folder.join("data")).unwrap();
    writeln!(text, "[detect]\nweights = {weights:?}\ninput_size = 192").unwrap();
    writeln!(text, "[monitor]\nlisten = \"127.0.0.1:0\"\nnode = {node:?}").unwrap();
    writeln!(
        text,
        "[bus]\nbrokers = {:?}\ncrops_topic = {:?}\ncameras_topic = {:?}\nnodes_topic = {:?}\npartitions = {}",
        bus.brokers, bus.crops_topic, bus.cameras_topic, bus.nodes_topic, bus.partitions
    )
    .unwrap();
    let path = folder.join(format!("{node}.toml"));
    std::fs::write(&path, text + cameras).unwrap();
    path
}

fn start(config: &Path) -> Process {
    Process::start(Command::new(binary("sightline-ingest")).arg("--config").arg(config))
}

/// Reads the topic of crops from its beginning until `enough`.
fn read(bus: &BusConfig, enough: impl Fn(&[CameraEvent]) -> bool) -> Vec<CameraEvent> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let group = format!("{}-reader-{}", bus.crops_topic, NUMBER.fetch_add(1, Ordering::Relaxed));
    await_topics(bus, &[TopicSpec::aging(&bus.crops_topic)], &Shutdown::new()).unwrap();
    let consumer = Consumer::start(bus, &group, &[&bus.crops_topic], "test").unwrap();
    let (mut events, deadline) = (Vec::new(), Instant::now() + LONG);
    while !enough(&events) {
        assert!(Instant::now() < deadline, "only {} events in {}", events.len(), bus.crops_topic);
        let Some(delivery) = consumer.next(Duration::from_millis(200)) else { continue };
        let event = wire::decode_camera_event(delivery.event.payload.clone()).unwrap();
        assert_eq!(delivery.event.key.as_deref(), Some(event.camera().as_str().as_bytes()));
        events.push(event);
        delivery.receipt.complete();
    }
    events
}

fn ended(events: &[CameraEvent]) -> bool {
    events.iter().any(|e| matches!(e, CameraEvent::Progress(p) if p.ended))
}

fn crops(events: &[CameraEvent]) -> BTreeSet<SightingId> {
    events.iter().filter_map(|e| if let CameraEvent::Crop(c) = e { Some(c.id()) } else { None }).collect()
}

fn tracks(events: &[CameraEvent]) -> BTreeSet<String> {
    let ends = events.iter().filter_map(|e| if let CameraEvent::TrackEnd(t) = e { Some(t) } else { None });
    ends.filter(|t| t.ended).map(|t| format!("{} {} {}", t.track, t.first_seen, t.last_seen)).collect()
}

/// Pictures and tracks of an undisturbed run.
fn undisturbed() -> &'static (BTreeSet<SightingId>, BTreeSet<String>) {
    static ONCE: OnceLock<(BTreeSet<SightingId>, BTreeSet<String>)> = OnceLock::new();
    ONCE.get_or_init(|| {
        let (folder, bus) = (tempfile::tempdir().unwrap(), bus());
        let node = start(&write_config(folder.path(), &bus, "calm", &file_camera()));
        let events = read(&bus, ended);
        assert!(node.stop().took < Duration::from_secs(8), "stops in time");
        let (crops, tracks) = (crops(&events), tracks(&events));
        println!("undisturbed: {} pictures of {} tracks", crops.len(), tracks.len());
        assert!(crops.len() > 5 && tracks.len() > 2, "{crops:?} {tracks:?}");
        (crops, tracks)
    })
}

#[test]
fn kill_9_in_mid_stream_loses_nothing() {
    let (folder, bus) = (tempfile::tempdir().unwrap(), bus());
    let config = write_config(folder.path(), &bus, "hit", &file_camera());
    for enough in [1, 3, 5] {
        let node = start(&config);
        read(&bus, |events| crops(events).len() >= enough);
        node.kill_9();
    }
    let _node = start(&config);
    let events = read(&bus, ended);
    assert_eq!((crops(&events), tracks(&events)), *undisturbed());
}

#[test]
fn without_a_broker_everything_waits_on_disk_and_survives_kill_9() {
    let (folder, bus) = (tempfile::tempdir().unwrap(), bus());
    let away = BusConfig { brokers: free_address().to_string(), ..bus.clone() };
    let node = start(&write_config(folder.path(), &away, "alone", &file_camera()));
    let deadline = Instant::now() + LONG;
    let (mut analysed, mut quiet) = (0.0, Instant::now());
    // The footage is finished when nothing new has come for a while.
    while analysed == 0.0 || quiet.elapsed() < Duration::from_secs(8) {
        assert!(Instant::now() < deadline, "{analysed} frames");
        std::thread::sleep(Duration::from_millis(200));
        let now = node.metric_with("sightline_ingest_frames_total", "analysed");
        if now > analysed {
            (analysed, quiet) = (now, Instant::now());
        }
    }
    let ready = node.ask("/readyz");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("MB on disk"), "{ready}");
    assert!(node.metric("sightline_ingest_spool_bytes") > 10_000.0);
    node.kill_9();
    // This run has no camera, so every event comes from the disk.
    let node = start(&write_config(folder.path(), &bus, "alone", ""));
    let events = read(&bus, ended);
    assert_eq!((crops(&events), tracks(&events)), *undisturbed());
    let limit = Duration::from_secs(20);
    until(limit, "the spool is emptied", || node.metric("sightline_ingest_spool_bytes") == 0.0);
    until(limit, "the node is ready", || node.is_ready());
    assert_eq!(node.metric("sightline_ingest_dropped_records_total"), 0.0);
}

#[test]
fn cameras_of_the_topic_are_run_and_those_of_a_dead_node_taken_over() {
    let (folder, bus) = (tempfile::tempdir().unwrap(), bus());
    let topics = [TopicSpec::aging(&bus.crops_topic), TopicSpec::compacted(&bus.cameras_topic)];
    await_topics(&bus, &topics, &Shutdown::new()).unwrap();
    let cameras = CameraPublisher::new(Producer::start(&bus, "test").unwrap(), &bus);
    let names: Vec<String> = (0..6).map(|n| format!("cam-{n}")).collect();
    for name in &names {
        let url = "videotestsrc://?pattern=ball&framerate=5&width=160&height=120";
        cameras.put(&config(name, url)).unwrap();
    }
    // Every node needs a data folder of its own.
    let start = |name: &str| {
        let own = folder.path().join(name);
        std::fs::create_dir(&own).unwrap();
        start(&write_config(&own, &bus, name, ""))
    };
    let (one, two) = (start("one"), start("two"));
    // Which node reports which camera as decoding, in its latest report.
    let runs = |events: &[CameraEvent], node: &str| -> BTreeSet<String> {
        let mut latest = std::collections::BTreeMap::new();
        for event in events {
            if let CameraEvent::Report(r) = event {
                latest.insert(r.camera.to_string(), (r.origin.producer.clone(), r.state));
            }
        }
        let here = latest.into_iter().filter(|(_, (by, state))| by == node && *state == CameraState::Decoding);
        here.map(|(camera, _)| camera).collect()
    };
    let all: BTreeSet<String> = names.iter().cloned().collect();
    let shared = |events: &[CameraEvent]| {
        let (a, b) = (runs(events, "one"), runs(events, "two"));
        !a.is_empty() && !b.is_empty() && a.union(&b).cloned().collect::<BTreeSet<_>>() == all
    };
    read(&bus, shared);
    one.kill_9();
    let begun = Instant::now();
    read(&bus, |events| runs(events, "two") == all);
    println!("taken over after {:?}", begun.elapsed());
    cameras.remove(&"cam-0".parse().unwrap()).unwrap();
    until(LONG, "cam-0 has run and stands still", || {
        two.metric_with("sightline_ingest_frames_total", "cam-0") > 0.0 && !still_analysed(&two, "cam-0")
    });
    assert!(still_analysed(&two, "cam-1"));
}

/// Whether the camera's frame count still rises.
fn still_analysed(node: &Process, camera: &str) -> bool {
    let before = node.metric_with("sightline_ingest_frames_total", camera);
    std::thread::sleep(Duration::from_secs(2));
    node.metric_with("sightline_ingest_frames_total", camera) > before
}
