//! Files: the same frames in every run, none lost, loops, ends.

use std::time::{Duration, Instant};

use sightline_core::CameraState;
use sightline_core::Timestamp;
use sightline_core::config::CameraConfig;
use sightline_ingest::Captured;

use crate::util::{START, ball_avi, checksum, config, drain, file_url, ingest, launch, replay, start};

#[test]
fn two_runs_give_the_same_frames() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ball.avi");
    ball_avi(&path, 75);
    let run = || {
        let (camera, queue) = start(replay(&file_url(&path)), &ingest());
        let (frames, how) = drain(&queue);
        assert_eq!((how, camera.status().frames_decoded), (Some(true), 75));
        frames.iter().map(|f| (f.seq, f.captured_at, checksum(f))).collect::<Vec<_>>()
    };
    let first = run();
    assert_eq!(first.len(), 15);
    assert_eq!(first[14].1, START + Duration::from_millis(2800));
    let distinct: std::collections::HashSet<u64> = first.iter().map(|f| f.2).collect();
    assert_eq!(distinct.len(), 15, "the ball moves");
    assert_eq!(first, run());
}

#[test]
fn sound_does_not_matter_and_frames_between_key_frames_come_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("both.mkv");
    launch(&format!(
        "matroskamux name=m ! filesink location={} \
         videotestsrc pattern=ball num-buffers=50 ! video/x-raw,format=I420,width=322,height=242,framerate=25/1 \
         ! x264enc key-int-max=25 bframes=2 ! m. audiotestsrc num-buffers=86 ! vorbisenc ! m.",
        path.display()
    ));
    let (camera, queue) = start(replay(&file_url(&path)), &ingest());
    let (frames, how) = drain(&queue);
    assert_eq!((how, frames.len(), camera.status().frames_decoded), (Some(true), 10, 50));
    assert!(frames.iter().all(|f| (f.image.width(), f.image.height()) == (322, 242)));
    let beats: Vec<f64> = frames.windows(2).map(|w| w[1].captured_at.seconds_since(w[0].captured_at)).collect();
    assert!(beats.iter().all(|b| (0.19..0.21).contains(b)), "{beats:?}");
}

#[test]
fn the_modification_time_is_the_start_when_none_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ball.avi");
    ball_avi(&path, 5);
    let modified = Timestamp::from(std::fs::metadata(&path).unwrap().modified().unwrap());
    let (_camera, queue) = start(CameraConfig { start_time: None, ..replay(&file_url(&path)) }, &ingest());
    assert_eq!(drain(&queue).0[0].captured_at, modified);
}

#[test]
fn a_loop_goes_on_where_the_footage_ended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ball.avi");
    ball_avi(&path, 30);
    let (camera, queue) = start(CameraConfig { looped: true, ..replay(&file_url(&path)) }, &ingest());
    let (mut frames, mut ends) = (Vec::new(), Vec::new());
    let deadline = Instant::now() + Duration::from_secs(20);
    while ends.len() < 3 {
        assert!(Instant::now() < deadline, "{:?}", camera.status());
        match queue.pop(Duration::from_millis(100)) {
            Some(Captured::Frame { connection, frame }) => frames.push((connection, frame.captured_at, frame.seq)),
            Some(Captured::Disconnected { connection, ended }) => ends.push((connection, ended)),
            None => {}
        }
    }
    assert_eq!(ends, [(0, true), (1, true), (2, true)]);
    // 30 frames at 25 a second last 1.2 s, of which 6 are analysed.
    let expected: Vec<_> =
        (0..18).map(|i| (i / 6, START + Duration::from_millis(1200 * (i / 6) + 200 * (i % 6)), i)).collect();
    assert_eq!(frames, expected);
}

#[test]
fn a_slow_consumer_slows_the_footage_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ball.avi");
    ball_avi(&path, 25);
    for realtime in [true, false] {
        let camera = CameraConfig { fps: Some(25.0), realtime, ..replay(&file_url(&path)) };
        let (camera, queue) = start(camera, &ingest());
        let mut frames = 0;
        let deadline = Instant::now() + Duration::from_secs(20);
        while !(queue.is_closed() && queue.is_empty()) {
            assert!(Instant::now() < deadline, "{:?}", camera.status());
            if let Some(Captured::Frame { frame, .. }) = queue.pop(Duration::from_millis(100)) {
                assert_eq!(frame.seq, frames);
                frames += 1;
                std::thread::sleep(Duration::from_millis(60));
            }
        }
        assert_eq!((frames, camera.status().frames_dropped, camera.status().state), (25, 0, CameraState::Ended));
    }
}

#[test]
fn real_time_is_kept_and_can_be_turned_off() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ball.avi");
    ball_avi(&path, 50);
    let play = |realtime| {
        let begun = Instant::now();
        let (_camera, queue) = start(CameraConfig { realtime, ..config("f", &file_url(&path)) }, &ingest());
        assert_eq!(drain(&queue).0.len(), 10);
        begun.elapsed().as_secs_f64()
    };
    let (paced, fast) = (play(true), play(false));
    assert!((1.7..4.0).contains(&paced), "2 s of footage took {paced} s");
    assert!(fast < 1.5, "as fast as it goes took {fast} s");
}

#[test]
fn a_file_cut_short_gives_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, cut) = (dir.path().join("whole.avi"), dir.path().join("cut.avi"));
    ball_avi(&whole, 100);
    let bytes = std::fs::read(&whole).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let (camera, queue) = start(replay(&file_url(&cut)), &ingest());
    let (frames, _) = drain(&queue);
    assert!((5..15).contains(&frames.len()), "{} of 20 frames", frames.len());
    let status = camera.status();
    assert!(matches!(status.state, CameraState::Ended | CameraState::Failed), "{status:?}");
}
