//! HTTP: a video file on a web server and an HLS stream, from a small server on loopback.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use sightline_core::CameraState;
use sightline_ingest::ClockSource;

use crate::util::{ball_avi, config, drain, ingest, launch, start, wait_for};

/// Serves the files of `folder` until the process ends; returns the port.
fn serve(folder: PathBuf) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let folder = folder.clone();
            std::thread::spawn(move || {
                let _ = answer(stream, &folder);
            });
        }
    });
    port
}

fn answer(mut stream: TcpStream, folder: &Path) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    while lines.next().is_some_and(|l| l.is_ok_and(|l| !l.is_empty())) {}
    let name = request.split_whitespace().nth(1).unwrap_or("/").trim_start_matches('/').to_owned();
    match std::fs::read(folder.join(name)) {
        Ok(body) => {
            write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len())?;
            stream.write_all(&body)
        }
        Err(_) => write!(stream, "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
    }
}

#[test]
fn a_file_on_a_server_plays_once() {
    let dir = tempfile::tempdir().unwrap();
    ball_avi(&dir.path().join("ball.avi"), 25);
    let port = serve(dir.path().to_owned());
    let (camera, queue) = start(config("web", &format!("http://127.0.0.1:{port}/ball.avi")), &ingest());
    let (frames, how) = drain(&queue);
    assert_eq!((how, frames.len()), (Some(true), 5), "{:?}", camera.status());
    assert_eq!(camera.status().clock, Some(ClockSource::Estimate));

    let (camera, queue) = start(config("gone", &format!("http://127.0.0.1:{port}/other.avi?token=sesame")), &ingest());
    let status = wait_for(&camera, &queue, 10.0, |s| s.state == CameraState::Retrying);
    assert!(status.reason.as_ref().is_some_and(|r| r.to_lowercase().contains("not found")), "{status:?}");
    assert!(!format!("{status:?}").contains("sesame"), "{status:?}");
}

#[test]
fn hls_is_played_segment_by_segment() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().display();
    launch(&format!(
        "videotestsrc pattern=ball num-buffers=75 ! video/x-raw,format=I420,width=320,height=240,framerate=25/1 \
         ! x264enc key-int-max=25 tune=zerolatency ! h264parse ! hlssink2 target-duration=1 playlist-length=0 \
         max-files=0 location={folder}/s%05d.ts playlist-location={folder}/live.m3u8"
    ));
    let port = serve(dir.path().to_owned());
    let (camera, queue) = start(config("hls", &format!("http://127.0.0.1:{port}/live.m3u8")), &ingest());
    let (frames, how) = drain(&queue);
    assert_eq!(how, Some(true), "{:?}", camera.status());
    assert!((14..=16).contains(&frames.len()), "{} frames in 3 s at 5 a second", frames.len());
}
