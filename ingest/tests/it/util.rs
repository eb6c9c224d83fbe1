//! Support for the tests: camera settings, footage made with GStreamer, and ways to wait.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use sightline_core::CameraState;
use sightline_core::config::{CameraConfig, Config, IngestConfig};
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_core::{Frame, Timestamp};
use sightline_ingest::{Camera, CameraSpec, CameraStatus, Captured};

/// Start of the footage in most tests.
pub const START: Timestamp = Timestamp::from_micros(1_777_622_400_000_000);

pub fn ingest() -> IngestConfig {
    IngestConfig {
        stall_seconds: 1.5,
        connect_seconds: 5.0,
        backoff_first_seconds: 0.2,
        backoff_last_seconds: 1.0,
        ..Config::layered(None, []).unwrap().ingest
    }
}

pub fn config(id: &str, url: &str) -> CameraConfig {
    CameraConfig::new(id.parse().unwrap(), url)
}

/// A file played as fast as it goes, its first frame captured at [`START`].
pub fn replay(url: &str) -> CameraConfig {
    CameraConfig { start_time: Some(START), realtime: false, ..config("replay", url) }
}

pub fn start(camera: CameraConfig, ingest: &IngestConfig) -> (Camera, Queue<Captured>) {
    gst::init().unwrap();
    let queue = Queue::new(2);
    let spec = CameraSpec::new(camera, ingest).unwrap();
    (Camera::start(spec, queue.clone(), Shutdown::new()).unwrap(), queue)
}

/// All frames until the camera is done, and whether its last connection ended instead of breaking.
pub fn drain(queue: &Queue<Captured>) -> (Vec<Frame>, Option<bool>) {
    let (mut frames, mut how) = (Vec::new(), None);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !(queue.is_closed() && queue.is_empty()) {
        assert!(Instant::now() < deadline, "the camera does not come to an end");
        match queue.pop(Duration::from_millis(100)) {
            Some(Captured::Frame { frame, .. }) => frames.push(frame),
            Some(Captured::Disconnected { ended, .. }) => how = Some(ended),
            None => {}
        }
    }
    (frames, how)
}

/// Waits until `wanted` is true for the camera, and takes frames out of its queue meanwhile.
pub fn wait_for(
    camera: &Camera,
    queue: &Queue<Captured>,
    seconds: f64,
    wanted: impl Fn(&CameraStatus) -> bool,
) -> CameraStatus {
    let deadline = Instant::now() + Duration::from_secs_f64(seconds);
    loop {
        let status = camera.status();
        if wanted(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "still {status:?}");
        if queue.pop(Duration::from_millis(20)).is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

pub fn wait_for_state(camera: &Camera, queue: &Queue<Captured>, state: CameraState) -> CameraStatus {
    wait_for(camera, queue, 15.0, |s| s.state == state)
}

pub fn checksum(frame: &Frame) -> u64 {
    let mut h = DefaultHasher::new();
    (frame.image.width(), frame.image.height(), frame.image.data()).hash(&mut h);
    h.finish()
}

/// Runs a pipeline to its end.
pub fn launch(description: &str) {
    gst::init().unwrap();
    let pipeline = gst::parse::launch(description).unwrap();
    let bus = pipeline.bus().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let kinds = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(60), &kinds).expect("an end within a minute");
    pipeline.set_state(gst::State::Null).unwrap();
    assert!(matches!(message.view(), gst::MessageView::Eos(_)), "{description}: {message:?}");
}

/// `frames` frames of a moving ball, 25 a second, 320 x 240, JPEG in AVI.
pub fn ball_avi(path: &Path, frames: u32) {
    launch(&format!(
        "videotestsrc pattern=ball num-buffers={frames} ! video/x-raw,width=320,height=240,framerate=25/1 \
         ! jpegenc ! avimux ! filesink location={}",
        path.display()
    ));
}

pub fn file_url(path: &Path) -> String {
    format!("file://{}", path.display())
}
