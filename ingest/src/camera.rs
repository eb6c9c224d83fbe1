//! Supervision of one camera: connect, watch, wait, connect again, until somebody stops it or its footage ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use sightline_core::queue::{Pushed, Queue};
use sightline_core::shutdown::Shutdown;
use sightline_core::{Frame, Timestamp};

use crate::backoff::Backoff;
use crate::clock::{Timeline, WallClock};
use crate::connection::{self, Outcome};
use crate::reason::preflight;
use crate::status::Meters;
use crate::tap::{Continuity, Tap};
use crate::{CameraSpec, CameraStatus, IngestError, Source};

/// A connection that decoded for so long was a good one: the next waiting time is the first again.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);

/// How finely waiting is cut, so that a stop is noticed.
const SLICE: Duration = Duration::from_millis(50);

/// What a camera delivers, in order.
#[derive(Clone, Debug)]
pub enum Captured {
    /// A frame to analyse.
    Frame {
        /// Number of the connection it came over, from 0.
        connection: u64,
        /// The frame.
        frame: Frame,
    },
    /// A connection is over; its frames have all come (or were dropped).
    Disconnected {
        /// Number of the connection.
        connection: u64,
        /// The footage has ended, as files do; a lost connection otherwise.
        ended: bool,
    },
}

impl Captured {
    fn is_frame(&self) -> bool {
        matches!(self, Self::Frame { .. })
    }
}

/// The wish that a camera stops: its own, or that of the whole process.
#[derive(Clone, Debug)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    shutdown: Shutdown,
}

impl Stop {
    pub(crate) fn new(shutdown: Shutdown) -> Self {
        Self { asked: Arc::new(AtomicBool::new(false)), shutdown }
    }

    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked for.
    pub fn is_set(&self) -> bool {
        self.asked.load(Ordering::Relaxed) || self.shutdown.is_triggered()
    }

    /// Waits; `false` when the stop came first.
    fn sleep(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while !self.is_set() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(SLICE));
        }
        false
    }
}

/// A running camera: frames come out of its queue until it is stopped, fails or ends, which closes the queue.
#[derive(Debug)]
pub struct Camera {
    meters: Arc<Meters>,
    stop: Stop,
    out: Queue<Captured>,
    thread: Option<JoinHandle<()>>,
}

impl Camera {
    /// Starts supervising `spec` in a thread of its own; frames go into `out`, whose oldest frame is dropped when it is
    /// full and the camera is live. GStreamer must have been started ([`crate::CameraNode::start`] does).
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(spec: CameraSpec, out: Queue<Captured>, shutdown: Shutdown) -> Result<Self, IngestError> {
        let meters = Arc::new(Meters::new(&spec, None));
        Self::start_metered(spec, meters, out, shutdown)
    }

    pub(crate) fn start_metered(
        spec: CameraSpec,
        meters: Arc<Meters>,
        out: Queue<Captured>,
        shutdown: Shutdown,
    ) -> Result<Self, IngestError> {
        let stop = Stop::new(shutdown);
        let supervisor = Supervisor { spec, meters: Arc::clone(&meters), out: out.clone(), stop: stop.clone() };
        let name = format!("{}-camera", supervisor.spec.id);
        let thread = std::thread::Builder::new().name(name).spawn(move || supervisor.run())?;
        Ok(Self { meters, stop, out, thread: Some(thread) })
    }

    /// State and counts at this moment.
    pub fn status(&self) -> CameraStatus {
        self.meters.status()
    }

    pub(crate) fn meters(&self) -> &Arc<Meters> {
        &self.meters
    }

    pub(crate) fn stop_signal(&self) -> &Stop {
        &self.stop
    }

    /// Asks the camera to stop; what is in its queue can still be taken out.
    pub fn stop(&self) {
        self.stop.ask();
        self.out.close();
    }

    /// Waits until supervision has ended, at most `timeout`; whether it has.
    pub fn join(&mut self, timeout: Duration) -> bool {
        join_within(&mut self.thread, timeout)
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Joins a thread if it ends within `timeout`; else leaves it to end by itself. A panic inside has been reported there.
pub fn join_within(thread: &mut Option<JoinHandle<()>>, timeout: Duration) -> bool {
    let until = Instant::now() + timeout;
    while thread.as_ref().is_some_and(|t| !t.is_finished()) {
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    if let Some(t) = thread.take() {
        let _ = t.join();
    }
    true
}

struct Supervisor {
    spec: CameraSpec,
    meters: Arc<Meters>,
    out: Queue<Captured>,
    stop: Stop,
}

impl Supervisor {
    fn run(self) {
        self.connect_for_ever();
        self.out.close();
    }

    fn connect_for_ever(&self) {
        let (first, last) = self.spec.backoff;
        let mut backoff = Backoff::new(first, last);
        let continuity = Arc::new(Mutex::new(Continuity::default()));
        let mut start = None;
        let mut ever_decoded = false;
        for connection in 0.. {
            self.meters.connecting(connection);
            let begun = Instant::now();
            let start = start.get_or_insert_with(|| self.start_time());
            let timeline =
                if self.spec.media_time() { Timeline::Media(*start) } else { Timeline::Wall(WallClock::default()) };
            let tap = Arc::new(Tap::new(
                &self.spec,
                connection,
                timeline,
                Arc::clone(&self.meters),
                self.out.clone(),
                Arc::clone(&continuity),
            ));
            let outcome = match preflight(self.spec.url.source()) {
                Ok(()) => connection::run(&self.spec, &tap, &self.stop),
                Err(reason) => Outcome::Broken(reason),
            };
            let decoded = tap.frames_decoded() > 0;
            ever_decoded |= decoded;
            if outcome == Outcome::Stopped || self.stop.is_set() {
                return;
            }
            self.tell(Captured::Disconnected { connection, ended: outcome == Outcome::Ended });
            match outcome {
                Outcome::Ended if self.spec.looped => *start = *start + tap.footage(),
                Outcome::Ended | Outcome::Stopped => return self.meters.ended(),
                Outcome::Broken(reason) if self.is_final(ever_decoded) => return self.meters.failed(reason),
                Outcome::Broken(reason) => {
                    if decoded && begun.elapsed() >= GOOD_CONNECTION {
                        backoff.reset();
                    }
                    let wait = backoff.next(&mut rand::rng());
                    self.meters.retrying(reason, wait);
                    if !self.stop.sleep(wait) {
                        return;
                    }
                }
            }
        }
    }

    /// A file that fails once fails always. So does a device that was never there; one that worked may be plugged in
    /// again.
    fn is_final(&self, ever_decoded: bool) -> bool {
        match self.spec.url.source() {
            Source::V4l2(path) => !ever_decoded && !path.exists(),
            _ => self.spec.failures_are_final(),
        }
    }

    fn start_time(&self) -> Timestamp {
        let modified = || match self.spec.url.source() {
            Source::File(path) => std::fs::metadata(path).and_then(|m| m.modified()).ok(),
            _ => None,
        };
        self.spec.start_time.unwrap_or_else(|| Timestamp::from(modified().unwrap_or_else(SystemTime::now)))
    }

    /// News that must come through; for live cameras at the cost of frames.
    fn tell(&self, news: Captured) {
        if self.spec.lossless() {
            // Refused only when the camera is being stopped, and then nobody wants to know.
            let _ = self.out.push_wait(news);
        } else if let Pushed::Dropped(old) = self.out.push_sparing(news, Captured::is_frame)
            && old.is_frame()
        {
            self.meters.frame_dropped();
        }
    }
}
