//! Coverage that processes share over a server: one reads what another writes, and restarts never
//! move it backwards.

use std::sync::Arc;
use std::time::Duration;

use sightline_core::message::Origin;
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_core::{CameraState, Discard, IndexEvent, NodeReport};
use sightline_search::{
    Coverage, CoverageLedger, FolderGallery, IndexerOptions, Journals, QdrantStore, RemoteCoverage, ServerCoverage,
    Sink, VectorStore, indexer,
};
use sightline_testing::until;

use crate::server::places;
use crate::support::{MODEL, WIDTH, at, camera, progress, sighting, turned};

fn report(at_us: i64, dropped: u64) -> NodeReport {
    let camera = camera("gate");
    NodeReport {
        origin: Origin::of_camera("node", dropped, &camera),
        camera,
        at: at(at_us),
        state: CameraState::Retrying,
        reason: Some("stalled".to_owned()),
        since: at(1),
        connection: 3,
        frames_decoded: 1,
        frames_analysed: 2,
        frames_dropped: 3,
        crops: 4,
        crops_dropped: dropped,
        retry_in_s: Some(1.5),
        spooled_bytes: 5,
    }
}

/// One run of an index worker.
fn index(store: &dyn VectorStore, ledger: Arc<ServerCoverage>, events: Vec<IndexEvent>) -> Coverage {
    let dir = tempfile::tempdir().unwrap();
    let gallery = FolderGallery::open(dir.path(), MODEL).unwrap();
    let (queue, coverage) = (Queue::new(64), Coverage::with_ledger(ledger));
    for event in events {
        queue.push_wait(event).unwrap();
    }
    queue.close();
    let options = IndexerOptions { batch: 2, ..IndexerOptions::default() };
    let sink = Sink { store, gallery: &gallery, coverage: &coverage, journals: &Journals::in_memory() };
    indexer::run(&queue, sink, &Discard, &options, &Shutdown::new()).unwrap();
    coverage
}

#[test]
fn the_api_reads_what_index_workers_write_and_restarts_never_move_coverage_backwards() {
    for place in places() {
        let config = place.config();
        let store = QdrantStore::open(&config, MODEL, WIDTH).unwrap();
        let ledger = || Arc::new(ServerCoverage::open(&config).unwrap());
        let reader = RemoteCoverage::start(ledger(), Duration::from_millis(20)).unwrap();
        let passed = |us| IndexEvent::Progress(progress("gate", 3, us, false));
        let seen = |us| IndexEvent::Sighting(Box::new(sighting("gate", us, 0, us, turned(0, 0.0))));
        let newest = report(2_000_000, 9);
        let first = index(
            &store,
            ledger(),
            vec![seen(10), passed(20), IndexEvent::Report(newest.clone()), seen(30), passed(40)],
        );
        let gate = first.get(&camera("gate")).unwrap();
        assert_eq!((gate.indexed, gate.connection, gate.searchable_through), (2, Some(3), Some(at(40))));
        // It restarts, and the last messages are delivered again, followed by an older report.
        let again = index(&store, ledger(), vec![passed(20), IndexEvent::Report(report(1_000_000, 2)), passed(30)]);
        let gate = again.get(&camera("gate")).unwrap();
        assert_eq!((gate.connection, gate.searchable_through), (Some(3), Some(at(40))));
        assert_eq!(gate.report, Some(newest));
        until(Duration::from_secs(20), "the reader knows the same", || {
            reader.coverage().get(&camera("gate")).as_ref() == Some(&gate)
        });
        reader.coverage().forget(&camera("gate"));
        assert!(ledger().all().unwrap().is_empty(), "a removed camera is forgotten for good");
        drop(reader);
        store.remove().unwrap();
        ServerCoverage::open(&config).unwrap().remove().unwrap();
    }
}
