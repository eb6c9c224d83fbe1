//! The GStreamer pipelines, one per connection.
//!
//! ```text
//! SOURCE -> decode -> [probe: choose frames] -> videoconvertscale
//!        -> RGB, square pixels, at most max_height
//!        -> videoflip (orientation stated by the footage) -> appsink
//! ```
//!
//! Try it: each line shows in a window what a camera of that kind delivers (`autovideosink`
//! replaces our `appsink`).
//!
//! ```text
//! # rtsp://user:password@camera/stream
//! gst-launch-1.0 rtspsrc location=rtsp://camera/stream user-id=user user-pw=password \
//!     protocols=tcp latency=200 drop-on-latency=true ! decodebin ! videoconvertscale \
//!     ! video/x-raw,format=RGB ! videoflip video-direction=auto ! videoconvert ! autovideosink
//! # file:///tmp/vtest.avi
//! gst-launch-1.0 filesrc location=/tmp/vtest.avi ! decodebin ! videoconvertscale \
//!     ! video/x-raw,format=RGB,height=480 ! videoconvert ! autovideosink
//! # https://server/live.m3u8 (HLS), or any other video over HTTP
//! gst-launch-1.0 uridecodebin uri=https://server/live.m3u8 ! videoconvertscale \
//!     ! video/x-raw,format=RGB ! videoconvert ! autovideosink
//! # v4l2:///dev/video0
//! gst-launch-1.0 v4l2src device=/dev/video0 ! decodebin ! videoconvertscale \
//!     ! video/x-raw,format=RGB ! videoconvert ! autovideosink
//! # videotestsrc://?pattern=ball&num-buffers=250
//! gst-launch-1.0 videotestsrc pattern=ball num-buffers=250 is-live=true \
//!     ! video/x-raw,width=640,height=480,framerate=25/1 ! videoconvertscale \
//!     ! video/x-raw,format=RGB ! videoconvert ! autovideosink
//! # A camera for the first line: tests/it/rtsp.rs serves videotestsrc over RTSP on loopback; the
//! # package libgstrtspserver-1.0-dev has the source of such an example.
//! ```
//!
//! RTSP is built from `rtspsrc` itself, so that only the video stream is set up and the sender's
//! clock can be read from its packets. HTTP uses `uridecodebin`, whose `autoplug-continue` spares the
//! decoding of sound; in GStreamer 1.22 its successor `uridecodebin3` offers no such way without a
//! stream-collection round trip per source. Wherever the footage leads to, a [`Guard`] looks at it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_app::{AppSink, AppSinkCallbacks};
use sightline_core::camera::{Remote, Source, TestPicture};
use sightline_core::config::RtspTransport;

use super::frame_sink::FrameSink;
use super::guard::{self, Guard, RtspWatch};
use super::scale::fit;
use crate::{CameraSpec, IngestError};

/// Decoder threads of one camera: enough for 4K; cameras share the machine's cores anyway.
const DECODER_THREADS: i32 = 2;

/// Elements every pipeline may need, and the Debian packages that hold them.
const ELEMENTS: [(&str, &str); 11] = [
    ("decodebin", "gstreamer1.0-plugins-base"),
    ("uridecodebin", "gstreamer1.0-plugins-base"),
    ("videotestsrc", "gstreamer1.0-plugins-base"),
    ("appsink", "gstreamer1.0-plugins-base"),
    ("videoconvertscale", "gstreamer1.0-plugins-base"),
    ("videoflip", "gstreamer1.0-plugins-good"),
    ("rtspsrc", "gstreamer1.0-plugins-good"),
    ("souphttpsrc", "gstreamer1.0-plugins-good"),
    ("v4l2src", "gstreamer1.0-plugins-good"),
    ("h264parse", "gstreamer1.0-plugins-bad"),
    ("avdec_h264", "gstreamer1.0-libav"),
];

/// Starts GStreamer and checks that every element a pipeline needs is installed.
///
/// # Errors
/// Names the missing element and its package.
pub fn init() -> Result<(), IngestError> {
    gst::init().map_err(|e| IngestError::GStreamer(e.to_string()))?;
    for (element, package) in ELEMENTS {
        if gst::ElementFactory::find(element).is_none() {
            return Err(IngestError::MissingElement { element: element.to_owned(), package });
        }
    }
    Ok(())
}

