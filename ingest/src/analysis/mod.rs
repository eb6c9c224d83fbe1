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

use crate::node::pool::DetectorPool;
use crate::node::status::Meters;
use crate::source::camera::StopSignal;
use crate::{Captured, Outlet, SendError};

/// Shortest interval between two progress events, in seconds of footage.
const PROGRESS_SECONDS: f64 = 1.0;

/// Longest wait for a frame before the thread looks at its timers.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// How long the last events of a stopped camera may wait for room in a full queue.
const STOP_GRACE: Duration = Duration::from_millis(1500);

/// Turns frames and detections into events: [`CameraAnalyzer`], or a stand-in in the tests.
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
mod tests;
