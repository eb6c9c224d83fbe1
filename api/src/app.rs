//! Shared state of all handlers. The server answers before the engine and the camera node exist,
//! because loading a model takes a while; `/readyz` reports the phase of the start meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use metrics_exporter_prometheus::PrometheusHandle;
use sightline_core::config::{SearchConfig, ServerConfig};
use sightline_core::{CameraId, Timestamp};

use crate::auth::Caller;
use crate::cameras::{CameraControl, CameraView, LastReport, REPORT_TIMEOUT_S, view};
use crate::engine::Engine;
use crate::erasure::Jobs;
use crate::error::Error;
use crate::rate::RateLimiter;
use crate::state::{CameraRow, CameraSource, State, hash_token};

/// The parts that an [`App`] is built from.
pub struct Setup {
    /// The configuration section `[server]`.
    pub server: ServerConfig,
    /// The configuration section `[search]`.
    pub search: SearchConfig,
    /// The database of cameras, tokens and audit records.
    pub state: State,
    /// Administrator token that is valid until the process ends.
    pub start_token: Option<String>,
    /// Handle that renders `/metrics`.
    pub metrics: Option<PrometheusHandle>,
}

struct Inner {
    server: ServerConfig,
    search: SearchConfig,
    state: State,
    start_token: Option<[u8; 32]>,
    metrics: Option<PrometheusHandle>,
    rate: RateLimiter,
    engine: OnceLock<Arc<dyn Engine>>,
    control: OnceLock<Arc<dyn CameraControl>>,
    phase: Mutex<String>,
    changing: tokio::sync::Mutex<()>,
    erasures: Jobs,
}

/// Shared handle on the state of the server; clones refer to the same state.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

