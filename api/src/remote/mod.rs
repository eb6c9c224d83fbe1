//! Cameras of other processes. Their state comes from the coverage that the index workers keep
//! beside the vectors, where the reports of all nodes arrive in the order of the footage; changes
//! go to the nodes through a topic.
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

use sightline_core::config::{CameraConfig, IngestConfig};
use sightline_core::shutdown::Shutdown;
use sightline_core::{CameraId, NodeReport, Timestamp};
use sightline_search::Coverage;

#[cfg(feature = "kafka")]
pub use kafka::KafkaCameras;

use crate::cameras::{CameraControl, CameraRefused, LastReport, REPORT_TIMEOUT_S};
use crate::state::CameraSource;

/// Poll interval of the coverage. It bounds how old a shown state is; searches do not depend on it.
const POLL: Duration = Duration::from_secs(1);

/// Time for which a change that was written to the topic counts before it is read back from there.
const PENDING_FOR: Duration = Duration::from_secs(30);

/// Age of the last report in seconds after which a camera that left the coverage is forgotten.
const FORGET_S: f64 = 3600.0;

/// Message for requests to add or remove cameras in a build without Kafka.
const NO_TOPIC: &str = "this sightline-api was built without the feature kafka, so it steers no cameras: add and remove \
                        them in the configuration files of their nodes";

/// Topic through which cameras are added and removed on all nodes.
pub trait CameraTopic: Send + Sync {
    /// Publishes a camera; returns once the broker has acknowledged it.
    ///
    /// # Errors
    /// The reason why the broker did not acknowledge it.
    fn put(&self, camera: &CameraConfig) -> Result<(), String>;

    /// Publishes the removal of a camera; returns once the broker has acknowledged it.
    ///
    /// # Errors
    /// The reason why the broker did not acknowledge it.
    fn remove(&self, camera: &CameraId) -> Result<(), String>;

    /// Returns all published cameras, as far as the topic has been read.
    fn all(&self) -> BTreeMap<CameraId, CameraConfig>;

    /// Reason why the topic cannot be read or written at the moment.
    fn fault(&self) -> Option<String>;
}

/// Last report of a camera, and when this process first saw it.
struct SeenReport {
    report: NodeReport,
    seen: Instant,
    /// Age of the report, by its own time stamp, when this process saw the camera for the first
    /// time.
    initial_age_s: f64,
}

#[derive(Default)]
struct PollState {
    reports: BTreeMap<CameraId, SeenReport>,
    /// Time of the last successful poll of the coverage.
    read: Option<Instant>,
    /// Changes written to the topic and not yet read back: a camera, or `None` for its removal.
    pending: BTreeMap<CameraId, (Option<CameraConfig>, Instant)>,
}

/// [`CameraControl`] over the nodes of other processes.
pub struct RemoteNodes {
    coverage: Coverage,
    topic: Option<Arc<dyn CameraTopic>>,
    ingest: Option<IngestConfig>,
    state: Mutex<PollState>,
}

impl RemoteNodes {
    /// Creates the control over the cameras of `coverage` (usually of a
    /// [`sightline_search::RemoteCoverage`]); `topic` is needed to add and remove cameras.
    pub fn new(coverage: Coverage, topic: Option<Arc<dyn CameraTopic>>) -> Self {
        Self { coverage, topic, ingest: None, state: Mutex::default() }
    }

    /// Refuses to add cameras that are not valid on a node with this `[ingest]`, or that its
    /// `sources` do not allow.
    #[must_use]
    pub fn checked_by(self, ingest: IngestConfig) -> Self {
        Self { ingest: Some(ingest), ..self }
    }

