//! Drill: kills processes at random moments. In the end the index must hold what an undisturbed run
//! stores, nothing twice, and everything that was acknowledged (seen in the store) at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use sightline_core::SightingId;

use crate::Common;
use crate::footage::file_cameras;
use crate::index::{Held, Index};
use crate::topology::{Roles, Topology};

/// Arguments of the chaos drill
#[derive(clap::Args)]
pub struct Args {
    /// Number of kills
    #[arg(long, default_value_t = 200)]
    kills: usize,
    /// Cameras, each with a recording as its footage
    #[arg(long, default_value_t = 6)]
    cameras: usize,
    /// Seed that decides which process is killed when
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Longest pause between two kills, in milliseconds
    #[arg(long, default_value_t = 2500)]
    pause_ms: u64,
    /// Longest absence of the killed process, in milliseconds
    #[arg(long, default_value_t = 1000)]
    absence_ms: u64,
    /// How long the first camera node is cut off from the broker, in seconds, from the middle of the
    /// kills on; other processes are killed meanwhile
    #[arg(long, default_value_t = 60)]
    cut_seconds: u64,
    /// Processes of each role
    #[arg(long, default_value_t = 2)]
    ingest: usize,
    #[arg(long, default_value_t = 2)]
    embed: usize,
    #[arg(long, default_value_t = 2)]
    index: usize,
}

/// Time limit for the footage to reach the index.
const LIMIT: Duration = Duration::from_secs(1500);

/// Runs the drill; returns whether nothing was lost and nothing doubled.
pub fn run(common: &Common, args: &Args) -> anyhow::Result<bool> {
    let roles = Roles { ingest: args.ingest, embed: args.embed, index: args.index };
    let config = file_cameras(args.cameras, &common.videos, false)?;

    let calm = {
        let topology = Topology::up(&common.dir.join("calm"), roles, &config)?;
        let took = topology.await_state(args.cameras, "ended", LIMIT)?;
        let all = Index::open(&topology)?.all()?;
        println!("undisturbed: {} sightings of {} tracks in {:.0} s", all.len(), tracks(&all), took.as_secs_f64());
        all
    };

    let (topology, line) = Topology::up_with_line(&common.dir.join("chaos"), roles, &config)?;
    let mut cut: Option<Instant> = None;
    let mut rng = StdRng::seed_from_u64(args.seed);
    let (mut acknowledged, mut kills) = (BTreeSet::<SightingId>::new(), BTreeMap::<String, usize>::new());
    let start = Instant::now();
    let victims = roles.all();
    for n in 0..args.kills {
        std::thread::sleep(Duration::from_millis(rng.random_range(0..args.pause_ms)));
        // While the store is unreachable, nothing new can have been acknowledged.
        if let Ok(index) = Index::open(&topology)
            && let Ok(ids) = index.ids()
        {
            acknowledged.extend(ids);
        }
        if n == args.kills / 2 {
            line.cut();
            cut = Some(Instant::now());
            println!("ingest 1 is cut off from the broker after {n} kills");
        }
        if cut.is_some_and(|since| since.elapsed() >= Duration::from_secs(args.cut_seconds)) {
            println!("ingest 1 reaches the broker again after {n} kills");
            line.mend();
            cut = None;
        }
        // The node that is cut off lives, so that it has something to send afterwards.
        let spared = cut.map(|_| ("ingest", 1));
        let candidates: Vec<_> = victims.iter().filter(|victim| Some(**victim) != spared).collect();
        let Some((role, number)) = candidates.choose(&mut rng) else { break };
        topology.kill(role, *number)?;
        *kills.entry((*role).to_owned()).or_default() += 1;
        std::thread::sleep(Duration::from_millis(rng.random_range(0..args.absence_ms)));
        topology.start(role, *number)?;
        if (n + 1) % 20 == 0 {
            println!(
                "{} kills after {:.0} s, {} sightings acknowledged so far",
                n + 1,
                start.elapsed().as_secs_f64(),
                acknowledged.len()
            );
        }
    }
    line.mend();
    let mix: Vec<String> = kills.iter().map(|(role, n)| format!("{role} {n}")).collect();
    println!("{} kills in {:.0} s: {}", args.kills, start.elapsed().as_secs_f64(), mix.join(", "));
    let took = topology.await_state(args.cameras, "ended", LIMIT)?;
    println!("all footage indexed {:.0} s after the last kill", took.as_secs_f64());
    let all = Index::open(&topology)?.all()?;
    Ok(judge(&calm, &all, &acknowledged))
}

fn tracks(all: &BTreeMap<SightingId, Held>) -> usize {
    all.values().map(|h| (&h.camera, &h.track)).collect::<BTreeSet<_>>().len()
}

fn judge(
    calm: &BTreeMap<SightingId, Held>,
    all: &BTreeMap<SightingId, Held>,
    acknowledged: &BTreeSet<SightingId>,
) -> bool {
    let lost = acknowledged.iter().filter(|id| !all.contains_key(id)).count();
    let missing = calm.keys().filter(|id| !all.contains_key(id)).count();
    let extra = all.keys().filter(|id| !calm.contains_key(id)).count();
    let mut slots = BTreeSet::new();
    let doubled = all.values().filter(|h| !slots.insert((&h.camera, &h.track, h.crop_no))).count();
    let changed: Vec<_> = calm.iter().filter(|(id, held)| all.get(id).is_some_and(|h| h != *held)).collect();
    println!(
        "undisturbed {} sightings of {} tracks, after the kills {} of {}",
        calm.len(),
        tracks(calm),
        all.len(),
        tracks(all)
    );
    println!(
        "acknowledged and lost: {lost}; missing: {missing}; not in the undisturbed run: {extra}; doubled: {doubled}; other content: {}",
        changed.len()
    );
    for (id, held) in changed.iter().take(5) {
        println!("  {id}: {held:?} became {:?}", all.get(id));
    }
    lost + missing + extra + doubled + changed.len() == 0
}
