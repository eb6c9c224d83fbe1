//! Drill: many camera nodes share many cameras that were added through the API. A part of the nodes
//! is killed, and started again later. Every camera must be run by exactly one node that lives, and
//! no node may run more than it has room for.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde_json::json;

use crate::Common;
use crate::topology::{Roles, Topology};

/// Arguments of the crowd drill
#[derive(clap::Args)]
pub struct Args {
    /// Camera nodes
    #[arg(long, default_value_t = 24)]
    nodes: usize,
    /// Cameras, each a test picture of 64 x 64, once a second
    #[arg(long, default_value_t = 100)]
    cameras: usize,
    /// Most cameras of one node
    #[arg(long, default_value_t = 7)]
    max_cameras: usize,
    /// Fraction of the nodes that is killed
    #[arg(long, default_value_t = 0.3)]
    killed: f64,
    /// Seed that decides which ones
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

const LIMIT: Duration = Duration::from_secs(300);
/// Metric of a camera node: how many cameras of the topic it runs.
const PLACED: &str = "sightline_bus_placed_cameras";

/// Runs the drill; returns whether each camera was run by one node in the end, within its room.
pub fn run(common: &Common, args: &Args) -> anyhow::Result<bool> {
    let config = format!(
        "[ingest]\nmax_cameras = {}\nfps = 1.0\n[detect]\nthreads = 1\ninput_size = 96\n[bus]\npartitions = 12\n",
        args.max_cameras
    );
    let topology = Topology::up(&common.dir, Roles { ingest: args.nodes, embed: 1, index: 1 }, &config)?;
    let all: Vec<usize> = (1..=args.nodes).collect();
    let start = Instant::now();
    for n in 0..args.cameras {
        let url = "videotestsrc://?width=64&height=64&framerate=1";
        topology.post("/v1/cameras", &json!({ "id": format!("crowd-{n:03}"), "url": url }))?;
    }
    println!("{} cameras added in {:.1} s", args.cameras, start.elapsed().as_secs_f64());
    let mut held = shared(&topology, args, &all)?;
    topology.await_state(args.cameras, "searchable", LIMIT)?;
    println!("all searchable {:.1} s after the first was added", start.elapsed().as_secs_f64());

    let mut order = all.clone();
    order.shuffle(&mut StdRng::seed_from_u64(args.seed));
    let count = (args.nodes as f64 * args.killed).round() as usize;
    let (victims, rest) = order.split_at(count);
    let orphans: usize = victims.iter().filter_map(|n| topology.metric("ingest", *n, PLACED)).sum::<f64>() as usize;
    let start = Instant::now();
    for n in victims {
        topology.kill("ingest", *n)?;
    }
    println!("killed {count} of {} nodes with {orphans} cameras", args.nodes);
    held &= shared(&topology, args, rest)?;
    topology.await_state(args.cameras, "searchable", LIMIT)?;
    println!("all searchable again {:.1} s after the first kill", start.elapsed().as_secs_f64());

    let start = Instant::now();
    for n in victims {
        topology.start("ingest", *n)?;
    }
    held &= shared(&topology, args, &all)?;
    topology.await_state(args.cameras, "searchable", LIMIT)?;
    println!("all nodes back, all searchable {:.1} s after the first start", start.elapsed().as_secs_f64());
    Ok(held)
}

/// Waits until `nodes` run all cameras, for five readings in a row, and prints how many each runs.
/// Returns whether no reading showed a node beyond its room.
fn shared(topology: &Topology, args: &Args, nodes: &[usize]) -> anyhow::Result<bool> {
    let (start, mut steady, mut most) = (Instant::now(), 0, 0);
    loop {
        let counts: Option<Vec<usize>> =
            nodes.iter().map(|n| topology.metric("ingest", *n, PLACED).map(|count| count as usize)).collect();
        let counts = counts.unwrap_or_default();
        most = most.max(counts.iter().copied().max().unwrap_or(0));
        steady = if counts.iter().sum::<usize>() == args.cameras { steady + 1 } else { 0 };
        if steady == 5 {
            let (least, greatest) = (counts.iter().min().context("no node")?, counts.iter().max().context("no node")?);
            println!(
                "{} nodes run {} cameras after {:.1} s: from {least} to {greatest} each, at no time more than {most} of {}",
                nodes.len(),
                args.cameras,
                start.elapsed().as_secs_f64(),
                args.max_cameras
            );
            return Ok(most <= args.max_cameras);
        }
        if start.elapsed() > LIMIT {
            bail!("after {} s the nodes run {counts:?}, together not {}", LIMIT.as_secs(), args.cameras);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}
