//! Clients that are slow, many, inventive or careless, over real sockets; and TLS.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use sightline_api::startup;
use sightline_testing::{repository, until, until_some};
use tokio_rustls::rustls::crypto::ring;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::support::{START_TOKEN, Server, camera};

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.base.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    stream
}

/// Reads until the server closes the connection.
fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
            panic!("the connection stays open: {}", String::from_utf8_lossy(&all))
        }
        // A reset closes it as well.
        _ => String::from_utf8_lossy(&all).into_owned(),
    }
}

#[test]
fn half_a_header_is_cut_off() {
    let server = Server::with(true, |c| c.server.header_seconds = 0.3);
    let started = Instant::now();
    for half in ["", "GET /healthz HT", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n"] {
        let mut stream = connect(&server);
        stream.write_all(half.as_bytes()).unwrap();
        let answer = rest(&mut stream);
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    assert!(started.elapsed() < Duration::from_secs(10));
    // One that sends a whole request and then nothing is answered, and closed when it is idle.
    let mut stream = connect(&server);
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert!(rest(&mut stream).starts_with("HTTP/1.1 200"));
}

#[test]
fn half_a_body_is_cut_off() {
    let server = Server::with(true, |c| c.server.body_seconds = 0.5);
    let head = format!(
        "POST /v1/search HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {START_TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{\"query\": \"a m"
    );
    let mut stream = connect(&server);
    stream.write_all(head.as_bytes()).unwrap();
    let answer = rest(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("body_timeout"), "{answer}");
    // A trickle does not help: the time counts for the whole body.
    let mut stream = connect(&server);
    stream.write_all(head.as_bytes()).unwrap();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) && stream.write_all(b" ").is_ok() {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(started.elapsed() < Duration::from_secs(5), "the server goes on reading");
}

#[test]
fn connections_beyond_the_limit_are_refused_and_the_service_lives() {
    let server = Server::with(true, |c| c.server.max_connections = 3);
    let held: Vec<TcpStream> = (0..3).map(|_| connect(&server)).collect();
    std::thread::sleep(Duration::from_millis(200));
    for _ in 0..20 {
        let mut stream = connect(&server);
        let answer = rest(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("Retry-After"), "{answer}");
    }
    drop(held);
    until(Duration::from_secs(10), "places come back", || {
        let mut stream = connect(&server);
        let asked = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        asked.is_ok() && rest(&mut stream).starts_with("HTTP/1.1 200")
    });
}

#[test]
fn requests_beyond_the_limit_are_shed() {
    let server = Server::with(true, |c| c.server.max_requests = 1);
    server.cameras(&["gate"]);
    server.world.put(&camera("gate"), 100, 0);
    let hold = server.world.encoder.hold.lock().unwrap();
    std::thread::scope(|scope| {
        let searching = scope.spawn(|| server.post("/v1/search", &json!({ "query": "axis 0" })));
        let limit = Duration::from_secs(10);
        // Beside the camera's, the record of the search that runs now.
        until(limit, "the search runs", || server.app.state().audit(None, 10).unwrap().len() >= 2);
        let bearer = format!("Bearer {START_TOKEN}");
        let shed = until_some(limit, "a request is shed", || {
            let answer = server.raw("GET", "/v1/cameras", &[("authorization", &bearer)], b"");
            (answer.status == 503).then_some(answer)
        });
        assert_eq!(shed.header("retry-after"), "1");
        let body: serde_json::Value = serde_json::from_slice(&shed.body).unwrap();
        assert_eq!(body["code"], json!("overloaded"));
        assert_eq!(server.get("/readyz").0, 200, "probes are answered all the same");
        drop(hold);
        assert_eq!(searching.join().unwrap().0, 200);
    });
    assert_eq!(server.get("/v1/cameras").0, 200);
}

#[test]
fn invented_methods_make_no_metrics() {
    let metrics = startup::metrics().unwrap();
    let server = Server::start();
    let mut stream = connect(&server);
    for n in 0..1000 {
        write!(stream, "INVENTED{n} /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 405", "{n}");
        skip_answer(&mut stream);
    }
    let text = metrics.render();
    assert!(!text.contains("INVENTED"), "no series for each");
    assert!(
        text.contains("sightline_api_requests_total{method=\"other\",route=\"/healthz\",status=\"405\"}"),
        "{text}"
    );
}

/// Reads the rest of an answer with a content length.
fn skip_answer(stream: &mut TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    stream.read_exact(&mut vec![0; length]).unwrap();
}

#[test]
fn the_request_id_is_ours_and_answers_are_compressed() {
    let server = Server::start();
    let sent = [("x-request-id", "forged"), ("accept-encoding", "gzip")];
    let answer = server.raw("GET", "/app.js", &sent, b"");
    assert_eq!(answer.header("x-request-id").len(), 36, "a UUID");
    let plain = server.raw("GET", "/app.js", &[("accept-encoding", "identity")], b"");
    assert_eq!((answer.header("content-encoding"), plain.header("content-encoding")), ("gzip", ""));
    assert!(answer.body.len() < plain.body.len() / 2);
}

/// A client that trusts this authority alone.
fn trusting(ca: &str) -> ureq::Agent {
    let pem = std::fs::read(repository("api/tests/golden/tls").join(ca)).unwrap();
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&[Certificate::from_pem(&pem).unwrap()]))
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()));
    ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).tls_config(tls.build()).build().into()
}

#[test]
fn tls_with_a_certificate_that_is_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let place = |from: &str| {
        for file in ["certificate.pem", "key.pem"] {
            let from = repository("api/tests/golden/tls").join(from).join(file);
            std::fs::copy(from, dir.path().join(file)).unwrap();
        }
    };
    place("one");
    let server = Server::with(true, |c| {
        c.server.tls_certificate = dir.path().join("certificate.pem");
        c.server.tls_key = dir.path().join("key.pem");
        c.server.header_seconds = 1.0;
    });
    let url = format!("{}/healthz", server.base.replace("http://", "https://"));
    let works = |ca: &str| trusting(ca).get(&url).call().is_ok_and(|r| r.status() == 200);
    assert!(works("one/ca.pem") && !works("two/ca.pem"));
    // A client that speaks no TLS, or says nothing, does not hold its connection.
    for said in ["GET /healthz HTTP/1.1\r\n\r\n", ""] {
        let mut stream = connect(&server);
        stream.write_all(said.as_bytes()).unwrap();
        assert!(!rest(&mut stream).contains("200"));
    }
    place("two");
    std::thread::sleep(Duration::from_millis(1100));
    assert!(works("two/ca.pem") && !works("one/ca.pem"));
    std::fs::write(dir.path().join("certificate.pem"), "half a fi").unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    assert!(works("two/ca.pem"), "a damaged file leaves the former certificate");
}

#[test]
fn a_certificate_that_cannot_be_used_is_named() {
    let golden = |path: &str| repository("api/tests/golden/tls").join(path);
    let failed = |certificate: &Path, key: &Path| {
        sightline_api::tls::Tls::load(certificate, key).err().expect("refused").to_string()
    };
    let missing = failed(Path::new("/nowhere.pem"), &golden("one/key.pem"));
    assert!(missing.contains("server.tls_certificate") && missing.contains("/nowhere.pem"), "{missing}");
    let no_key = failed(&golden("one/certificate.pem"), &golden("one/certificate.pem"));
    assert!(no_key.contains("server.tls_key"), "{no_key}");
    let mixed = failed(&golden("one/certificate.pem"), &golden("two/key.pem"));
    assert!(mixed.contains("server.tls_key"), "{mixed}");
}
