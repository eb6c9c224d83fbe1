//! Status of a camera: its state with the reason, and every count. Log, metrics and API take it
//! from this one place, so that they never disagree.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge};
use serde::{Deserialize, Serialize};
use sightline_core::message::Origin;
use sightline_core::{CameraId, CameraState, NodeReport, Timestamp};
use tracing::{info, warn};

use super::report::Reporter;
use crate::{CameraSpec, ClockSource};

/// State and counts of a camera at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CameraStatus {
    /// The camera.
    pub camera: CameraId,
    /// Its address with credentials masked.
    pub url: String,
    /// Its state.
    pub state: CameraState,
    /// Reason of the state; always present with `retrying` and `failed`.
    pub reason: Option<String>,
    /// When it entered this state.
    pub since: Timestamp,
    /// Number of the current (or last) connection, from 0.
    pub connection: u64,
    /// Frames decoded, over all connections.
    pub frames_decoded: u64,
    /// Frames that went through detection.
    pub frames_analysed: u64,
    /// Frames chosen for analysis that were dropped because analysis is too slow, or that were
    /// unreadable.
    pub frames_dropped: u64,
    /// Crops published.
    pub crops: u64,
    /// Crops dropped because the embedder is too slow, or because the broker is away and the outbox
    /// is full.
    pub crops_dropped: u64,
    /// Seconds until the next attempt, while `retrying`.
    pub retry_in_s: Option<f64>,
    /// Source of the capture times; `None` before the first frame.
    pub clock: Option<ClockSource>,
}

impl CameraStatus {
    /// The report that is sent with the footage; `spooled_bytes` wait on the node's disk.
    pub fn report(self, origin: Origin, spooled_bytes: u64) -> NodeReport {
        NodeReport {
            origin,
            camera: self.camera,
            at: Timestamp::now(),
            state: self.state,
            reason: self.reason,
            since: self.since,
            connection: self.connection,
            frames_decoded: self.frames_decoded,
            frames_analysed: self.frames_analysed,
            frames_dropped: self.frames_dropped,
            crops: self.crops,
            crops_dropped: self.crops_dropped,
            retry_in_s: self.retry_in_s,
            spooled_bytes,
        }
    }
}

#[derive(Debug)]
struct Condition {
    state: CameraState,
    reason: Option<String>,
    since: Timestamp,
    retry_at: Option<Instant>,
    clock: Option<ClockSource>,
}

/// A count that is shown in the status and exported as a metric.
struct Count {
    value: AtomicU64,
    exported: Counter,
}

impl Count {
    fn new(exported: Counter) -> Self {
        Self { value: AtomicU64::new(0), exported }
    }

    fn add(&self) {
        self.value.fetch_add(1, Ordering::Relaxed);
        self.exported.increment(1);
    }

    fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

/// State and counts of one camera, shared by its threads.
pub struct Meters {
    id: CameraId,
    url: String,
    lossless: bool,
    condition: Mutex<Condition>,
    connection: AtomicU64,
    decoded: AtomicU64,
    skipped: Count,
    analysed: Count,
    dropped: Count,
    unreadable: Count,
    crops: Count,
    crops_dropped: Count,
    crops_displaced: Count,
    reconnects: Counter,
    depth: Gauge,
    reports: AtomicU64,
    /// Called at every change of state.
    reporter: Option<Arc<Reporter>>,
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Meters({})", self.id)
    }
}

