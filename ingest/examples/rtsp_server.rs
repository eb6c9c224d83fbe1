//! Plays a file as an RTSP camera on the loopback, to try Sightline's RTSP side without a camera at
//! hand:
//!
//! ```text
//! cargo run -p sightline-ingest --example rtsp_server -- 8554 cache/vtest.avi
//! sightline camera add rtsp rtsp://127.0.0.1:8554/camera
//! ```
//!
//! Every client sees the same picture; the footage starts with the first client. Kill and restart
//! it to watch the camera come back.

use anyhow::{Context, bail};
use gstreamer_rtsp_server::prelude::*;
use gstreamer_rtsp_server::{RTSPMediaFactory, RTSPServer};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(port), Some(file), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        bail!("usage: rtsp_server PORT FILE");
    };
    let file = std::path::absolute(&file).with_context(|| file.clone())?;
    if !file.is_file() {
        bail!("{} is not a file", file.display());
    }
    gstreamer::init()?;
    let server = RTSPServer::new();
    server.set_address("127.0.0.1");
    server.set_service(&port);
    let factory = RTSPMediaFactory::new();
    factory.set_launch(&format!(
        "( filesrc location={file:?} ! decodebin ! videoconvert ! video/x-raw,format=I420 \
         ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! rtph264pay name=pay0 pt=96 )"
    ));
    factory.set_shared(true);
    server.mount_points().context("the server has no mount points")?.add_factory("/camera", factory);
    let _source = server.attach(None).with_context(|| format!("cannot listen on 127.0.0.1:{port}"))?;
    println!("rtsp://127.0.0.1:{port}/camera");
    gstreamer::glib::MainLoop::new(None, false).run();
    Ok(())
}
