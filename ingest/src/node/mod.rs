//! The camera node: the owner of all cameras of a process. It adds and removes them while it runs,
//! each isolated from the others, and reports on them; the [`Roster`] also keeps those that it had
//! to refuse.

pub(crate) mod pool;
pub(crate) mod report;
mod roster;
pub(crate) mod status;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sightline_core::config::{CameraConfig, Config, DetectConfig, IngestConfig, ShotsConfig, TrackConfig};
use sightline_core::queue::Queue;
use sightline_core::shutdown::Shutdown;
use sightline_core::{CameraId, CameraUrl};
use sightline_detect::{CameraAnalyzer, Detector};
use tracing::{error, warn};

use crate::analysis::{Analysis, CropDropPolicy};
use crate::source::camera::join_within;
use crate::source::pipeline;
use crate::{Camera, CameraSpec, IngestError, Outlet};
pub use report::REPORT_EVERY;
pub use roster::Roster;
pub use status::CameraStatus;

use pool::DetectorPool;
use report::{Reporter, Ticker};
use status::Meters;

/// Frames that wait for analysis, per camera.
const FRAME_QUEUE: usize = 2;

/// How long [`CameraNode::remove`] waits for a camera to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Settings of a camera node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Decoding and supervision.
    pub ingest: IngestConfig,
    /// Tracking.
    pub track: TrackConfig,
    /// Selection of the pictures of a track.
    pub shots: ShotsConfig,
    /// Detection. The weights and the detector's own settings hold for all cameras alike.
    pub detect: DetectConfig,
    /// Name of this process in every message, for example `ingest@host`.
    pub producer: String,
    /// Addresses of the cameras of the configuration, which need no rule of `ingest.sources`.
    pub configured: BTreeMap<CameraId, CameraUrl>,
}

impl NodeConfig {
    /// Takes the settings of a node from the whole configuration.
    pub fn new(config: &Config, producer: impl Into<String>) -> Self {
        Self {
            ingest: config.ingest.clone(),
            track: config.track.clone(),
            shots: config.shots.clone(),
            detect: config.detect.clone(),
            producer: producer.into(),
            configured: config.cameras.iter().map(|camera| (camera.id.clone(), camera.url.clone())).collect(),
        }
    }

    /// Tracking of one camera. The detector also returns detections below the score threshold: they
    /// continue tracks, but start none.
    fn track_of(&self, camera: &CameraConfig) -> TrackConfig {
        let threshold = camera.score_threshold.unwrap_or(self.detect.score_threshold);
        TrackConfig { new_track: self.track.new_track.max(threshold), ..self.track.clone() }
    }
}

struct Entry {
    camera: Camera,
    analysis: Option<JoinHandle<()>>,
}

impl Entry {
    /// Stops the camera; returns whether all its threads ended in time.
    fn stop(mut self, timeout: Duration) -> bool {
        self.camera.stop();
        let until = Instant::now() + timeout;
        let supervision = self.camera.join(timeout);
        join_within(&mut self.analysis, until.saturating_duration_since(Instant::now())) && supervision
    }
}

/// Tells cameras to stop, before anybody waits for one of them.
fn stop_all<'a>(entries: impl Iterator<Item = &'a Entry>) {
    entries.for_each(|entry| entry.camera.stop());
}

/// The meters of every camera, to count crops dropped from the shared queue.
#[derive(Default)]
struct Registry(RwLock<BTreeMap<CameraId, Arc<Meters>>>);

impl Registry {
    fn find(&self, camera: &CameraId) -> Option<Arc<Meters>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(camera).cloned()
    }

    fn all(&self) -> Vec<Arc<Meters>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn put(&self, camera: &CameraId, meters: Option<Arc<Meters>>) {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match meters {
            Some(m) => map.insert(camera.clone(), m),
            None => map.remove(camera),
        };
    }
}

impl CropDropPolicy for Registry {
    fn droppable(&self, camera: &CameraId) -> bool {
        self.find(camera).is_some_and(|m| !m.lossless())
    }

    fn displaced(&self, camera: &CameraId) {
        if let Some(m) = self.find(camera) {
            m.crop_displaced();
        }
    }
}

/// Runs cameras. Dropping it stops them all.
pub struct CameraNode {
    config: NodeConfig,
    detectors: Arc<DetectorPool>,
    out: Arc<dyn Outlet>,
    shutdown: Shutdown,
    registry: Arc<Registry>,
    reporter: Arc<Reporter>,
    _ticker: Ticker,
    /// `None` once the node is stopped.
    cameras: Mutex<Option<BTreeMap<CameraId, Entry>>>,
}

impl std::fmt::Debug for CameraNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CameraNode").field("producer", &self.config.producer).finish_non_exhaustive()
    }
}

impl CameraNode {
    /// Starts GStreamer and makes the detectors; cameras are added with [`CameraNode::add`]. Events
    /// go into `out`, a queue or a [`crate::Publisher`]; so do reports on every camera, every two
    /// seconds and at every change of its state. The shutdown signal stops all cameras; call
    /// [`CameraNode::stop`] to wait for their last events.
    ///
    /// # Errors
    /// When GStreamer or an element every camera needs is missing.
    pub fn start<F, O>(config: NodeConfig, detector: F, out: O, shutdown: Shutdown) -> Result<Self, IngestError>
    where
        F: Fn() -> Box<dyn Detector> + Send + Sync + 'static,
        O: Outlet + 'static,
    {
        pipeline::init()?;
        let detectors = Arc::new(DetectorPool::new(config.detect.threads, Box::new(detector)));
        let cameras = Mutex::new(Some(BTreeMap::new()));
        let (out, registry): (Arc<dyn Outlet>, Arc<Registry>) = (Arc::new(out), Arc::default());
        let reporter = Arc::new(Reporter::new(&config.producer, Arc::clone(&out)));
        let (all, report) = (Arc::clone(&registry), Arc::clone(&reporter));
        let _ticker = Ticker::start(move || all.all().iter().for_each(|meters| report.report(meters)))?;
        Ok(Self { config, detectors, out, shutdown, registry, reporter, _ticker, cameras })
    }

