//! The camera node: cameras are added and removed, refused, end, and their events arrive in order.

use std::time::{Duration, Instant};

use sightline_core::config::{CameraConfig, Config, IngestConfig};
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_core::{BBox, CameraEvent, CameraId, CameraState, NodeReport, Progress, RgbImage};
use sightline_detect::{DetectError, Detection, Detector};
use sightline_ingest::{CameraNode, IngestError, NodeConfig, Roster};
use sightline_testing::{free_address, until};

use crate::util::{START, ball_avi, config, file_url, ingest, replay};

/// A detector that finds what is bright, the ball of the test picture, and takes it for the middle
/// of a person twice as tall.
pub struct Blobs;

impl Detector for Blobs {
    fn detect(&mut self, image: &RgbImage) -> Result<Vec<Detection>, DetectError> {
        let (mut x0, mut y0, mut x1, mut y1) = (u32::MAX, u32::MAX, 0, 0);
        for y in 0..image.height() {
            for (x, p) in image.row(y).chunks_exact(3).enumerate() {
                if p[0] > 128 && p[1] > 128 && p[2] > 128 {
                    let x = x as u32;
                    (x0, y0, x1, y1) = (x0.min(x), y0.min(y), x1.max(x + 1), y1.max(y + 1));
                }
            }
        }
        if x1 == 0 {
            return Ok(Vec::new());
        }
        let half = (y1 - y0) as f32 / 2.0;
        let bbox = BBox { x0: x0 as f32, y0: y0 as f32 - half, x1: x1 as f32, y1: y1 as f32 + half };
        Ok(vec![Detection { bbox: bbox.clip(image.width(), image.height()), score: 0.9 }])
    }
}

pub fn node_config(ingest: IngestConfig) -> NodeConfig {
    let mut all = Config::layered(None, []).unwrap();
    all.ingest = ingest;
    NodeConfig::new(&all, "ingest@test")
}

fn node(ingest: IngestConfig, out: &Queue<CameraEvent>) -> CameraNode {
    CameraNode::start(node_config(ingest), || Box::new(Blobs), out.clone(), Shutdown::new()).unwrap()
}

/// Analyses every frame: the ball is too quick to be tracked at five frames a second.
fn every_frame(camera: CameraConfig) -> CameraConfig {
    CameraConfig { fps: Some(25.0), ..camera }
}

/// All events but reports, which depend on the clock.
fn events_until_end(out: &Queue<CameraEvent>, slowness: Duration) -> Vec<CameraEvent> {
    let mut events = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        assert!(Instant::now() < deadline, "no end after {} events", events.len());
        let Some(event) = out.pop(Duration::from_millis(100)) else { continue };
        if matches!(event, CameraEvent::Report(_)) {
            continue;
        }
        std::thread::sleep(slowness);
        let end = matches!(&event, CameraEvent::Progress(p) if p.ended);
        events.push(event);
        if end {
            return events;
        }
    }
}

#[test]
fn a_file_gives_the_same_events_twice_even_to_a_slow_consumer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ball.avi");
    ball_avi(&path, 125);
    let run = |capacity, slowness| {
        let out = Queue::new(capacity);
        let node = node(ingest(), &out);
        node.add(every_frame(replay(&file_url(&path)))).unwrap();
        let events = events_until_end(&out, slowness);
        let status = node.status().remove(0);
        assert_eq!((status.state, status.frames_analysed, status.frames_dropped), (CameraState::Ended, 125, 0));
        let crops = events.iter().filter(|e| matches!(e, CameraEvent::Crop(_))).count() as u64;
        assert_eq!((status.crops, status.crops_dropped), (crops, 0));
        events
    };
    let events = run(8, Duration::ZERO);
    assert_eq!(events, run(1, Duration::from_millis(5)));
    assert!(events.iter().any(|e| matches!(e, CameraEvent::Crop(_))), "the ball is followed");
    assert!(events.iter().any(|e| matches!(e, CameraEvent::TrackEnd(t) if t.ended)), "and its track ends");
    let progress: Vec<&Progress> =
        events.iter().filter_map(|e| if let CameraEvent::Progress(p) = e { Some(p) } else { None }).collect();
    // With the first frame, then each second of footage, then at the end.
    let through: Vec<f64> = progress.iter().map(|p| p.analysed_through.seconds_since(START)).collect();
    assert_eq!(through, [0.0, 1.0, 2.0, 3.0, 4.0, 4.96]);
    assert!(progress[..5].iter().all(|p| !p.ended) && progress[5].ended);
}