impl Meters {
    /// Starts all counts at 0; `reporter` reports every change of state.
    pub(crate) fn new(spec: &CameraSpec, reporter: Option<Arc<Reporter>>) -> Self {
        let camera = spec.id.to_string();
        let frames = |outcome: &'static str| {
            let labels = [("camera", camera.clone()), ("outcome", outcome.to_owned())];
            Count::new(metrics::counter!("sightline_ingest_frames_total", &labels))
        };
        let crops = |outcome: &'static str| {
            let labels = [("camera", camera.clone()), ("outcome", outcome.to_owned())];
            Count::new(metrics::counter!("sightline_ingest_crops_total", &labels))
        };
        Self {
            id: spec.id.clone(),
            url: spec.url.to_string(),
            lossless: spec.lossless(),
            condition: Mutex::new(Condition {
                state: CameraState::Connecting,
                reason: None,
                since: Timestamp::now(),
                retry_at: None,
                clock: None,
            }),
            connection: AtomicU64::new(0),
            decoded: AtomicU64::new(0),
            skipped: frames("skipped"),
            analysed: frames("analysed"),
            dropped: frames("dropped"),
            unreadable: frames("unreadable"),
            crops: crops("published"),
            crops_dropped: crops("dropped"),
            crops_displaced: crops("displaced"),
            reconnects: metrics::counter!("sightline_ingest_reconnects_total", "camera" => camera.clone()),
            depth: metrics::gauge!("sightline_ingest_queue_depth_frames", "camera" => camera),
            reports: AtomicU64::new(0),
            reporter,
        }
    }

    fn condition(&self) -> std::sync::MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn set_state(&self, state: CameraState, reason: Option<String>, retry_in: Option<Duration>) {
        let mut c = self.condition();
        if c.state != state {
            c.since = Timestamp::now();
        }
        (c.state, c.reason) = (state, reason);
        c.retry_at = retry_in.map(|d| Instant::now() + d);
        drop(c);
        if let Some(reporter) = &self.reporter {
            reporter.report(self);
        }
    }

    /// Enters `connecting`. The reason of the previous attempt stays visible until frames arrive.
    pub fn connecting(&self, connection: u64) {
        self.connection.store(connection, Ordering::Relaxed);
        if connection > 0 {
            self.reconnects.increment(1);
        }
        let before = self.condition().reason.take();
        info!(camera = %self.id, url = %self.url, connection, "connecting");
        self.set_state(CameraState::Connecting, before, None);
    }

    /// Enters `decoding`: the first frame of a connection has been decoded.
    pub fn decoding(&self) {
        info!(camera = %self.id, "decoding");
        self.set_state(CameraState::Decoding, None, None);
    }

    /// Enters `retrying`: the next attempt comes after `wait`.
    pub fn retrying(&self, reason: String, wait: Duration) {
        warn!(camera = %self.id, %reason, retry_in_s = wait.as_secs_f64(), "connection lost");
        self.set_state(CameraState::Retrying, Some(reason), Some(wait));
    }

    /// Enters `failed`: another attempt would not help.
    pub fn failed(&self, reason: String) {
        warn!(camera = %self.id, %reason, "failed for good");
        self.set_state(CameraState::Failed, Some(reason), None);
    }

    /// Enters `ended`: the footage has ended.
    pub fn ended(&self) {
        info!(camera = %self.id, "footage ended");
        self.set_state(CameraState::Ended, None, None);
    }

    /// Counts a decoded frame; one of the following calls counts what became of it.
    pub fn frame_decoded(&self) {
        self.decoded.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a decoded frame that was not chosen for analysis.
    pub fn frame_skipped(&self) {
        self.skipped.add();
    }

    /// Counts a frame that was chosen and dropped, because an earlier one is still being analysed.
    pub fn frame_dropped(&self) {
        self.dropped.add();
    }

    /// Counts a frame that could not be read or analysed.
    pub fn frame_unreadable(&self, why: &dyn std::fmt::Display) {
        let before = self.unreadable.get();
        self.unreadable.add();
        // A camera that sends garbage does so many times a second: only the first and every
        // thousandth are logged.
        if before.is_multiple_of(1000) {
            warn!(camera = %self.id, %why, so_far = before + 1, "a frame could not be analysed");
        }
    }

    /// Counts a frame that went through detection and tracking.
    pub fn frame_analysed(&self) {
        self.analysed.add();
    }

    /// Counts a published crop.
    pub fn crop_published(&self) {
        self.crops.add();
    }

    /// Counts a dropped crop.
    pub fn crop_dropped(&self) {
        self.crops_dropped.add();
    }

    /// Counts a published crop that was then dropped from the queue for a newer event.
    pub fn crop_displaced(&self) {
        self.crops_displaced.add();
    }

    /// Sets the number of frames that wait for analysis.
    pub fn queue_depth(&self, frames: usize) {
        self.depth.set(frames as f64);
    }

    /// Sets the source of the newest frame's capture time.
    pub fn clock(&self, source: ClockSource, skew_s: Option<f64>) {
        let mut c = self.condition();
        if c.clock == Some(source) {
            return;
        }
        c.clock = Some(source);
        drop(c);
        match (source, skew_s) {
            (ClockSource::Estimate, Some(skew_s)) => {
                warn!(camera = %self.id, skew_s, "the camera's clock is not set: our own estimate is used");
            }
            _ => info!(camera = %self.id, clock = ?source, skew_s, "capture time"),
        }
    }

    /// Whether crops of this camera must never be dropped.
    pub fn lossless(&self) -> bool {
        self.lossless
    }

    /// Number of the next report.
    pub(crate) fn next_report(&self) -> u64 {
        self.reports.fetch_add(1, Ordering::Relaxed)
    }

    /// State and all counts now.
    pub fn status(&self) -> CameraStatus {
        let c = self.condition();
        let displaced = self.crops_displaced.get();
        CameraStatus {
            camera: self.id.clone(),
            url: self.url.clone(),
            state: c.state,
            reason: c.reason.clone(),
            since: c.since,
            connection: self.connection.load(Ordering::Relaxed),
            frames_decoded: self.decoded.load(Ordering::Relaxed),
            frames_analysed: self.analysed.get(),
            frames_dropped: self.dropped.get() + self.unreadable.get(),
            crops: self.crops.get().saturating_sub(displaced),
            crops_dropped: self.crops_dropped.get() + displaced,
            retry_in_s: c.retry_at.map(|at| at.saturating_duration_since(Instant::now()).as_secs_f64()),
            clock: c.clock,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sightline_core::Config;
    use sightline_core::config::CameraConfig;

    #[test]
    fn a_displaced_crop_counts_once_and_as_lost() {
        let camera = CameraConfig::new("gate".parse().expect("valid"), "videotestsrc://");
        let spec = CameraSpec::new(camera, &Config::layered(None, []).expect("default").ingest).expect("valid");
        let meters = Meters::new(&spec, None);
        (0..100).for_each(|_| meters.crop_published());
        (0..90).for_each(|_| meters.crop_displaced());
        meters.crop_dropped();
        let status = meters.status();
        assert_eq!((status.crops, status.crops_dropped), (10, 91));
    }
}
