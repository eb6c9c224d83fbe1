//! Test double of a Qdrant server: acknowledged changes survive `kill -9`; it identifies itself;
//! and the store behaves when its server is unreachable, is another's, or holds something else.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sightline_core::shutdown::Shutdown;
use sightline_search::{Filter, Journals, Point, QdrantStore, Sink, StoreError, VectorStore};

use crate::server::places;
use crate::support::{MODEL, WIDTH, camera, point, random, rng, turned};

/// Returns a binary beside this test's folder. (Variables like CARGO_BIN_EXE_qdrant-double do not
/// reach the compiler: the shell of .cargo/rustc-wrapper drops names with a hyphen.)
pub fn binary(name: &str) -> std::path::PathBuf {
    let test = std::env::current_exe().unwrap();
    let found = test.ancestors().nth(2).unwrap().join(name);
    assert!(found.is_file(), "{} is missing: build with its feature", found.display());
    found
}

/// The double as a process of its own, killed on drop.
pub struct Process {
    child: Child,
    pub url: String,
}

impl Process {
    pub fn start(folder: &Path, listen: &str, more: &[&str]) -> Self {
        let mut child = Command::new(binary("qdrant-double"))
            .args(["--listen", listen, "--index-from", "500", "--folder"])
            .arg(folder)
            .args(more)
            .env("SIGHTLINE_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("not Qdrant"), "{line:?}");
        let url = line.split_whitespace().last().unwrap().to_owned();
        Self { child, url }
    }

    /// Address that it listens on, to start another one there.
    pub fn address(&self) -> String {
        self.url.trim_start_matches("http://").to_owned()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(url: &str) -> sightline_core::config::VectorsConfig {
    let mut config = places()[0].config();
    config.url = url.to_owned();
    config.timeout_seconds = 5.0;
    config
}

fn nth(n: i64) -> Point {
    point(["gate", "door"][n as usize % 2], n / 3, (n % 3) as u8, n, random(&mut rng(n as u64), WIDTH))
}

#[test]
fn what_is_acknowledged_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Process::start(dir.path(), "127.0.0.1:0", &[]);
    let config = config(&server.url);
    let store = QdrantStore::open(&config, MODEL, WIDTH).unwrap();
    let mut acknowledged = 0i64;
    for round in 0..6 {
        // Every round acknowledges something, however slow the machine.
        store.upsert(&(acknowledged..acknowledged + 20).map(nth).collect::<Vec<_>>()).unwrap();
        acknowledged += 20;
        let killer = {
            let pid = server.child.id().to_string();
            let after = Duration::from_millis(60 + 70 * round);
            std::thread::spawn(move || {
                std::thread::sleep(after);
                Command::new("kill").args(["-9", &pid]).status().unwrap();
            })
        };
        let mut failed = false;
        while !failed {
            let batch: Vec<Point> = (acknowledged..acknowledged + 20).map(nth).collect();
            match store.upsert(&batch) {
                Ok(()) => acknowledged += 20,
                Err(e) => {
                    assert!(!e.is_permanent(), "{e}");
                    failed = true;
                }
            }
        }
        killer.join().unwrap();
        server.child.wait().unwrap();
        server = Process::start(dir.path(), &server.address(), &[]);
        // The same store continues with the new process.
        let expected: std::collections::HashSet<_> = (0..acknowledged).map(|n| nth(n).id).collect();
        let there: std::collections::HashSet<_> = store.ids(&Filter::default()).unwrap().into_iter().collect();
        assert!(expected.is_subset(&there), "round {round}: something acknowledged is lost");
        assert_eq!(store.count(&Filter::default()).unwrap(), there.len() as u64);
        for n in [0, acknowledged / 2, acknowledged - 1] {
            let found = store.search(&nth(n).vector, 1, &Filter::ids(vec![nth(n).id])).unwrap();
            assert!(found[0].cosine > 0.9999, "{}", found[0].cosine);
        }
    }
    println!("6 kills, {acknowledged} points acknowledged, none lost");
    assert!(acknowledged > 100);
    assert_eq!(store.cameras().unwrap().len(), 2);
}

#[test]
fn an_unreachable_server_is_a_transient_failure() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Process::start(dir.path(), "127.0.0.1:0", &[]);
    let config = config(&server.url);
    let store = QdrantStore::open(&config, MODEL, WIDTH).unwrap();
    store.upsert(&[nth(0)]).unwrap();
    server.kill();
    let error = store.search(&turned(0, 0.0), 1, &Filter::default()).unwrap_err();
    assert!(matches!(error, StoreError::Server { .. }) && !error.is_permanent(), "{error}");
    assert!(error.to_string().contains(&server.url), "{error}");
    assert!(store.upsert(&[nth(1)]).is_err_and(|e| !e.is_permanent()));
    assert!(store.delete(&Filter::camera(camera("gate"))).is_err_and(|e| !e.is_permanent()));
    // Opening waits for the server, and ends at a shutdown.
    let (mut told, stop) = (0, Shutdown::new());
    let opened = QdrantStore::open_with_retry(&config, MODEL, WIDTH, &stop, |_| {
        told += 1;
        stop.trigger();
    });
    assert!(opened.unwrap().is_none() && told == 1);
    let address = server.address();
    let back = {
        let dir = dir.path().to_owned();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(400));
            Process::start(&dir, &address, &[])
        })
    };
    let again = QdrantStore::open_with_retry(&config, MODEL, WIDTH, &Shutdown::new(), |_| {}).unwrap().unwrap();
    assert_eq!(again.count(&Filter::default()).unwrap(), 1);
    assert_eq!(store.count(&Filter::default()).unwrap(), 1, "the old connection is as good as new");
    drop(back.join().unwrap());
}

