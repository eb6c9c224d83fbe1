//! The frame sink: what one connection's GStreamer pipeline calls for every decoded frame and every
//! sample.
//!
//! The sink chooses frames before they are converted, turns samples into [`Frame`]s with a capture
//! time, and keeps `last_frame_at` for the stall watchdog: a server that stalls reports nothing, so
//! supervision has to watch the frames themselves. The sink is closed when its connection is given
//! up; a pipeline that takes long to stop then delivers nothing any more.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer_video::VideoInfo;
use sightline_core::queue::{Pushed, Queue};
use sightline_core::{CameraId, Frame, Timestamp};

use super::sample::copy_rgb;
use super::timeline::{ClockSource, MonotonicTime, Timeline};
use crate::node::status::Meters;
use crate::{CameraSpec, Captured, Sampler};

/// Capture time and frame numbers of a camera; they continue from one connection to the next.
#[derive(Debug, Default)]
pub struct FrameSequence {
    monotonic: MonotonicTime,
    seq: u64,
}

/// Receives the frames of one connection from its pipeline.
#[derive(Debug)]
pub struct FrameSink {
    camera: CameraId,
    connection: u64,
    lossless: bool,
    meters: Arc<Meters>,
    out: Queue<Captured>,
    sequence: Arc<Mutex<FrameSequence>>,
    timeline: Timeline,
    sampler: Mutex<Sampler>,
    open: AtomicBool,
    decoded: AtomicU64,
    last_frame_at: Mutex<Instant>,
    end_ns: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl FrameSink {
    pub(crate) fn new(
        spec: &CameraSpec,
        connection: u64,
        timeline: Timeline,
        meters: Arc<Meters>,
        out: Queue<Captured>,
        sequence: Arc<Mutex<FrameSequence>>,
    ) -> Self {
        Self {
            camera: spec.id.clone(),
            connection,
            lossless: spec.lossless(),
            meters,
            out,
            sequence,
            timeline,
            sampler: Mutex::new(Sampler::new(spec.fps)),
            open: AtomicBool::new(true),
            decoded: AtomicU64::new(0),
            last_frame_at: Mutex::new(Instant::now()),
            end_ns: AtomicU64::new(0),
            failure: Mutex::new(None),
        }
    }

    /// Counts a frame that was decoded at running time `at` and lasts `duration`. Returns whether
    /// to convert and analyse it.
    pub fn decoded(&self, at: gst::ClockTime, duration: gst::ClockTime) -> bool {
        // A pipeline that hangs after it was given up may still decode; it must not change the
        // camera's state any more.
        if !self.open.load(Ordering::Relaxed) {
            return false;
        }
        if self.decoded.fetch_add(1, Ordering::Relaxed) == 0 {
            self.meters.decoding();
        }
        self.meters.frame_decoded();
        *lock(&self.last_frame_at) = Instant::now();
        self.end_ns.fetch_max((at + duration).nseconds(), Ordering::Relaxed);
        let keep = lock(&self.sampler).keep(at.nseconds());
        if !keep {
            self.meters.frame_skipped();
        }
        keep
    }

    /// Takes the sender's clock from an RTP packet of the video.
    pub fn packet(&self, buffer: &gst::BufferRef) {
        if let Timeline::Wall(clock) = &self.timeline {
            clock.note_sender_time(buffer);
        }
    }

    /// Queues a converted sample as a frame. Waits for room when nothing may be lost.
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
            match self.out.push_evicting(item, |c| matches!(c, Captured::Frame { .. })) {
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
        let mut sequence = lock(&self.sequence);
        let captured_at = sequence.monotonic.next(at);
        let seq = sequence.seq;
        sequence.seq += 1;
        Some(Frame { camera: self.camera.clone(), captured_at, seq, image })
    }

    /// Records why this connection cannot go on; only the first reason is kept.
    pub fn note_failure(&self, why: impl Into<String>) {
        lock(&self.failure).get_or_insert_with(|| why.into());
    }

    /// The reason recorded by [`FrameSink::note_failure`].
    pub fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// Frames decoded so far.
    pub fn frames_decoded(&self) -> u64 {
        self.decoded.load(Ordering::Relaxed)
    }

    /// Time since the last frame was decoded, or since the connection began.
    pub fn since_last_frame(&self) -> Duration {
        lock(&self.last_frame_at).elapsed()
    }

    /// Length of the footage so far: the end of its last frame.
    pub fn footage(&self) -> Duration {
        Duration::from_nanos(self.end_ns.load(Ordering::Relaxed))
    }

    /// Whether a full queue makes frames wait instead of dropping them.
    pub fn lossless(&self) -> bool {
        self.lossless
    }

    /// Closes the sink: it takes no more samples.
    pub fn close(&self) {
        self.open.store(false, Ordering::Relaxed);
    }

    /// Closes the sink and its queue because the camera is being stopped: a frame that waits for
    /// room is given up.
    pub fn abort(&self) {
        self.close();
        self.out.close();
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
