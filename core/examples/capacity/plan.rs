//! The pipeline's stations with their measured service times, and how many of each a load needs.

use crate::random::Random;
use crate::station::{Item, Outcome, Service, Station};
use crate::summary::quantile;
use crate::traffic::{Traffic, frames, partition};

/// Seconds, bytes and shares measured on the reference machine (2 virtual cores of an Intel Xeon, Sapphire Rapids class);
/// docker/SIZING.md says how.
pub mod measured {
    /// Processor seconds to detect, track and choose in one frame of 16:9 (canvas 416 x 736).
    pub const DETECT: f64 = 0.0475;
    /// Processor seconds a second to receive and decode one camera of 1080p30 H.264, 5 frames of it analysed.
    pub const DECODE: f64 = 0.16;
    /// Seconds of a batch of pictures in the image encoder on two cores: fixed, and each.
    pub const EMBED: (f64, f64) = (0.002, 0.0075);
    /// Seconds of a batch in the index worker (gallery and vector store): fixed, and each.
    pub const INDEX: (f64, f64) = (0.012, 0.0012);
    /// Bytes of a picture.
    pub const JPEG: f64 = 9_000.0;
    /// Bytes of a sighting in the gallery, on disk.
    pub const GALLERY: f64 = 31_500.0;
    /// Bytes of a sighting in the vector store, on disk and in memory.
    pub const STORE_DISK: f64 = 2_150.0;
    pub const STORE_MEMORY: f64 = 1_000.0;
}

/// What nobody measured.
pub mod assumed {
    /// Processor time a core may be planned with: the rest is for bursts, rebalances and catching up.
    pub const UTILISATION: f64 = 0.7;
    /// Frames come late by up to this: network and decoder.
    pub const JITTER: f64 = 0.03;
    /// Seconds from a producer to a consumer through a topic.
    pub const TOPIC: f64 = 0.02;
    /// A busy hour has so many times the crops of the mean hour.
    pub const BUSY_HOUR: f64 = 3.0;
}

/// Frames a second and camera that are analysed (`ingest.fps`).
pub const FPS: f64 = 5.0;
/// `bus.partitions` as it comes.
pub const PARTITIONS: usize = 12;

/// Records a second and camera that are no pictures: progress every second, a report every two.
pub const SMALL_RECORDS: f64 = 1.5;
/// Sightings of a shard.
pub const SHARD: f64 = 10e6;

/// People at an ordinary camera in its busy hour: of ten, one looks on a square (1.32 crops a second in the sample footage)
/// and nine on a corridor (0.14).
pub fn traffic() -> Traffic {
    Traffic { crops: 0.25, group: 2.0, per_track: 3, gap: 2.0 }
}

/// What a station did under a load.
pub struct Seen {
    /// Share of the time that servers are at work. Small batches cost more each, so it rises before capacity is used up.
    pub utilisation: f64,
    /// Arrivals, in shares of what the servers can do in full batches.
    pub load: f64,
    pub p50: f64,
    pub p99: f64,
    /// Share of the arrivals.
    pub dropped: f64,
    pub outcome: Outcome,
}

fn seen(station: &Station, arrivals: &[Item], seconds: f64, random: &mut Random) -> Seen {
    let outcome = station.run(arrivals, random);
    let each = station.service.fixed / station.batch as f64 + station.service.each;
    Seen {
        load: arrivals.len() as f64 * each / seconds / station.servers as f64,
        utilisation: outcome.busy / seconds / station.servers as f64,
        p50: quantile(&outcome.waits, 0.5),
        p99: quantile(&outcome.waits, 0.99),
        dropped: outcome.dropped as f64 / arrivals.len().max(1) as f64,
        outcome,
    }
}

/// The detectors of one ingest node.
pub fn node(cameras: usize, threads: usize, seconds: f64, random: &mut Random) -> Seen {
    let station = Station {
        queues: cameras,
        capacity: Some(2),
        servers: threads,
        shared: true,
        batch: 1,
        linger: 0.0,
        service: Service::constant(measured::DETECT, 0.0),
    };
    seen(&station, &frames(cameras, FPS, assumed::JITTER, seconds, random), seconds, random)
}

/// Embed workers behind the topic `crops`.
pub fn embed(crops: &[Item], partitions: usize, workers: usize, seconds: f64, random: &mut Random) -> Seen {
    let station = Station {
        queues: partitions,
        capacity: None,
        servers: workers,
        shared: false,
        batch: 8,
        linger: 0.04,
        service: Service::constant(measured::EMBED.0, measured::EMBED.1),
    };
    seen(&station, &through_topic(&keyed(crops, partitions)), seconds, random)
}

/// Index workers behind the topic `sightings`, whose records have the same keys and so the same partitions.
pub fn index(sightings: &[Item], partitions: usize, workers: usize, seconds: f64, random: &mut Random) -> Seen {
    let station = Station {
        queues: partitions,
        capacity: None,
        servers: workers,
        shared: false,
        batch: 64,
        linger: 0.0,
        service: Service::constant(measured::INDEX.0, measured::INDEX.1),
    };
    seen(&station, &through_topic(sightings), seconds, random)
}

fn through_topic(items: &[Item]) -> Vec<Item> {
    items.iter().map(|i| Item { at: i.at + assumed::TOPIC, ..*i }).collect()
}

/// Seconds from birth to the end of the last station: half of all, and 99 %.
pub fn lag(done: &[Item]) -> (f64, f64) {
    let lags: Vec<f64> = done.iter().map(|d| d.at - d.born).collect();
    (quantile(&lags, 0.5), quantile(&lags, 0.99))
}

/// Detectors of a node: decoding runs beside them, and what it takes they do not get.
pub fn threads(cores: usize, cameras: usize) -> usize {
    ((cores as f64 - cameras as f64 * measured::DECODE).floor() as usize).max(1)
}

/// Items whose queue is the partition of their camera.
pub fn keyed(crops: &[Item], partitions: usize) -> Vec<Item> {
    crops.iter().map(|i| Item { queue: partition(i.queue, partitions), ..*i }).collect()
}

/// Most cameras that a node of `cores` serves with hardly a drop, the processor not planned beyond its limit.
pub fn cameras_of_a_node(cores: usize, seed: u64) -> usize {
    let mut cameras = 0;
    loop {
        let next = cameras + 1;
        let work = next as f64 * (FPS * measured::DETECT + measured::DECODE);
        let seen = node(next, threads(cores, next), 300.0, &mut Random::new(seed));
        if work > assumed::UTILISATION * cores as f64 || seen.dropped > 0.001 {
            return cameras;
        }
        cameras = next;
    }
}

/// Fewest workers of `stage` whose load stays below the planned one, with a wait of at most `longest` seconds for 99 % of
/// the items; `None` when more workers than partitions would be needed.
pub fn workers(partitions: usize, longest: f64, stage: impl Fn(usize) -> Seen) -> Option<(usize, Seen)> {
    let mut n = 1;
    while n <= partitions {
        let seen = stage(n);
        if seen.load <= assumed::UTILISATION && seen.p99 <= longest {
            return Some((n, seen));
        }
        // In proportion to the load at first, then one by one.
        let wanted = (n as f64 * seen.load / assumed::UTILISATION) as usize;
        n = wanted.max(n + 1);
    }
    None
}
