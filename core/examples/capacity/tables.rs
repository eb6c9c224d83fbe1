//! The tables of docker/SIZING.md.

use std::fmt::Write as _;

use crate::plan::{self, FPS, PARTITIONS, assumed, measured};
use crate::random::Random;
use crate::records;

/// Seconds that each simulated hour of pressure lasts: long enough for p99, short enough to run in seconds.
const SECONDS: f64 = 600.0;
/// Longest wait for a worker that a plan accepts for 99 % of the pictures, seconds.
const LONGEST: f64 = 2.0;

/// All of them, as Markdown.
pub fn all(seed: u64) -> String {
    let mut out = String::new();
    let parts = [nodes(seed), embed(seed), index(seed), bytes(), plans(seed)];
    for part in parts {
        out.push_str(&part);
        out.push('\n');
    }
    out
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn ms(seconds: f64) -> String {
    format!("{:.0}", seconds * 1e3)
}

/// One ingest node of two cores, camera by camera.
fn nodes(seed: u64) -> String {
    let mut t = String::from(
        "| cameras on 2 cores | processor time | detector busy | wait p50 / p99, ms | frames dropped |\n|---|---|---|---|---|\n",
    );
    for cameras in [1, 2, 3, 4, 5, 6, 8] {
        let work = cameras as f64 * (FPS * measured::DETECT + measured::DECODE) / 2.0;
        let seen = plan::node(cameras, plan::threads(2, cameras), SECONDS, &mut Random::new(seed));
        let _ = writeln!(
            t,
            "| {cameras} | {} | {} | {} / {} | {} |",
            percent(work),
            percent(seen.utilisation),
            ms(seen.p50),
            ms(seen.p99),
            percent(seen.dropped)
        );
    }
    t.push_str("\n| cores of a node | cameras |\n|---|---|\n");
    for cores in [2, 4, 8, 16, 32] {
        let _ = writeln!(t, "| {cores} | {} |", plan::cameras_of_a_node(cores, seed));
    }
    t
}

/// Embed workers by load.
fn embed(seed: u64) -> String {
    let mut t = String::from("| crops/s | embed workers | load | wait p50 / p99, ms |\n|---|---|---|---|\n");
    for cameras in [40, 100, 200, 300, 350] {
        let random = &mut Random::new(seed);
        let crops = plan::traffic().crops(cameras, SECONDS, random);
        for workers in [1, 2] {
            let seen = plan::embed(&crops, PARTITIONS, workers, SECONDS, random);
            let _ = writeln!(
                t,
                "| {:.0} | {workers} | {} | {} / {} |",
                crops.len() as f64 / SECONDS,
                percent(seen.load),
                ms(seen.p50),
                ms(seen.p99)
            );
        }
    }
    t
}

/// Index workers by load.
fn index(seed: u64) -> String {
    let mut t = String::from("| sightings/s | index workers | load | wait p50 / p99, ms |\n|---|---|---|---|\n");
    for cameras in [100, 400, 800, 1200] {
        let random = &mut Random::new(seed);
        let crops = plan::traffic().crops(cameras, SECONDS, random);
        let keyed = plan::keyed(&crops, PARTITIONS);
        let seen = plan::index(&keyed, PARTITIONS, 1, SECONDS, random);
        let _ = writeln!(
            t,
            "| {:.0} | 1 | {} | {} / {} |",
            crops.len() as f64 / SECONDS,
            percent(seen.load),
            ms(seen.p50),
            ms(seen.p99)
        );
    }
    t
}

/// Bytes of one picture everywhere it lies or passes.
fn bytes() -> String {
    let sizes = records::sizes();
    let mut t = String::from("| one sighting | bytes |\n|---|---|\n");
    let rows = [
        ("JPEG", measured::JPEG),
        ("record in `crops`", sizes.crop),
        ("record in `sightings`, patch features f16", sizes.sighting_f16),
        ("record in `sightings`, patch features int8", sizes.sighting_int8),
        ("record that is no picture (progress, report)", sizes.progress),
        ("gallery on disk (two files, blocks of 4 KiB)", measured::GALLERY),
        ("vector store on disk", measured::STORE_DISK),
        ("vector store in memory", measured::STORE_MEMORY),
    ];
    for (what, bytes) in rows {
        let _ = writeln!(t, "| {what} | {bytes:.0} |");
    }
    t
}

/// 10, 1,000 and 100,000 cameras.
fn plans(seed: u64) -> String {
    let mut t = String::from("| | 10 cameras | 1,000 cameras | 100,000 cameras |\n|---|---|---|---|\n");
    let sizes = records::sizes();
    let columns: Vec<Vec<(&str, String)>> = [(10, SECONDS), (1_000, SECONDS), (100_000, 60.0)]
        .map(|(cameras, seconds)| column(cameras, seconds, seed, &sizes))
        .into();
    for row in 0..columns[0].len() {
        let _ = write!(t, "| {} |", columns[0][row].0);
        for column in &columns {
            let _ = write!(t, " {} |", column[row].1);
        }
        t.push('\n');
    }
    t
}

fn column(cameras: usize, seconds: f64, seed: u64, sizes: &records::Sizes) -> Vec<(&'static str, String)> {
    let random = &mut Random::new(seed);
    let crops = plan::traffic().crops(cameras, seconds, random);
    let busy = crops.len() as f64 / seconds;
    let mean = busy / assumed::BUSY_HOUR;
    let per_node = plan::cameras_of_a_node(8, seed);
    // As many partitions as come, or twice as many as the workers that are needed: half of them would be idle at worst.
    let capacity = 1.0 / measured::EMBED.1;
    let partitions = PARTITIONS.max((busy / capacity / assumed::UTILISATION * 4.0).ceil() as usize);
    let embed =
        plan::workers(partitions, LONGEST, |n| plan::embed(&crops, partitions, n, seconds, &mut Random::new(seed)));
    let (embedders, embedded) = embed.expect("there are more partitions than workers");
    let index = plan::workers(partitions, LONGEST, |n| {
        plan::index(&embedded.outcome.done, partitions, n, seconds, &mut Random::new(seed))
    });
    let (indexers, indexed) = index.expect("there are more partitions than workers");
    let (p50, p99) = plan::lag(&indexed.outcome.done);
    let days = 30.0;
    let stored = mean * 86_400.0 * days;
    let small = cameras as f64 * plan::SMALL_RECORDS;
    let gigabytes =
        |bytes: f64| if bytes < 1e12 { format!("{:.0} GB", bytes / 1e9) } else { format!("{:.1} TB", bytes / 1e12) };
    let per_second = busy * (sizes.crop + sizes.sighting_f16) + 2.0 * small * sizes.progress;
    let own_partitions = if partitions == PARTITIONS { "" } else { " (as it comes: 12)" };
    vec![
        ("crops/s in the busy hour (mean)", format!("{busy:.1} ({mean:.1})")),
        ("ingest nodes of 8 cores", format!("{:.0}", (cameras as f64 / per_node as f64).ceil())),
        ("partitions", format!("{partitions}{own_partitions}")),
        ("embed workers of 2 cores", format!("{embedders} (load {})", percent(embedded.load))),
        ("index workers", format!("{indexers} (load {})", percent(indexed.load))),
        ("picture to searchable, p50 / p99", format!("{} / {} ms", ms(p50), ms(p99))),
        ("records that are no pictures, /s in each topic", format!("{small:.0}")),
        ("bus, in and out of producers", format!("{:.1} MB/s", per_second / 1e6)),
        ("sightings in 30 days", format!("{:.1} million", stored / 1e6)),
        ("gallery, 30 days", gigabytes(stored * measured::GALLERY)),
        ("vectors on disk, 30 days", gigabytes(stored * measured::STORE_DISK)),
        ("vectors in memory, 30 days", gigabytes(stored * measured::STORE_MEMORY)),
        ("shards (one per 10 million)", format!("{:.0}", (stored / plan::SHARD).ceil())),
    ]
}
