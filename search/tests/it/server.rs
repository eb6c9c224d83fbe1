//! Stores on servers, for the tests that run against every store.
//!
//! | server | when |
//! |---|---|
//! | the double in this process | always |
//! | the server at `QDRANT_URL` (gRPC) | the variable is set |
//! | the binary `QDRANT_BIN`, started here on free ports with a folder of its own | the variable is set |

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sightline_core::Config;
use sightline_core::config::{VectorPlace, VectorsConfig};
use sightline_double::DoubleThread;
use sightline_search::{EdgeOptions, QdrantStore};
use sightline_testing::free_address;
use uuid::Uuid;

use crate::support::MODEL;

/// Loopback, at a free port.
pub const ANY_PORT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// An available server.
#[derive(Clone, Debug)]
pub struct Place {
    pub name: &'static str,
    url: String,
    api_key: String,
}

impl Place {
    /// Returns a configuration with collection names that no other test uses.
    pub fn config(&self) -> VectorsConfig {
        let defaults = Config::load(None).unwrap().vectors;
        VectorsConfig {
            store: VectorPlace::Server,
            url: self.url.clone(),
            api_key: self.api_key.clone(),
            collection: format!("test-{}", Uuid::new_v4().simple()),
            timeout_seconds: 30.0,
            ..defaults
        }
    }
}

/// Returns all available servers.
pub fn places() -> &'static [Place] {
    static PLACES: OnceLock<Vec<Place>> = OnceLock::new();
    PLACES.get_or_init(|| {
        let mut all = vec![Place { name: "double", url: double_url(), api_key: String::new() }];
        let api_key = std::env::var("QDRANT_API_KEY").unwrap_or_default();
        if let Ok(url) = std::env::var("QDRANT_URL") {
            all.push(Place { name: "QDRANT_URL", url, api_key });
        }
        if let Ok(binary) = std::env::var("QDRANT_BIN") {
            all.push(Place { name: "QDRANT_BIN", url: start(&binary), api_key: String::new() });
        }
        let names: Vec<_> = all.iter().map(|p| p.name).collect();
        println!("servers asked: {names:?} (the double, QDRANT_URL, QDRANT_BIN)");
        all
    })
}

/// Runs a test against an empty store on every server.
pub fn on_each(width: usize, question: impl Fn(&QdrantStore)) {
    for place in places() {
        let store = QdrantStore::open(&place.config(), MODEL, width).unwrap_or_else(|e| panic!("{}: {e}", place.name));
        question(&store);
        store.remove().unwrap();
    }
}

/// Starts a double that lives as long as the tests.
fn double_url() -> String {
    let dir = tempfile::tempdir().unwrap().keep();
    // Low thresholds, so that the graph is built and walked in tests of a few thousand points.
    let options = EdgeOptions { index_from: 2000, compare_all_below: 50, index_threads: 2, ..EdgeOptions::default() };
    let double = DoubleThread::start(&dir, ANY_PORT, None, options).unwrap();
    let url = double.url();
    std::mem::forget(double);
    url
}

/// Starts a real server, which ends with this process, and waits until it answers.
fn start(binary: &str) -> String {
    let dir = tempfile::tempdir().unwrap().keep();
    let (http, grpc) = (free_address().port(), free_address().port());
    let config = dir.join("config.yaml");
    let text = format!(
        "storage:\n  storage_path: {0}/storage\n  snapshots_path: {0}/snapshots\nservice:\n  host: 127.0.0.1\n  \
         http_port: {http}\n  grpc_port: {grpc}\ncluster:\n  enabled: false\ntelemetry_disabled: true\n",
        dir.display()
    );
    std::fs::File::create(&config).unwrap().write_all(text.as_bytes()).unwrap();
    // The shell reads from a pipe that closes whenever this process ends, and then stops the
    // server.
    let script = r#""$1" --config-path "$2" >"$3/log" 2>&1 & server=$!; cat >/dev/null; kill $server; wait $server; rm -rf "$3""#;
    let mut shell = Command::new("sh")
        .args(["-c", script, "sh", binary])
        .arg(&config)
        .arg(&dir)
        .current_dir(&dir)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    // This process never closes it.
    std::mem::forget(shell.stdin.take());
    std::thread::spawn(move || shell.wait());
    let url = format!("http://127.0.0.1:{grpc}");
    let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    let begun = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", grpc)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "QDRANT_BIN does not answer: {}", log());
        std::thread::sleep(Duration::from_millis(100));
    }
    url
}
