//! What is known of a camera: its state with the reason, and every count. Logged, counted and shown from one place, so
//! that the page, the metrics and the log never disagree.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge};
use serde::{Deserialize, Serialize};
use sightline_core::{CameraId, Timestamp};
use tracing::{info, warn};

use crate::report::Reporter;
use crate::{CameraSpec, ClockSource};

/// Where a camera stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CameraState {
    /// A connection is being made; no frame yet.
    Connecting,
    /// Frames arrive.
    Decoding,
    /// The connection was lost or never came about; there will be another attempt.
    Retrying,
    /// It cannot work, and trying again would not help.
    Failed,
    /// The footage has ended.
    Ended,
}

/// A camera at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CameraStatus {
    /// The camera.
    pub camera: CameraId,
    /// Its address, credentials masked.
    pub url: String,
    /// Where it stands.
    pub state: CameraState,
    /// Why, where there is more to say: always with `retrying` and `failed`.
    pub reason: Option<String>,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// Number of the current (or last) connection, from 0.
    pub connection: u64,
    /// Frames decoded, all connections together.
    pub frames_decoded: u64,
    /// Frames that went through detection.
    pub frames_analysed: u64,
    /// Frames chosen for analysis, then dropped because analysis is too slow, or unreadable.
    pub frames_dropped: u64,
    /// Crops handed on.
    pub crops: u64,
    /// Crops dropped because the embedder is too slow, or because the broker is away and the disk's share is used up.
    pub crops_dropped: u64,
    /// Seconds until the next attempt, while `retrying`.
    pub retry_in_s: Option<f64>,
    /// Where capture times come from; `None` before the first frame.
    pub clock: Option<ClockSource>,
}

#[derive(Debug)]
struct Condition {
    state: CameraState,
    reason: Option<String>,
    since: Timestamp,
    retry_at: Option<Instant>,
    clock: Option<ClockSource>,
}

/// A count that is shown and exported.
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
    reconnects: Counter,
    depth: Gauge,
    reports: AtomicU64,
    /// Is told of every change of state.
    reporter: Option<Arc<Reporter>>,
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Meters({})", self.id)
    }
}

impl Meters {
    /// Counts of a camera; `reporter` is told of every change of its state.
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
            url: spec.url.shown().to_owned(),
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
            reconnects: metrics::counter!("sightline_ingest_reconnects_total", "camera" => camera.clone()),
            depth: metrics::gauge!("sightline_ingest_queue_depth_frames", "camera" => camera),
            reports: AtomicU64::new(0),
            reporter,
        }
    }

    fn condition(&self) -> std::sync::MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn enter(&self, state: CameraState, reason: Option<String>, retry_in: Option<Duration>) {
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

    /// A connection is being made. `reason` of the attempt before stays visible until frames arrive.
    pub fn connecting(&self, connection: u64) {
        self.connection.store(connection, Ordering::Relaxed);
        if connection > 0 {
            self.reconnects.increment(1);
        }
        let before = self.condition().reason.take();
        info!(camera = %self.id, url = %self.url, connection, "connecting");
        self.enter(CameraState::Connecting, before, None);
    }

    /// The first frame of a connection has been decoded.
    pub fn decoding(&self) {
        info!(camera = %self.id, "decoding");
        self.enter(CameraState::Decoding, None, None);
    }

    /// Waiting for the next attempt.
    pub fn retrying(&self, reason: String, wait: Duration) {
        warn!(camera = %self.id, %reason, retry_in_s = wait.as_secs_f64(), "connection lost");
        self.enter(CameraState::Retrying, Some(reason), Some(wait));
    }

    /// It cannot work.
    pub fn failed(&self, reason: String) {
        warn!(camera = %self.id, %reason, "failed for good");
        self.enter(CameraState::Failed, Some(reason), None);
    }

    /// The footage has ended.
    pub fn ended(&self) {
        info!(camera = %self.id, "footage ended");
        self.enter(CameraState::Ended, None, None);
    }

    /// A frame was decoded; what becomes of it is told by one of the following.
    pub fn frame_decoded(&self) {
        self.decoded.fetch_add(1, Ordering::Relaxed);
    }

    /// A decoded frame was not chosen for analysis.
    pub fn frame_skipped(&self) {
        self.skipped.add();
    }

    /// A frame was chosen and dropped, because the one before it is still being analysed.
    pub fn frame_dropped(&self) {
        self.dropped.add();
    }

    /// A frame could not be read, or the detector could not work on it.
    pub fn frame_unreadable(&self, why: &dyn std::fmt::Display) {
        let before = self.unreadable.get();
        self.unreadable.add();
        // A camera that sends nonsense does so many times a second: the first and every thousandth are told.
        if before.is_multiple_of(1000) {
            warn!(camera = %self.id, %why, so_far = before + 1, "a frame could not be analysed");
        }
    }

    /// A frame went through detection and tracking.
    pub fn frame_analysed(&self) {
        self.analysed.add();
    }

    /// A crop was handed on.
    pub fn crop_published(&self) {
        self.crops.add();
    }

    /// A crop was dropped.
    pub fn crop_dropped(&self) {
        self.crops_dropped.add();
    }

    /// Frames that wait for analysis.
    pub fn queue_depth(&self, frames: usize) {
        self.depth.set(frames as f64);
    }

    /// Where the newest frame's capture time came from.
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

    /// Everything, at this moment.
    pub fn status(&self) -> CameraStatus {
        let c = self.condition();
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
            crops: self.crops.get(),
            crops_dropped: self.crops_dropped.get(),
            retry_in_s: c.retry_at.map(|at| at.saturating_duration_since(Instant::now()).as_secs_f64()),
            clock: c.clock,
        }
    }
}
