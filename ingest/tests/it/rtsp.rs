//! A real RTSP server on loopback, in a process of its own, killed and started again.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gstreamer_rtsp_server::prelude::*;
use gstreamer_rtsp_server::{RTSPAuth, RTSPMediaFactory, RTSPServer, RTSPToken};
use sightline_core::CameraState;
use sightline_core::Timestamp;
use sightline_core::config::{IngestConfig, RtspTransport};
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_ingest::{CameraNode, CameraStatus, Captured, ClockSource};
use sightline_testing::{free_address, until};

use crate::node::{Blobs, node_config};
use crate::sources::{only_127_0_0_1, refused};
use crate::util::{config, ingest, start, wait_for, wait_for_state};

/// Environment variable of the server process: the port to serve on.
const PORT: &str = "SIGHTLINE_TEST_RTSP_PORT";

const BALL: &str = "( videotestsrc is-live=true pattern=ball \
    ! video/x-raw,format=I420,width=320,height=240,framerate=25/1 \
    ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! rtph264pay name=pay0 pt=96 )";

/// Permissions of a role: to see that the stream exists, and to watch it.
fn role(name: &str, watch: bool) -> gstreamer::Structure {
    gstreamer::Structure::builder(name)
        .field("media.factory.access", true)
        .field("media.factory.construct", watch)
        .build()
}

/// Serves a ball at `/ball` until its standard input closes, which happens when the parent process
/// ends.
fn serve(port: u16) {
    gstreamer::init().unwrap();
    let main = gstreamer::glib::MainLoop::new(None, false);
    let server = RTSPServer::new();
    server.set_address("127.0.0.1");
    server.set_service(&port.to_string());
    let factory = RTSPMediaFactory::new();
    factory.set_launch(BALL);
    factory.set_shared(true);
    factory.add_role_from_structure(&role("anybody", true));
    server.mount_points().unwrap().add_factory("/ball", factory);
    // The same stream behind a password: everybody sees that it exists.
    let private = RTSPMediaFactory::new();
    private.set_launch(BALL);
    private.set_shared(true);
    private.add_role_from_structure(&role("keeper", true));
    private.add_role_from_structure(&role("anybody", false));
    server.mount_points().unwrap().add_factory("/private", private);
    let auth = RTSPAuth::new();
    let token = |name: &str| RTSPToken::from_iter([("media.factory.role", name.to_send_value())]);
    auth.add_basic(&RTSPAuth::make_basic("keeper", "s3cret/pass"), &token("keeper"));
    auth.set_default_token(Some(&mut token("anybody")));
    server.set_auth(Some(&auth));
    let _source = server.attach(None).expect("the port is free");
    let quit = main.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        quit.quit();
    });
    main.run();
}

/// The server process. Without the port in its environment, as in an ordinary run, it tests that
/// the server answers.
#[test]
fn rtsp_server_process() {
    match std::env::var(PORT) {
        Ok(port) => serve(port.parse().unwrap()),
        Err(_) => {
            let port = free_address().port();
            let _server = Server::start(port);
            assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
        }
    }
}

struct Server(Child);

impl Server {
    fn start(port: u16) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "rtsp::rtsp_server_process", "--nocapture"])
            .env(PORT, port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self(child);
        let up = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        until(Duration::from_secs(10), "the RTSP server has started", up);
        server
    }

    /// Sends SIGKILL, so that no client gets a goodbye.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_killed_server_is_found_again_and_the_other_camera_notices_nothing() {
    let port = free_address().port();
    let server = Server::start(port);
    let out = Queue::new(64);
    let taken = out.clone();
    let taker =
        std::thread::spawn(move || while taken.pop(Duration::from_millis(50)).is_some() || !taken.is_closed() {});
    let node = CameraNode::start(node_config(ingest()), || Box::new(Blobs), out.clone(), Shutdown::new()).unwrap();
    node.add(config("rtsp", &format!("rtsp://127.0.0.1:{port}/ball"))).unwrap();
    node.add(config("other", "videotestsrc://?pattern=ball&framerate=25&width=320&height=240")).unwrap();
    let status = |id: &str| node.status().into_iter().find(|s| s.camera.as_str() == id).unwrap();
    let wait = |seconds: u64, wanted: &dyn Fn(&CameraStatus) -> bool| {
        let begun = Instant::now();
        while !wanted(&status("rtsp")) {
            assert!(begun.elapsed() < Duration::from_secs(seconds), "still {:?}", status("rtsp"));
            std::thread::sleep(Duration::from_millis(20));
        }
        begun.elapsed()
    };
    wait(15, &|s| s.state == CameraState::Decoding && s.frames_analysed > 3);
    let (clock, before) = (Instant::now(), status("other"));
    server.kill();
    let noticed = wait(10, &|s| s.state == CameraState::Retrying);
    std::thread::sleep(Duration::from_millis(1500));
    assert_ne!(status("rtsp").state, CameraState::Decoding);
    let _server = Server::start(port);
    let analysed = status("rtsp").frames_analysed;
    let back = wait(10, &|s| s.state == CameraState::Decoding && s.frames_analysed > analysed);
    let (after, elapsed) = (status("other"), clock.elapsed().as_secs_f64());
    println!("loss noticed after {noticed:?}, decoding again {back:?} after the restart");
    assert!(status("rtsp").connection >= 1);
    assert_eq!((after.connection, after.frames_dropped, after.state), (0, 0, CameraState::Decoding));
    let decoded = (after.frames_decoded - before.frames_decoded) as f64;
    assert!((decoded - 25.0 * elapsed).abs() <= 5.0, "{decoded} frames of {elapsed} s at 25 a second");
    drop(node);
    out.close();
    taker.join().unwrap();
}

