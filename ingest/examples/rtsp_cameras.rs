//! Serves RTSP cameras made from a recording; the drills and the benchmarks use them as live
//! cameras on one machine.
//!
//! ```text
//! cargo run -p sightline-ingest --example rtsp_cameras -- RECORDING COUNT TIMES PORT
//! # rtsp://127.0.0.1:PORT/0, /1, ...: each plays the recording TIMES times over, starting with its
//! # first client
//! ```
//!
//! The recording is encoded once (H.264, a key frame a second) and afterwards only packed into RTP,
//! so that the cameras take next to no time from the machine that is measured. Ends when its
//! standard input closes.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_rtsp_server::prelude::*;
use gstreamer_rtsp_server::{RTSPMediaFactory, RTSPServer};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| args.next().with_context(|| format!("{what} is missing"));
    let recording = std::fs::canonicalize(next("RECORDING")?)?;
    let (count, times, port) = (next("COUNT")?.parse::<u32>()?, next("TIMES")?.parse::<u32>()?, next("PORT")?);
    gst::init()?;
    let folder = tempfile::tempdir()?;
    let encoded = folder.path().join("camera.mp4");
    encode(&recording, times, &encoded)?;

    let server = RTSPServer::new();
    server.set_address("127.0.0.1");
    server.set_service(&port);
    let mounts = server.mount_points().context("no mount points")?;
    for n in 0..count {
        let factory = RTSPMediaFactory::new();
        let source = encoded.display();
        factory.set_launch(&format!(
            "( filesrc location=\"{source}\" ! qtdemux ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=1 )"
        ));
        factory.set_shared(true);
        mounts.add_factory(&format!("/{n}"), factory);
    }
    let main = gst::glib::MainLoop::new(None, false);
    let _source = server.attach(None).context("the port is taken")?;
    println!("{count} cameras at rtsp://127.0.0.1:{port}/0 and on");
    let quit = main.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        quit.quit();
    });
    main.run();
    Ok(())
}

/// The recording, `times` times over, as H.264 in MP4.
fn encode(recording: &Path, times: u32, target: &Path) -> anyhow::Result<()> {
    let uri = gst::glib::filename_to_uri(recording, None)?;
    let mut text = format!(
        "concat name=all ! videoconvert ! video/x-raw,format=I420 ! x264enc tune=zerolatency speed-preset=ultrafast \
         bitrate=3000 key-int-max=25 ! h264parse ! mp4mux ! filesink location=\"{}\"",
        target.display()
    );
    for n in 0..times {
        text += &format!(" uridecodebin uri=\"{uri}\" name=d{n} d{n}. ! videoconvert ! all.");
    }
    let pipeline = gst::parse::launch(&text)?;
    let bus = pipeline.bus().context("a pipeline has a bus")?;
    pipeline.set_state(gst::State::Playing)?;
    let kinds = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(300), &kinds);
    pipeline.set_state(gst::State::Null)?;
    match message.as_ref().map(|m| m.view()) {
        Some(gst::MessageView::Eos(_)) => Ok(()),
        Some(gst::MessageView::Error(e)) => bail!("{}: {}", recording.display(), e.error()),
        _ => bail!("{} cannot be encoded within five minutes", recording.display()),
    }
}
