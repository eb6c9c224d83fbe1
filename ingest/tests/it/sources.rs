//! Where a camera may lead to: redirects, playlists, segments and keys obey `ingest.sources`. One
//! server is allowed (127.0.0.1), another one is not (127.0.0.2) and counts who comes.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sightline_core::CameraState;
use sightline_core::camera::AllowedSources;
use sightline_core::config::IngestConfig;
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_ingest::{Camera, CameraSpec, CameraStatus};

use crate::util::{ball_avi, config, drain, file_url, ingest, launch, start, wait_for, wait_for_state};

/// The answer to a path: status line and further fields, and the body.
type Answer = Arc<dyn Fn(&str, &str) -> (String, Vec<u8>) + Send + Sync>;

/// A server on loopback that counts what it is sent.
struct Server {
    port: u16,
    requests: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(address: &str, answer: Answer) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (requests, heads) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (counted, kept) = (Arc::clone(&requests), Arc::clone(&heads));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (answer, counted, kept) = (Arc::clone(&answer), Arc::clone(&counted), Arc::clone(&kept));
                std::thread::spawn(move || {
                    let _ = serve(client, &answer, &counted, &kept);
                });
            }
        });
        Self { port, requests, heads }
    }

    /// The server that nobody may come to.
    fn foreign() -> Self {
        Self::start("127.0.0.2", Arc::new(|_, _| ("200 OK".into(), b"secret".to_vec())))
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn serve(
    mut client: TcpStream,
    answer: &Answer,
    requests: &AtomicUsize,
    heads: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(client.try_clone()?).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(()) };
    requests.fetch_add(1, Ordering::SeqCst);
    let fields: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let head = fields.join("\n");
    heads.lock().unwrap().push(format!("{first}\n{head}"));
    let (status, body) = answer(first.split(' ').nth(1).unwrap_or_default(), &head);
    write!(client, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len())?;
    client.write_all(&body)
}

/// Serves the files of a folder, and redirects `/to/ADDRESS` to `http://ADDRESS`.
fn files(folder: &Path) -> Answer {
    let folder = folder.to_owned();
    Arc::new(move |path, _| {
        if let Some(to) = path.strip_prefix("/to/") {
            return (format!("302 Found\r\nLocation: http://{to}"), Vec::new());
        }
        match std::fs::read(folder.join(path.trim_start_matches('/'))) {
            Ok(body) => ("200 OK".into(), body),
            Err(_) => ("404 Not Found".into(), Vec::new()),
        }
    })
}

pub fn only_127_0_0_1() -> IngestConfig {
    let rules = ["http", "https", "rtsp", "127.0.0.1/32"].map(str::to_owned).to_vec();
    IngestConfig { sources: AllowedSources::try_from(rules).unwrap(), ..ingest() }
}

/// The state of a camera whose footage was refused, with the reason checked.
#[track_caller]
pub fn refused(url: &str, says: &str) -> CameraStatus {
    let (camera, queue) = start(config("gate", url), &only_127_0_0_1());
    let why = |s: &CameraStatus| s.reason.clone().unwrap_or_default();
    let status = wait_for(&camera, &queue, 15.0, |s| s.state == CameraState::Retrying && s.reason.is_some());
    assert!(why(&status).contains(says), "{status:?}");
    assert!(!format!("{status:?}").contains("sesame"), "{status:?}");
    status
}

/// Three segments and a playlist with `change` made to it.
fn hls(folder: &Path, change: impl Fn(String) -> String) {
    launch(&format!(
        "videotestsrc pattern=ball num-buffers=75 ! video/x-raw,format=I420,width=320,height=240,framerate=25/1 \
         ! x264enc key-int-max=25 tune=zerolatency ! h264parse ! hlssink2 target-duration=1 playlist-length=0 \
         max-files=0 location={0}/s%05d.ts playlist-location={0}/live.m3u8",
        folder.display()
    ));
    let playlist = folder.join("live.m3u8");
    let text = std::fs::read_to_string(&playlist).unwrap();
    std::fs::write(playlist, change(text)).unwrap();
}