    fn cameras(&self) -> MutexGuard<'_, Option<BTreeMap<CameraId, Entry>>> {
        self.cameras.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a camera. `Ok` means that the camera is accepted, not that it works: see
    /// [`CameraNode::status`].
    ///
    /// # Errors
    /// When its settings are not valid, its id is taken, or the node is full or stopped.
    pub fn add(&self, camera: CameraConfig) -> Result<(), IngestError> {
        let track = self.config.track_of(&camera);
        let configured = self.config.configured.get(&camera.id) == Some(&camera.url);
        let spec = CameraSpec::new(camera, &self.config.ingest)?.configured(configured);
        let id = spec.id.clone();
        let mut guard = self.cameras();
        let cameras = guard.as_mut().filter(|_| !self.shutdown.is_triggered()).ok_or(IngestError::Stopped)?;
        if cameras.contains_key(&id) {
            return Err(IngestError::Duplicate(id));
        }
        let max = self.config.ingest.max_cameras;
        if cameras.len() >= max {
            return Err(IngestError::OverCapacity { camera: id, max });
        }
        let frames = Queue::new(FRAME_QUEUE);
        let lossless = spec.lossless();
        let meters = Arc::new(Meters::new(&spec, Some(Arc::clone(&self.reporter))));
        let camera = Camera::start_metered(spec, meters, frames.clone(), self.shutdown.clone())?;
        let analysis = Analysis {
            camera: id.clone(),
            lossless,
            lost: Duration::from_secs_f64(track.lost_seconds),
            frames: frames.clone(),
            detectors: Arc::clone(&self.detectors),
            analyzer: CameraAnalyzer::new(id.clone(), &self.config.producer, &track, &self.config.shots),
            meters: Arc::clone(camera.meters()),
            drop_policy: Arc::clone(&self.registry) as Arc<dyn CropDropPolicy>,
            out: Arc::clone(&self.out),
            stop: camera.stop_signal().clone(),
        };
        self.registry.put(&id, Some(Arc::clone(camera.meters())));
        let (meters, stop) = (Arc::clone(camera.meters()), camera.stop_signal().clone());
        let thread = std::thread::Builder::new().name(format!("{id}-analysis"));
        let analysis = thread.spawn(move || {
            let name = analysis.camera.clone();
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| analysis.run())).is_err() {
                // A defect of ours: this camera fails with a reason, the others go on.
                error!(camera = %name, "analysis panicked");
                stop.request();
                frames.close();
                meters.failed("internal error in the analysis of this camera".into());
            }
        });
        let analysis = analysis.inspect_err(|_| self.registry.put(&id, None))?;
        cameras.insert(id, Entry { camera, analysis: Some(analysis) });
        Ok(())
    }

    /// Stops a camera and forgets it. Waits at most two seconds: a source that hangs longer is left
    /// to end by itself and delivers nothing any more.
    ///
    /// # Errors
    /// When there is no such camera.
    pub fn remove(&self, camera: &CameraId) -> Result<(), IngestError> {
        match self.remove_all(std::slice::from_ref(camera)) {
            0 => Err(IngestError::Unknown(camera.clone())),
            _ => Ok(()),
        }
    }

    /// Stops these cameras side by side and forgets them, as [`CameraNode::remove`] does one: all
    /// together take at most two seconds. Returns how many there were.
    pub fn remove_all(&self, cameras: &[CameraId]) -> usize {
        let entries: Vec<(&CameraId, Entry)> = {
            let mut guard = self.cameras();
            let mut take = |camera: &CameraId| guard.as_mut()?.remove(camera);
            cameras.iter().filter_map(|camera| Some((camera, take(camera)?))).collect()
        };
        let count = entries.len();
        stop_all(entries.iter().map(|(_, entry)| entry));
        let until = Instant::now() + STOP_TIMEOUT;
        for (camera, entry) in entries {
            if !entry.stop(until.saturating_duration_since(Instant::now())) {
                warn!(%camera, "removed, but not all of it has stopped yet");
            }
            self.registry.put(camera, None);
        }
        count
    }

    pub(crate) fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    /// Status of all cameras, ordered by id.
    pub fn status(&self) -> Vec<CameraStatus> {
        self.cameras().iter().flat_map(BTreeMap::values).map(|e| e.camera.status()).collect()
    }

    /// Stops all cameras and waits at most two seconds until their last events are in the queue.
    /// Afterwards the node accepts no cameras; further calls do nothing.
    pub fn stop(&self) {
        let Some(cameras) = self.cameras().take() else { return };
        stop_all(cameras.values());
        let until = Instant::now() + STOP_TIMEOUT;
        for (camera, entry) in cameras {
            if !entry.stop(until.saturating_duration_since(Instant::now())) {
                warn!(%camera, "has not stopped in time");
            }
        }
    }
}

impl Drop for CameraNode {
    fn drop(&mut self) {
        self.stop();
    }
}
