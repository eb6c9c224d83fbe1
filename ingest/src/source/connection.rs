//! One connection of one camera: from building its pipeline to the reason why the connection ended.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use gstreamer as gst;
use gstreamer::prelude::*;
use sightline_core::camera::Source;
use tracing::{debug, warn};

use super::camera::StopSignal;
use super::frame_sink::FrameSink;
use super::guard::Guard;
use super::pipeline;
use super::reason::{explain, unreachable};
use crate::CameraSpec;

/// How often the supervisor checks its timers; a stop is noticed within this time.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How long a pipeline may take to stop before it is abandoned.
const TEARDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Difference between wall clock and monotonic clock, in seconds, from which the system clock
/// counts as set. Capture times are estimated by it.
const CLOCK_STEP_SECONDS: f64 = 2.0;

/// Why a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The camera was told to stop.
    Stopped,
    /// The footage has ended.
    Ended,
    /// The connection failed or broke, with the reason.
    Broken(String),
}

/// Runs one connection to its end. When this returns, `frame_sink` is closed and the pipeline
/// stopped (or abandoned).
pub fn run(spec: &CameraSpec, frame_sink: &Arc<FrameSink>, stop: &StopSignal) -> Outcome {
    let guard = Guard::new(spec);
    let refused = || guard.refusal().map(Outcome::Broken);
    if matches!(spec.source, Source::Rtsp(_))
        && guard.check_own_server().is_err()
        && let Some(refused) = refused()
    {
        return refused;
    }
    let pipeline = match pipeline::build(spec, frame_sink, &guard) {
        Ok(p) => p,
        Err(e) => return Outcome::Broken(format!("no pipeline can be built: {}", e.message)),
    };
    let outcome = supervise(spec, frame_sink, &guard, &pipeline, stop);
    guard.close();
    let outcome = match (outcome, refused()) {
        (Outcome::Broken(_) | Outcome::Ended, Some(refused)) => refused,
        (Outcome::Broken(reason), None) => Outcome::Broken(spec.url.scrub(&explained(spec, frame_sink, reason))),
        (other, _) => other,
    };
    // A replay that broke or ended still delivers its last frames: only a stop discards them.
    if outcome == Outcome::Stopped {
        frame_sink.abort();
    } else if !frame_sink.lossless() {
        frame_sink.close();
    }
    teardown(pipeline, stop, frame_sink.lossless());
    frame_sink.close();
    outcome
}

/// Replaces GStreamer's "generic error" by the network's own error while no frame has come.
fn explained(spec: &CameraSpec, frame_sink: &FrameSink, reason: String) -> String {
    match &spec.source {
        Source::Rtsp(remote) | Source::Http(remote) if frame_sink.frames_decoded() == 0 => {
            unreachable(remote).unwrap_or(reason)
        }
        _ => reason,
    }
}

fn supervise(
    spec: &CameraSpec,
    frame_sink: &FrameSink,
    guard: &Guard,
    pipeline: &gst::Pipeline,
    stop: &StopSignal,
) -> Outcome {
    let Some(bus) = pipeline.bus() else { return Outcome::Broken("the pipeline has no message bus".into()) };
    let begun = (Instant::now(), SystemTime::now());
    let started = pipeline.set_state(gst::State::Playing);
    let mut missing = Vec::new();
    loop {
        if stop.is_set() {
            return Outcome::Stopped;
        }
        let message = bus.timed_pop(gst::ClockTime::from_nseconds(POLL_INTERVAL.as_nanos() as u64));
        if let Some(message) = message {
            if let Some(outcome) = outcome_of_message(spec, frame_sink, pipeline, &message, &mut missing) {
                return outcome;
            }
        } else if started.is_err() {
            return Outcome::Broken("the pipeline does not start".into());
        }
        if let Some(failure) = guard.refusal().or_else(|| frame_sink.failure()) {
            return Outcome::Broken(failure);
        }
        let seconds = |d: Duration| d.as_secs_f64();
        if frame_sink.frames_decoded() == 0 {
            if begun.0.elapsed() > spec.connect {
                return Outcome::Broken(format!("no picture within {} s of connecting", seconds(spec.connect)));
            }
        } else if spec.stall_after().is_some_and(|limit| frame_sink.since_last_frame() > limit) {
            return Outcome::Broken(format!("stalled: no picture for {:.1} s", seconds(frame_sink.since_last_frame())));
        }
        if !spec.media_time() && clock_was_set(begun) {
            return Outcome::Broken("the system clock was set; capture times start anew".into());
        }
    }
}

