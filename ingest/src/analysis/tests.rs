//! Tests of the analysis with a scripted analyser: which events come, in which order, and which
//! are dropped.

use super::*;
use crate::{CameraSpec, IngestError};
use sightline_core::config::{CameraConfig, Config};
use sightline_core::shutdown::Shutdown;
use sightline_core::{RgbImage, TrackEnd, TrackId};
use sightline_detect::{DetectError, Detector};
use std::sync::Mutex;

const T0: Timestamp = Timestamp::from_micros(1_000_000_000);

struct Nobody;

impl Detector for Nobody {
    fn detect(&mut self, _: &RgbImage) -> Result<Vec<Detection>, DetectError> {
        Ok(Vec::new())
    }
}

/// Returns a crop for every frame, and the end of one track at the finish.
struct Script(CameraId);

impl Analyze for Script {
    fn process(&mut self, frame: &Frame, _: &[Detection]) -> Vec<CameraEvent> {
        vec![crop(self.0.as_str(), frame.seq)]
    }

    fn finish(&mut self) -> Vec<CameraEvent> {
        let track = TrackId { born: T0, ordinal: 0 };
        let end = TrackEnd {
            origin: Origin::new("t", 0),
            camera: self.0.clone(),
            track,
            first_seen: T0,
            last_seen: T0,
            ended: true,
        };
        vec![CameraEvent::TrackEnd(end)]
    }

    fn origin(&mut self) -> Origin {
        Origin::of_camera("t", 0, &self.0)
    }
}

/// Lets only cameras whose name begins with "live" lose crops, and records who lost one.
#[derive(Default)]
struct Ledger(Mutex<Vec<String>>);

impl CropDropPolicy for Ledger {
    fn droppable(&self, camera: &CameraId) -> bool {
        camera.as_str().starts_with("live")
    }

    fn displaced(&self, camera: &CameraId) {
        self.0.lock().expect("no panic").push(camera.to_string());
    }
}

fn crop(camera: &str, seq: u64) -> CameraEvent {
    crate::outlet::tests::crop(camera, seq, T0, 0)
}

fn frame(seq: u64) -> Captured {
    let image = RgbImage::new(1, 1, vec![0u8; 3]).expect("sizes match");
    let captured_at = T0 + Duration::from_millis(200) * seq as u32;
    let frame = Frame { camera: "live".parse().expect("valid"), captured_at, seq, image };
    Captured::Frame { connection: 0, frame }
}

type Scene = (Analysis<Script>, Arc<Ledger>, Queue<CameraEvent>);

/// The analysis of a live camera with these frames waiting, and an output queue of `capacity`.
fn analysis(capacity: usize, waiting: Vec<Captured>) -> Result<Scene, IngestError> {
    let id: CameraId = "live".parse().expect("valid");
    let camera = CameraConfig::new(id.clone(), "videotestsrc://");
    let spec = CameraSpec::new(camera, &Config::layered(None, []).expect("default").ingest)?;
    let frames = Queue::new(waiting.len().max(1));
    for f in waiting {
        frames.push(f);
    }
    let (ledger, out) = (Arc::new(Ledger::default()), Queue::new(capacity));
    let analysis = Analysis {
        camera: id.clone(),
        lossless: false,
        lost: Duration::from_millis(100),
        frames,
        detectors: Arc::new(DetectorPool::new(1, Box::new(|| Box::new(Nobody)))),
        analyzer: Script(id),
        meters: Arc::new(Meters::new(&spec, None)),
        drop_policy: Arc::clone(&ledger) as Arc<dyn CropDropPolicy>,
        out: Arc::new(out.clone()),
        stop: StopSignal::new(Shutdown::new()),
    };
    Ok((analysis, ledger, out))
}

fn letters(out: &Queue<CameraEvent>) -> String {
    let mut text = String::new();
    while let Some(event) = out.pop(Duration::ZERO) {
        text += match event {
            CameraEvent::Crop(c) if c.camera.as_str() == "file" => "f",
            CameraEvent::Crop(_) => "c",
            CameraEvent::TrackEnd(_) => "t",
            CameraEvent::Progress(p) if p.ended => "P",
            CameraEvent::Progress(_) => "p",
            CameraEvent::Report(_) => "r",
        };
    }
    text
}

#[test]
fn progress_comes_with_the_first_frame_and_then_every_second() {
    let (a, _, out) = analysis(100, (0..12).map(frame).collect()).expect("valid");
    a.frames.close();
    a.run();
    assert_eq!(letters(&out), "cpcccccpcccccpctP");
}

#[test]
fn the_end_is_reported_once_whether_the_footage_ends_or_the_camera_is_stopped() {
    let over = Captured::Disconnected { connection: 0, ended: true };
    let (a, _, out) = analysis(100, vec![frame(0), over]).expect("valid");
    a.frames.close();
    a.run();
    assert_eq!(letters(&out), "cptPt");
    // Stopped while a second connection was attempted: the end belongs to the second one.
    let (a, _, out) = analysis(100, vec![frame(0)]).expect("valid");
    a.meters.connecting(1);
    a.stop.request();
    a.frames.close();
    a.run();
    let last = std::iter::from_fn(|| out.pop(Duration::ZERO)).last();
    assert!(matches!(last, Some(CameraEvent::Progress(p)) if p.ended && p.connection == 1));
    // Nothing was analysed, so no end is reported.
    let (a, _, out) = analysis(100, Vec::new()).expect("valid");
    a.frames.close();
    a.run();
    assert_eq!(letters(&out), "t");
}

#[test]
fn tracks_end_some_time_after_the_connection_is_lost() {
    let lost = Captured::Disconnected { connection: 0, ended: false };
    let (a, _, out) = analysis(100, vec![frame(0), lost]).expect("valid");
    let frames = a.frames.clone();
    let thread = std::thread::spawn(move || a.run());
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(letters(&out), "cppt", "the track has ended although the camera may come back");
    frames.close();
    thread.join().expect("no panic");
}

#[test]
fn a_full_queue_costs_live_crops_only() {
    let (a, ledger, out) = analysis(3, (0..9).map(frame).collect()).expect("valid");
    let meters = Arc::clone(&a.meters);
    out.push(crop("file", 0));
    a.frames.close();
    let thread = std::thread::spawn(move || a.run());
    std::thread::sleep(Duration::from_millis(300));
    // The file's crop and the first progress event stay; the second progress event and the end
    // of the track displaced live crops.
    let events = letters(&out);
    thread.join().expect("no panic");
    let events = events + &letters(&out);
    assert!(events.starts_with("fpp") && events.ends_with("tP"), "{events}");
    let status = meters.status();
    let own = ledger.0.lock().expect("no panic").iter().filter(|c| *c == "live").count() as u64;
    let arrived = events.matches('c').count() as u64;
    assert_eq!(status.crops, own + arrived);
    assert_eq!(status.crops + status.crops_dropped, 9);
}
