//! The supervisor of one camera: it connects, watches the connection, backs off and reconnects,
//! until the camera is stopped or its footage ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use sightline_core::camera::Source;
use sightline_core::queue::{Pushed, Queue};
use sightline_core::shutdown::Shutdown;
use sightline_core::{Backoff, Frame, Timestamp};

use super::connection::{self, Outcome};
use super::frame_sink::{FrameSequence, FrameSink};
use super::reason::preflight;
use super::timeline::{Timeline, WallClock};
use crate::node::status::Meters;
use crate::{CameraSpec, CameraStatus, IngestError};

/// A connection that delivered frames and lasted this long resets the back-off.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);

/// Longest uninterrupted sleep, so that a stop is noticed.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

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
    /// A connection is over; all its frames came before (or were dropped).
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

/// The signal to stop a camera: its own, or that of the whole process.
#[derive(Clone, Debug)]
pub struct StopSignal {
    requested: Arc<AtomicBool>,
    shutdown: Shutdown,
}

impl StopSignal {
    pub(crate) fn new(shutdown: Shutdown) -> Self {
        Self { requested: Arc::new(AtomicBool::new(false)), shutdown }
    }

    pub(crate) fn request(&self) {
        self.requested.store(true, Ordering::Relaxed);
    }

    /// Whether the camera has to stop.
    pub fn is_set(&self) -> bool {
        self.requested.load(Ordering::Relaxed) || self.shutdown.is_triggered()
    }

    /// Sleeps; `false` when the stop came first.
    fn sleep(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while !self.is_set() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(POLL_INTERVAL));
        }
        false
    }
}

/// A running camera: frames come out of its queue until it is stopped, fails or ends, which closes
/// the queue.
#[derive(Debug)]
pub struct Camera {
    meters: Arc<Meters>,
    stop: StopSignal,
    out: Queue<Captured>,
    thread: Option<JoinHandle<()>>,
}

impl Camera {
    /// Starts the supervisor of `spec` in a thread of its own. Frames go into `out`, which drops
    /// its oldest frame when it is full and the camera is live. GStreamer must have been started
    /// ([`crate::CameraNode::start`] does that).
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
        let stop = StopSignal::new(shutdown);
        let supervisor = Supervisor { spec, meters: Arc::clone(&meters), out: out.clone(), stop: stop.clone() };
        let name = format!("{}-camera", supervisor.spec.id);
        let thread = std::thread::Builder::new().name(name).spawn(move || supervisor.run())?;
        Ok(Self { meters, stop, out, thread: Some(thread) })
    }

    /// State and counts of the camera now.
    pub fn status(&self) -> CameraStatus {
        self.meters.status()
    }

    pub(crate) fn meters(&self) -> &Arc<Meters> {
        &self.meters
    }

    pub(crate) fn stop_signal(&self) -> &StopSignal {
        &self.stop
    }

    /// Tells the camera to stop; frames in its queue can still be taken out.
    pub fn stop(&self) {
        self.stop.request();
        self.out.close();
    }

    /// Waits at most `timeout` until the supervisor has ended; returns whether it has.
    pub fn join(&mut self, timeout: Duration) -> bool {
        join_within(&mut self.thread, timeout)
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Joins a thread if it ends within `timeout`, else leaves it to end by itself. The thread has
/// logged its own panic.
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
    stop: StopSignal,
}

impl Supervisor {
    fn run(self) {
        self.reconnect_loop();
        self.out.close();
    }

    fn reconnect_loop(&self) {
        let (first, last) = self.spec.backoff;
        let mut backoff = Backoff::new(first, last);
        let sequence = Arc::new(Mutex::new(FrameSequence::default()));
        let mut start = None;
        let mut ever_decoded = false;
        for connection in 0.. {
            self.meters.connecting(connection);
            let begun = Instant::now();
            let start = start.get_or_insert_with(|| self.start_time());
            let timeline =
                if self.spec.media_time() { Timeline::Media(*start) } else { Timeline::Wall(WallClock::default()) };
            let frame_sink = Arc::new(FrameSink::new(
                &self.spec,
                connection,
                timeline,
                Arc::clone(&self.meters),
                self.out.clone(),
                Arc::clone(&sequence),
            ));
            let outcome = match preflight(&self.spec.source) {
                Ok(()) => connection::run(&self.spec, &frame_sink, &self.stop),
                Err(reason) => Outcome::Broken(reason),
            };
            let decoded = frame_sink.frames_decoded() > 0;
            ever_decoded |= decoded;
            if outcome == Outcome::Stopped || self.stop.is_set() {
                return;
            }
            self.deliver(Captured::Disconnected { connection, ended: outcome == Outcome::Ended });
            match outcome {
                Outcome::Ended if self.spec.looped => *start = *start + frame_sink.footage(),
                Outcome::Ended | Outcome::Stopped => return self.meters.ended(),
                Outcome::Broken(reason) if self.is_final(ever_decoded) => return self.meters.failed(reason),
                Outcome::Broken(reason) => {
                    if decoded && begun.elapsed() >= GOOD_CONNECTION {
                        backoff.reset();
                    }
                    let wait = backoff.pause();
                    self.meters.retrying(reason, wait);
                    if !self.stop.sleep(wait) {
                        return;
                    }
                }
            }
        }
    }

    /// Whether a failure is final. A file that failed will fail again, and so will a device that
    /// was never there; a device that worked may be plugged in again.
    fn is_final(&self, ever_decoded: bool) -> bool {
        match &self.spec.source {
            Source::V4l2(path) => !ever_decoded && !path.exists(),
            _ => self.spec.failures_are_final(),
        }
    }

    fn start_time(&self) -> Timestamp {
        let modified = || match &self.spec.source {
            Source::File(path) => std::fs::metadata(path).and_then(|m| m.modified()).ok(),
            _ => None,
        };
        self.spec.start_time.unwrap_or_else(|| Timestamp::from(modified().unwrap_or_else(SystemTime::now)))
    }

    /// Queues an item that must not be lost; for live cameras at the cost of frames.
    fn deliver(&self, item: Captured) {
        if self.spec.lossless() {
            // The queue refuses only when the camera is being stopped; then nobody needs the item.
            let _ = self.out.push_wait(item);
        } else if let Pushed::Dropped(old) = self.out.push_evicting(item, Captured::is_frame)
            && old.is_frame()
        {
            self.meters.frame_dropped();
        }
    }
}
