//! Cameras of other processes: what they do is read from the coverage that the index workers keep beside the vectors,
//! where every node's reports arrive in the order of the footage; what they shall do is told through a topic.
//!
//! ```text
//! node --reports--> crops --> sightings --> index worker --> coverage (Qdrant) --every second--> this process
//! POST, DELETE /v1/cameras --> topic `cameras` (feature `kafka`) --> nodes
//! ```

#[cfg(feature = "kafka")]
mod kafka;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sightline_core::config::CameraConfig;
use sightline_core::shutdown::Shutdown;
use sightline_core::{CameraId, NodeReport, Timestamp};
use sightline_search::Coverage;

#[cfg(feature = "kafka")]
pub use kafka::KafkaCameras;

use crate::cameras::{CameraControl, CameraRefused, Heard, SILENCE_LIMIT_S};
use crate::state::CameraSource;

/// Pause between two looks at the coverage. It bounds how late a state is shown; a search reads nothing of this.
const POLL: Duration = Duration::from_secs(1);

/// How long what was just told to the topic counts, until the topic itself says it.
const ECHO: Duration = Duration::from_secs(30);

/// A camera that left the coverage and is not heard of is forgotten after this.
const FORGET_S: f64 = 3600.0;

/// What this process says when it cannot steer.
const NO_TOPIC: &str = "this sightline-api was built without the feature kafka, so it steers no cameras: add and remove \
                        them in the configuration files of their nodes";

/// Where cameras are added and removed for all nodes.
pub trait CameraTopic: Send + Sync {
    /// Publishes a camera; returns once it is acknowledged.
    ///
    /// # Errors
    /// Why it is not.
    fn put(&self, camera: &CameraConfig) -> Result<(), String>;

    /// Publishes that a camera is removed; returns once that is acknowledged.
    ///
    /// # Errors
    /// Why it is not.
    fn remove(&self, camera: &CameraId) -> Result<(), String>;

    /// Everything published so far, as far as it has been read.
    fn all(&self) -> BTreeMap<CameraId, CameraConfig>;

    /// What keeps the topic from being read or written just now.
    fn fault(&self) -> Option<String>;
}

/// The newest report of a camera, and when it was first seen here.
struct Last {
    report: NodeReport,
    seen: Instant,
    /// How old the report was by its own account when this process saw the camera for the first time.
    before_s: f64,
}

#[derive(Default)]
struct Known {
    last: BTreeMap<CameraId, Last>,
    /// When the coverage was last up to date.
    read: Option<Instant>,
    /// Told to the topic, and not yet back from it: a camera, or that it is gone.
    told: BTreeMap<CameraId, (Option<CameraConfig>, Instant)>,
}

/// See the module.
pub struct RemoteNodes {
    coverage: Coverage,
    topic: Option<Arc<dyn CameraTopic>>,
    known: Mutex<Known>,
}