/// Builds the pipeline of one connection; it delivers into `frame_sink` once it plays.
///
/// # Errors
/// When an element cannot be made or linked.
pub fn build(
    spec: &CameraSpec,
    frame_sink: &Arc<FrameSink>,
    guard: &Arc<Guard>,
) -> Result<gst::Pipeline, glib::BoolError> {
    guard::register()?;
    let pipeline = gst::Pipeline::with_name(spec.id.as_str());
    guard.install(&pipeline);
    pipeline.connect_deep_element_added(|_, _, element| {
        if element.find_property("max-threads").is_some_and(|p| p.value_type() == i32::static_type()) {
            element.set_property("max-threads", DECODER_THREADS);
        }
    });
    let entry = tail(spec, frame_sink, &pipeline)?;
    match &spec.source {
        Source::Rtsp(remote) => rtsp(spec, remote, frame_sink, guard, &pipeline, &entry)?,
        Source::Http(remote) => {
            let decode = decoder("uridecodebin", frame_sink, &entry)?;
            decode.set_property("uri", &remote.address);
            pipeline.add(&decode)?;
        }
        Source::File(path) => {
            let uri = glib::filename_to_uri(path, None).map_err(|e| glib::bool_error!("{}", e.message()))?;
            let source = make("filesrc")?;
            if let Some(handler) = source.dynamic_cast_ref::<gst::URIHandler>() {
                handler.set_uri(&uri).map_err(|e| glib::bool_error!("{}", e.message()))?;
            }
            local(&source, frame_sink, &pipeline, &entry)?;
        }
        Source::V4l2(path) => {
            let source = make("v4l2src")?;
            source.set_property("device", path.to_string_lossy().as_ref());
            local(&source, frame_sink, &pipeline, &entry)?;
        }
        Source::Test(picture) => test_picture(picture, spec.realtime, &pipeline, &entry)?,
    }
    Ok(pipeline)
}

fn make(name: &str) -> Result<gst::Element, glib::BoolError> {
    gst::ElementFactory::make(name).build()
}

/// Builds everything behind the decoder; returns the pad that takes decoded video.
fn tail(spec: &CameraSpec, frame_sink: &Arc<FrameSink>, pipeline: &gst::Pipeline) -> Result<gst::Pad, glib::BoolError> {
    let convert = gst::ElementFactory::make("videoconvertscale").property("add-borders", false).build()?;
    let size = gst::ElementFactory::make("capsfilter")
        .property("caps", gst::Caps::builder("video/x-raw").field("format", "RGB").build())
        .build()?;
    let flip = gst::ElementFactory::make("videoflip").build()?;
    flip.set_property_from_str("video-direction", "auto");
    let sink = AppSink::builder()
        .caps(&gst::Caps::builder("video/x-raw").field("format", "RGB").build())
        .max_buffers(1)
        .drop(false)
        .sync(spec.paced())
        .qos(false)
        .enable_last_sample(false)
        .build();
    let samples = Arc::clone(frame_sink);
    sink.set_callbacks(
        AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                samples.sample(&sample, sink.current_running_time().unwrap_or(gst::ClockTime::ZERO))
            })
            .build(),
    );
    pipeline.add_many([&convert, &size, &flip, sink.upcast_ref()])?;
    gst::Element::link_many([&convert, &size, &flip, sink.upcast_ref()])?;
    let entry = convert.static_pad("sink").ok_or_else(|| glib::bool_error!("videoconvertscale has no sink pad"))?;
    choose_frames(&entry, &size, Arc::clone(frame_sink), spec.max_height);
    Ok(entry)
}

/// State of the probe in front of the converter.
struct Stream {
    segment: gst::FormattedSegment<gst::ClockTime>,
    frame_duration: gst::ClockTime,
    next: gst::ClockTime,
}

