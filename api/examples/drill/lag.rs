//! Drill: measures the lag from the capture of a frame to the time at which a search can find it,
//! for live cameras.
//!
//! The drill asks the vector store every 50 ms for new points, from outside, so that it measures
//! what a search would find. Capture times come from the cameras (RTP sender time); cameras and
//! index must share one clock.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use sightline_core::Timestamp;

use crate::Common;
use crate::index::Index;
use crate::topology::{Roles, Topology};

/// Arguments of the lag drill
#[derive(clap::Args)]
pub struct Args {
    /// Addresses of the cameras, for example those of the example `rtsp_cameras`
    #[arg(required = true)]
    urls: Vec<String>,
    /// Duration of the measurement, in seconds
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Analysed frames per second of each camera
    #[arg(long, default_value_t = 5.0)]
    fps: f64,
}

/// Poll interval of the store: a measurement is late by at most this and the duration of the
/// answer.
const BEAT: Duration = Duration::from_millis(50);

/// Measures and prints; returns true when anything was measured.
pub fn run(common: &Common, args: &Args) -> anyhow::Result<bool> {
    let mut config = String::new();
    for (n, url) in args.urls.iter().enumerate() {
        config += &format!("[[cameras]]\nid = \"live-{n}\"\nurl = \"{url}\"\nfps = {}\n", args.fps);
    }
    let topology = Topology::up(&common.dir, Roles { ingest: 1, embed: 1, index: 1 }, &config)?;
    topology.await_state(args.urls.len(), "searchable", Duration::from_secs(120))?;
    let index = Index::open(&topology)?;
    let mut seen: HashSet<_> = index.newest(2000)?.into_iter().collect();
    let (start, mut lags) = (Instant::now(), Vec::new());
    while start.elapsed() < Duration::from_secs(args.seconds) {
        std::thread::sleep(BEAT);
        let newest = index.newest(100)?;
        let now = Timestamp::now();
        for picture in newest {
            // A better picture of the same slot is a new one: it has another capture time.
            if seen.insert(picture) {
                lags.push(now.seconds_since(picture.1));
            }
        }
    }
    lags.sort_by(f64::total_cmp);
    let at = |q: f64| lags.get(((lags.len() as f64 - 1.0) * q).round() as usize).copied().unwrap_or(f64::NAN);
    println!(
        "{} cameras at {} frames a second, {} s: {} pictures; captured to searchable p50 {:.2} s, p90 {:.2} s, p99 {:.2} s, most {:.2} s",
        args.urls.len(),
        args.fps,
        args.seconds,
        lags.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    );
    for (id, c) in topology.cameras()? {
        println!(
            "  {id}: {}, dropped fraction {}, frames analysed {}, crops {}",
            c["state"], c["dropped_fraction"], c["frames_analysed"], c["crops"]
        );
    }
    Ok(!lags.is_empty())
}
