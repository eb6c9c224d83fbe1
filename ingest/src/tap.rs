//! Where pictures leave GStreamer: what one connection's pipeline calls for every decoded frame and every sample.
//!
//! The tap chooses frames before they are converted, turns samples into [`Frame`]s with a capture time, and notes when
//! the last frame came: a server that stalls says nothing, so supervision has to watch the frames themselves. It is
//! closed when its connection is given up; a pipeline that takes long to die then delivers nothing any more.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer_video::VideoInfo;
use sightline_core::queue::{Pushed, Queue};
use sightline_core::{CameraId, Frame, Timestamp};

use crate::clock::{ClockSource, Monotone, Timeline};
use crate::sample::copy_rgb;
use crate::status::Meters;
use crate::{CameraSpec, Captured, Sampler};

/// What outlives a connection: capture time and frame numbers go on.
#[derive(Debug, Default)]
pub struct Continuity {
    monotone: Monotone,
    seq: u64,
}

/// One connection's end of the pipeline.
#[derive(Debug)]
pub struct Tap {
    camera: CameraId,
    connection: u64,
    lossless: bool,
    meters: Arc<Meters>,
    out: Queue<Captured>,
    continuity: Arc<Mutex<Continuity>>,
    timeline: Timeline,
    sampler: Mutex<Sampler>,
    open: AtomicBool,
    decoded: AtomicU64,
    newest: Mutex<Instant>,
    end_ns: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Tap {
    pub(crate) fn new(
        spec: &CameraSpec,
        connection: u64,
        timeline: Timeline,
        meters: Arc<Meters>,
        out: Queue<Captured>,
        continuity: Arc<Mutex<Continuity>>,
    ) -> Self {
        Self {
            camera: spec.id.clone(),
            connection,
            lossless: spec.lossless(),
            meters,
            out,
            continuity,
            timeline,
            sampler: Mutex::new(Sampler::new(spec.fps)),
            open: AtomicBool::new(true),
            decoded: AtomicU64::new(0),
            newest: Mutex::new(Instant::now()),
            end_ns: AtomicU64::new(0),
            trouble: Mutex::new(None),
        }
    }

    /// A frame was decoded at time `at` (running time) and lasts `duration`. Whether to convert and analyse it.
    pub fn decoded(&self, at: gst::ClockTime, duration: gst::ClockTime) -> bool {
        if self.decoded.fetch_add(1, Ordering::Relaxed) == 0 {
            self.meters.decoding();
        }
        self.meters.frame_decoded();
        *lock(&self.newest) = Instant::now();
        self.end_ns.fetch_max((at + duration).nseconds(), Ordering::Relaxed);
        let keep = self.open.load(Ordering::Relaxed) && lock(&self.sampler).keep(at.nseconds());
        if !keep {
            self.meters.frame_skipped();
        }
        keep
    }

    /// An RTP packet of the video came in.
    pub fn packet(&self, buffer: &gst::BufferRef) {
        if let Timeline::Wall(clock) = &self.timeline {
            clock.note(buffer);
        }
    }

    /// Takes a converted sample. Waits for room when nothing may be lost.
    ///
    /// # Errors
    /// `Flushing` when this connection is over.
    pub fn sample(
        &self,
        sample: &gst::Sample,
        running_now: gst::ClockTime,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        if !self.open.load(Ordering::Relaxed) {
            return Err(gst::FlowError::Flushing);
        }
        let Some(frame) = self.frame(sample, running_now) else { return Ok(gst::FlowSuccess::Ok) };
        let item = Captured::Frame { connection: self.connection, frame };
        if self.lossless {
            self.out.push_wait(item).map_err(|_| gst::FlowError::Flushing)?;
        } else {
            match self.out.push_sparing(item, |c| matches!(c, Captured::Frame { .. })) {
                Pushed::Queued => {}
                Pushed::Dropped(_) => self.meters.frame_dropped(),
                Pushed::Closed(_) => return Err(gst::FlowError::Flushing),
            }
        }
        self.meters.queue_depth(self.out.len());
        Ok(gst::FlowSuccess::Ok)
    }

    fn frame(&self, sample: &gst::Sample, running_now: gst::ClockTime) -> Option<Frame> {
        let buffer = sample.buffer()?;
        let image = sample.caps().and_then(|c| VideoInfo::from_caps(c).ok()).map_or_else(
            || Err("a sample without a format".to_owned()),
            |i| copy_rgb(buffer, &i).map_err(|e| e.to_string()),
        );
        let image = match image {
            Ok(image) => image,
            Err(why) => {
                self.meters.frame_unreadable(&why);
                return None;
            }
        };
        let pts = buffer.pts().unwrap_or(running_now);
        let segment = sample.segment().and_then(|s| s.downcast_ref::<gst::ClockTime>());
        let (at, source, skew) = match &self.timeline {
            Timeline::Media(start) => {
                let position = segment.and_then(|s| s.to_stream_time(pts)).unwrap_or(pts);
                (*start + Duration::from(position), ClockSource::File, None)
            }
            Timeline::Wall(clock) => {
                let running = segment.and_then(|s| s.to_running_time(pts)).unwrap_or(pts);
                clock.capture_time(pts, running, running_now, Timestamp::now())
            }
        };
        self.meters.clock(source, skew);
        let mut continuity = lock(&self.continuity);
        let captured_at = continuity.monotone.next(at);
        let seq = continuity.seq;
        continuity.seq += 1;
        Some(Frame { camera: self.camera.clone(), captured_at, seq, image })
    }

    /// Notes why this connection cannot go on; the first word counts.
    pub fn note_trouble(&self, why: impl Into<String>) {
        lock(&self.trouble).get_or_insert_with(|| why.into());
    }

    /// What was noted.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    /// Frames decoded so far.
    pub fn frames_decoded(&self) -> u64 {
        self.decoded.load(Ordering::Relaxed)
    }

    /// How long ago the newest frame was decoded (or the connection began).
    pub fn idle(&self) -> Duration {
        lock(&self.newest).elapsed()
    }

    /// Length of the footage so far: the end of its last frame.
    pub fn footage(&self) -> Duration {
        Duration::from_nanos(self.end_ns.load(Ordering::Relaxed))
    }

    /// Whether frames wait rather than get lost.
    pub fn lossless(&self) -> bool {
        self.lossless
    }

    /// Takes no more samples.
    pub fn close(&self) {
        self.open.store(false, Ordering::Relaxed);
    }

    /// The camera is being stopped: no more samples, and a frame that waits for room waits no longer.
    pub fn cut(&self) {
        self.close();
        self.out.close();
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
