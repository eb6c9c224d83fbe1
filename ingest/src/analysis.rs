//! The analysis thread of one camera: it turns frames into events by detecting, tracking and
//! choosing pictures. One thread per camera keeps the order of events, and a camera that has to
//! wait delays no other; the detector pool limits the computation.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sightline_core::message::Origin;
use sightline_core::queue::Queue;
use sightline_core::{CameraEvent, CameraId, Frame, Progress, Timestamp};
use sightline_detect::{CameraAnalyzer, Detection};
use tracing::warn;

use crate::camera::StopSignal;
use crate::pool::DetectorPool;
use crate::status::Meters;
use crate::{Captured, Outlet, SendError};

/// Shortest interval between two progress events, in seconds of footage.
const PROGRESS_SECONDS: f64 = 1.0;

/// Longest wait for a frame before the thread looks at its timers.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// How long the last events of a stopped camera may wait for room in a full queue.
const STOP_GRACE: Duration = Duration::from_millis(1500);

/// Turns frames and detections into events: [`CameraAnalyzer`], or a stand-in in the tests of this
/// file.
pub trait Analyze: Send {
    /// Returns the events of one frame.
    fn process(&mut self, frame: &Frame, detections: &[Detection]) -> Vec<CameraEvent>;
    /// Ends all tracks, because no more frames come; returns their events.
    fn finish(&mut self) -> Vec<CameraEvent>;
    /// Origin of a message about the camera as a whole, numbered in sequence with its other
    /// messages.
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

/// Decides which cameras' crops may be dropped from the shared queue, and counts the dropped ones.
pub trait CropDropPolicy: Send + Sync {
    /// Whether crops of this camera may be dropped: it is live, not a replay.
    fn droppable(&self, camera: &CameraId) -> bool;
    /// Counts a crop of this camera that was published and then dropped from the queue.
    fn displaced(&self, camera: &CameraId);
}

/// The analysis of one camera.
pub struct Analysis<A> {
    pub(crate) camera: CameraId,
    pub(crate) lossless: bool,
    /// How long tracks are kept after the connection was lost.
    pub(crate) lost: Duration,
    pub(crate) frames: Queue<Captured>,
    pub(crate) detectors: Arc<DetectorPool>,
    pub(crate) analyzer: A,
    pub(crate) meters: Arc<Meters>,
    pub(crate) drop_policy: Arc<dyn CropDropPolicy>,
    pub(crate) out: Arc<dyn Outlet>,
    pub(crate) stop: StopSignal,
}

/// How far progress events have reported the footage as analysed.
#[derive(Default)]
struct ReportedProgress {
    connection: Option<u64>,
    through: Option<Timestamp>,
    newest: Option<Timestamp>,
    /// The last progress event said that the footage has ended.
    ended: bool,
}

impl<A: Analyze> Analysis<A> {
    /// Runs until the camera's queue is closed and empty. Then it ends all tracks and reports that
    /// the footage has ended: whoever removes the camera waits for that.
    pub fn run(mut self) {
        let mut reported = ReportedProgress::default();
        let mut tracks_end_at: Option<Instant> = None;
        loop {
            match self.frames.pop(POLL_INTERVAL) {
                Some(Captured::Frame { connection, frame }) => {
                    tracks_end_at = None;
                    self.analyse(connection, &frame, &mut reported);
                }
                Some(Captured::Disconnected { connection, ended }) if ended || self.lossless => {
                    self.finish();
                    self.send_progress(connection, ended, &mut reported);
                }
                Some(Captured::Disconnected { connection, .. }) => {
                    tracks_end_at = Some(Instant::now() + self.lost);
                    self.send_progress(connection, false, &mut reported);
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
        // A connection after that of the last frame may have been attempted without success.
        let connection = self.meters.status().connection;
        if !reported.ended
            && let Some(event) = self.progress_event(connection, true, &reported)
        {
            self.wait(event);
        }
    }

    fn analyse(&mut self, connection: u64, frame: &Frame, reported: &mut ReportedProgress) {
        self.meters.queue_depth(self.frames.len());
        let detections = match self.detectors.detect(&frame.image) {
            Ok(d) => d,
            Err(why) => return self.meters.frame_unreadable(&why),
        };
        for event in self.analyzer.process(frame, &detections) {
            self.send(event);
        }
        self.meters.frame_analysed();
        (reported.newest, reported.ended) = (Some(frame.captured_at), false);
        let due = reported.connection != Some(connection)
            || reported.through.is_none_or(|t| frame.captured_at.seconds_since(t) >= PROGRESS_SECONDS);
        if due {
            self.send_progress(connection, false, reported);
        }
    }

    fn finish(&mut self) {
        for event in self.analyzer.finish() {
            self.send(event);
        }
    }

    /// Sends a progress event. Does nothing before the first frame.
    fn send_progress(&mut self, connection: u64, ended: bool, reported: &mut ReportedProgress) {
        let Some(event) = self.progress_event(connection, ended, reported) else { return };
        if self.send(event) {
            (reported.connection, reported.through, reported.ended) = (Some(connection), reported.newest, ended);
        }
    }

    /// The progress event for the frames analysed so far; `None` before the first frame.
    fn progress_event(&mut self, connection: u64, ended: bool, reported: &ReportedProgress) -> Option<CameraEvent> {
        let analysed_through = reported.newest?;
        let (origin, camera) = (self.analyzer.origin(), self.camera.clone());
        Some(CameraEvent::Progress(Progress { origin, camera, connection, analysed_through, ended }))
    }

    /// Sends an event; returns whether it was sent. A replay waits for room. A live camera makes
    /// room by dropping live crops, its own or another camera's. When there are none to drop, a
    /// crop is lost, progress is sent with the next frame instead, and only the span of a track
    /// waits.
    fn send(&self, event: CameraEvent) -> bool {
        let is_crop = matches!(event, CameraEvent::Crop(_));
        let sent = if self.lossless {
            self.wait(event)
        } else {
            match self.out.send_live(event, &|camera| self.drop_policy.droppable(camera)) {
                Ok(displaced) => {
                    if let Some(CameraEvent::Crop(old)) = displaced {
                        self.drop_policy.displaced(&old.camera);
                    }
                    true
                }
                Err(SendError::Full(event)) if matches!(*event, CameraEvent::TrackEnd(_)) => self.wait(*event),
                Err(why) => self.log_loss(why),
            }
        };
        match (is_crop, sent) {
            (true, true) => self.meters.crop_published(),
            (true, false) => self.meters.crop_dropped(),
            _ => {}
        }
        sent
    }

    fn log_loss(&self, why: SendError) -> bool {
        if let SendError::Permanent(reason) = why {
            warn!(camera = %self.camera, reason, "an event cannot be sent; it is lost");
        }
        false
    }

    /// Waits for room until the camera is stopped, and [`STOP_GRACE`] longer.
    fn wait(&self, mut event: CameraEvent) -> bool {
        let mut give_up: Option<Instant> = None;
        loop {
            match self.out.send_waiting(event, POLL_INTERVAL) {
                Ok(()) => return true,
                Err(SendError::Full(back)) => event = *back,
                Err(why) => return self.log_loss(why),
            }
            if self.stop.is_set() {
                let at = *give_up.get_or_insert_with(|| Instant::now() + STOP_GRACE);
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

    /// The analysis of a live camera with these frames waiting, and an output queue of `capacity`.
    fn analysis(capacity: usize, waiting: Vec<Captured>) -> Result<Scene, IngestError> {
        let id: CameraId = "live".parse().expect("valid");
        let camera = CameraConfig {
            id: id.clone(),
            url: "videotestsrc://".into(),
            fps: None,
            start_time: None,
            looped: false,
            realtime: true,
            node: None,
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
}
