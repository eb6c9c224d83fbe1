//! The synthetic camera: rate, size, pace, drops.

use std::time::Duration;

use sightline_core::CameraState;
use sightline_core::Timestamp;
use sightline_core::config::{CameraConfig, IngestConfig};
use sightline_ingest::{Captured, ClockSource};

use crate::util::{START, config, drain, ingest, replay, start, wait_for, wait_for_state};

#[test]
fn frames_are_chosen_by_time_before_they_are_converted() {
    let (camera, queue) = start(replay("videotestsrc://?pattern=ball&num-buffers=100&framerate=25"), &ingest());
    let (frames, how) = drain(&queue);
    assert_eq!(how, Some(true));
    let offsets: Vec<i64> = frames.iter().map(|f| f.captured_at.as_micros() - START.as_micros()).collect();
    assert_eq!(offsets, (0..20).map(|i| i * 200_000).collect::<Vec<_>>());
    // Frames are numbered without a gap at the end of the pipeline: the other 80 never passed the
    // converter.
    assert_eq!(frames.iter().map(|f| f.seq).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    let status = camera.status();
    assert_eq!((status.state, status.frames_decoded, status.frames_dropped), (CameraState::Ended, 100, 0));
    assert_eq!(status.clock, Some(ClockSource::File));
}

#[test]
fn fractional_rates_and_rates_above_the_cameras_own() {
    let url = "videotestsrc://?num-buffers=50&framerate=10";
    let count = |fps| drain(&start(CameraConfig { fps: Some(fps), ..replay(url) }, &ingest()).1).0.len();
    assert_eq!((count(2.5), count(0.5), count(60.0)), (13, 3, 50));
}

#[test]
fn pictures_are_scaled_down_with_their_aspect_and_never_up() {
    let size = |url, max_height| {
        let (_camera, queue) = start(replay(url), &IngestConfig { max_height, ..ingest() });
        let (frames, _) = drain(&queue);
        (frames[0].image.width(), frames[0].image.height())
    };
    let url = "videotestsrc://?num-buffers=1&width=640&height=360";
    assert_eq!(size(url, 180), (320, 180));
    assert_eq!(size(url, 1080), (640, 360));
}

#[test]
fn a_live_camera_keeps_its_pace_and_the_wall_clocks_time() {
    let live = CameraConfig { fps: Some(10.0), ..config("live", "videotestsrc://?framerate=30&width=160&height=120") };
    let (camera, queue) = start(live, &ingest());
    wait_for_state(&camera, &queue, CameraState::Decoding);
    let mut last: Option<Timestamp> = None;
    let until = std::time::Instant::now() + Duration::from_secs(2);
    let mut frames = 0;
    while std::time::Instant::now() < until {
        let Some(Captured::Frame { frame, .. }) = queue.pop(Duration::from_millis(50)) else { continue };
        frames += 1;
        let age = Timestamp::now().seconds_since(frame.captured_at);
        assert!((-0.05..1.0).contains(&age), "captured {age} s ago");
        assert!(last.is_none_or(|l| frame.captured_at > l), "time goes on");
        last = Some(frame.captured_at);
    }
    assert!((17..=23).contains(&frames), "{frames} frames in 2 s at 10 a second");
    assert_eq!(camera.status().clock, Some(ClockSource::Estimate));
}

#[test]
fn a_live_camera_drops_the_oldest_frames_when_nobody_takes_them() {
    let live = CameraConfig { fps: Some(30.0), ..config("live", "videotestsrc://?framerate=30&num-buffers=40") };
    let (camera, queue) = start(live, &ingest());
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while camera.status().state != CameraState::Ended {
        assert!(std::time::Instant::now() < deadline, "{:?}", camera.status());
        assert!(queue.len() <= 2);
        std::thread::sleep(Duration::from_millis(10));
    }
    // Of 40 frames the queue of two holds the newest; the end of the footage took one more place.
    let status = wait_for(&camera, &queue, 1.0, |s| s.frames_decoded == 40);
    assert_eq!(status.frames_dropped, 39);
}
