//! A store on a server that goes away, hangs, is another's or holds something else; and several
//! clients of one.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use sightline_core::shutdown::Shutdown;
use sightline_double::DoubleThread;
use sightline_search::{EdgeOptions, Filter, Journals, Point, QdrantStore, Sink, StoreError, VectorStore};
use sightline_testing::until;

use crate::server::{ANY_PORT, places};
use crate::support::{MODEL, WIDTH, camera, point, random, rng, turned};

/// Starts a server that the test can stop.
pub fn start(folder: &Path, address: SocketAddr) -> DoubleThread {
    DoubleThread::start(folder, address, None, EdgeOptions { index_from: 500, ..EdgeOptions::default() }).unwrap()
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
fn an_unreachable_server_is_a_transient_failure() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = start(dir.path(), ANY_PORT);
    let config = config(&server.url());
    let store = QdrantStore::open(&config, MODEL, WIDTH).unwrap();
    store.upsert(&[nth(0)]).unwrap();
    server.stop().unwrap();
    let error = store.search(&turned(0, 0.0), 1, &Filter::default()).unwrap_err();
    assert!(matches!(error, StoreError::Server { .. }) && !error.is_permanent(), "{error}");
    assert!(error.to_string().contains(&server.url()), "{error}");
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
            start(&dir, address)
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
    let mut server = start(dir.path(), ANY_PORT);
    let mut config = config(&server.url());
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
        let limit = Duration::from_secs(60);
        for round in 1..4 {
            until(limit, "some are stored", || done.load(Ordering::SeqCst) >= 60 * round);
            server.stop().unwrap();
            until(limit, "the fault is told", || coverage.fault().is_some());
            let before = done.load(Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(700));
            assert_eq!(done.load(Ordering::SeqCst), before, "nothing counts as stored meanwhile");
            let address = server.address();
            server = start(dir.path(), address);
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
    let key = Some("secret".to_owned());
    let server = DoubleThread::start(dir.path(), ANY_PORT, key, EdgeOptions::default()).unwrap();
    let mut config = config(&server.url());
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