#[test]
fn an_index_worker_outlives_its_server_and_loses_nothing() {
    use sightline_core::queue::Queue;
    use sightline_core::{Delivery, Discard, IndexEvent, Receipt};
    use sightline_search::{Coverage, FolderGallery, IndexerOptions, ServerCoverage, indexer};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    const ALL: i64 = 400;
    let (dir, pictures) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = Process::start(dir.path(), "127.0.0.1:0", &[]);
    let mut config = config(&server.url);
    config.timeout_seconds = 1.0;
    let store = QdrantStore::open(&config, MODEL, WIDTH).unwrap();
    let coverage = Coverage::with_ledger(Arc::new(ServerCoverage::open(&config).unwrap()));
    let gallery = FolderGallery::open(pictures.path(), MODEL).unwrap();
    let journals = Journals::in_memory();
    let sink = Sink { store: &store, gallery: &gallery, coverage: &coverage, journals: &journals };
    let (queue, stop, done) = (Queue::<Delivery<IndexEvent>>::new(8), Shutdown::new(), Arc::new(AtomicI64::new(0)));
    let options =
        IndexerOptions { batch: 8, backoff_first: Duration::from_millis(20), backoff_last: Duration::from_millis(200) };
    std::thread::scope(|scope| {
        let indexing = scope.spawn(|| indexer::run(&queue, sink, &Discard, &options, &stop).unwrap());
        scope.spawn(|| {
            for n in 0..ALL {
                let event = IndexEvent::Sighting(Box::new(crate::support::sighting("gate", n, 0, n, nth(n).vector)));
                let counted = done.clone();
                let receipt = Receipt::new(move || {
                    counted.fetch_add(1, Ordering::SeqCst);
                });
                queue.push_wait(Delivery::new(event, receipt)).unwrap();
            }
            let passed = crate::support::progress("gate", 0, ALL, true);
            queue.push_wait(IndexEvent::Progress(passed).into()).unwrap();
            queue.close();
        });
        let until = |what: &str, reached: &dyn Fn() -> bool| {
            let begun = Instant::now();
            while !reached() {
                assert!(begun.elapsed().as_secs() < 60, "waited in vain until {what}");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        for round in 1..4 {
            until("some are stored", &|| done.load(Ordering::SeqCst) >= 60 * round);
            server.kill();
            until("the fault is told", &|| coverage.fault().is_some());
            let before = done.load(Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(700));
            assert_eq!(done.load(Ordering::SeqCst), before, "nothing counts as stored meanwhile");
            let address = server.address();
            server = Process::start(dir.path(), &address, &[]);
        }
        indexing.join().unwrap();
    });
    assert_eq!(done.load(Ordering::SeqCst), ALL);
    assert_eq!(store.count(&Filter::default()).unwrap(), ALL as u64);
    let gate = coverage.get(&camera("gate")).unwrap();
    assert!(gate.ended && gate.indexed >= ALL as u64 && coverage.fault().is_none(), "{gate:?}");
}

#[test]
fn a_server_that_hangs_costs_the_timeout_and_no_more() {
    // Accepts the connection and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(&format!("http://{}", silent.local_addr().unwrap()));
    config.timeout_seconds = 0.3;
    let begun = Instant::now();
    let error = QdrantStore::open(&config, MODEL, WIDTH).unwrap_err();
    assert!(matches!(error, StoreError::Server { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[test]
fn the_api_key_is_sent_and_a_missing_one_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let server = Process::start(dir.path(), "127.0.0.1:0", &["--api-key", "secret"]);
    let mut config = config(&server.url);
    let error = QdrantStore::open(&config, MODEL, WIDTH).unwrap_err();
    assert!(error.to_string().contains("API key") && !error.is_permanent(), "{error}");
    config.api_key = "secret".to_owned();
    let store = QdrantStore::open(&config, MODEL, WIDTH).unwrap();
    assert!(store.health().unwrap().contains("double of Qdrant"));
}

#[test]
fn a_collection_of_another_kind_is_reported() {
    for place in places() {
        let config = place.config();
        let store = QdrantStore::open(&config, MODEL, WIDTH).unwrap();
        let error = QdrantStore::open(&config, MODEL, 2 * WIDTH).unwrap_err();
        assert!(matches!(error, StoreError::OtherCollection { .. }), "{error}");
        assert!(error.to_string().contains("8 values") && error.to_string().contains("16"), "{error}");
        assert!(matches!(QdrantStore::open(&config, "no/name", WIDTH), Err(StoreError::ModelId(_))));
        // Another model has a collection of its own; the alias stays until that model takes it.
        let other = QdrantStore::open(&config, "other", 2 * WIDTH).unwrap();
        assert_ne!(store.collection(), other.collection());
        other.take_alias().unwrap();
        other.remove().unwrap();
        store.remove().unwrap();
    }
}

#[test]
fn several_clients_at_once() {
    for place in places() {
        let config = place.config();
        std::thread::scope(|scope| {
            for client in 0..4i64 {
                let config = &config;
                scope.spawn(move || {
                    let store = QdrantStore::open(config, MODEL, WIDTH).unwrap();
                    for n in 0..25 {
                        let n = client * 1000 + n * 4;
                        store.upsert(&(n..n + 4).map(nth).collect::<Vec<_>>()).unwrap();
                        assert!(!store.search(&nth(n).vector, 3, &Filter::default()).unwrap().is_empty());
                    }
                });
            }
        });
        let store = QdrantStore::open(&config, MODEL, WIDTH).unwrap();
        assert_eq!(store.count(&Filter::default()).unwrap(), 400);
        store.remove().unwrap();
    }
}

#[test]
fn it_cannot_be_mistaken_for_qdrant() {
    for flag in ["--version", "--help"] {
        let said = Command::new(binary("qdrant-double")).arg(flag).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(said.to_lowercase().contains("not qdrant"), "{said}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let place = places().iter().find(|p| p.name == "double").unwrap();
    let asked = runtime.block_on(async {
        let client = qdrant_client::Qdrant::from_url(&place.config().url).skip_compatibility_check().build().unwrap();
        client.collection_cluster_info("x").await
    });
    assert!(asked.unwrap_err().to_string().contains("not Qdrant"));
}
