//! `sightline-embed`: a worker that turns the pictures of the topic `crops` into the sightings of
//! the topic `sightings`.
//!
//! Any number of workers share the topic as one consumer group. `/readyz` names the model, the
//! device and any fault. On SIGINT or SIGTERM the worker finishes its in-flight records and ends.

mod ledger;
mod status;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Parser;
use sightline_core::service::{NotReady, Service, stop_signal};
use sightline_core::shutdown::Shutdown;
use sightline_core::{Config, telemetry};

use status::Status;

/// Shutdown timeout beyond `bus.drain_seconds`, for the last sightings to reach the broker.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(8);
/// Shutdown timeout while no record is in flight.
const IDLE_SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// Embeds pictures of persons for the index: from the topic of crops to the topic of sightings.
#[derive(Parser)]
#[command(version, about)]
struct Args {
    /// Configuration; what it leaves out keeps its default (docker/sightline.toml).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("sightline-embed: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let config = Config::load(args.config.as_deref())?;
    telemetry::init(config.server.log_json, "info");
    let node = node_name(&config);
    let status = Status::default();
    let for_readiness = status.clone();
    let readiness = move || for_readiness.faults().into_iter().map(|(what, why)| NotReady::new(what, why)).collect();
    let service = Service::start(config.monitor.listen, "embed", Arc::new(readiness))?;
    let for_facts = status.clone();
    service.set_facts(move || for_facts.facts());
    println!("sightline-embed {node}: http://{}/readyz", service.address());

    let shutdown = Shutdown::new();
    let worker = {
        let (config, shutdown, status) = (config.clone(), shutdown.clone(), status.clone());
        std::thread::Builder::new().name("worker".into()).spawn(move || worker::run(&config, &node, &status, &shutdown))
    };
    let worker = worker.context("no thread for the worker")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async {
        let ended = async {
            while !worker.is_finished() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            () = stop_signal() => {}
            () = ended => {}
        }
    });
    shutdown.trigger();
    let grace = Duration::from_secs_f64(config.bus.drain_seconds) + SHUTDOWN_GRACE;
    let until = Instant::now() + if status.is_running() { grace } else { IDLE_SHUTDOWN_GRACE };
    while !worker.is_finished() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    if !worker.is_finished() {
        tracing::warn!("not everything was finished in time; it comes again");
        return Ok(());
    }
    worker.join().map_err(|_| anyhow!("the worker panicked"))?
}

/// `monitor.node`, or `embed@` and the host name.
fn node_name(config: &Config) -> String {
    if !config.monitor.node.is_empty() {
        return config.monitor.node.clone();
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    format!("embed@{}", if host.is_empty() { "unknown" } else { host })
}
