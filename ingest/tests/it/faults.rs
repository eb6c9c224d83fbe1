//! Faults: what cannot work fails with the reason, what might work later is retried, and nothing
//! hangs.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use sightline_core::CameraState;
use sightline_core::config::IngestConfig;
use sightline_ingest::CameraStatus;
use sightline_testing::free_address;

use crate::util::{config, drain, file_url, ingest, launch, replay, start, wait_for, wait_for_state};

fn failure(url: &str) -> CameraStatus {
    let (camera, queue) = start(replay(url), &ingest());
    let (frames, how) = drain(&queue);
    assert_eq!((frames.len(), how), (0, Some(false)), "{url}");
    camera.status()
}

#[test]
fn files_that_cannot_work_fail_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("empty.avi"), b"").unwrap();
    let noise: Vec<u8> = (0..50_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(path("garbage.mp4"), noise).unwrap();
    std::fs::write(path("text.avi"), b"this is no video\n").unwrap();
    let sound = path("sound.ogg");
    launch(&format!("audiotestsrc num-buffers=50 ! vorbisenc ! oggmux ! filesink location={}", sound.display()));
    for (name, part) in [
        ("missing.avi", "does not exist"),
        ("empty.avi", "is empty"),
        ("garbage.mp4", "no video"),
        ("text.avi", "no video"),
        ("sound.ogg", "no video"),
        (".", "is a folder"),
    ] {
        let status = failure(&file_url(&path(name)));
        assert_eq!(status.state, CameraState::Failed, "{name}");
        let reason = status.reason.expect("a reason");
        assert!(reason.contains(part), "{name}: {reason}");
    }
}

#[test]
fn a_device_that_is_not_there_fails() {
    let (camera, queue) = start(config("usb", "v4l2:///dev/video-none"), &ingest());
    drain(&queue);
    let status = camera.status();
    assert_eq!(status.state, CameraState::Failed);
    assert!(status.reason.is_some_and(|r| r.contains("/dev/video-none does not exist")));
}

#[test]
fn a_refused_connection_is_tried_again_with_the_reason() {
    for scheme in ["rtsp", "http"] {
        let url = format!("{scheme}://admin:hunter2@{}/stream", free_address());
        let (camera, queue) = start(config("gone", &url), &ingest());
        let status = wait_for(&camera, &queue, 15.0, |s| s.connection >= 3 && s.state == CameraState::Retrying);
        let reason = status.reason.expect("a reason");
        assert!(reason.contains("refuses the connection"), "{reason}");
        assert!(status.retry_in_s.is_some_and(|s| s <= 1.0));
        assert!(!format!("{reason} {}", status.url).contains("hunter2"));
    }
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_given_up_and_does_not_delay_a_stop() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // The system accepts connections, but nobody answers: the listener lives until the end of the
    // test.
    let url = format!("rtsp://127.0.0.1:{port}/stream");
    let (camera, queue) = start(config("mute", &url), &IngestConfig { connect_seconds: 1.0, ..ingest() });
    let status = wait_for_state(&camera, &queue, CameraState::Retrying);
    assert!(status.reason.is_some(), "{status:?}");
    drop(camera);

    let (mut camera, queue) = start(config("mute", &url), &IngestConfig { connect_seconds: 60.0, ..ingest() });
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(camera.status().state, CameraState::Connecting);
    let begun = Instant::now();
    camera.stop();
    assert!(camera.join(Duration::from_secs(2)), "stops within two seconds");
    assert!(queue.is_closed(), "after {:?}", begun.elapsed());
    drop(listener);
}