impl RemoteNodes {
    /// Cameras as `coverage` tells of them (a [`sightline_search::RemoteCoverage`]'s), steered through `topic` where there is one.
    pub fn new(coverage: Coverage, topic: Option<Arc<dyn CameraTopic>>) -> Self {
        Self { coverage, topic, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Every change is a single assignment, so a poisoned lock is still sound.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the coverage every second until `shutdown`: a task of its own.
    pub async fn follow(self: Arc<Self>, shutdown: Shutdown) {
        while !shutdown.is_triggered() {
            self.hear(Instant::now(), Timestamp::now());
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = shutdown.triggered() => return,
            }
        }
    }

    /// Takes note of what the coverage says now.
    fn hear(&self, now: Instant, clock: Timestamp) {
        if self.coverage.fault().is_some() {
            // What it says is old; that nothing is new is not the nodes' silence.
            return;
        }
        let entries = self.coverage.all();
        let mut known = self.known();
        known.read = Some(now);
        for (camera, entry) in &entries {
            let Some(report) = &entry.report else { continue };
            let key = |r: &NodeReport| (r.at, r.origin.seq, r.origin.producer.clone());
            match known.last.get(camera) {
                Some(last) if key(&last.report) == key(report) => {}
                Some(_) => {
                    known.last.insert(camera.clone(), Last { report: report.clone(), seen: now, before_s: 0.0 });
                }
                None => {
                    let before_s = clock.seconds_since(report.at).max(0.0);
                    known.last.insert(camera.clone(), Last { report: report.clone(), seen: now, before_s });
                }
            }
        }
        known.last.retain(|camera, last| entries.contains_key(camera) || silent(last, now) < FORGET_S);
    }

    /// The topic with what was told to it a moment ago.
    fn published(&self) -> BTreeMap<CameraId, CameraConfig> {
        let Some(topic) = &self.topic else { return BTreeMap::new() };
        let mut all = topic.all();
        let mut known = self.known();
        known.told.retain(|camera, (told, at)| at.elapsed() < ECHO && all.get(camera) != told.as_ref());
        for (camera, (told, _)) in &known.told {
            match told {
                Some(config) => drop(all.insert(camera.clone(), config.clone())),
                None => drop(all.remove(camera)),
            }
        }
        all
    }

    fn tell(&self, camera: &CameraId, config: Option<CameraConfig>) {
        self.known().told.insert(camera.clone(), (config, Instant::now()));
    }

    /// The newest report of a camera whose node is heard.
    fn reporting(&self, camera: &CameraId) -> Option<NodeReport> {
        let known = self.known();
        let (last, read) = (known.last.get(camera)?, known.read?);
        (silent(last, read) <= SILENCE_LIMIT_S).then(|| last.report.clone())
    }
}

fn not_told(why: String) -> CameraRefused {
    CameraRefused::Down(format!("the topic of cameras cannot be written: {why}"))
}

fn silent(last: &Last, now: Instant) -> f64 {
    now.saturating_duration_since(last.seen).as_secs_f64() + last.before_s
}

impl CameraControl for RemoteNodes {
    fn add(&self, camera: CameraConfig) -> Result<(), CameraRefused> {
        let topic = self.topic.as_ref().ok_or(CameraRefused::Unsupported(NO_TOPIC))?;
        // The rest of the address is judged by the node that takes the camera; its report says what is wrong.
        let scheme = camera.url.split_once(':').map_or("", |(scheme, _)| scheme);
        if scheme.is_empty() || !scheme.chars().all(|c| c.is_ascii_alphanumeric()) {
            let why = "is no address: start it with rtsp://, http://, https://, file:, v4l2:// or videotestsrc://";
            return Err(CameraRefused::Invalid(format!("{:?} {why}", camera.url)));
        }
        topic.put(&camera).map_err(not_told)?;
        let id = camera.id.clone();
        self.tell(&id, Some(camera));
        Ok(())
    }

    fn removable(&self, camera: &CameraId) -> Result<(), CameraRefused> {
        if self.published().contains_key(camera) {
            return Ok(());
        }
        match self.reporting(camera) {
            None => Ok(()),
            Some(report) => Err(CameraRefused::Conflict(format!(
                "camera {:?} stands in the configuration of its node {:?}: take it out there first",
                camera.as_str(),
                report.origin.producer
            ))),
        }
    }

    fn remove(&self, camera: &CameraId) -> Result<(), CameraRefused> {
        let Some(topic) = &self.topic else { return Ok(()) };
        // What has not been read from the topic yet may be there all the same.
        if topic.fault().is_none() && !self.published().contains_key(camera) {
            return Ok(());
        }
        topic.remove(camera).map_err(not_told)?;
        self.tell(camera, None);
        Ok(())
    }

    fn status(&self) -> Vec<Heard> {
        let known = self.known();
        let Some(read) = known.read else { return Vec::new() };
        let heard = |last: &Last| Heard { report: last.report.clone(), silent_s: silent(last, read) };
        known.last.values().map(heard).collect()
    }

    fn elsewhere(&self) -> Vec<(CameraConfig, CameraSource)> {
        let published = self.published();
        let of_nodes = self.coverage.all().into_keys().filter(|id| !published.contains_key(id)).map(|id| {
            let (url, fps, start_time) = (String::new(), None, None);
            let camera = CameraConfig { id, url, fps, start_time, looped: false, realtime: true };
            (camera, CameraSource::Node)
        });
        let of_nodes: Vec<_> = of_nodes.collect();
        published.into_values().map(|c| (c, CameraSource::Api)).chain(of_nodes).collect()
    }

    fn remote(&self) -> bool {
        true
    }

    fn fault(&self) -> Option<String> {
        if let Some(fault) = self.coverage.fault() {
            return Some(format!("camera states are not up to date: {fault}"));
        }
        let fault = self.topic.as_ref()?.fault()?;
        Some(format!("cameras cannot be added or removed: {fault}"))
    }
}

#[cfg(test)]
mod tests;
