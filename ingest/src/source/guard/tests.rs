//! Tests of the guard and its proxy with plain sockets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use sightline_core::Config;
use sightline_core::config::{CameraConfig, IngestConfig};

use super::proxy::Request;
use super::*;

fn guard(url: &str, rules: &[&str], configured: bool) -> Arc<Guard> {
    let rules: Vec<String> = rules.iter().map(|rule| (*rule).to_owned()).collect();
    let sources = AllowedSources::try_from(rules).expect("valid rules");
    let node = IngestConfig { sources, ..Config::layered(None, []).expect("default").ingest };
    let camera = CameraConfig::new("gate".parse().expect("valid"), url);
    Guard::new(&CameraSpec::new(camera, &node).expect("valid").configured(configured))
}

fn allows(guard: &Guard, scheme: &str, host: &str, port: u16) -> bool {
    guard.addresses(scheme, host, port).is_ok()
}

#[test]
fn a_camera_of_the_configuration_stays_on_its_host_and_where_rules_allow() {
    let guard = guard("http://127.0.0.9:8080/x", &["http", "127.0.0.1/32"], true);
    assert!(allows(&guard, "http", "127.0.0.9", 8080) && allows(&guard, "https", "127.0.0.9", 8443));
    assert!(allows(&guard, "http", "127.0.0.1", 80));
    assert_eq!(guard.refusal(), None);
    assert!(!allows(&guard, "rtsp", "127.0.0.9", 554) && !allows(&guard, "https", "127.0.0.1", 443));
    assert!(!allows(&guard, "http", "127.0.0.2", 80));
    let first = guard.refusal().expect("the first reason");
    assert!(first.contains("rtsp://127.0.0.9:554") && first.contains("ingest.sources"), "{first}");
}

#[test]
fn a_camera_of_the_api_must_still_lie_in_the_networks() {
    // As if its name had another address than when it was added.
    let moved = guard("http://127.0.0.9:8080/x", &["http", "127.0.0.1/32"], false);
    assert!(!allows(&moved, "http", "127.0.0.9", 8080));
    assert!(moved.refusal().is_some_and(|why| why.contains("outside of the networks")));
    let rtsp = |configured| guard("rtsp://127.0.0.9/x", &["rtsp", "127.0.0.1/32"], configured);
    assert_eq!(rtsp(false).check_own_server(), Err(NotConnected::Refused));
    assert_eq!(rtsp(true).check_own_server(), Ok(()));
    // The API, with rules of its own, allowed the address: the scheme is not asked for again.
    let other = guard("http://127.0.0.1:8080/x", &["rtsp", "127.0.0.1/32"], false);
    assert!(allows(&other, "http", "127.0.0.1", 8080) && !allows(&other, "http", "127.0.0.1", 9200));
    assert_eq!(
        guard("http://no-such-host.invalid/", &["http"], false).addresses("http", "no-such-host.invalid", 80),
        Err(NotConnected::Unresolved)
    );
}

#[test]
fn files_lie_beside_the_local_playlist_and_no_server_leads_to_one() {
    let local = guard("file:///srv/footage/live.m3u8", &["file:/srv"], false);
    assert!(local.allows_file(Path::new("/srv/footage/s1.ts")) && local.allows_file(Path::new("/srv/footage/a/s1.ts")));
    assert!(!local.allows_file(Path::new("/srv/footage/../other/s1.ts")) && !local.allows_file(Path::new("/srv/x.ts")));
    assert!(!guard("http://cam/live.m3u8", &["http", "file"], true).allows_file(Path::new("/etc/passwd")));
}

#[test]
fn credentials_are_for_the_cameras_own_host() {
    let guard = guard("http://admin:hunter2@Cam.example:81/x", &["http"], false);
    assert_eq!(guard.credentials("cam.example"), Some(("admin".into(), "hunter2".into())));
    assert_eq!(guard.credentials("cdn.example"), None);
}