#[test]
fn cameras_are_added_and_removed_while_others_run() {
    let out = Queue::new(64);
    let node = node(IngestConfig { max_cameras: 2, ..ingest() }, &out);
    let live = |id: &str| config(id, "videotestsrc://?pattern=ball&framerate=25&width=320&height=240");
    node.add(live("one")).unwrap();
    assert!(matches!(node.add(live("one")), Err(IngestError::Duplicate(_))));
    node.add(live("two")).unwrap();
    let e = node.add(live("three")).expect_err("over capacity").to_string();
    assert!(e.contains("three") && e.contains("at most 2"), "{e}");
    assert!(matches!(node.add(config("four", "gopher://x")), Err(IngestError::Url(_))));
    let begun = Instant::now();
    while node.status().iter().any(|s| s.frames_analysed < 5) {
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", node.status());
        out.pop(Duration::from_millis(20));
    }
    let begun = Instant::now();
    node.remove(&"one".parse().unwrap()).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(matches!(node.remove(&"one".parse().unwrap()), Err(IngestError::Unknown(_))));
    node.add(live("three")).unwrap();
    assert_eq!(node.status().iter().map(|s| s.camera.as_str().to_owned()).collect::<Vec<_>>(), ["three", "two"]);
    assert!(node.status().iter().all(|s| s.connection == 0));
    node.stop();
    assert!(node.status().is_empty());
    assert!(matches!(node.add(live("five")), Err(IngestError::Stopped)));
}

#[test]
fn removing_a_camera_does_not_hang_when_nobody_takes_its_events() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ball.avi");
    ball_avi(&path, 125);
    let out = Queue::new(1);
    let node = node(ingest(), &out);
    node.add(every_frame(CameraConfig { looped: true, ..replay(&file_url(&path)) })).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let begun = Instant::now();
    node.remove(&"replay".parse().unwrap()).unwrap();
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
}

#[test]
fn a_live_camera_never_takes_the_place_of_a_files_crops() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ball.avi");
    ball_avi(&path, 50);
    let out = Queue::new(4);
    let node = node(ingest(), &out);
    node.add(every_frame(replay(&file_url(&path)))).unwrap();
    node.add(every_frame(config("live", "videotestsrc://?pattern=ball&framerate=25&width=320&height=240"))).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let events = events_until_end(&out, Duration::from_millis(30));
    let file = node.status().into_iter().find(|s| s.camera.as_str() == "replay").unwrap();
    let crops = events.iter().filter(|e| matches!(e, CameraEvent::Crop(c) if c.camera.as_str() == "replay")).count();
    assert_eq!((file.crops, file.crops_dropped, file.frames_dropped), (crops as u64, 0, 0));
    assert!(crops > 0);
}

/// Reports of one camera until `enough` of them have come.
fn reports(out: &Queue<CameraEvent>, seconds: u64, enough: impl Fn(&[NodeReport]) -> bool) -> Vec<NodeReport> {
    let mut all = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !enough(&all) {
        assert!(Instant::now() < deadline, "{all:?}");
        if let Some(CameraEvent::Report(r)) = out.pop(Duration::from_millis(50)) {
            all.push(r);
        }
    }
    all
}

fn states(reports: &[NodeReport]) -> Vec<CameraState> {
    let mut states: Vec<CameraState> = reports.iter().map(|r| r.state).collect();
    states.dedup();
    states
}