/// Adds the probe that drops frames which will not be analysed before they are converted, and sets
/// the size of the others.
fn choose_frames(entry: &gst::Pad, size: &gst::Element, frame_sink: Arc<FrameSink>, max_height: u32) {
    let size = size.downgrade();
    let stream = std::sync::Mutex::new(Stream {
        segment: gst::FormattedSegment::new(),
        frame_duration: gst::ClockTime::from_mseconds(40),
        next: gst::ClockTime::ZERO,
    });
    let mask = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
    entry.add_probe(mask, move |pad, info| {
        let mut stream = stream.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &mut info.data {
            Some(gst::PadProbeData::Event(event)) => {
                match event.view() {
                    gst::EventView::Caps(caps) => {
                        if let (Some(s), Some(size)) = (caps.caps().structure(0), size.upgrade()) {
                            set_size(s, &size, max_height);
                            if let Ok(rate) = s.get::<gst::Fraction>("framerate")
                                && rate.numer() > 0
                                && rate.denom() > 0
                            {
                                let ns = 1_000_000_000 * rate.denom() as u64 / rate.numer() as u64;
                                stream.frame_duration = gst::ClockTime::from_nseconds(ns);
                            }
                        }
                    }
                    gst::EventView::Segment(segment) => {
                        if let Some(s) = segment.segment().downcast_ref::<gst::ClockTime>() {
                            stream.segment = s.clone();
                        }
                    }
                    _ => {}
                }
                gst::PadProbeReturn::Ok
            }
            Some(gst::PadProbeData::Buffer(buffer)) => {
                let pts = match buffer.pts() {
                    Some(pts) => pts,
                    None => {
                        // Multipart JPEG carries no times: a replay counts frames, a live stream
                        // uses the clock.
                        let now = pad.parent_element().and_then(|e| e.current_running_time());
                        let pts = match now.filter(|_| !frame_sink.lossless()) {
                            Some(now) => stream.segment.position_from_running_time(now).unwrap_or(now),
                            None => stream.next,
                        };
                        buffer.make_mut().set_pts(pts);
                        pts
                    }
                };
                let duration = buffer.duration().unwrap_or(stream.frame_duration);
                stream.next = pts + duration;
                let at = stream.segment.to_running_time(pts).unwrap_or(pts);
                // Not `Drop`: the bindings have already taken the buffer, and GStreamer would free
                // it a second time.
                if frame_sink.decoded(at, duration) { gst::PadProbeReturn::Ok } else { gst::PadProbeReturn::Handled }
            }
            _ => gst::PadProbeReturn::Ok,
        }
    });
}

fn set_size(format: &gst::StructureRef, size: &gst::Element, max_height: u32) {
    let (Ok(width), Ok(height)) = (format.get::<i32>("width"), format.get::<i32>("height")) else { return };
    let par = format.get::<gst::Fraction>("pixel-aspect-ratio").map_or((1, 1), |f| (f.numer(), f.denom()));
    let positive = |v: i32| u32::try_from(v).unwrap_or(0);
    let (w, h) = fit(positive(width), positive(height), (positive(par.0), positive(par.1)), max_height);
    let caps = gst::Caps::builder("video/x-raw")
        .field("format", "RGB")
        .field("width", w as i32)
        .field("height", h as i32)
        .field("pixel-aspect-ratio", gst::Fraction::new(1, 1))
        .build();
    size.set_property("caps", caps);
}

/// A `decodebin` or `uridecodebin` that decodes only video, and links the first video stream to
/// `entry`.
fn decoder(kind: &str, frame_sink: &Arc<FrameSink>, entry: &gst::Pad) -> Result<gst::Element, glib::BoolError> {
    let decode = make(kind)?;
    decode.connect("autoplug-continue", false, |args| {
        let caps = args.get(2).and_then(|v| v.get::<gst::Caps>().ok());
        let other = caps.as_ref().and_then(|c| c.structure(0)).is_some_and(|s| {
            ["audio/", "text/", "subpicture/", "application/x-onvif"].iter().any(|kind| s.name().starts_with(kind))
        });
        Some((!other).to_value())
    });
    let sink = entry.downgrade();
    let failures = Arc::clone(frame_sink);
    decode.connect_pad_added(move |_, pad| {
        let Some(sink) = sink.upgrade() else { return };
        let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
        let video = caps.structure(0).is_some_and(|s| s.name() == "video/x-raw");
        if video
            && !sink.is_linked()
            && let Err(e) = pad.link(&sink)
        {
            failures.note_failure(format!("the decoded video cannot be converted: {e}"));
        }
    });
    let (sink, failures) = (entry.downgrade(), Arc::clone(frame_sink));
    decode.connect_no_more_pads(move |_| {
        if sink.upgrade().is_some_and(|s| !s.is_linked()) {
            failures.note_failure("there is no video in it");
        }
    });
    Ok(decode)
}

/// Decodes a file or device of this machine.
fn local(
    source: &gst::Element,
    frame_sink: &Arc<FrameSink>,
    pipeline: &gst::Pipeline,
    entry: &gst::Pad,
) -> Result<(), glib::BoolError> {
    let decode = decoder("decodebin", frame_sink, entry)?;
    pipeline.add_many([source, &decode])?;
    source.link(&decode)
}

