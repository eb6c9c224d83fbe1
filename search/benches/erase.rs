//! Erases every sighting of one camera while another camera is indexed, and says how long it takes,
//! how much memory, and how long the other camera's pictures wait.
//!
//! ```text
//! cargo bench -p sightline-search --bench erase -- --points 1000000 --folder DIR [--store http://HOST:6334]
//! ```

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use sightline_core::config::{Config, VectorsConfig};
use sightline_core::message::Origin;
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_core::{
    BBox, CameraId, Crop, CropQuality, Delivery, Discard, IndexEvent, PatchFeatures, Receipt, Sighting, Timestamp,
    TrackId,
};
use sightline_search::{
    Coverage, EdgeOptions, EdgeStore, Eraser, Filter, FolderGallery, Gallery, IndexerOptions, Journals, QdrantStore,
    Scope, Sink, VectorStore, indexer,
};
use uuid::Uuid;

const MODEL: &str = "erase";
const WIDTH: usize = 256;
/// Size of a picture in bytes.
const JPEG: usize = 300;
/// Interval between two pictures of the other camera: ten cameras' worth.
const EVERY: Duration = Duration::from_millis(20);

struct Args {
    points: i64,
    folder: PathBuf,
    store: Option<String>,
}

fn args() -> anyhow::Result<Args> {
    let folder = std::env::temp_dir().join(format!("sightline-erase-{}", std::process::id()));
    let mut args = Args { points: 20_000, folder, store: None };
    let mut given = std::env::args().skip(1).filter(|name| name != "--bench");
    while let Some(name) = given.next() {
        let value = given.next().with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--points" => args.points = value.parse()?,
            "--folder" => args.folder = value.into(),
            "--store" => args.store = Some(value),
            _ => anyhow::bail!("{name} is not known: --points, --folder, --store"),
        }
    }
    Ok(args)
}

fn sighting(camera: &CameraId, n: i64) -> Sighting {
    let at = Timestamp::from_micros(1_767_225_600_000_000 + n * 100_000);
    let track = TrackId { born: at, ordinal: 0 };
    let id = sightline_core::ids::sighting_id(camera, track, 0);
    let jpeg: Vec<u8> = n.to_le_bytes().into_iter().cycle().take(JPEG).collect();
    let crop = Crop {
        origin: Origin::of_crop("bench", n as u64, id),
        camera: camera.clone(),
        track,
        crop_no: 0,
        captured_at: at,
        last_seen: at,
        bbox: BBox::default(),
        frame_size: (640, 480),
        quality: CropQuality::default(),
        jpeg: jpeg.into(),
    };
    let feature = (0..WIDTH as i64).map(|i| ((n * 31 + i * 17) % 101) as f32 - 50.0).collect();
    let patches = PatchFeatures { rows: 1, width: 32, data: vec![0; 64].into() };
    Sighting { crop, model_id: MODEL.to_owned(), feature, patches }
}

/// Peak of the resident memory of this process in MB.
fn peak() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().split(' ').next()?.parse::<f64>().ok()).unwrap_or_default() / 1024.0
}

fn main() -> anyhow::Result<()> {
    let args = args()?;
    fs::create_dir_all(&args.folder)?;
    let store: Arc<dyn VectorStore> = match &args.store {
        Some(url) => {
            let shipped = Config::layered(None, [])?.vectors;
            let collection = format!("erase-{}", Uuid::new_v4().simple());
            let config = VectorsConfig { url: url.clone(), collection, timeout_seconds: 120.0, ..shipped };
            Arc::new(QdrantStore::open(&config, MODEL, WIDTH)?)
        }
        None => Arc::new(EdgeStore::open(&args.folder.join("vectors"), MODEL, WIDTH, &EdgeOptions::default())?),
    };
    let gallery: Arc<dyn Gallery> = Arc::new(FolderGallery::open(&args.folder.join("gallery"), MODEL)?);
    let journals = Arc::new(Journals::open(&args.folder)?);
    let (coverage, stop) = (Coverage::default(), Shutdown::new());
    let sink = Sink { store: &*store, gallery: &*gallery, coverage: &coverage, journals: &journals };
    let (gone, other): (CameraId, CameraId) = ("gone".parse()?, "other".parse()?);
    let queue = Queue::<Delivery<IndexEvent>>::new(128);
    let (done, waits) = (AtomicBool::new(false), Arc::new(Mutex::new(Vec::new())));
    let options = IndexerOptions::default();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let indexing = scope.spawn(|| indexer::run(&queue, sink, &Discard, &options, &stop));
        let begun = Instant::now();
        for n in 0..args.points {
            let event = IndexEvent::Sighting(Box::new(sighting(&gone, n)));
            queue.push_wait(event.into()).map_err(|_| anyhow::anyhow!("the indexer has ended"))?;
        }
        while store.count(&Filter::camera(gone.clone()))? < args.points as u64 {
            std::thread::sleep(Duration::from_millis(200));
        }
        let seconds = begun.elapsed().as_secs_f64();
        println!("{} sightings of {JPEG} bytes stored in {seconds:.0} s, peak {:.0} MB", args.points, peak());
        let feeding = scope.spawn(|| {
            let mut n = 0;
            while !done.load(Ordering::SeqCst) {
                let (sent, waits) = (Instant::now(), Arc::clone(&waits));
                let receipt = Receipt::new(move || {
                    if let Ok(mut waits) = waits.lock() {
                        waits.push(sent.elapsed());
                    }
                });
                let event = IndexEvent::Sighting(Box::new(sighting(&other, n)));
                if queue.push_wait(Delivery::new(event, receipt)).is_err() {
                    break;
                }
                n += 1;
                std::thread::sleep(EVERY);
            }
            n
        });
        let eraser = Eraser::new(Arc::clone(&store), Arc::clone(&gallery), Arc::clone(&journals));
        let begun = Instant::now();
        let receipt = eraser.run(Uuid::new_v4(), &[Scope::camera(gone.clone())], &stop, &mut |_| ())?;
        let seconds = begun.elapsed().as_secs_f64();
        done.store(true, Ordering::SeqCst);
        let sent = feeding.join().map_err(|_| anyhow::anyhow!("the other camera broke down"))?;
        queue.close();
        indexing.join().map_err(|_| anyhow::anyhow!("the indexer broke down"))??;
        let mut waits = waits.lock().map(|w| w.clone()).unwrap_or_default();
        waits.sort_unstable();
        let worst = |share: f64| waits.get((waits.len() as f64 * share) as usize).copied().unwrap_or_default();
        println!(
            "erased {} sightings and {} files in {seconds:.1} s ({:.0}/s), peak {:.0} MB; meanwhile {sent} pictures of \
             another camera, {} stored, acknowledged after {:?} (p50), {:?} (p99), {:?} at most",
            receipt.points,
            receipt.files,
            receipt.points as f64 / seconds,
            peak(),
            store.count(&Filter::camera(other.clone()))?,
            worst(0.5),
            worst(0.99),
            waits.last().copied().unwrap_or_default(),
        );
        anyhow::ensure!(store.scroll(&Filter::camera(gone.clone()), None, 1)?.is_empty(), "somebody is left");
        anyhow::ensure!(gallery.ids()?.len() as i64 == sent, "pictures are left");
        Ok(())
    })?;
    Ok(fs::remove_dir_all(&args.folder)?)
}