#[test]
fn every_change_of_state_is_reported_and_the_end_repeatedly() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ball.avi");
    ball_avi(&path, 50);
    let out = Queue::new(256);
    let node = node(ingest(), &out);
    node.add(every_frame(replay(&file_url(&path)))).unwrap();
    let ended = |all: &[NodeReport]| all.iter().filter(|r| r.state == CameraState::Ended).count();
    let all = reports(&out, 15, |all| ended(all) >= 3);
    assert_eq!(states(&all), [CameraState::Connecting, CameraState::Decoding, CameraState::Ended]);
    let numbers: Vec<u64> = all.iter().map(|r| r.origin.seq).collect();
    assert_eq!(numbers, (0..all.len() as u64).collect::<Vec<_>>());
    let (status, last) = (node.status().remove(0), all.last().unwrap());
    assert_eq!((last.crops, last.frames_analysed, last.crops_dropped), (status.crops, 50, 0));
    assert_eq!((last.camera.as_str(), last.origin.producer.as_str()), ("replay", "ingest@test"));
    assert!(last.crops > 0 && last.since == status.since && last.at > last.since);
    let beat = last.at.seconds_since(all[all.len() - 2].at);
    assert!((1.9..3.0).contains(&beat), "{beat} s between reports");
}

#[test]
fn a_camera_without_a_frame_is_reported_with_the_reason() {
    let out = Queue::new(256);
    let node = node(IngestConfig { backoff_first_seconds: 3.0, backoff_last_seconds: 3.0, ..ingest() }, &out);
    node.add(config("gone", &format!("rtsp://{}/stream", free_address()))).unwrap();
    let retrying = |all: &[NodeReport]| all.iter().filter(|r| r.state == CameraState::Retrying).count();
    let all = reports(&out, 15, |all| retrying(all) >= 2);
    assert_eq!(states(&all)[..2], [CameraState::Connecting, CameraState::Retrying]);
    let last = all.last().unwrap();
    assert!(last.reason.as_ref().is_some_and(|r| r.contains("refuses the connection")), "{last:?}");
    assert!(last.retry_in_s.is_some_and(|s| s <= 3.0) && last.frames_decoded == 0, "{last:?}");
    // A full queue loses reports without any other effect.
    let full = Queue::new(1);
    let busy = CameraNode::start(node_config(ingest()), || Box::new(Blobs), full.clone(), Shutdown::new()).unwrap();
    busy.add(config("missing", "file:///nowhere/at-all.avi")).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let last = reports(&full, 5, |all| !all.is_empty()).remove(0);
    assert_eq!(last.state, CameraState::Failed, "the newest report has replaced the others");
}

#[test]
fn cameras_that_are_slow_to_stop_stop_side_by_side() {
    // Nobody takes events: every camera waits for room for its last ones.
    let out = Queue::new(1);
    let node = std::sync::Arc::new(node(ingest(), &out));
    let mut roster = Roster::new(std::sync::Arc::clone(&node), Vec::new());
    let names: Vec<CameraId> = (0..6).map(|n| format!("cam-{n}").parse().unwrap()).collect();
    for name in &names {
        roster.run(config(name.as_str(), "videotestsrc://?pattern=ball&framerate=25&width=160&height=120"));
    }
    until(Duration::from_secs(20), "all are analysed", || node.status().iter().all(|s| s.frames_analysed > 0));
    let begun = Instant::now();
    roster.stop(&names);
    assert!(node.status().is_empty());
    let took = begun.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&took), "six slow cameras took {took:?}");
}

#[test]
fn what_no_node_can_run_is_reported_as_refused() {
    let out = Queue::new(256);
    let node = std::sync::Arc::new(node(ingest(), &out));
    let mut roster = Roster::new(std::sync::Arc::clone(&node), Vec::new());
    let full = |reason: &str| [("far".parse().unwrap(), reason.to_owned())].into();
    roster.set_unplaced(full("all camera nodes are full"));
    std::thread::sleep(Duration::from_millis(2100));
    roster.retry_refused();
    let told = reports(&out, 5, |all| !all.is_empty());
    assert_eq!(
        (told[0].camera.as_str(), told[0].state, told[0].reason.as_deref()),
        ("far", CameraState::Refused, Some("all camera nodes are full"))
    );
    roster.set_unplaced(std::collections::BTreeMap::new());
    std::thread::sleep(Duration::from_millis(2100));
    roster.retry_refused();
    assert!(out.is_empty(), "it runs somewhere");
}

