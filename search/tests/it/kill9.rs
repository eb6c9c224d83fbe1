//! `kill -9` in the middle of indexing: every acknowledged sighting is there after the restart,
//! once, with its pictures.
//!
//! The child is this test binary itself; the environment gives it the folder to write to. It
//! indexes sighting after sighting through the real indexer into the real store and prints each
//! number once the coverage has reached it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rand::Rng;
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_core::{Discard, IndexEvent, Sighting, SightingId};
use sightline_search::{
    Coverage, EdgeOptions, EdgeStore, Filter, FolderGallery, Gallery, IndexerOptions, Journals, Sink, VectorStore,
    indexer,
};

use crate::support::{MODEL, WIDTH, at, camera, progress, random, rng, sighting};

const FOLDER: &str = "SIGHTLINE_TEST_KILL9_FOLDER";
const START: &str = "SIGHTLINE_TEST_KILL9_START";

/// Returns the `n`-th sighting, the same in every process.
fn nth(n: u64) -> Sighting {
    sighting("gate", n as i64 / 3, (n % 3) as u8, n as i64, random(&mut rng(n), WIDTH))
}

fn open(folder: &Path) -> (EdgeStore, FolderGallery, Journals) {
    // A low threshold, so that some kills happen while an index is built.
    let options = EdgeOptions { index_from: 200, compare_all_below: 50, index_threads: 1, ..EdgeOptions::default() };
    let store = EdgeStore::open(&folder.join("vectors"), MODEL, WIDTH, &options).unwrap();
    let gallery = FolderGallery::open(&folder.join("gallery"), MODEL).unwrap();
    let journals = Journals::open(folder).unwrap();
    journals.recover(folder, &store, &gallery).unwrap();
    (store, gallery, journals)
}

/// Indexes from `start` on and says `acknowledged N` for each sighting, until `count` are done.
fn index(folder: &Path, start: u64, count: u64, mut say: impl FnMut(u64)) {
    let (store, gallery, journals) = open(folder);
    let (queue, coverage, shutdown) = (Queue::new(64), Coverage::default(), Shutdown::new());
    let options = IndexerOptions { batch: 32, ..IndexerOptions::default() };
    let sink = Sink { store: &store, gallery: &gallery, coverage: &coverage, journals: &journals };
    std::thread::scope(|scope| {
        let indexer = scope.spawn(|| indexer::run(&queue, sink, &Discard, &options, &shutdown).unwrap());
        let feeder = scope.spawn(|| {
            for n in start..start.saturating_add(count) {
                queue.push_wait(IndexEvent::Sighting(Box::new(nth(n)))).unwrap();
                queue.push_wait(IndexEvent::Progress(progress("gate", 0, n as i64, false))).unwrap();
            }
            queue.close();
        });
        let mut next = start;
        loop {
            let over = indexer.is_finished();
            let through = coverage.get(&camera("gate")).and_then(|c| c.searchable_through);
            while through.is_some_and(|t| t >= at(next as i64)) {
                say(next);
                next += 1;
            }
            if over {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        feeder.join().unwrap();
    });
}

/// Both what the child runs, without end, and a test of its own: in an orderly run everything is
/// acknowledged.
#[test]
fn child_indexes_and_acknowledges() {
    if let Ok(folder) = std::env::var(FOLDER) {
        let start = std::env::var(START).unwrap().parse().unwrap();
        let mut out = std::io::stdout().lock();
        index(Path::new(&folder), start, u64::MAX, |n| {
            writeln!(out, "acknowledged {n}").unwrap();
            out.flush().unwrap();
        });
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut said = Vec::new();
    index(dir.path(), 0, 50, |n| said.push(n));
    assert_eq!(said, (0..50).collect::<Vec<_>>());
    check(dir.path(), 50);
}

/// Every sighting below `acknowledged` is stored once and whole, nothing stored lacks its pictures,
/// and no picture is left without its sighting.
fn check(folder: &Path, acknowledged: u64) -> u64 {
    let (store, gallery, _journals) = open(folder);
    for n in 0..acknowledged {
        let s = nth(n);
        let found = store.search(&s.feature, 1, &Filter::ids(vec![s.id()])).unwrap();
        assert_eq!(found.len(), 1, "sighting {n} is lost");
        assert!(found[0].cosine > 0.9999 && found[0].payload.captured_at == at(n as i64), "sighting {n} is another");
        assert_eq!(gallery.jpeg(found[0].key()).unwrap().as_ref(), Some(&s.crop.jpeg), "picture of {n}");
        assert_eq!(gallery.patches(found[0].key()).unwrap().as_ref(), Some(&s.patches), "features of {n}");
    }
    let all = store.ids(&Filter::default()).unwrap();
    let unique: BTreeSet<SightingId> = all.iter().copied().collect();
    assert_eq!(all.len(), unique.len(), "something is stored twice");
    assert_eq!(store.count(&Filter::default()).unwrap(), unique.len() as u64);
    let found = store.search(&nth(0).feature, all.len() + 10, &Filter::default()).unwrap();
    assert_eq!(found.len(), unique.len(), "something is found twice or not at all");
    for r in store.get(&all).unwrap() {
        assert!(gallery.jpeg(r.key()).unwrap().is_some() && gallery.patches(r.key()).unwrap().is_some(), "{}", r.id);
    }
    let pictures: BTreeSet<SightingId> = gallery.ids().unwrap().into_iter().collect();
    assert_eq!(pictures, unique, "a picture that nobody can find or erase");
    all.len() as u64
}

#[test]
fn what_was_acknowledged_survives() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0u64;
    for round in 0..8 {
        // Some are delivered again, as after a crash of the stage before.
        let start = acknowledged.saturating_sub(10);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill9::child_indexes_and_acknowledges", "--nocapture"])
            .env(FOLDER, dir.path())
            .env(START, start.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut number = move || loop {
            let line = lines.next()?.ok()?;
            if let Some(n) = line.split("acknowledged ").nth(1) {
                return n.parse::<u64>().ok();
            }
        };
        // It lives for some acknowledgements more, and then dies at any moment of the batches that
        // follow.
        let mut newest = number().expect("the child starts and acknowledges");
        let enough = newest + rand::rng().random_range(10..60);
        while newest < enough {
            newest = number().expect("the child goes on");
        }
        std::thread::sleep(Duration::from_micros(rand::rng().random_range(0..400_000)));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        // What it still said before it died counts.
        while let Some(n) = number() {
            newest = n;
        }
        assert!(!status.success(), "the child must have been killed");
        acknowledged = acknowledged.max(newest + 1);
        let stored = check(dir.path(), acknowledged);
        println!("round {round}: killed; {acknowledged} acknowledged, {stored} stored");
    }
    assert!(acknowledged > 80, "the test must have had something to lose: {acknowledged}");
}