/// Whether the wall clock has moved differently from the monotonic clock since `begun`.
fn clock_was_set((instant, wall): (Instant, SystemTime)) -> bool {
    let monotonic = instant.elapsed().as_secs_f64();
    let by_wall = match SystemTime::now().duration_since(wall) {
        Ok(d) => d.as_secs_f64(),
        Err(e) => -e.duration().as_secs_f64(),
    };
    (by_wall - monotonic).abs() > CLOCK_STEP_SECONDS
}

/// The outcome that a message of the pipeline means for the connection; `None` when it goes on.
fn outcome_of_message(
    spec: &CameraSpec,
    frame_sink: &FrameSink,
    pipeline: &gst::Pipeline,
    message: &gst::Message,
    missing: &mut Vec<String>,
) -> Option<Outcome> {
    match message.view() {
        gst::MessageView::Error(e) => {
            let debug_text = e.debug();
            let place = spec.url.scrub(debug_text.as_deref().unwrap_or_default());
            debug!(camera = %spec.id, error = %e.error(), debug = place, "pipeline error");
            let reason = frame_sink.failure().unwrap_or_else(|| explain(&e.error(), debug_text.as_deref(), missing));
            Some(Outcome::Broken(reason))
        }
        gst::MessageView::Eos(_) => Some(outcome_at_end_of_stream(spec, frame_sink, pipeline)),
        gst::MessageView::Element(e) => {
            let s = e.structure().filter(|s| s.name() == "missing-plugin")?;
            if let Ok(name) = s.get::<String>("name")
                && !name.contains("audio")
            {
                missing.push(name);
            }
            None
        }
        gst::MessageView::Latency(_) => {
            if let Err(e) = pipeline.recalculate_latency() {
                debug!(camera = %spec.id, error = %e, "latency");
            }
            None
        }
        gst::MessageView::Warning(w) => {
            let place = spec.url.scrub(w.debug().as_deref().unwrap_or_default());
            debug!(camera = %spec.id, warning = %w.error(), debug = place, "pipeline warning");
            None
        }
        _ => None,
    }
}

/// The outcome at the end of the stream. For a live camera that is a broken connection: a server
/// that is killed ends its streams this way. Footage with a length (a file, also one on a web
/// server) has ended, provided there was any.
fn outcome_at_end_of_stream(spec: &CameraSpec, frame_sink: &FrameSink, pipeline: &gst::Pipeline) -> Outcome {
    let finite = match &spec.source {
        Source::File(_) | Source::Test(_) => true,
        Source::Http(_) => pipeline.query_duration::<gst::ClockTime>().is_some(),
        Source::Rtsp(_) | Source::V4l2(_) => false,
    };
    if let Some(failure) = frame_sink.failure() {
        Outcome::Broken(failure)
    } else if frame_sink.frames_decoded() == 0 {
        Outcome::Broken("it ended before the first picture".into())
    } else if finite {
        Outcome::Ended
    } else {
        Outcome::Broken("the camera ended the stream".into())
    }
}

/// Stops the pipeline in a thread of its own, because a hanging source can delay its state change
/// for long. With `wait`, a replay, the stop is waited for, since the last frame may be waiting for
/// room.
fn teardown(pipeline: gst::Pipeline, stop: &StopSignal, wait: bool) {
    let name = pipeline.name();
    let (done, finished) = mpsc::channel::<()>();
    let stopping = std::thread::Builder::new().name(format!("{name}-teardown")).spawn(move || {
        if let Some(bus) = pipeline.bus() {
            bus.set_flushing(true);
        }
        if let Err(e) = pipeline.set_state(gst::State::Null) {
            debug!(error = %e, "a pipeline does not stop cleanly");
        }
        drop(pipeline);
        let _ = done.send(());
    });
    if let Err(e) = stopping {
        warn!(camera = %name, error = %e, "no thread to stop a pipeline");
        return;
    }
    let begun = Instant::now();
    let mut limit = TEARDOWN_TIMEOUT;
    loop {
        match finished.recv_timeout(POLL_INTERVAL) {
            Err(mpsc::RecvTimeoutError::Timeout) if wait && !stop.is_set() => {
                limit = begun.elapsed() + TEARDOWN_TIMEOUT
            }
            Err(mpsc::RecvTimeoutError::Timeout) if begun.elapsed() < limit => {}
            Err(mpsc::RecvTimeoutError::Timeout) => {
                warn!(camera = %name, "the pipeline takes long to stop and is left alone");
                return;
            }
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}
