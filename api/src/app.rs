//! What every handler shares. The engine and the camera node arrive after the server has begun to answer, because
//! loading a model takes a while and `/readyz` has to say so meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use metrics_exporter_prometheus::PrometheusHandle;
use sightline_core::config::{SearchConfig, ServerConfig};
use sightline_core::{CameraId, Timestamp};

use crate::auth::Caller;
use crate::cameras::{CameraControl, CameraView, Heard, SILENCE_LIMIT_S, view};
use crate::engine::Engine;
use crate::error::Error;
use crate::rate::RateLimiter;
use crate::state::{CameraRow, CameraSource, State, hash_token};

/// What a server is made of.
pub struct Setup {
    /// `[server]`.
    pub server: ServerConfig,
    /// `[search]`.
    pub search: SearchConfig,
    /// Cameras, tokens, audit.
    pub state: State,
    /// An administrator's token that is valid until the process ends.
    pub start_token: Option<String>,
    /// Renders `/metrics`.
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
    removing: Mutex<BTreeSet<CameraId>>,
}

/// Handle on everything; cloning shares it.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

impl App {
    /// An application without engine and cameras: alive, not ready.
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
            removing: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Says what the start is busy with, for `/readyz`.
    pub fn set_phase(&self, phase: &str) {
        *self.inner.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase.to_owned();
    }

    /// What the start is busy with.
    pub fn phase(&self) -> String {
        self.inner.phase.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The model has passed its self-test and the index is open: from now on searches are answered. Only the first call
    /// counts.
    pub fn set_engine(&self, engine: Arc<dyn Engine>) {
        if self.inner.engine.set(engine).is_err() {
            tracing::warn!("the engine was set twice; the first one stays");
        }
    }

    /// The camera node runs. Only the first call counts.
    pub fn set_cameras(&self, control: Arc<dyn CameraControl>) {
        if self.inner.control.set(control).is_err() {
            tracing::warn!("the camera node was set twice; the first one stays");
        }
    }

    /// The engine.
    ///
    /// # Errors
    /// [`Error::Unavailable`] until it is there.
    pub fn engine(&self) -> Result<&Arc<dyn Engine>, Error> {
        self.inner.engine.get().ok_or_else(|| Error::Unavailable { part: "search", why: self.phase() })
    }

    /// The camera node.
    ///
    /// # Errors
    /// [`Error::Unavailable`] until it is there, or when this process has none.
    pub fn control(&self) -> Result<&Arc<dyn CameraControl>, Error> {
        let why = || "no camera node runs in this process".to_owned();
        self.inner.control.get().ok_or_else(|| Error::Unavailable { part: "the camera node", why: why() })
    }

    /// Held while cameras are added or removed, so that two callers do not cross.
    pub async fn changing_cameras(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.inner.changing.lock().await
    }

    /// Says, for as long as the value lives, that a request is removing this camera, so that nobody erases beside it.
    pub(crate) fn removing(&self, camera: &CameraId) -> Removing {
        self.inner.removing.lock().unwrap_or_else(PoisonError::into_inner).insert(camera.clone());
        Removing { app: self.clone(), camera: camera.clone() }
    }

    /// Whether a request is removing this camera just now.
    pub(crate) fn is_removing(&self, camera: &CameraId) -> bool {
        self.inner.removing.lock().unwrap_or_else(PoisonError::into_inner).contains(camera)
    }

    /// The database.
    pub fn state(&self) -> &State {
        &self.inner.state
    }

    /// `[server]`.
    pub fn server(&self) -> &ServerConfig {
        &self.inner.server
    }

    /// `[search]`.
    pub fn search_config(&self) -> &SearchConfig {
        &self.inner.search
    }

    /// SHA-256 of the token of this start.
    pub(crate) fn start_token(&self) -> Option<&[u8; 32]> {
        self.inner.start_token.as_ref()
    }

    /// The tokens' buckets.
    pub(crate) fn rate(&self) -> &RateLimiter {
        &self.inner.rate
    }

    /// Renders `/metrics`.
    pub(crate) fn metrics(&self) -> Option<&PrometheusHandle> {
        self.inner.metrics.as_ref()
    }

    /// The known cameras the caller may see.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn visible_cameras(&self, caller: &Caller) -> Result<Vec<CameraRow>, Error> {
        let mut rows = self.known_cameras().await?;
        rows.retain(|r| caller.sees(&r.spec.id));
        Ok(rows)
    }

    /// Every camera: those of the database, and those of other processes, by id. A camera that was erased is not there,
    /// even though its node may not have heard of that yet.
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
            control.status().into_iter().filter(|h| h.silent_s <= SILENCE_LIMIT_S).map(|h| h.report.camera).collect();
        for (spec, source) in control.elsewhere() {
            // One that was removed and kept comes back when somebody adds it, or when its node runs it again.
            let back = source == CameraSource::Api || reporting.contains(&spec.id);
            if !erased.contains(&spec.id) && known.get(&spec.id).is_none_or(|k| k.archived && back) {
                let row = CameraRow { source, archived: false, added_at: Timestamp::now(), spec };
                known.insert(row.spec.id.clone(), row);
            }
        }
        Ok(known.into_values().collect())
    }

    /// One camera, wherever it is known.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn known_camera(&self, id: &CameraId) -> Result<Option<CameraRow>, Error> {
        Ok(self.known_cameras().await?.into_iter().find(|r| r.spec.id == *id))
    }

    /// What the node and the index say of these cameras.
    pub async fn camera_views(&self, rows: &[CameraRow], with_url: bool) -> Vec<CameraView> {
        let nodes: BTreeMap<CameraId, Heard> = match self.inner.control.get().cloned() {
            // The node's status may wait for a lock a starting pipeline holds.
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

/// See [`App::removing`].
pub(crate) struct Removing {
    app: App,
    camera: CameraId,
}

impl Drop for Removing {
    fn drop(&mut self) {
        self.app.inner.removing.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.camera);
    }
}