#[test]
fn a_redirect_is_followed_to_what_is_allowed_only() {
    let dir = tempfile::tempdir().unwrap();
    ball_avi(&dir.path().join("ball.avi"), 25);
    let (server, other, foreign) = (
        Server::start("127.0.0.1", files(dir.path())),
        Server::start("127.0.0.1", files(dir.path())),
        Server::foreign(),
    );
    let to = |there: u16, host: &str, rest: &str| format!("http://127.0.0.1:{}/to/{host}:{there}/{rest}", server.port);
    let (camera, queue) = start(config("gate", &to(other.port, "127.0.0.1", "ball.avi")), &only_127_0_0_1());
    let (frames, how) = drain(&queue);
    assert_eq!((how, frames.len()), (Some(true), 5), "{:?}", camera.status());
    assert!(other.requests() > 0);

    let says = format!("leads to http://127.0.0.2:{}, which ingest.sources does not allow", foreign.port);
    refused(&to(foreign.port, "127.0.0.2", "x.avi?token=sesame"), &says);
    // Two hops, the first of which is allowed.
    let hop = format!("to/127.0.0.2:{}/x.avi?token=sesame", foreign.port);
    refused(&to(other.port, "127.0.0.1", &hop), &says);
    assert_eq!(foreign.requests(), 0);
}

/// What is changed in a playlist before it is served.
type Change<'a> = Box<dyn Fn(String) -> String + 'a>;

