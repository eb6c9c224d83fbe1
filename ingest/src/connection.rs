//! One connection of one camera: from building its pipeline to the reason why it ended.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use gstreamer as gst;
use gstreamer::prelude::*;
use tracing::{debug, warn};

use crate::camera::Stop;
use crate::reason::{explain, unreachable};
use crate::tap::Tap;
use crate::{CameraSpec, Source, pipeline};

/// How often supervision looks at its clocks; a stop is noticed within this time.
const BEAT: Duration = Duration::from_millis(50);

/// How long a given-up pipeline may take to die before it is left to die alone.
const TEARDOWN: Duration = Duration::from_secs(1);

/// The system clock was set while we estimate capture times by it.
const CLOCK_STEP: f64 = 2.0;

/// Why a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Somebody wants this camera stopped.
    Stopped,
    /// The footage is over.
    Ended,
    /// It did not come about or broke, with the reason.
    Broken(String),
}

/// Runs one connection to its end. `tap` is closed and the pipeline gone (or left to die) when this returns.
pub fn run(spec: &CameraSpec, tap: &Arc<Tap>, stop: &Stop) -> Outcome {
    let pipeline = match pipeline::build(spec, tap) {
        Ok(p) => p,
        Err(e) => return Outcome::Broken(format!("no pipeline can be built: {}", e.message)),
    };
    let outcome = supervise(spec, tap, &pipeline, stop);
    let outcome = match outcome {
        Outcome::Broken(reason) => Outcome::Broken(spec.url.scrub(&explained(spec, tap, reason))),
        other => other,
    };
    // A replay that broke or ended still has its last frames to hand on: only a stop cuts them off.
    if outcome == Outcome::Stopped {
        tap.cut();
    } else if !tap.lossless() {
        tap.close();
    }
    teardown(pipeline, stop, tap.lossless());
    tap.close();
    outcome
}

/// The network's own word is better than GStreamer's "generic error", while no frame has come.
fn explained(spec: &CameraSpec, tap: &Tap, reason: String) -> String {
    match spec.url.source() {
        Source::Rtsp(remote) | Source::Http(remote) if tap.frames_decoded() == 0 => {
            unreachable(remote).unwrap_or(reason)
        }
        _ => reason,
    }
}

fn supervise(spec: &CameraSpec, tap: &Tap, pipeline: &gst::Pipeline, stop: &Stop) -> Outcome {
    let Some(bus) = pipeline.bus() else { return Outcome::Broken("the pipeline has no message bus".into()) };
    let begun = (Instant::now(), SystemTime::now());
    let started = pipeline.set_state(gst::State::Playing);
    let mut missing = Vec::new();
    loop {
        if stop.is_set() {
            return Outcome::Stopped;
        }
        let message = bus.timed_pop(gst::ClockTime::from_nseconds(BEAT.as_nanos() as u64));
        if let Some(message) = message {
            if let Some(outcome) = judge(spec, tap, pipeline, &message, &mut missing) {
                return outcome;
            }
        } else if started.is_err() {
            return Outcome::Broken("the pipeline does not start".into());
        }
        if let Some(trouble) = tap.trouble() {
            return Outcome::Broken(trouble);
        }
        let seconds = |d: Duration| d.as_secs_f64();
        if tap.frames_decoded() == 0 {
            if begun.0.elapsed() > spec.connect {
                return Outcome::Broken(format!("no picture within {} s of connecting", seconds(spec.connect)));
            }
        } else if spec.stall_after().is_some_and(|limit| tap.idle() > limit) {
            return Outcome::Broken(format!("stalled: no picture for {:.1} s", seconds(tap.idle())));
        }
        if !spec.media_time() && clock_was_set(begun) {
            return Outcome::Broken("the system clock was set; capture times start anew".into());
        }
    }
}

/// Whether the wall clock has moved otherwise than the monotonic clock since `begun`.
fn clock_was_set((instant, wall): (Instant, SystemTime)) -> bool {
    let monotonic = instant.elapsed().as_secs_f64();
    let by_wall = match SystemTime::now().duration_since(wall) {
        Ok(d) => d.as_secs_f64(),
        Err(e) => -e.duration().as_secs_f64(),
    };
    (by_wall - monotonic).abs() > CLOCK_STEP
}

/// What a message of the pipeline means for the connection; `None`: it goes on.
fn judge(
    spec: &CameraSpec,
    tap: &Tap,
    pipeline: &gst::Pipeline,
    message: &gst::Message,
    missing: &mut Vec<String>,
) -> Option<Outcome> {
    match message.view() {
        gst::MessageView::Error(e) => {
            let debug_text = e.debug();
            let place = spec.url.scrub(debug_text.as_deref().unwrap_or_default());
            debug!(camera = %spec.id, error = %e.error(), debug = place, "pipeline error");
            let reason = tap.trouble().unwrap_or_else(|| explain(&e.error(), debug_text.as_deref(), missing));
            Some(Outcome::Broken(reason))
        }
        gst::MessageView::Eos(_) => Some(at_end(spec, tap, pipeline)),
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

/// The stream says it is over. For a live camera that is a broken connection: a server that is killed ends its streams
/// this way. Footage with a length (a file, also one on a web server) has ended, provided there was any.
fn at_end(spec: &CameraSpec, tap: &Tap, pipeline: &gst::Pipeline) -> Outcome {
    let finite = match spec.url.source() {
        Source::File(_) | Source::Test(_) => true,
        Source::Http(_) => pipeline.query_duration::<gst::ClockTime>().is_some(),
        Source::Rtsp(_) | Source::V4l2(_) => false,
    };
    if let Some(trouble) = tap.trouble() {
        Outcome::Broken(trouble)
    } else if tap.frames_decoded() == 0 {
        Outcome::Broken("it ended before the first picture".into())
    } else if finite {
        Outcome::Ended
    } else {
        Outcome::Broken("the camera ended the stream".into())
    }
}

/// Stops the pipeline in a thread of its own, because a hanging source can hold up its state change for long. A replay
/// is waited for, since its last frame may be waiting for room.
fn teardown(pipeline: gst::Pipeline, stop: &Stop, wait: bool) {
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
    let mut limit = TEARDOWN;
    loop {
        match finished.recv_timeout(BEAT) {
            Err(mpsc::RecvTimeoutError::Timeout) if wait && !stop.is_set() => limit = begun.elapsed() + TEARDOWN,
            Err(mpsc::RecvTimeoutError::Timeout) if begun.elapsed() < limit => {}
            Err(mpsc::RecvTimeoutError::Timeout) => {
                warn!(camera = %name, "the pipeline takes long to stop and is left alone");
                return;
            }
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}
