//! Stages of the bench, and the notes that one leaves for the next.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sightline_core::config::{Config, VectorsConfig};
use sightline_core::{PatchFeatures, SightingId};
use sightline_search::{
    EdgeOptions, EdgeStore, Filter, FolderGallery, Gallery, GalleryEntry, QdrantStore, VectorStore,
    searcher::MIN_RANKED_TRACKS,
};

use crate::args::Args;
use crate::host::{self, Usage};
use crate::people::{MODEL, People};

/// Number of results for the recall.
const NEAREST: usize = 10;
/// Largest number of pictures per track.
const PER_TRACK: usize = 3;
/// Rows and width of the shipped model's patch features.
const PATCHES: (u32, u32) = (33, 256);
/// Pictures written to measure the gallery.
const GALLERY: u64 = 2_048;
/// Time without progress after which a server's indexing counts as finished.
const QUIET: Duration = Duration::from_secs(30);
/// Number of points between two progress notes.
const NOTE_EVERY: u64 = 10_000;

/// Progress of the insertion; the numbers are sums over all processes that took part.
#[derive(Default, Serialize, Deserialize)]
struct Inserted {
    points: u64,
    seconds: f64,
    cpu: f64,
    peak: f64,
}

/// Runs one stage.
pub fn run(stage: &str, args: &Args) -> anyhow::Result<()> {
    let bench = Bench { args, people: People::new(args.points, args.width, args.seed) };
    match stage {
        "truth" => bench.truth().map(drop),
        "insert" => bench.insert(),
        "index" => bench.index(),
        "measure" => bench.measure(),
        "retention" => bench.retention(),
        "gallery" => bench.gallery(),
        _ => anyhow::bail!("unknown stage {stage}"),
    }
}

struct Bench<'a> {
    args: &'a Args,
    people: People,
}

/// Ids of the nearest points: by filter, by text.
type Truth = Vec<Vec<Vec<SightingId>>>;