#[test]
fn over_udp_a_killed_server_is_noticed_by_the_missing_frames() {
    let port = free_address().port();
    let server = Server::start(port);
    let settings = IngestConfig { rtsp_transport: RtspTransport::Udp, ..ingest() };
    let (camera, queue) = start(config("udp", &format!("rtsp://127.0.0.1:{port}/ball")), &settings);
    wait_for(&camera, &queue, 15.0, |s| s.frames_decoded > 10);
    server.kill();
    wait_for_state(&camera, &queue, CameraState::Retrying);
    let _server = Server::start(port);
    wait_for(&camera, &queue, 10.0, |s| s.state == CameraState::Decoding && s.connection >= 1);
}

#[test]
fn the_senders_clock_is_used_once_it_has_been_stated() {
    let port = free_address().port();
    let _server = Server::start(port);
    let (camera, queue) = start(config("clock", &format!("rtsp://127.0.0.1:{port}/ball")), &ingest());
    wait_for(&camera, &queue, 20.0, |s| s.clock == Some(ClockSource::Sender));
    let mut last: Option<Timestamp> = None;
    for _ in 0..5 {
        let Some(Captured::Frame { frame, .. }) = queue.pop(Duration::from_secs(2)) else { panic!("a frame") };
        let age = Timestamp::now().seconds_since(frame.captured_at);
        assert!((0.0..1.5).contains(&age), "captured {age} s ago");
        assert!(last.is_none_or(|l| frame.captured_at > l));
        last = Some(frame.captured_at);
    }
}

#[test]
fn an_unknown_stream_is_told_and_tried_again() {
    let port = free_address().port();
    let _server = Server::start(port);
    let (camera, queue) = start(config("wrong", &format!("rtsp://127.0.0.1:{port}/cat")), &ingest());
    let status = wait_for_state(&camera, &queue, CameraState::Retrying);
    assert!(status.reason.as_ref().is_some_and(|r| r.to_lowercase().contains("not found")), "{status:?}");
}

#[test]
fn credentials_of_the_address_open_a_locked_stream() {
    let port = free_address().port();
    let _server = Server::start(port);
    let (camera, queue) = start(config("locked", &format!("rtsp://127.0.0.1:{port}/private")), &ingest());
    let status = wait_for_state(&camera, &queue, CameraState::Retrying);
    assert!(status.reason.as_ref().is_some_and(|r| r.contains("user name or password")), "{status:?}");
    drop(camera);
    let url = format!("rtsp://keeper:s3cret%2Fpass@127.0.0.1:{port}/private");
    let (camera, queue) = start(config("open", &url), &ingest());
    wait_for_state(&camera, &queue, CameraState::Decoding);
    assert!(!format!("{:?}", camera.status()).contains("s3cret"));
}

/// An RTSP server that redirects every description to `location`.
fn redirecting_rtsp(location: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let location = location.clone();
            std::thread::spawn(move || answer_rtsp(client, &location));
        }
    });
    port
}

fn answer_rtsp(mut client: TcpStream, location: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(client.try_clone()?).lines();
    while let Some(first) = lines.next().transpose()? {
        let fields: Vec<String> = lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let number = fields.iter().find_map(|f| f.strip_prefix("CSeq: ")).unwrap_or("0");
        match first.split(' ').next() {
            Some("OPTIONS") => {
                write!(client, "RTSP/1.0 200 OK\r\nCSeq: {number}\r\nPublic: OPTIONS, DESCRIBE, SETUP, PLAY\r\n\r\n")?;
            }
            _ => write!(client, "RTSP/1.0 302 Found\r\nCSeq: {number}\r\nLocation: {location}\r\n\r\n")?,
        }
    }
    Ok(())
}

#[test]
fn an_rtsp_redirect_is_followed_to_what_is_allowed_only() {
    let port = free_address().port();
    let _server = Server::start(port);
    let url = format!("rtsp://127.0.0.1:{}/a", redirecting_rtsp(format!("rtsp://127.0.0.1:{port}/ball")));
    let (camera, queue) = start(config("gate", &url), &only_127_0_0_1());
    wait_for(&camera, &queue, 15.0, |s| s.state == CameraState::Decoding);
    drop(camera);

    let foreign = TcpListener::bind("127.0.0.2:0").unwrap();
    let there = foreign.local_addr().unwrap();
    let sent = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&sent);
    std::thread::spawn(move || {
        for mut client in foreign.incoming().flatten() {
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            counted.fetch_add(client.read(&mut [0; 64]).unwrap_or(0), Ordering::SeqCst);
        }
    });
    let port = redirecting_rtsp(format!("rtsp://{there}/live?token=sesame"));
    refused(
        &format!("rtsp://127.0.0.1:{port}/a"),
        &format!("leads to rtsp://{there}, which ingest.sources does not allow"),
    );
    assert_eq!(sent.load(Ordering::SeqCst), 0, "not a byte was sent there");
}
