//! From one camera's frames to its events: detect, track, choose, hand on. One thread per camera, so that the order is
//! kept and a camera that has to wait keeps nobody else waiting; the arithmetic is limited by the detector pool.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sightline_core::message::Origin;
use sightline_core::queue::Queue;
use sightline_core::{CameraEvent, CameraId, Frame, Progress, Timestamp};
use sightline_detect::{CameraAnalyzer, Detection};
use tracing::warn;

use crate::camera::Stop;
use crate::pool::DetectorPool;
use crate::status::Meters;
use crate::{Captured, NotTaken, Outlet};

/// Progress is told at most so often, in seconds of footage.
const PROGRESS_SECONDS: f64 = 1.0;

/// How long the thread sleeps at most before it looks whether something has to be done without a frame.
const BEAT: Duration = Duration::from_millis(250);

/// How long the last events of a stopped camera wait for room in a full queue.
const FAREWELL: Duration = Duration::from_millis(1500);

/// Turns frames and detections into events; [`CameraAnalyzer`], and a stand-in for it in the tests of this file.
pub trait Analyze: Send {
    /// Events that follow from one frame.
    fn process(&mut self, frame: &Frame, detections: &[Detection]) -> Vec<CameraEvent>;
    /// Events that follow from there being no more frames: all tracks end.
    fn finish(&mut self) -> Vec<CameraEvent>;
    /// Origin of a message about the camera as a whole, in sequence with the others.
    fn origin(&mut self) -> Origin;
}

impl Analyze for CameraAnalyzer {
    fn process(&mut self, frame: &Frame, detections: &[Detection]) -> Vec<CameraEvent> {
        CameraAnalyzer::process(self, frame, detections)
    }

    fn finish(&mut self) -> Vec<CameraEvent> {
        CameraAnalyzer::finish(self)
    }

    fn origin(&mut self) -> Origin {
        CameraAnalyzer::camera_origin(self)
    }
}

/// Counts for a crop of any camera that had to go from the shared queue; says whose may go.
pub trait Crops: Send + Sync {
    /// Whether a crop of this camera may be dropped: it is live, not a replay.
    fn droppable(&self, camera: &CameraId) -> bool;
    /// A crop of this camera was dropped.
    fn dropped(&self, camera: &CameraId);
}

/// One camera's analysis.
pub struct Analysis<A> {
    pub(crate) camera: CameraId,
    pub(crate) lossless: bool,
    /// Tracks outlive a lost connection by so long.
    pub(crate) lost: Duration,
    pub(crate) frames: Queue<Captured>,
    pub(crate) detectors: Arc<DetectorPool>,
    pub(crate) analyzer: A,
    pub(crate) meters: Arc<Meters>,
    pub(crate) crops: Arc<dyn Crops>,
    pub(crate) out: Arc<dyn Outlet>,
    pub(crate) stop: Stop,
}

/// How far the events have told of.
#[derive(Default)]
struct Told {
    connection: Option<u64>,
    through: Option<Timestamp>,
    newest: Option<Timestamp>,
}

impl<A: Analyze> Analysis<A> {
    /// Works until the camera's queue is closed and empty; then ends all tracks.
    pub fn run(mut self) {
        let mut told = Told::default();
        let mut tracks_end_at: Option<Instant> = None;
        loop {
            match self.frames.pop(BEAT) {
                Some(Captured::Frame { connection, frame }) => {
                    tracks_end_at = None;
                    self.analyse(connection, &frame, &mut told);
                }
                Some(Captured::Disconnected { connection, ended }) if ended || self.lossless => {
                    self.finish();
                    self.progress(connection, ended, &mut told);
                }
                Some(Captured::Disconnected { connection, .. }) => {
                    tracks_end_at = Some(Instant::now() + self.lost);
                    self.progress(connection, false, &mut told);
                }
                None if self.frames.is_closed() && self.frames.is_empty() => break,
                None => {}
            }
            if tracks_end_at.is_some_and(|at| Instant::now() >= at) {
                tracks_end_at = None;
                self.finish();
            }
        }
        self.finish();
    }

    fn analyse(&mut self, connection: u64, frame: &Frame, told: &mut Told) {
        self.meters.queue_depth(self.frames.len());
        let detections = match self.detectors.detect(&frame.image) {
            Ok(d) => d,
            Err(why) => return self.meters.frame_unreadable(&why),
        };
        for event in self.analyzer.process(frame, &detections) {
            self.send(event);
        }
        self.meters.frame_analysed();
        told.newest = Some(frame.captured_at);
        let due = told.connection != Some(connection)
            || told.through.is_none_or(|t| frame.captured_at.seconds_since(t) >= PROGRESS_SECONDS);
        if due {
            self.progress(connection, false, told);
        }
    }

    fn finish(&mut self) {
        for event in self.analyzer.finish() {
            self.send(event);
        }
    }

    /// Tells how far this camera is analysed. Nothing to tell before its first frame.
    fn progress(&mut self, connection: u64, ended: bool, told: &mut Told) {
        let Some(newest) = told.newest else { return };
        let (origin, camera) = (self.analyzer.origin(), self.camera.clone());
        let news = Progress { origin, camera, connection, analysed_through: newest, ended };
        if self.send(CameraEvent::Progress(news)) {
            told.connection = Some(connection);
            told.through = Some(newest);
        }
    }