impl Bench<'_> {
    fn file(&self, name: &str) -> PathBuf {
        self.args.folder.join(name)
    }

    fn note<T: Serialize>(&self, name: &str, value: &T) -> anyhow::Result<()> {
        let new = self.file(&format!("{name}.new"));
        fs::write(&new, serde_json::to_vec(value)?)?;
        Ok(fs::rename(new, self.file(name))?)
    }

    fn noted<T: DeserializeOwned>(&self, name: &str) -> anyhow::Result<Option<T>> {
        match fs::read(self.file(name)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Opens the server's store with the shipped configuration, when a server was given.
    fn server(&self) -> anyhow::Result<Option<QdrantStore>> {
        let Some(url) = &self.args.store else { return Ok(None) };
        let shipped = Config::layered(None, [])?.vectors;
        let (url, collection) = (url.clone(), "million".to_owned());
        let config = VectorsConfig { url, collection, timeout_seconds: 120.0, ..shipped };
        Ok(Some(QdrantStore::open(&config, MODEL, self.args.width)?))
    }

    fn open(&self) -> anyhow::Result<Box<dyn VectorStore>> {
        if let Some(store) = self.server()? {
            return Ok(Box::new(store));
        }
        let mut options = EdgeOptions::default();
        options.index_threads = self.args.index_threads.unwrap_or(options.index_threads);
        options.int8 = self.args.int8.unwrap_or(options.int8);
        options.oversampling = self.args.oversampling.unwrap_or(options.oversampling);
        options.beam = self.args.beam.unwrap_or(options.beam);
        let store = EdgeStore::open(&self.file("vectors"), MODEL, self.args.width, &options)?;
        Ok(Box::new(store))
    }

    fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(self.args.pid)
    }

    fn disk(&self) -> f64 {
        host::disk(self.args.server_folder.as_ref().unwrap_or(&self.file("vectors")))
    }

    fn texts(&self) -> Vec<Vec<f32>> {
        (0..self.args.texts).map(|t| self.people.text(t)).collect()
    }

    fn truth(&self) -> anyhow::Result<Truth> {
        if let Some(truth) = self.noted("truth.json")? {
            return Ok(truth);
        }
        let start = Instant::now();
        let truth = self.people.truth(&self.texts(), &self.people.questions(), NEAREST);
        eprintln!("exact answers: {:.0} s", start.elapsed().as_secs_f64());
        self.note("truth.json", &truth)?;
        Ok(truth)
    }

    fn insert(&self) -> anyhow::Result<()> {
        let before: Inserted = self.noted("inserted.json")?.unwrap_or_default();
        let store = self.open()?;
        let (start, cpu) = (Instant::now(), self.usage()?.cpu);
        let mut at = before.points;
        // Generating points costs processor time too: it is measured separately and subtracted.
        let mut making = 0.0;
        let mut slowest = 0f64;
        while at < self.args.points {
            let end = (at + self.args.batch).min(self.args.points);
            let made = Instant::now();
            let batch: Vec<_> = (at..end).map(|p| self.people.point(p)).collect();
            making += made.elapsed().as_secs_f64();
            let stored = Instant::now();
            store.upsert(&batch)?;
            store.flush()?;
            slowest = slowest.max(stored.elapsed().as_secs_f64());
            let noted = at / NOTE_EVERY;
            at = end;
            if at / NOTE_EVERY != noted || at == self.args.points {
                let (usage, seconds) = (self.usage()?, start.elapsed().as_secs_f64() - making);
                let now = Inserted {
                    points: at,
                    seconds: before.seconds + seconds,
                    cpu: before.cpu + usage.cpu - cpu - making,
                    peak: before.peak.max(usage.peak),
                };
                self.note("inserted.json", &now)?;
                let rate = (at - before.points) as f64 / seconds;
                eprintln!(
                    "{at} stored, {rate:.0}/s, {:.0} MB own, {:.0} MB of files, {:.0} MB on disk, slowest batch {:.0} ms",
                    usage.anonymous,
                    usage.of_files,
                    self.disk(),
                    slowest * 1e3
                );
                slowest = 0.0;
            }
        }
        Ok(())
    }

    /// Builds what the background thread has left, and records the duration.
    fn index(&self) -> anyhow::Result<()> {
        let (start, cpu) = (Instant::now(), self.usage()?.cpu);
        if let Some(store) = self.server()? {
            // A server builds by itself: done when nothing has changed for a while.
            let (mut before, mut since) = (store.indexed()?, Instant::now());
            while since.elapsed() < QUIET {
                std::thread::sleep(Duration::from_secs(1));
                let now = store.indexed()?;
                if now != before {
                    (before, since) = (now, Instant::now());
                }
            }
        } else {
            let store = self.open()?;
            while store.optimize()? {}
        }
        let usage = self.usage()?;
        let mut sum: (f64, f64, f64) = self.noted("indexed.json")?.unwrap_or_default();
        sum = (sum.0 + start.elapsed().as_secs_f64(), sum.1 + usage.cpu - cpu, sum.2.max(usage.peak));
        self.note("indexed.json", &sum)?;
        eprintln!("index complete after {:.0} s more", sum.0);
        Ok(())
    }

    fn measure(&self) -> anyhow::Result<()> {
        let (truth, texts) = (self.truth()?, self.texts());
        let start = Instant::now();
        let store = self.open()?;
        let opening = start.elapsed().as_secs_f64();
        let fresh = self.usage()?;
        let inserted: Inserted = self.noted("inserted.json")?.unwrap_or_default();
        let indexed: (f64, f64, f64) = self.noted("indexed.json")?.unwrap_or_default();
        let points = store.count(&Filter::default())?;
        anyhow::ensure!(points == self.args.points, "{points} of {} points are there", self.args.points);
        let mut searches = String::from(
            "| filter keeps | points | asked for | p50, ms | p95, ms | CPU, ms | recall@10 |\n|---|---|---|---|---|---|---|\n",
        );
        for (question, truth) in self.people.questions().iter().zip(&truth) {
            let kept = store.count(&question.filter)?;
            for (tracks, asked_for) in [(false, "10 pictures"), (true, "200 tracks")] {
                // The first stage of a search asks for tracks.
                let ask = |text: &[f32]| match tracks {
                    true => store
                        .nearest_tracks(text, MIN_RANKED_TRACKS, PER_TRACK, &question.filter)
                        .map(|found| found.concat()),
                    false => store.search(text, NEAREST, &question.filter),
                };
                for text in texts.iter().take(20) {
                    ask(text)?;
                }
                let (mut times, mut found, mut wanted) = (Vec::new(), 0, 0);
                let cpu = self.usage()?.cpu;
                for (text, truth) in texts.iter().zip(truth) {
                    let asked = Instant::now();
                    let mut hits = ask(text)?;
                    times.push(asked.elapsed().as_secs_f64() * 1e3);
                    hits.sort_by(|a, b| b.cosine.total_cmp(&a.cosine));
                    wanted += truth.len();
                    found += truth.iter().filter(|t| hits.iter().take(NEAREST).any(|h| h.id == **t)).count();
                }
                let cpu = (self.usage()?.cpu - cpu) * 1e3 / times.len() as f64;
                times.sort_by(f64::total_cmp);
                let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
                writeln!(
                    searches,
                    "| {} | {kept} | {asked_for} | {:.2} | {:.2} | {cpu:.2} | {:.4} |",
                    question.name,
                    at(0.5),
                    at(0.95),
                    found as f64 / wanted.max(1) as f64
                )?;
            }
        }
        let usage = self.usage()?;
        let mut report = String::new();
        writeln!(
            report,
            "{} sightings of width {}; load {} at the end; {:?}\n",
            points,
            self.args.width,
            host::load(),
            self.args
        )?;
        writeln!(report, "| what | measured |\n|---|---|")?;
        writeln!(
            report,
            "| insert, batches of {} with flush | {:.0} sightings/s (CPU {:.2} ms each, index built beside included) |",
            self.args.batch,
            inserted.points as f64 / inserted.seconds,
            inserted.cpu * 1e3 / inserted.points.max(1) as f64
        )?;
        writeln!(report, "| index, after the last insert | {:.0} s more (CPU {:.0} s) |", indexed.0, indexed.1)?;
        writeln!(report, "| memory, peak while inserting / indexing | {:.0} / {:.0} MB |", inserted.peak, indexed.2)?;
        writeln!(report, "| opening | {opening:.1} s |")?;
        writeln!(
            report,
            "| memory after opening | {:.0} MB own, {:.0} MB of mapped files |",
            fresh.anonymous, fresh.of_files
        )?;
        writeln!(
            report,
            "| memory after all searches | {:.0} MB own, {:.0} MB of mapped files |",
            usage.anonymous, usage.of_files
        )?;
        let disk = self.disk();
        writeln!(report, "| disk | {disk:.0} MB, {:.0} bytes a sighting |\n", disk * 1e6 / points as f64)?;
        writeln!(report, "{searches}")?;
        Ok(fs::write(self.file("report.md"), report)?)
    }

    /// Pictures and patch features of the shipped model's size, written as the index worker writes
    /// them.
    fn gallery(&self) -> anyhow::Result<()> {
        let folder = self.file("gallery");
        let gallery = FolderGallery::open(&folder, MODEL)?;
        let patches = PatchFeatures {
            rows: PATCHES.0,
            width: PATCHES.1,
            data: vec![0x3c; (PATCHES.0 * PATCHES.1 * 2) as usize].into(),
        };
        let jpeg = Bytes::from(vec![0x55; self.args.jpeg_bytes]);
        let gallery_entry =
            |p| GalleryEntry { key: self.people.id(p).into(), jpeg: jpeg.clone(), patches: patches.clone() };
        let (start, cpu, before) = (Instant::now(), self.usage()?.cpu, host::disk(&folder));
        for first in (0..GALLERY).step_by(64) {
            let batch: Vec<GalleryEntry> = (first..(first + 64).min(GALLERY)).map(gallery_entry).collect();
            gallery.put(&batch)?;
        }
        let (seconds, cpu) = (start.elapsed().as_secs_f64(), self.usage()?.cpu - cpu);
        let each = |sum: f64| sum / GALLERY as f64;
        self.append(&format!(
            "Gallery in a folder, pictures of {} bytes and patch features of {} x {} f16, in batches of 64, each brought to \
             the disk: {:.0}/s (CPU {:.2} ms each), {:.0} bytes on the disk each.\n",
            self.args.jpeg_bytes,
            PATCHES.0,
            PATCHES.1,
            GALLERY as f64 / seconds,
            each(cpu) * 1e3,
            each(host::disk(&folder) - before) * 1e6
        ))?;
        drop(gallery);
        Ok(fs::remove_dir_all(folder)?)
    }

    fn append(&self, line: &str) -> anyhow::Result<()> {
        let mut report = fs::read_to_string(self.file("report.md")).unwrap_or_default();
        report.push_str(line);
        Ok(fs::write(self.file("report.md"), report)?)
    }

    fn retention(&self) -> anyhow::Result<()> {
        let store = self.open()?;
        let oldest = self.people.point(self.args.points / 100).payload.captured_at;
        let filter = Filter { to: Some(oldest), ..Filter::default() };
        let start = Instant::now();
        let deleted = store.delete(&filter)?;
        store.flush()?;
        let seconds = start.elapsed().as_secs_f64();
        self.append(&format!(
            "Deleting the oldest {deleted} by a filter on the time: {seconds:.2} s, flush included.\n"
        ))
    }
}
