//! Metrics that alerts and the dashboard live on: what a full disk keeps out, and what is ready.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::json;
use sightline_api::gauges;
use sightline_core::message::Origin;
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_core::{
    BBox, Config, Crop, CropQuality, Discard, IndexEvent, PatchFeatures, Sighting, Timestamp, TrackId,
};
use sightline_search::{IndexerOptions, Sink, WatchedFolders, indexer};

use crate::support::{JPEG, Server, along, camera};

/// Value of a time series, as it stands in the text.
fn value(metrics: &PrometheusHandle, series: &str) -> Option<f64> {
    let text = metrics.render();
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

fn seen(us: i64) -> IndexEvent {
    let (camera, born) = (camera("gate"), Timestamp::from_micros(us));
    let track = TrackId { born, ordinal: 0 };
    let crop = Crop {
        origin: Origin::of_camera("test", us as u64, &camera),
        camera,
        track,
        crop_no: 0,
        captured_at: born,
        last_seen: born,
        bbox: BBox::default(),
        frame_size: (640, 480),
        quality: CropQuality::default(),
        jpeg: JPEG.into(),
    };
    let patches = PatchFeatures { rows: 1, width: 1, data: vec![0, 0].into() };
    IndexEvent::Sighting(Box::new(Sighting { crop, model_id: "double".into(), feature: along(0), patches }))
}

#[test]
fn a_full_disk_is_a_state_and_what_it_keeps_out_is_counted_once() {
    let server = Server::start();
    let (store, index) = (&server.world.store, &server.world.index);
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let queue = Queue::new(8);
    for us in [1, 2, 3] {
        queue.push_wait(seen(us)).unwrap();
    }
    *store.broken.lock().unwrap() = Some("No space left on device: WAL buffer size exceeds available disk space");
    let (coverage, journals) = (index.coverage().clone(), Arc::clone(index.journals()));
    std::thread::scope(|scope| {
        let indexing = scope.spawn(|| {
            let sink = Sink { store: &**store, gallery: &**index.gallery(), coverage: &coverage, journals: &journals };
            let (first, last) = (Duration::from_millis(5), Duration::from_millis(10));
            let options = IndexerOptions { backoff_first: first, backoff_last: last, ..IndexerOptions::default() };
            let run = || indexer::run(&queue, sink, &Discard, &options, &Shutdown::new());
            metrics::with_local_recorder(&recorder, run)
        });
        let degraded = |cause: &str| value(&metrics, &format!("sightline_index_degraded{{cause=\"{cause}\"}}"));
        server.until("it is full", || (degraded("disk_full") == Some(1.0)).then_some(()));
        // Several attempts later the three are still three.
        let retries = "sightline_index_retries_total{step=\"storage\"}";
        server.until("it is tried again", || value(&metrics, retries).filter(|n| *n > 4.0));
        assert_eq!(value(&metrics, "sightline_index_disk_full_sightings_total"), Some(3.0));
        assert_eq!(degraded("other"), Some(0.0));
        *store.broken.lock().unwrap() = Some("the server is away");
        server.until("the cause is another one", || (degraded("other") == Some(1.0)).then_some(()));
        assert_eq!(degraded("disk_full"), Some(0.0));
        *store.broken.lock().unwrap() = None;
        queue.close();
        indexing.join().unwrap().unwrap();
        assert_eq!((degraded("disk_full"), degraded("other")), (Some(0.0), Some(0.0)));
        assert_eq!(value(&metrics, "sightline_index_disk_full_sightings_total"), Some(3.0));
    });
    assert_eq!(server.world.stored(), 3, "nothing is lost");
}

#[test]
fn gauges_say_what_readyz_says_and_how_many_searches_may_run() {
    let server = Server::with(false, |c| c.search.concurrent = 3);
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::layered(None, []).unwrap();
    config.data.folder = folder.path().to_owned();
    // One round: the task ends at its first wait.
    let round = || {
        let shutdown = Shutdown::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let run = gauges::run(server.app.clone(), WatchedFolders::of(&config), shutdown.clone());
        metrics::with_local_recorder(&recorder, || {
            runtime.block_on(async {
                let stop = async {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    shutdown.trigger();
                };
                tokio::join!(run, stop);
            });
        });
    };
    let started = Instant::now();
    round();
    assert_eq!(value(&metrics, "sightline_api_ready"), Some(0.0));
    assert_eq!(value(&metrics, "sightline_api_part_ok{part=\"model\"}"), Some(0.0));
    server.app.set_index(server.world.index.clone(), crate::support::model_view()).unwrap();
    let hold = server.world.encoder.hold.lock().unwrap();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| server.post("/v1/search", &json!({ "query": "axis 0" })).0);
        let recorded = || server.app.state().audit(None, 9).unwrap().iter().any(|r| r.action == "search");
        server.until("the search runs", || recorded().then_some(()));
        round();
        drop(hold);
        assert_eq!(running.join().unwrap(), 200);
    });
    assert_eq!(value(&metrics, "sightline_api_ready"), Some(1.0));
    for part in ["model", "index", "state", "indexer"] {
        assert_eq!(value(&metrics, &format!("sightline_api_part_ok{{part=\"{part}\"}}")), Some(1.0), "{part}");
    }
    assert_eq!(value(&metrics, "sightline_api_search_permits_limit"), Some(3.0));
    assert_eq!(value(&metrics, "sightline_api_search_permits_in_use"), Some(1.0));
    let free = value(&metrics, "sightline_index_disk_free_bytes{folder=\"data\"}").unwrap();
    assert!(free > 0.0 && started.elapsed() < Duration::from_secs(20), "{free}");
}
