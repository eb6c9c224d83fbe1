//! Drill: compares one worker with two by the pictures per second from the broker into the index;
//! and adds and removes a second worker in mid-stream, which must neither lose nor double anything.
//!
//! The topic is filled first, without workers, so that the rate is theirs alone. Each worker
//! computes on one thread, so that the second adds a process and not just another core.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use sightline_bus::wire;
use sightline_bus::{Outgoing, Producer};
use sightline_core::config::{BusConfig, Config};
use sightline_core::message::Origin;
use sightline_core::{BBox, CameraEvent, Crop, CropQuality, SightingId, Timestamp, TrackId};

use crate::Common;
use crate::index::Index;
use crate::topology::{Roles, Topology};

/// Arguments of the scale drill
#[derive(clap::Args)]
pub struct Args {
    /// Pictures per round
    #[arg(long, default_value_t = 6000)]
    crops: usize,
    /// Number of cameras that they come from
    #[arg(long, default_value_t = 48)]
    cameras: usize,
}

const LIMIT: Duration = Duration::from_secs(600);

/// Runs the rounds; returns whether each stored exactly what was sent.
pub fn run(common: &Common, args: &Args) -> anyhow::Result<bool> {
    let roles = Roles { ingest: 1, embed: 2, index: 2 };
    let topology = Topology::up(&common.dir, roles, "[embed]\nthreads = 1\n[ingest]\nmax_cameras = 1\n")?;
    let bus = BusConfig { brokers: topology.brokers.clone(), ..Config::layered(None, [])?.bus };
    let jpeg = picture()?;
    let mut sent = BTreeSet::new();
    println!("| workers (embed + index) | pictures | s | pictures/s |");
    println!("|---|---:|---:|---:|");
    for (round, workers) in [1usize, 2, 1, 2].into_iter().enumerate() {
        for n in 1..=2 {
            topology.stop("embed", n)?;
            topology.stop("index", n)?;
        }
        sent.extend(fill(&bus, args, round, &jpeg)?);
        for n in 1..=workers {
            topology.start("index", n)?;
            topology.start("embed", n)?;
        }
        let seconds = drained(&topology, &sent, args.crops)?;
        println!("| {workers} + {workers} | {} | {seconds:.1} | {:.0} |", args.crops, args.crops as f64 / seconds);
    }
    // A worker of each role joins and leaves again while the others work.
    topology.stop("embed", 2)?;
    topology.stop("index", 2)?;
    let before = sent.len();
    for round in 4..8 {
        sent.extend(fill(&bus, args, round, &jpeg)?);
    }
    let mut stored = Vec::new();
    for step in 0..6 {
        stored.push(Index::open(&topology)?.count()?.saturating_sub(before));
        std::thread::sleep(Duration::from_secs(4));
        for role in ["embed", "index"] {
            if step % 2 == 0 {
                topology.start(role, 2)?;
            } else if step % 4 == 1 {
                topology.stop(role, 2)?;
            } else {
                topology.kill(role, 2)?;
            }
        }
    }
    println!("stored of {} when the second workers came and went: {stored:?}", sent.len() - before);
    drained(&topology, &sent, 0)?;
    let held: Vec<SightingId> = Index::open(&topology)?.ids()?;
    let set: BTreeSet<_> = held.iter().copied().collect();
    println!(
        "rebalances in mid-stream: sent {}, stored {}, lost {}, doubled {}, not sent {}",
        sent.len(),
        held.len(),
        sent.difference(&set).count(),
        held.len() - set.len(),
        set.difference(&sent).count()
    );
    Ok(set == sent && held.len() == set.len())
}

/// Returns a picture of the size of a typical crop.
fn picture() -> anyhow::Result<Vec<u8>> {
    let image = image::RgbImage::from_fn(96, 192, |x, y| image::Rgb([(x * 2) as u8, y as u8, ((x * y) % 251) as u8]));
    let mut jpeg = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 88).encode_image(&image)?;
    Ok(jpeg)
}

/// Sends one round of pictures to the topic; returns their ids.
fn fill(bus: &BusConfig, args: &Args, round: usize, jpeg: &[u8]) -> anyhow::Result<Vec<SightingId>> {
    let producer = Producer::start(bus, "drill")?;
    let failed = Arc::new(AtomicUsize::new(0));
    let mut ids = Vec::with_capacity(args.crops);
    for n in 0..args.crops {
        let at = Timestamp::from_micros(1_777_600_000_000_000 + (round * args.crops + n) as i64 * 40_000);
        let camera = format!("cam-{:03}", n % args.cameras).parse()?;
        let crop = Crop {
            origin: Origin::new("drill", n as u64),
            camera,
            track: TrackId { born: at, ordinal: 0 },
            crop_no: 0,
            captured_at: at,
            last_seen: at,
            bbox: BBox { x0: 10.0, y0: 10.0, x1: 106.0, y1: 202.0 },
            frame_size: (768, 576),
            quality: CropQuality { score: 0.5, ..CropQuality::default() },
            jpeg: jpeg.to_vec().into(),
        };
        ids.push(crop.id());
        let key = crop.camera.to_string();
        let payload = wire::encode_camera_event(&CameraEvent::Crop(crop))?;
        let failed = Arc::clone(&failed);
        producer.send(Outgoing { topic: bus.crops_topic.clone(), key, payload, headers: Vec::new() }, move |sent| {
            if sent.is_err() {
                failed.fetch_add(1, Ordering::Relaxed);
            }
        })?;
    }
    if !producer.flush(Duration::from_secs(60)) || failed.load(Ordering::Relaxed) > 0 {
        bail!("the broker did not take everything");
    }
    Ok(ids)
}

/// Waits until everything sent is stored; returns the seconds between the first and the last of
/// `count` new points, scaled to all of them.
fn drained(topology: &Topology, sent: &BTreeSet<SightingId>, count: usize) -> anyhow::Result<f64> {
    let index = Index::open(topology)?;
    let (start, before) = (Instant::now(), sent.len().saturating_sub(count));
    let mut first = None;
    loop {
        let stored = index.count()?;
        if first.is_none() && stored > before {
            first = Some((Instant::now(), stored));
        }
        if stored >= sent.len() {
            if count == 0 {
                return Ok(start.elapsed().as_secs_f64());
            }
            let (at, had) = first.context("everything was there before the workers began")?;
            let share = (sent.len() - had).max(1) as f64 / count.max(1) as f64;
            return Ok(at.elapsed().as_secs_f64() / share);
        }
        if start.elapsed() > LIMIT {
            bail!("{stored} of {} stored after {} s", sent.len(), LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
