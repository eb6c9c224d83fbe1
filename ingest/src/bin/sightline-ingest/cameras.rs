//! The cameras of this node: those of its own configuration at once, and those that the placement
//! gives it as soon as it is in touch with the other nodes.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use sightline_bus::placement::CameraChange;
use sightline_bus::{CameraPlacement, Producer};
use sightline_core::shutdown::Shutdown;
use sightline_core::{CameraId, CameraState, Config, Timestamp};
use sightline_ingest::{CameraNode, PlacementFence, Publisher, Roster};

use crate::status::Status;

/// Longest wait for a change, so that a stop is noticed and refused cameras are reported.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// How long leaving the placement may delay the stop.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the thread may take to end: it may be stopping cameras.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// The thread that follows the placement.
pub struct Follower {
    thread: JoinHandle<()>,
    placement: Arc<OnceLock<Arc<CameraPlacement>>>,
}

/// Starts the node's own cameras and a thread that follows the placement until `shutdown`.
pub fn spawn(
    config: &Config,
    name: &str,
    node: Arc<CameraNode>,
    publisher: &Publisher,
    producer: &Producer,
    status: &Status,
    shutdown: &Shutdown,
) -> anyhow::Result<Follower> {
    let mut roster = Roster::new(Arc::clone(&node), config.cameras.clone());
    // What the configuration gives this node leaves less room for cameras of the topic.
    let capacity = config.ingest.max_cameras.saturating_sub(config.cameras.len());
    let capacity = u32::try_from(capacity).unwrap_or(u32::MAX);
    let (bus, name, publisher, producer) = (config.bus.clone(), name.to_owned(), publisher.clone(), producer.clone());
    let (status, shutdown) = (status.clone(), shutdown.clone());
    let shared: Arc<OnceLock<Arc<CameraPlacement>>> = Arc::default();
    let joined = Arc::clone(&shared);
    let thread = std::thread::Builder::new().name("roster".into()).spawn(move || {
        while !shutdown.is_triggered() {
            match joined.get() {
                // The topics exist once the publisher is open.
                None if publisher.is_open() => match CameraPlacement::start(&bus, producer.clone(), &name, capacity) {
                    Ok(started) => {
                        let started = joined.get_or_init(|| Arc::new(started));
                        status.set_placement(started);
                        publisher.set_fence(Arc::clone(started) as Arc<dyn PlacementFence>);
                    }
                    Err(error) => {
                        tracing::error!(%error, "this node cannot take part in the placement of cameras");
                        std::thread::sleep(Duration::from_secs(1));
                    }
                },
                None => std::thread::sleep(POLL_INTERVAL),
                Some(placement) => {
                    placement.set_covered(covered(&node));
                    apply(&mut roster, placement.next(POLL_INTERVAL));
                    roster.set_unplaced(placement.unplaced());
                }
            }
            roster.retry_refused();
        }
    });
    Ok(Follower { thread: thread.context("no thread for the cameras")?, placement: shared })
}

/// Cameras whose frames arrive, and since when.
fn covered(node: &CameraNode) -> BTreeMap<CameraId, Timestamp> {
    let arriving = node.status().into_iter().filter(|camera| camera.state == CameraState::Decoding);
    arriving.map(|camera| (camera.camera, camera.since)).collect()
}

/// Makes changes in their order; cameras that stop one after the other do it side by side.
fn apply(roster: &mut Roster, changes: Vec<CameraChange>) {
    let mut stopping = Vec::new();
    for change in changes {
        match change {
            CameraChange::Stop(camera) => stopping.push(camera),
            CameraChange::Run(camera) => {
                roster.stop(&std::mem::take(&mut stopping));
                roster.run(camera);
            }
        }
    }
    roster.stop(&stopping);
}

impl Follower {
    /// Lets the other nodes know that this one ends.
    pub fn drain(&self) {
        if let Some(placement) = self.placement.get() {
            placement.drain();
        }
    }

    /// Leaves the placement; all cameras must have stopped. Others then take them over at once.
    pub fn leave(self) {
        let until = Instant::now() + END_TIMEOUT;
        while !self.thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        if self.thread.is_finished() {
            // The thread has logged its own panic.
            let _ = self.thread.join();
        }
        if let Some(placement) = self.placement.get()
            && !placement.leave(LEAVE_TIMEOUT)
        {
            tracing::warn!("the broker does not answer; the other nodes learn of this node's end by its silence");
        }
    }
}