#[test]
fn segments_playlists_and_keys_are_fetched_from_what_is_allowed_only() {
    let foreign = Server::foreign();
    let base = format!("http://127.0.0.2:{}", foreign.port);
    let says = format!("leads to {base}, which");
    let cases: [(&str, Change<'_>); 4] = [
        ("segment", Box::new(|text| text.replace("s00001.ts", &format!("{base}/s00001.ts?token=sesame")))),
        (
            "redirected",
            Box::new(|text| {
                text.replace("s00001.ts", &format!("to/127.0.0.2:{}/s00001.ts?token=sesame", foreign.port))
            }),
        ),
        (
            "playlist",
            Box::new(|_| format!("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=100000\n{base}/low.m3u8?token=sesame\n")),
        ),
        (
            "key",
            Box::new(|text| {
                let key = format!("#EXT-X-KEY:METHOD=AES-128,URI=\"{base}/key?token=sesame\"\n#EXTINF");
                text.replacen("#EXTINF", &key, 1)
            }),
        ),
    ];
    for (name, change) in cases {
        let dir = tempfile::tempdir().unwrap();
        hls(dir.path(), change);
        let server = Server::start("127.0.0.1", files(dir.path()));
        println!("{name}");
        refused(&format!("http://127.0.0.1:{}/live.m3u8", server.port), &says);
        assert_eq!(foreign.requests(), 0, "{name}");
        assert!(server.requests() > 0, "{name}");
    }
}

#[test]
fn what_a_playlist_names_on_an_allowed_server_is_played() {
    let dir = tempfile::tempdir().unwrap();
    let other = Server::start("127.0.0.1", files(dir.path()));
    hls(dir.path(), |text| {
        let variant = text.replace("s0000", &format!("http://127.0.0.1:{}/s0000", other.port));
        std::fs::write(dir.path().join("low.m3u8"), variant).unwrap();
        "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=100000\nlow.m3u8\n".into()
    });
    let server = Server::start("127.0.0.1", files(dir.path()));
    let url = format!("http://127.0.0.1:{}/live.m3u8", server.port);
    let (camera, queue) = start(config("hls", &url), &only_127_0_0_1());
    let (frames, how) = drain(&queue);
    assert_eq!(how, Some(true), "{:?}", camera.status());
    assert!((14..=16).contains(&frames.len()), "{} frames in 3 s at 5 a second", frames.len());
    assert!(other.requests() >= 3);
}

#[test]
fn a_playlist_leads_to_no_file_and_no_other_protocol() {
    let secret = tempfile::tempdir().unwrap();
    ball_avi(&secret.path().join("sesame.avi"), 25);
    let file = file_url(&secret.path().join("sesame.avi"));
    for (address, says) in [(file.as_str(), "file of this machine"), ("rtsp://127.0.0.1/sesame", "rtsp address")] {
        let dir = tempfile::tempdir().unwrap();
        hls(dir.path(), |text| text.replace("s00000.ts", address));
        let server = Server::start("127.0.0.1", files(dir.path()));
        refused(&format!("http://127.0.0.1:{}/live.m3u8", server.port), says);
        // A local playlist is held to the files beside it.
        let (camera, queue) = start(config("local", &file_url(&dir.path().join("live.m3u8"))), &only_127_0_0_1());
        drain(&queue);
        let status = camera.status();
        assert!(status.reason.as_ref().is_some_and(|why| why.contains(says)), "{status:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    hls(dir.path(), |text| text);
    let (camera, queue) = start(config("local", &file_url(&dir.path().join("live.m3u8"))), &only_127_0_0_1());
    let (frames, how) = drain(&queue);
    assert_eq!(how, Some(true), "{:?}", camera.status());
    assert!(frames.len() >= 14, "{} frames", frames.len());
}

#[test]
fn a_name_that_has_moved_is_refused_unless_the_configuration_has_the_camera() {
    let dir = tempfile::tempdir().unwrap();
    ball_avi(&dir.path().join("ball.avi"), 25);
    let moved = Server::start("127.0.0.2", files(dir.path()));
    let url = format!("http://127.0.0.2:{}/ball.avi", moved.port);
    refused(&url, "127.0.0.2 has an address outside of the networks of ingest.sources");
    refused(&format!("rtsp://127.0.0.2:{}/ball", moved.port), "outside of the networks");
    assert_eq!(moved.requests(), 0);
    let queue = Queue::new(2);
    let spec = CameraSpec::new(config("own", &url), &only_127_0_0_1()).unwrap().configured(true);
    let camera = Camera::start(spec, queue.clone(), Shutdown::new()).unwrap();
    let (frames, how) = drain(&queue);
    assert_eq!((how, frames.len()), (Some(true), 5), "{:?}", camera.status());
}

#[test]
fn the_password_goes_to_the_cameras_own_host_alone() {
    let dir = tempfile::tempdir().unwrap();
    ball_avi(&dir.path().join("ball.avi"), 25);
    let locked: Answer = {
        let files = files(dir.path());
        Arc::new(move |path, head| {
            if head.contains("Authorization: Basic YWRtaW46aHVudGVyMg==") {
                files(path, head)
            } else {
                ("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"cam\"".into(), Vec::new())
            }
        })
    };
    let server = Server::start("127.0.0.1", locked);
    let url = |path: &str| format!("http://admin:hunter2@127.0.0.1:{}/{path}", server.port);
    let (camera, queue) = start(config("gate", &url("ball.avi")), &ingest());
    let (frames, how) = drain(&queue);
    assert_eq!((how, frames.len()), (Some(true), 5), "{:?}", camera.status());
    // Another host that asks for a password, too.
    let other = Server::start(
        "127.0.0.2",
        Arc::new(|_, _| ("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"other\"".into(), Vec::new())),
    );
    let there = format!("to/127.0.0.2:{}/ball.avi", other.port);
    let (camera, queue) = start(config("gate", &url(&there)), &ingest());
    wait_for_state(&camera, &queue, CameraState::Retrying);
    let heads = other.heads.lock().unwrap().join("\n");
    assert!(!heads.is_empty() && !heads.contains("Authorization"), "{heads}");
}