    /// Hands an event on; whether it went. A replay waits for room. A live camera makes room at the cost of live crops,
    /// its own or another's; where there are none, a crop is dropped, progress is told with the next frame instead, and
    /// only the span of a track is waited for.
    fn send(&self, event: CameraEvent) -> bool {
        let is_crop = matches!(event, CameraEvent::Crop(_));
        let sent = if self.lossless {
            self.wait(event)
        } else {
            match self.out.send_live(event, &|camera| self.crops.droppable(camera)) {
                Ok(displaced) => {
                    if let Some(CameraEvent::Crop(old)) = displaced {
                        self.crops.dropped(&old.camera);
                    }
                    true
                }
                Err(NotTaken::Full(event)) if matches!(*event, CameraEvent::TrackEnd(_)) => self.wait(*event),
                Err(why) => self.not_taken(why),
            }
        };
        match (is_crop, sent) {
            (true, true) => self.meters.crop_published(),
            (true, false) => self.meters.crop_dropped(),
            _ => {}
        }
        sent
    }

    fn not_taken(&self, why: NotTaken) -> bool {
        if let NotTaken::Never(reason) = why {
            warn!(camera = %self.camera, reason, "an event cannot be sent; it is lost");
        }
        false
    }

    /// Waits for room until the camera is stopped, and a little longer.
    fn wait(&self, mut event: CameraEvent) -> bool {
        let mut give_up: Option<Instant> = None;
        loop {
            match self.out.send_waiting(event, BEAT) {
                Ok(()) => return true,
                Err(NotTaken::Full(back)) => event = *back,
                Err(why) => return self.not_taken(why),
            }
            if self.stop.is_set() {
                let at = *give_up.get_or_insert_with(|| Instant::now() + FAREWELL);
                if Instant::now() >= at {
                    warn!(camera = %self.camera, "nobody takes this camera's last events; they are lost");
                    return false;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CameraSpec, IngestError};
    use sightline_core::config::{CameraConfig, Config};
    use sightline_core::shutdown::Shutdown;
    use sightline_core::{BBox, Crop, CropQuality, RgbImage, TrackEnd, TrackId};
    use sightline_detect::{DetectError, Detector};
    use std::sync::Mutex;

    const T0: Timestamp = Timestamp::from_micros(1_000_000_000);

    struct Nobody;

    impl Detector for Nobody {
        fn detect(&mut self, _: &RgbImage) -> Result<Vec<Detection>, DetectError> {
            Ok(Vec::new())
        }
    }

    /// A crop for every frame, one track's end at the finish.
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

    /// Cameras whose name begins with "live" may lose crops; remembers who did.
    #[derive(Default)]
    struct Ledger(Mutex<Vec<String>>);

    impl Crops for Ledger {
        fn droppable(&self, camera: &CameraId) -> bool {
            camera.as_str().starts_with("live")
        }

        fn dropped(&self, camera: &CameraId) {
            self.0.lock().expect("no panic").push(camera.to_string());
        }
    }

    fn crop(camera: &str, seq: u64) -> CameraEvent {
        CameraEvent::Crop(Crop {
            origin: Origin::new("t", seq),
            camera: camera.parse().expect("valid"),
            track: TrackId { born: T0, ordinal: 0 },
            crop_no: 0,
            captured_at: T0,
            last_seen: T0,
            bbox: BBox::default(),
            frame_size: (1, 1),
            quality: CropQuality::default(),
            jpeg: Vec::new().into(),
        })
    }

    fn frame(seq: u64) -> Captured {
        let image = RgbImage::new(1, 1, vec![0u8; 3]).expect("sizes match");
        let captured_at = T0 + Duration::from_millis(200) * seq as u32;
        let frame = Frame { camera: "live".parse().expect("valid"), captured_at, seq, image };
        Captured::Frame { connection: 0, frame }
    }

    type Scene = (Analysis<Script>, Arc<Ledger>, Queue<CameraEvent>);

    /// Analysis of a live camera with these frames waiting, a queue of `capacity` behind it.
    fn analysis(capacity: usize, waiting: Vec<Captured>) -> Result<Scene, IngestError> {
        let id: CameraId = "live".parse().expect("valid");
        let camera = CameraConfig {
            id: id.clone(),
            url: "videotestsrc://".into(),
            fps: None,
            start_time: None,
            looped: false,
            realtime: true,
        };
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
            crops: Arc::clone(&ledger) as Arc<dyn Crops>,
            out: Arc::new(out.clone()),
            stop: Stop::new(Shutdown::new()),
        };
        Ok((analysis, ledger, out))
    }

    fn told(out: &Queue<CameraEvent>) -> String {
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
        assert_eq!(told(&out), "cpcccccpcccccpct");
    }

    #[test]
    fn tracks_end_some_time_after_the_connection_is_lost() {
        let lost = Captured::Disconnected { connection: 0, ended: false };
        let (a, _, out) = analysis(100, vec![frame(0), lost]).expect("valid");
        let frames = a.frames.clone();
        let thread = std::thread::spawn(move || a.run());
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(told(&out), "cppt", "the track has ended although the camera may come back");
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
        // The file's crop and the first progress stay; the second progress and the track's end displaced the crop.
        let events = told(&out);
        thread.join().expect("no panic");
        let events = events + &told(&out);
        assert!(events.starts_with("fpp") && events.ends_with('t'), "{events}");
        let status = meters.status();
        let own = ledger.0.lock().expect("no panic").iter().filter(|c| *c == "live").count() as u64;
        let arrived = events.matches('c').count() as u64;
        assert_eq!(status.crops, own + arrived);
        assert_eq!(status.crops + status.crops_dropped, 9);
    }
}