#[test]
fn requests_of_a_proxy_are_understood() {
    let head =
        "GET http://cam:81/a@b?c=1 HTTP/1.1\r\nHost: cam:81\r\nProxy-Connection: x\r\nConnection: keep-alive\r\n\r\n";
    let request = Request::parse(head).expect("a request");
    assert_eq!((request.scheme, request.host.as_str(), request.port), ("http", "cam", 81));
    let sent = "GET /a@b?c=1 HTTP/1.1\r\nHost: cam:81\r\nConnection: close\r\n\r\n";
    assert_eq!(request.head.as_deref(), Some(sent));
    let tunnel = Request::parse("CONNECT [::1]:8443 HTTP/1.1\r\n\r\n").expect("a request");
    assert_eq!((tunnel.scheme, tunnel.host.as_str(), tunnel.port, tunnel.head), ("https", "::1", 8443, None));
    let bare = Request::parse("GET http://cam?x HTTP/1.0\r\n\r\n").expect("a request");
    assert_eq!((bare.port, bare.head.as_deref()), (80, Some("GET /?x HTTP/1.0\r\nConnection: close\r\n\r\n")));
    for bad in [
        "GET /etc/passwd HTTP/1.1\r\n\r\n",
        "GET file:///etc/passwd HTTP/1.1\r\n\r\n",
        "GET http://a@b/ HTTP/1.1\r\n\r\n",
        "GET http://cam:99999/ HTTP/1.1\r\n\r\n",
        "POST http://cam/ HTTP/1.1\r\n\r\n",
        "CONNECT cam:x HTTP/1.1\r\n\r\n",
        "GET http:// HTTP/1.1\r\n\r\n",
        "ü",
    ] {
        assert_eq!(Request::parse(bad), None, "{bad}");
    }
}

/// A server that answers each connection with `answer`, and sends its request's head to the test.
fn server(answer: &'static str) -> (u16, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (told, requests) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut block = [0; 4096];
            let count = client.read(&mut block).unwrap_or(0);
            let _ = told.send(String::from_utf8_lossy(&block[..count]).into_owned());
            let _ = client.write_all(answer.as_bytes());
        }
    });
    (port, requests)
}

fn ask(proxy: SocketAddr, request: &str) -> String {
    let mut client = TcpStream::connect(proxy).expect("the proxy listens");
    client.write_all(request.as_bytes()).expect("taken");
    let mut answer = String::new();
    let _ = client.read_to_string(&mut answer);
    answer
}

#[test]
fn the_proxy_connects_to_what_is_allowed_and_ends_with_the_connection() {
    let (port, requests) = server("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi");
    let guard = guard("http://u:secret@127.0.0.9/x", &["http", "https", "127.0.0.1/32"], true);
    let proxy = guard.proxy().expect("a proxy");
    let get = format!("GET http://127.0.0.1:{port}/a HTTP/1.1\r\nAuthorization: Basic dTpzZWNyZXQ=\r\n\r\n");
    assert_eq!(ask(proxy, &get), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi");
    // The password is for the camera's own host.
    assert_eq!(requests.recv().expect("a request"), "GET /a HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert_eq!(guard.refusal(), None);
    let foreign = format!("GET http://127.0.0.2:{port}/a HTTP/1.1\r\n\r\n");
    assert!(ask(proxy, &foreign).starts_with("HTTP/1.1 403 "));
    let refusal = guard.refusal().expect("refused");
    assert!(refusal.contains(&format!("http://127.0.0.2:{port},")), "{refusal}");
    assert!(ask(proxy, "GET /a HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 400 "));
    assert!(ask(proxy, &format!("CONNECT 127.0.0.2:{port} HTTP/1.1\r\n\r\n")).starts_with("HTTP/1.1 403 "));

    // A tunnel carries whatever is said, both ways, until the camera's connection is over.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let mut client = TcpStream::connect(proxy).expect("the proxy listens");
    client.write_all(format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\nearly").as_bytes()).expect("taken");
    let (mut far, _) = listener.accept().expect("a connection");
    let mut bytes = [0; 5];
    far.read_exact(&mut bytes).expect("bytes");
    assert_eq!(&bytes, b"early");
    far.write_all(b"there").expect("taken");
    let established = b"HTTP/1.1 200 Connection established\r\n\r\nthere";
    let mut said = vec![0; established.len()];
    client.read_exact(&mut said).expect("bytes");
    assert_eq!(said, established);
    guard.close();
    assert_eq!(client.read(&mut bytes).unwrap_or(0), 0, "ended");
    assert_eq!(far.read(&mut bytes).unwrap_or(0), 0, "ended");
    // Nothing is taken any more.
    std::thread::sleep(Duration::from_millis(200));
    assert!(TcpStream::connect(proxy).is_err());
    assert!(requests.try_recv().is_err());
}