fn rtsp(
    spec: &CameraSpec,
    remote: &Remote,
    frame_sink: &Arc<FrameSink>,
    guard: &Arc<Guard>,
    pipeline: &gst::Pipeline,
    entry: &gst::Pad,
) -> Result<(), glib::BoolError> {
    let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
    let source = gst::ElementFactory::make("rtspsrc")
        .property("location", &remote.address)
        .property("latency", spec.latency_ms)
        .property("drop-on-latency", true)
        .property("tcp-timeout", micros(spec.connect))
        // With "auto", rtspsrc falls back from UDP to TCP after this time: early enough to happen
        // within the connection time.
        .property("timeout", micros(spec.connect / 3))
        .property("add-reference-timestamp-meta", true)
        .build()?;
    if let Some(user) = &remote.user {
        source.set_property("user-id", user);
    }
    if let Some(password) = &remote.password {
        source.set_property("user-pw", password);
    }
    let protocols = match spec.transport {
        RtspTransport::Tcp => "tcp",
        RtspTransport::Udp => "udp+udp-mcast",
        RtspTransport::Auto => "udp+udp-mcast+tcp",
    };
    source.set_property_from_str("protocols", protocols);
    RtspWatch::attach(guard, &source);
    let decode = decoder("decodebin", frame_sink, entry)?;
    pipeline.add_many([&source, &decode])?;

    // Only the first video stream is set up. The signal may come again for the same stream with
    // another transport.
    let chosen = AtomicI64::new(-1);
    let failures = Arc::clone(frame_sink);
    source.connect("select-stream", false, move |args| {
        let number = args.get(1).and_then(|v| v.get::<u32>().ok()).map_or(-1, i64::from);
        let caps = args.get(2).and_then(|v| v.get::<gst::Caps>().ok());
        let media = caps.as_ref().and_then(|c| c.structure(0)).and_then(|s| s.get::<String>("media").ok());
        let video = media.as_deref() == Some("video");
        let first =
            video && chosen.compare_exchange(-1, number, Ordering::Relaxed, Ordering::Relaxed).is_ok_and(|_| true);
        let take = first || video && chosen.load(Ordering::Relaxed) == number;
        Some(take.to_value())
    });
    let into = decode.downgrade();
    let packets = Arc::clone(frame_sink);
    source.connect_pad_added(move |_, pad| {
        let Some(sink) = into.upgrade().and_then(|d| d.static_pad("sink")) else { return };
        if sink.is_linked() {
            return;
        }
        let packets = Arc::clone(&packets);
        pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST, move |_, info| {
            match &info.data {
                Some(gst::PadProbeData::Buffer(b)) => packets.packet(b),
                Some(gst::PadProbeData::BufferList(l)) => l.iter().for_each(|b| packets.packet(b)),
                _ => {}
            }
            gst::PadProbeReturn::Ok
        });
        if let Err(e) = pad.link(&sink) {
            failures.note_failure(format!("the stream cannot be decoded: {e}"));
        }
    });
    Ok(())
}

fn test_picture(
    picture: &TestPicture,
    live: bool,
    pipeline: &gst::Pipeline,
    entry: &gst::Pad,
) -> Result<(), glib::BoolError> {
    let source = make("videotestsrc")?;
    source.set_property_from_str("pattern", &picture.pattern);
    source.set_property("is-live", live);
    if let Some(n) = picture.num_buffers {
        source.set_property("num-buffers", i32::try_from(n).unwrap_or(i32::MAX));
    }
    let format = gst::ElementFactory::make("capsfilter")
        .property(
            "caps",
            gst::Caps::builder("video/x-raw")
                .field("width", i32::try_from(picture.width).unwrap_or(i32::MAX))
                .field("height", i32::try_from(picture.height).unwrap_or(i32::MAX))
                .field("framerate", gst::Fraction::new(i32::try_from(picture.framerate).unwrap_or(25), 1))
                .build(),
        )
        .build()?;
    pipeline.add_many([&source, &format])?;
    source.link(&format)?;
    let out = format.static_pad("src").ok_or_else(|| glib::bool_error!("capsfilter has no source pad"))?;
    out.link(entry).map_err(|e| glib::bool_error!("the test picture cannot be converted: {e}"))?;
    Ok(())
}