    fn state(&self) -> MutexGuard<'_, PollState> {
        // Every change is a single assignment, so a poisoned lock is still consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls the coverage every second until `shutdown`; run it as a task of its own.
    pub async fn follow(self: Arc<Self>, shutdown: Shutdown) {
        while !shutdown.is_triggered() {
            self.poll(Instant::now(), Timestamp::now());
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = shutdown.triggered() => return,
            }
        }
    }

    /// Records the reports in the current coverage.
    fn poll(&self, now: Instant, clock: Timestamp) {
        if self.coverage.fault().is_some() {
            // The coverage is stale, so a missing report says nothing about the nodes.
            return;
        }
        let entries = self.coverage.all();
        let mut state = self.state();
        state.read = Some(now);
        for (camera, entry) in &entries {
            let Some(report) = &entry.report else { continue };
            let key = |r: &NodeReport| (r.at, r.origin.seq, r.origin.producer.clone());
            match state.reports.get(camera) {
                Some(last) if key(&last.report) == key(report) => {}
                Some(_) => {
                    state
                        .reports
                        .insert(camera.clone(), SeenReport { report: report.clone(), seen: now, initial_age_s: 0.0 });
                }
                None => {
                    let initial_age_s = clock.seconds_since(report.at).max(0.0);
                    state
                        .reports
                        .insert(camera.clone(), SeenReport { report: report.clone(), seen: now, initial_age_s });
                }
            }
        }
        state.reports.retain(|camera, last| entries.contains_key(camera) || report_age_s(last, now) < FORGET_S);
    }

    /// Cameras of the topic, with the pending changes applied.
    fn published(&self) -> BTreeMap<CameraId, CameraConfig> {
        let Some(topic) = &self.topic else { return BTreeMap::new() };
        let mut all = topic.all();
        let mut state = self.state();
        state.pending.retain(|camera, (pending, at)| at.elapsed() < PENDING_FOR && all.get(camera) != pending.as_ref());
        for (camera, (pending, _)) in &state.pending {
            match pending {
                Some(config) => drop(all.insert(camera.clone(), config.clone())),
                None => drop(all.remove(camera)),
            }
        }
        all
    }

    fn mark_pending(&self, camera: &CameraId, config: Option<CameraConfig>) {
        self.state().pending.insert(camera.clone(), (config, Instant::now()));
    }

    /// The last report of a camera whose node still reports.
    fn live_report(&self, camera: &CameraId) -> Option<NodeReport> {
        let state = self.state();
        let (last, read) = (state.reports.get(camera)?, state.read?);
        (report_age_s(last, read) <= REPORT_TIMEOUT_S).then(|| last.report.clone())
    }
}

fn publish_failed(why: String) -> CameraRefused {
    CameraRefused::Down(format!("the topic of cameras cannot be written: {why}"))
}

fn report_age_s(last: &SeenReport, now: Instant) -> f64 {
    now.saturating_duration_since(last.seen).as_secs_f64() + last.initial_age_s
}

impl CameraControl for RemoteNodes {
    fn add(&self, camera: CameraConfig) -> Result<(), CameraRefused> {
        let topic = self.topic.as_ref().ok_or(CameraRefused::Unsupported(NO_TOPIC))?;
        match &self.ingest {
            None => drop(camera.url.source().map_err(|e| CameraRefused::Invalid(e.to_string()))?),
            Some(ingest) => {
                camera.check(ingest).map_err(|e| CameraRefused::Invalid(e.to_string()))?;
                ingest.sources.check(&camera.url).map_err(|e| CameraRefused::Invalid(e.to_string()))?;
            }
        }
        topic.put(&camera).map_err(publish_failed)?;
        let id = camera.id.clone();
        self.mark_pending(&id, Some(camera));
        Ok(())
    }

    fn removable(&self, camera: &CameraId) -> Result<(), CameraRefused> {
        if self.published().contains_key(camera) {
            return Ok(());
        }
        match self.live_report(camera) {
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
        // A camera that has not been read from the topic yet may still exist.
        if topic.fault().is_none() && !self.published().contains_key(camera) {
            return Ok(());
        }
        topic.remove(camera).map_err(publish_failed)?;
        self.mark_pending(camera, None);
        Ok(())
    }

    fn status(&self) -> Vec<LastReport> {
        let state = self.state();
        let Some(read) = state.read else { return Vec::new() };
        let last_report =
            |last: &SeenReport| LastReport { report: last.report.clone(), age_s: report_age_s(last, read) };
        state.reports.values().map(last_report).collect()
    }

    fn remote_cameras(&self) -> Vec<(CameraConfig, CameraSource)> {
        let published = self.published();
        let of_nodes = self.coverage.all().into_keys().filter(|id| !published.contains_key(id)).map(|id| {
            // Its node alone knows its address.
            (CameraConfig::new(id, ""), CameraSource::Node)
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
