//! `sightline-index dead-letters`: lists records that could not be processed, with the reason, and
//! replays them after the cause is fixed.

use std::cell::Cell;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;
use sightline_bus::dead::{self, DeadLetter};
use sightline_core::Config;
use sightline_core::{Timestamp, telemetry};

/// Dead-letter commands.
#[derive(Subcommand)]
pub enum Action {
    /// List the newest dead letters, oldest first.
    List(Which),
    /// Send dead letters to their original topic again and remove them from the dead letters.
    Replay(Which),
}

/// Selection of dead letters.
#[derive(Args)]
pub struct Which {
    /// Only dead letters of this topic; by default those of all topics.
    #[arg(long)]
    topic: Option<String>,
    /// Largest number of dead letters per topic.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(config: &Config, action: &Action) -> anyhow::Result<()> {
    telemetry::init(config.server.log_json, "warn");
    match action {
        Action::List(which) => list(config, which),
        Action::Replay(which) => replay(config, which),
    }
}

fn topics(config: &Config, which: &Which) -> Vec<String> {
    let all = || vec![config.bus.crops_topic.clone(), config.bus.sightings_topic.clone()];
    which.topic.clone().map_or_else(all, |topic| vec![topic])
}

fn list(config: &Config, which: &Which) -> anyhow::Result<()> {
    let mut letters = Vec::new();
    for topic in topics(config, which) {
        letters.extend(dead::list(&config.bus, &topic, which.limit).with_context(|| format!("topic {topic}"))?);
    }
    letters.sort_by(|a, b| a.time.cmp(&b.time));
    if which.json {
        letters.iter().for_each(|letter| println!("{}", as_json(letter)));
        return Ok(());
    }
    if letters.is_empty() {
        println!("No dead letters.");
        return Ok(());
    }
    println!(
        "{:<28} {:<10} {:<7} {:<24} {:<16} {:>9}  REASON",
        "TIME", "TOPIC", "STAGE", "PARTITION/OFFSET", "CAMERA", "BYTES"
    );
    for l in &letters {
        let place = format!("{}/{}", l.origin.0, l.origin.1);
        let bytes = l.payload.len();
        println!("{:<28} {:<10} {:<7} {place:<24} {:<16} {bytes:>9}  {}", l.time, l.topic, l.stage, l.key, l.reason);
    }
    Ok(())
}

fn as_json(l: &DeadLetter) -> serde_json::Value {
    json!({
        "time": l.time.parse::<Timestamp>().ok(),
        "topic": l.topic,
        "partition": l.origin.0,
        "offset": l.origin.1,
        "stage": l.stage,
        "camera": l.key,
        "reason": l.reason,
        "bytes": l.payload.len(),
        "cut": l.cut,
    })
}

fn replay(config: &Config, which: &Which) -> anyhow::Result<()> {
    for topic in topics(config, which) {
        let left = Cell::new(which.limit);
        let pick = |_: &DeadLetter| match left.get().checked_sub(1) {
            Some(less) => {
                left.set(less);
                true
            }
            None => false,
        };
        let count = dead::replay(&config.bus, &topic, pick).with_context(|| format!("topic {topic}"))?;
        if which.json {
            println!("{}", json!({"topic": topic, "replayed": count}));
        } else {
            println!("{topic}: {count} replayed");
        }
    }
    Ok(())
}