#[test]
fn a_node_runs_assigned_cameras_and_reports_refused_ones() {
    let out = Queue::new(256);
    let node = std::sync::Arc::new(node(IngestConfig { max_cameras: 2, ..ingest() }, &out));
    let live = |id: &str| config(id, "videotestsrc://?pattern=ball&framerate=25&width=320&height=240");
    let mut roster = Roster::new(std::sync::Arc::clone(&node), vec![live("own"), config("bad", "gopher://x")]);
    let running = || node.status().iter().map(|s| s.camera.to_string()).collect::<Vec<_>>();
    roster.run(live("one"));
    roster.run(live("two"));
    roster.run(live("own"));
    assert_eq!(running(), ["one", "own"]);
    let refused: Vec<String> = roster.refused().iter().map(|r| r.0.to_string()).collect();
    assert_eq!(refused, ["bad", "two"]);
    let told = reports(&out, 5, |all| all.iter().any(|r| r.camera.as_str() == "two"));
    let two = told.iter().find(|r| r.camera.as_str() == "two").unwrap();
    assert!(
        two.state == CameraState::Failed && two.reason.as_ref().is_some_and(|r| r.contains("at most 2")),
        "{two:?}"
    );
    // The same settings again change nothing; other settings restart the camera.
    let since = |id: &str| node.status().into_iter().find(|s| s.camera.as_str() == id).unwrap().since;
    let before = since("one");
    roster.run(live("one"));
    assert_eq!(since("one"), before);
    let decoded = || node.status().into_iter().find(|s| s.camera.as_str() == "own").unwrap().frames_decoded;
    while decoded() == 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let own = decoded();
    roster.run(CameraConfig { fps: Some(3.0), ..live("one") });
    assert!(since("one") > before);
    let before = since("one");
    roster.run(CameraConfig { fps: Some(3.0), stall_seconds: Some(9.0), ..live("one") });
    assert!(since("one") > before);
    assert!(decoded() >= own, "the others run on");
    roster.stop(&["own".parse().unwrap(), "one".parse().unwrap()]);
    assert_eq!(running(), ["own"], "its own camera is not to be taken away");
    std::thread::sleep(Duration::from_millis(2100));
    roster.retry_refused();
    assert_eq!((running(), roster.refused().len()), (vec!["own".to_owned(), "two".to_owned()], 1));
    let told = reports(&out, 5, |all| all.iter().any(|r| r.camera.as_str() == "bad" && r.origin.seq == 1));
    assert!(told.iter().all(|r| r.camera.as_str() != "bad" || r.state == CameraState::Failed));
    // A refusal that is returned to the caller is not remembered; running cameras are.
    assert!(matches!(roster.try_run(live("two")), Err(IngestError::Duplicate(_))));
    assert!(matches!(roster.try_run(config("worse", "gopher://x")), Err(IngestError::Url(_))));
    let shown = roster.refused_reports("t");
    assert_eq!(shown.len(), 1);
    assert_eq!((shown[0].camera.as_str(), shown[0].state), ("bad", CameraState::Failed));
    assert!(roster.forget(&"two".parse().unwrap()) && !roster.forget(&"two".parse().unwrap()));
}

#[test]
fn a_score_threshold_of_its_own_keeps_a_camera_from_starting_tracks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ball.avi");
    ball_avi(&path, 50);
    let crops = |score_threshold| {
        let out = Queue::new(256);
        let node = node(ingest(), &out);
        node.add(CameraConfig { score_threshold, ..every_frame(replay(&file_url(&path))) }).unwrap();
        let events = events_until_end(&out, Duration::ZERO);
        events.iter().filter(|e| matches!(e, CameraEvent::Crop(_))).count()
    };
    // The detector of these tests says 0.9.
    assert!(crops(None) > 0);
    assert_eq!(crops(Some(0.95)), 0);
}

#[test]
fn each_camera_has_its_own_time_to_connect() {
    // The system accepts connections, but nobody answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("rtsp://127.0.0.1:{}/stream", silent.local_addr().unwrap().port());
    let out = Queue::new(256);
    let node = node(IngestConfig { connect_seconds: 60.0, ..ingest() }, &out);
    node.add(config("patient", &url)).unwrap();
    node.add(CameraConfig { connect_seconds: Some(1.0), ..config("hasty", &url) }).unwrap();
    let told = reports(&out, 10, |all| all.iter().any(|r| r.state == CameraState::Retrying));
    assert!(told.iter().any(|r| r.camera.as_str() == "hasty" && r.state == CameraState::Retrying));
    assert!(told.iter().all(|r| r.camera.as_str() != "patient" || r.state == CameraState::Connecting), "{told:?}");
}
