//! The cameras of this node: its own at once, and its share of the topic `cameras` as soon as the broker says which.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use sightline_core::Config;
use sightline_core::bus::{CameraChange, CameraShare};
use sightline_core::shutdown::Shutdown;
use sightline_ingest::{CameraNode, Publisher, Roster};

use crate::status::Status;

/// Nodes share the cameras as members of this group.
const GROUP: &str = "sightline-ingest";
/// How long a wait for changes is cut, so that a stop is noticed and refused cameras are reported.
const BEAT: Duration = Duration::from_millis(250);
/// How long leaving the group may hold the stop up.
const LEAVE: Duration = Duration::from_secs(2);

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
                // The topics are there when the publisher is open.
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
                None => std::thread::sleep(BEAT),
                Some(share) => match share.next(BEAT) {
                    Some(CameraChange::Run(camera)) => roster.run(camera),
                    Some(CameraChange::Stop(camera)) => roster.stop(&camera),
                    None => {}
                },
            }
            roster.beat();
            status.set_refused(roster.refused());
        }
    });
    thread.context("no thread for the cameras")
}

/// Waits for the thread's end, but not for ever: leaving a group means talking to a broker.
pub fn join(thread: JoinHandle<()>) {
    let until = Instant::now() + LEAVE;
    while !thread.is_finished() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    if thread.is_finished() {
        // A panic inside has been reported there.
        let _ = thread.join();
    }
}
