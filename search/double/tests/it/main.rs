//! Integration tests of the double as a process: what it promises of a server, and that nobody
//! takes it for one. What a store does with a server is tested in `search/tests`.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sightline_core::config::{Config, VectorPlace, VectorsConfig};
use sightline_core::ids::sighting_id;
use sightline_core::{BBox, CropQuality, Timestamp, TrackId};
use sightline_search::{Filter, Payload, Point, QdrantStore, VectorStore};
use sightline_testing::{Process, binary};
use uuid::Uuid;

const MODEL: &str = "test-model";
const WIDTH: usize = 8;

fn start(folder: &Path, listen: &str) -> Process {
    let mut command = Command::new(binary("qdrant-double"));
    // A low threshold, so that some kills happen while an index is built.
    command.args(["--index-from", "500", "--listen", listen, "--folder"]).arg(folder).env("SIGHTLINE_LOG", "warn");
    let double = Process::start(&mut command);
    assert!(double.line().contains("not Qdrant"), "{}", double.line());
    double
}

/// Returns the `n`-th point, the same at every call; no two point in the same direction.
fn nth(n: i64) -> Point {
    let camera = ["gate", "door"][n as usize % 2].parse().unwrap();
    let (track, crop_no) = (TrackId { born: Timestamp::from_micros(n / 3), ordinal: 0 }, (n % 3) as u8);
    let at = Timestamp::from_micros(n);
    let id = sighting_id(&camera, track, crop_no);
    let payload = Payload {
        camera,
        track,
        crop_no,
        captured_at: at,
        first_seen: at,
        last_seen: at,
        ended: false,
        bbox: BBox::default(),
        frame_size: (640, 480),
        quality: CropQuality::default(),
        model_id: MODEL.to_owned(),
        trace: Uuid::nil(),
        crop: None,
    };
    let vector = (0..WIDTH).map(|i| (n as f32 * (i + 1) as f32 * 0.7).sin() + 0.01).collect();
    Point { id, vector, payload }
}

#[test]
fn what_is_acknowledged_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = start(dir.path(), "127.0.0.1:0");
    let config = VectorsConfig {
        store: VectorPlace::Server,
        url: server.url().to_owned(),
        timeout_seconds: 5.0,
        ..Config::load(None).unwrap().vectors
    };
    let store = QdrantStore::open(&config, MODEL, WIDTH).unwrap();
    let mut acknowledged = 0i64;
    for round in 0..6 {
        // Every round acknowledges something, however slow the machine.
        store.upsert(&(acknowledged..acknowledged + 20).map(nth).collect::<Vec<_>>()).unwrap();
        acknowledged += 20;
        let address = server.address().to_owned();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(60 + 70 * round));
            server.kill_9();
        });
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
        server = start(dir.path(), &address);
        // The same store continues with the new process.
        let expected: HashSet<_> = (0..acknowledged).map(|n| nth(n).id).collect();
        let there: HashSet<_> = store.ids(&Filter::default()).unwrap().into_iter().collect();
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
fn it_cannot_be_mistaken_for_qdrant() {
    for flag in ["--version", "--help"] {
        let said = Command::new(binary("qdrant-double")).arg(flag).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(said.to_lowercase().contains("not qdrant"), "{said}");
    }
    let dir = tempfile::tempdir().unwrap();
    let double = start(dir.path(), "127.0.0.1:0");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let asked = runtime.block_on(async {
        let client = qdrant_client::Qdrant::from_url(double.url()).skip_compatibility_check().build().unwrap();
        client.collection_cluster_info("x").await
    });
    assert!(asked.unwrap_err().to_string().contains("not Qdrant"));
    // It ends when its clients have closed their connections.
    drop(runtime);
    assert!(double.stop().rest.is_empty(), "one line on standard output");
}

#[test]
fn a_folder_is_used_by_one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let _first = start(dir.path(), "127.0.0.1:0");
    let mut second = Command::new(binary("qdrant-double"));
    let second = second.args(["--listen", "127.0.0.1:0", "--folder"]).arg(dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && said.contains("another running Sightline"), "{said}");
}
