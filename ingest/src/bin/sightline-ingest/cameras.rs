//! The cameras of this node: those of its own configuration at once, and its share of the topic
//! `cameras` as soon as the broker has assigned it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use sightline_bus::{CameraChange, CameraShare};
use sightline_core::Config;
use sightline_core::shutdown::Shutdown;
use sightline_ingest::{CameraNode, Publisher, Roster};

use crate::status::Status;

/// The consumer group in which nodes share the cameras.
const GROUP: &str = "sightline-ingest";
/// Longest wait for a change, so that a stop is noticed and refused cameras are reported.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// How long leaving the group may delay the stop.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts the node's own cameras and a thread that follows the topic until `shutdown`.
pub fn spawn(
    config: &Config,
    name: &str,
    node: Arc<CameraNode>,
    publisher: &Publisher,
    status: &Status,
    shutdown: &Shutdown,
) -> anyhow::Result<JoinHandle<()>> {
    let mut roster = Roster::new(node, config.cameras.clone());
    let (bus, name, publisher) = (config.bus.clone(), name.to_owned(), publisher.clone());
    let (status, shutdown) = (status.clone(), shutdown.clone());
    let thread = std::thread::Builder::new().name("roster".into()).spawn(move || {
        let mut share: Option<Arc<CameraShare>> = None;
        while !shutdown.is_triggered() {
            match &share {
                // The topics exist once the publisher is open.
                None if publisher.is_open() => match CameraShare::start(&bus, GROUP, &name) {
                    Ok(started) => {
                        let started = Arc::new(started);
                        status.set_share(&started);
                        share = Some(started);
                    }
                    Err(error) => {
                        tracing::error!(%error, "no share of the cameras");
                        std::thread::sleep(Duration::from_secs(1));
                    }
                },
                None => std::thread::sleep(POLL_INTERVAL),
                Some(share) => match share.next(POLL_INTERVAL) {
                    Some(CameraChange::Run(camera)) => roster.run(camera),
                    Some(CameraChange::Stop(camera)) => roster.stop(&camera),
                    None => {}
                },
            }
            roster.retry_refused();
        }
    });
    thread.context("no thread for the cameras")
}

/// Waits for the thread to end, at most `LEAVE_TIMEOUT`: leaving the group needs the broker.
pub fn join(thread: JoinHandle<()>) {
    let until = Instant::now() + LEAVE_TIMEOUT;
    while !thread.is_finished() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    if thread.is_finished() {
        // The thread has logged its own panic.
        let _ = thread.join();
    }
}
