//! Drill: minutes without the broker, then without the vector store, under live cameras. Memory
//! must stay bounded, drops must be counted and shown, and the topology must catch up without help.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::Common;
use crate::topology::{Roles, Topology};

/// Arguments of the outage drill
#[derive(clap::Args)]
pub struct Args {
    /// Addresses of live cameras, for example those of the example `rtsp_cameras`
    #[arg(required = true)]
    urls: Vec<String>,
    /// Duration of each outage in seconds
    #[arg(long, default_value_t = 180)]
    seconds: u64,
    /// Disk space of the camera node's outbox in bytes; a small number shows the counted drops
    #[arg(long, default_value_t = 1 << 30)]
    spool_bytes: u64,
}

const MIB: f64 = 1048576.0;

/// Runs both outages; returns whether the cameras were searchable again after each.
pub fn run(common: &Common, args: &Args) -> anyhow::Result<bool> {
    let mut config = format!("[bus]\nspool_bytes = {}\n", args.spool_bytes);
    for (n, url) in args.urls.iter().enumerate() {
        config += &format!("[[cameras]]\nid = \"live-{n}\"\nurl = \"{url}\"\n");
    }
    let topology = Topology::up(&common.dir, Roles { ingest: 1, embed: 1, index: 1 }, &config)?;
    let count = args.urls.len();
    topology.await_state(count, "searchable", Duration::from_secs(120))?;
    std::thread::sleep(Duration::from_secs(20));
    for away in ["kafka", "qdrant"] {
        outage(&topology, away, args.seconds, count)?;
    }
    Ok(true)
}

fn outage(topology: &Topology, away: &'static str, seconds: u64, count: usize) -> anyhow::Result<()> {
    let roles = ["ingest", "embed", "index", "api"];
    let resident = |role: &str| topology.memory(role, 1).map_or(0, |m| m.0);
    let before: BTreeMap<_, _> = roles.iter().map(|r| (*r, resident(r))).collect();
    let counts = |name: &str| -> anyhow::Result<BTreeMap<String, u64>> {
        Ok(topology.cameras()?.into_iter().map(|(id, c)| (id, c[name].as_u64().unwrap_or(0))).collect())
    };
    let (dropped, crops) = (counts("crops_dropped")?, counts("crops")?);
    println!("== {away} gone for {seconds} s");
    topology.kill(away, 1)?;
    let start = Instant::now();
    let (mut peak, mut seen) = (before.clone(), String::new());
    while start.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_secs(1));
        for role in roles {
            let most = peak.entry(role).or_default();
            *most = (*most).max(resident(role));
        }
        if start.elapsed() > Duration::from_secs(seconds.saturating_sub(5)) && seen.is_empty() {
            seen = match topology.cameras() {
                Ok(all) => all
                    .iter()
                    .map(|(id, c)| format!("{id}: {} ({})", c["state"], c["reason"]))
                    .collect::<Vec<_>>()
                    .join("; "),
                Err(e) => format!("the API says: {e:#}"),
            };
        }
    }
    println!("shown meanwhile: {seen}");
    topology.start(away, 1)?;
    let back = Instant::now();
    topology.await_state(count, "searchable", Duration::from_secs(600))?;
    println!("all {count} cameras searchable again {:.1} s after {away} was started", back.elapsed().as_secs_f64());
    println!("| role | resident before, MiB | peak during the outage | after |");
    println!("|---|---:|---:|---:|");
    for role in roles {
        println!(
            "| {role} | {:.0} | {:.0} | {:.0} |",
            before[role] as f64 / MIB,
            peak[role] as f64 / MIB,
            resident(role) as f64 / MIB
        );
    }
    // The last reports arrive behind the messages that were held back.
    std::thread::sleep(Duration::from_secs(6));
    let (dropped_now, crops_now, fraction) = (counts("crops_dropped")?, counts("crops")?, topology.cameras()?);
    for (id, now) in &dropped_now {
        let (was, published) = (dropped.get(id).copied().unwrap_or(0), crops.get(id).copied().unwrap_or(0));
        println!(
            "{id}: {} pictures published, {} dropped; dropped fraction since the start {}",
            crops_now[id].saturating_sub(published),
            now.saturating_sub(was),
            fraction[id]["dropped_fraction"]
        );
    }
    Ok(())
}
