//! Shared state of all handlers. The server answers before the index and the camera node exist,
//! because loading a model takes a while; `/readyz` reports the phase of the start meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use sightline_core::config::{SearchConfig, ServerConfig};
use sightline_core::{CameraId, Timestamp};
use sightline_search::Index;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::cameras::{CameraControl, CameraView, LastReport, REPORT_TIMEOUT_S, view};
use crate::erasure::Jobs;
use crate::error::Error;
use crate::rate::RateLimiter;
use crate::state::{CameraRow, CameraSource, State, StateError};

/// The parts that an [`App`] is built from.
pub struct Setup {
    /// The configuration section `[server]`.
    pub server: ServerConfig,
    /// The configuration section `[search]`.
    pub search: SearchConfig,
    /// The database of cameras, tokens and audit records.
    pub state: State,
    /// Administrator token that is valid until the process ends or the token is revoked.
    pub start_token: Option<String>,
    /// Handle that renders `/metrics`.
    pub metrics: Option<PrometheusHandle>,
}

/// Model in use, for `/readyz` and the page's footer.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ModelView {
    /// Hash of the model folder's contents.
    pub id: String,
    /// Name in its configuration.
    pub name: String,
    /// Device that computes it.
    pub device: String,
    /// Number format of the weights.
    pub dtype: String,
    /// Height and width of its input in pixels.
    pub image_size: [usize; 2],
    /// Length of the global feature.
    pub feature_dim: usize,
    /// Training data and measured quality, as the model folder states them.
    #[schema(value_type = Object)]
    pub provenance: serde_json::Value,
    /// Extent of the self-test at the start: `compared` with stored answers, or `spread only` when
    /// the model folder has none.
    pub self_test: String,
}

struct Inner {
    server: ServerConfig,
    search: SearchConfig,
    state: State,
    metrics: Option<PrometheusHandle>,
    rate: RateLimiter<String>,
    address_rate: RateLimiter<IpAddr>,
    index: OnceLock<(Index, ModelView)>,
    search_permits: Arc<Semaphore>,
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
    /// Creates an application without index and cameras: `/healthz` answers, `/readyz` is not
    /// ready.
    pub fn new(setup: Setup) -> Self {
        if let Some(secret) = &setup.start_token
            && let Err(error) = setup.state.set_start_token(secret)
        {
            // A full disk, for example; tokens made before still work.
            tracing::error!(%error, "the token of this start cannot be stored and does not work");
        }
        let inner = Inner {
            rate: RateLimiter::new(setup.server.rate_per_minute),
            address_rate: RateLimiter::new(setup.server.address_rate_per_minute),
            server: setup.server,
            search_permits: Arc::new(Semaphore::new(setup.search.concurrent.max(1))),
            search: setup.search,
            state: setup.state,
            metrics: setup.metrics,
            index: OnceLock::new(),
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

    /// Sets the index once the model has passed its self-test and the index is open; searches are
    /// answered from then on. What the unfinished erasures of the database erase is hidden before:
    /// a crash may have come between a job and its tombstone. Later calls have no effect.
    ///
    /// # Errors
    /// When the unfinished erasures cannot be read: without them nothing may be shown.
    pub fn set_index(&self, index: Index, model: ModelView) -> Result<(), StateError> {
        for job in self.state().unfinished_erasures()? {
            index.hide_now(job.tombstone(), &job.scopes);
        }
        if self.inner.index.set((index, model)).is_err() {
            tracing::warn!("the index was set twice; the first one stays");
        }
        Ok(())
    }

    /// Sets the camera node once it runs. Later calls have no effect.
    pub fn set_cameras(&self, control: Arc<dyn CameraControl>) {
        if self.inner.control.set(control).is_err() {
            tracing::warn!("the camera node was set twice; the first one stays");
        }
    }

    /// Returns the index. It knows no caller: routes reach it through a [`crate::desk::Desk`].
    ///
    /// # Errors
    /// [`Error::Unavailable`] until the index is set.
    pub(crate) fn index(&self) -> Result<&Index, Error> {
        let set = self.inner.index.get().map(|(index, _)| index);
        set.ok_or_else(|| Error::Unavailable { part: "search", why: self.phase() })
    }

    /// Returns the model in use; `None` until the index is set.
    pub(crate) fn model(&self) -> Option<&ModelView> {
        self.inner.index.get().map(|(_, model)| model)
    }

    /// Permits of the searches that may run side by side.
    pub(crate) fn search_permits(&self) -> Arc<Semaphore> {
        Arc::clone(&self.inner.search_permits)
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

    /// Returns the database of cameras, tokens, erasures and audit records.
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

    /// Rate limiter of all tokens.
    pub(crate) fn rate(&self) -> &RateLimiter<String> {
        &self.inner.rate
    }

    /// Rate limiter of all client addresses.
    pub(crate) fn address_rate(&self) -> &RateLimiter<IpAddr> {
        &self.inner.address_rate
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

    /// Returns every camera of the database and of other processes, ordered by id. A camera that
    /// was removed is left out, even if its node still reports it; what is stored of it is the
    /// index's to hide.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn known_cameras(&self) -> Result<Vec<CameraRow>, Error> {
        let (rows, erasures) = self.state().run(|s| Ok((s.cameras()?, s.erasures()?))).await?;
        let mut known: BTreeMap<CameraId, CameraRow> = rows.into_iter().map(|r| (r.spec.id.clone(), r)).collect();
        let Some(control) = self.inner.control.get().cloned().filter(|c| c.remote()) else {
            return Ok(known.into_values().collect());
        };
        let removed: BTreeSet<CameraId> = erasures.into_iter().map(|e| e.camera).collect();
        let reporting: BTreeSet<CameraId> =
            control.status().into_iter().filter(|h| h.age_s <= REPORT_TIMEOUT_S).map(|h| h.report.camera).collect();
        for (spec, source) in control.remote_cameras() {
            // An archived camera becomes active again when it is added again or its node runs it
            // again.
            let back = source == CameraSource::Api || reporting.contains(&spec.id);
            if !removed.contains(&spec.id) && known.get(&spec.id).is_none_or(|k| k.archived && back) {
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
        let marks = self.index().map(Index::coverage_now).unwrap_or_default();
        let now = Timestamp::now();
        rows.iter().map(|r| view(r, nodes.get(&r.spec.id), marks.get(&r.spec.id), now, with_url)).collect()
    }
}
