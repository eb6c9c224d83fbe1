//! `sightline-ingest`: a camera node. It decodes and analyses its own cameras and those of the topic
//! `cameras` that the placement gives it, and sends the events through the outbox to the topic
//! `crops`.
//!
//! ```text
//! cameras -> detect, track -> Publisher (disk, bus.spool_bytes) -> Kafka, keyed by camera
//! ```
//!
//! The broker may be away at start, too: the node's own cameras run all the same. SIGINT and
//! SIGTERM stop the cameras, send what the broker accepts, and leave the rest on disk for the next
//! start.

mod cameras;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use sightline_bus::{self as bus, Producer, TopicSpec};
use sightline_core::service::{NotReady, Service, stop_signal};
use sightline_core::shutdown::Shutdown;
use sightline_core::{Config, telemetry};
use sightline_detect::{Detector, NanoDet};
use sightline_ingest::{CameraNode, KafkaCarrier, NodeConfig, Publisher};

use status::Status;

/// How long the outbox keeps sending after the cameras have stopped: process supervisors kill a
/// process after ten seconds.
const OUTBOX_DRAIN_TIMEOUT: Duration = Duration::from_secs(4);

/// Decodes and analyses cameras, and sends pictures of persons to the topic of crops.
#[derive(Parser)]
#[command(version, about)]
struct Args {
    /// Configuration; what it leaves out keeps its default (docker/sightline.toml).
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Asks a running node to give its cameras to other nodes and to take none, until `--undo`.
    Drain {
        /// Its name: `monitor.node`, or ingest@HOST.
        node: String,
        /// Let it take cameras again.
        #[arg(long)]
        undo: bool,
    },
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("sightline-ingest: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let config = Config::load(args.config.as_deref())?;
    telemetry::init(config.server.log_json, "info");
    if let Some(Command::Drain { node, undo }) = &args.command {
        bus::request_drain(&config.bus, node, !undo).context("the request was not taken")?;
        println!("{node} {}", if *undo { "takes cameras again" } else { "gives its cameras away" });
        return Ok(());
    }
    let name = node_name(&config);
    let status = Status::default();
    let asked = status.clone();
    let readiness = move || asked.faults().into_iter().map(|(what, why)| NotReady::new(what, why)).collect();
    let service = Service::start(config.monitor.listen, "ingest", Arc::new(readiness))?;
    println!("sightline-ingest {name}: http://{}/readyz", service.address());

    let (bus, shutdown) = (config.bus.clone(), Shutdown::new());
    let producer = Producer::start(&bus, &name)?;
    let topics = [
        TopicSpec::aging(&bus.crops_topic),
        TopicSpec::compacted(&bus.cameras_topic),
        TopicSpec::ordered(&bus.nodes_topic),
    ];
    let carrier = Arc::new(KafkaCarrier::new(producer.clone(), &bus.crops_topic));
    let prepare = {
        let (bus, shutdown) = (bus.clone(), shutdown.clone());
        move || match bus::await_topics(&bus, &topics, &shutdown) {
            Ok(()) => true,
            Err(error) => {
                if !shutdown.is_triggered() {
                    tracing::error!(%error, "nothing can be sent; events stay on disk");
                }
                false
            }
        }
    };
    let publisher = Publisher::start(
        &config.data.folder.join("outbox"),
        &config.data.folder.join("spool"),
        bus.spool_bytes,
        carrier,
        prepare,
    )?;
    status.set_publisher(&publisher);

    // ByteTrack's second stage needs detections that are too weak to be shown or to start a track.
    let detector = NanoDet::load(&config.detect.weights, &config.detect)?.with_score_threshold(config.track.low);
    let make = move || Box::new(detector.clone()) as Box<dyn Detector>;
    // The cameras have a shutdown of their own and stop first; the publisher must outlive them.
    let node = CameraNode::start(NodeConfig::new(&config, &name), make, publisher.clone(), Shutdown::new())?;
    let node = Arc::new(node);
    let cameras = cameras::spawn(&config, &name, Arc::clone(&node), &publisher, &producer, &status, &shutdown)?;
    status.set_started();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(stop_signal());
    cameras.drain();
    shutdown.trigger();
    node.stop();
    cameras.leave();
    let left = publisher.close(OUTBOX_DRAIN_TIMEOUT);
    tracing::info!(records_on_disk = left, "stopped");
    Ok(())
}

/// `monitor.node`, or else `ingest@` and the host name.
fn node_name(config: &Config) -> String {
    if !config.monitor.node.is_empty() {
        return config.monitor.node.clone();
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    format!("ingest@{}", if host.is_empty() { "unknown" } else { host })
}