impl App {
    /// Creates an application without engine and cameras: `/healthz` answers, `/readyz` is not
    /// ready.
    pub fn new(setup: Setup) -> Self {
        let inner = Inner {
            rate: RateLimiter::new(setup.server.rate_per_minute),
            server: setup.server,
            search: setup.search,
            state: setup.state,
            start_token: setup.start_token.as_deref().map(hash_token),
            metrics: setup.metrics,
            engine: OnceLock::new(),
            control: OnceLock::new(),
            phase: Mutex::new("starting".into()),
            changing: tokio::sync::Mutex::new(()),
            erasures: Jobs::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Sets the phase of the start that `/readyz` reports.
    pub fn set_phase(&self, phase: &str) {
        *self.inner.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase.to_owned();
    }

    /// Returns the phase of the start.
    pub fn phase(&self) -> String {
        self.inner.phase.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the engine once the model has passed its self-test and the index is open; searches are
    /// answered from then on. Later calls have no effect.
    pub fn set_engine(&self, engine: Arc<dyn Engine>) {
        if self.inner.engine.set(engine).is_err() {
            tracing::warn!("the engine was set twice; the first one stays");
        }
    }

    /// Sets the camera node once it runs. Later calls have no effect.
    pub fn set_cameras(&self, control: Arc<dyn CameraControl>) {
        if self.inner.control.set(control).is_err() {
            tracing::warn!("the camera node was set twice; the first one stays");
        }
    }

    /// Returns the engine.
    ///
    /// # Errors
    /// [`Error::Unavailable`] until the engine is set.
    pub fn engine(&self) -> Result<&Arc<dyn Engine>, Error> {
        self.inner.engine.get().ok_or_else(|| Error::Unavailable { part: "search", why: self.phase() })
    }

    /// Returns the camera node.
    ///
    /// # Errors
    /// [`Error::Unavailable`] until the camera node is set, or when this process has none.
    pub fn control(&self) -> Result<&Arc<dyn CameraControl>, Error> {
        let why = || "no camera node runs in this process".to_owned();
        self.inner.control.get().ok_or_else(|| Error::Unavailable { part: "the camera node", why: why() })
    }

    /// Locks the set of cameras while one is added or removed, so that two requests do not
    /// interfere.
    pub async fn changing_cameras(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.inner.changing.lock().await
    }

    /// Returns the erasure jobs of this process.
    pub fn erasures(&self) -> &Jobs {
        &self.inner.erasures
    }

    /// Returns the database.
    pub fn state(&self) -> &State {
        &self.inner.state
    }

    /// Returns the configuration section `[server]`.
    pub fn server(&self) -> &ServerConfig {
        &self.inner.server
    }

    /// Returns the configuration section `[search]`.
    pub fn search_config(&self) -> &SearchConfig {
        &self.inner.search
    }

    /// SHA-256 of the administrator token of this start.
    pub(crate) fn start_token(&self) -> Option<&[u8; 32]> {
        self.inner.start_token.as_ref()
    }

    /// Rate limiter of all tokens.
    pub(crate) fn rate(&self) -> &RateLimiter {
        &self.inner.rate
    }

    /// Handle that renders `/metrics`.
    pub(crate) fn metrics(&self) -> Option<&PrometheusHandle> {
        self.inner.metrics.as_ref()
    }

    /// Returns the known cameras that the caller may see.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn visible_cameras(&self, caller: &Caller) -> Result<Vec<CameraRow>, Error> {
        let mut rows = self.known_cameras().await?;
        rows.retain(|r| caller.sees(&r.spec.id));
        Ok(rows)
    }

    /// Returns every camera of the database and of other processes, ordered by id. A camera whose
    /// erasure has begun is left out, even if its node still reports it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn known_cameras(&self) -> Result<Vec<CameraRow>, Error> {
        let (rows, erasures) = self.state().run(|s| Ok((s.cameras()?, s.erasures()?))).await?;
        let mut known: BTreeMap<CameraId, CameraRow> = rows.into_iter().map(|r| (r.spec.id.clone(), r)).collect();
        let Some(control) = self.inner.control.get().cloned().filter(|c| c.remote()) else {
            return Ok(known.into_values().collect());
        };
        let erased: BTreeSet<CameraId> = erasures.into_iter().map(|e| e.camera).collect();
        let reporting: BTreeSet<CameraId> =
            control.status().into_iter().filter(|h| h.age_s <= REPORT_TIMEOUT_S).map(|h| h.report.camera).collect();
        for (spec, source) in control.remote_cameras() {
            // An archived camera becomes active again when it is added again or its node runs it
            // again.
            let back = source == CameraSource::Api || reporting.contains(&spec.id);
            if !erased.contains(&spec.id) && known.get(&spec.id).is_none_or(|k| k.archived && back) {
                let row = CameraRow { source, archived: false, added_at: Timestamp::now(), spec };
                known.insert(row.spec.id.clone(), row);
            }
        }
        Ok(known.into_values().collect())
    }

    /// Returns one camera, from the database or from another process.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn known_camera(&self, id: &CameraId) -> Result<Option<CameraRow>, Error> {
        Ok(self.known_cameras().await?.into_iter().find(|r| r.spec.id == *id))
    }

    /// Combines the node's report and the index watermark of each of these cameras.
    pub async fn camera_views(&self, rows: &[CameraRow], with_url: bool) -> Vec<CameraView> {
        let nodes: BTreeMap<CameraId, LastReport> = match self.inner.control.get().cloned() {
            // The node's status may block on a lock that a starting pipeline holds.
            Some(control) => tokio::task::spawn_blocking(move || control.status())
                .await
                .unwrap_or_default()
                .into_iter()
                .map(|n| (n.report.camera.clone(), n))
                .collect(),
            None => BTreeMap::new(),
        };
        let marks = self.inner.engine.get().map(|e| e.watermarks()).unwrap_or_default();
        let now = Timestamp::now();
        rows.iter().map(|r| view(r, nodes.get(&r.spec.id), marks.get(&r.spec.id), now, with_url)).collect()
    }
}
