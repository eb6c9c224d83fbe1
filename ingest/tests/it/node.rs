//! The node: cameras come and go, are refused, end, and their events arrive in order.

use std::time::{Duration, Instant};

use sightline_core::config::{CameraConfig, Config, IngestConfig};
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_core::{BBox, CameraEvent, Progress, RgbImage};
use sightline_detect::{DetectError, Detection, Detector};
use sightline_ingest::{CameraNode, CameraState, IngestError, NodeConfig};

use crate::util::{START, ball_avi, config, file_url, ingest, replay};

/// Finds what is bright, the ball of the test picture, and takes it for the middle of somebody twice as tall.
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

/// The ball is too quick to be followed at five frames a second.
fn every_frame(camera: CameraConfig) -> CameraConfig {
    CameraConfig { fps: Some(25.0), ..camera }
}

fn events_until_end(out: &Queue<CameraEvent>, slowness: Duration) -> Vec<CameraEvent> {
    let mut events = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        assert!(Instant::now() < deadline, "no end after {} events", events.len());
        let Some(event) = out.pop(Duration::from_millis(100)) else { continue };
        std::thread::sleep(slowness);
        let end = matches!(&event, CameraEvent::Progress(p) if p.ended);
        events.push(event);
        if end {
            return events;
        }
    }
}

#[test]
fn a_file_gives_the_same_events_twice_also_to_a_slow_taker() {
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
fn a_removed_camera_does_not_hang_on_a_taker_that_never_comes() {
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
