//! Erasure jobs: started, followed and listed. From the answer to its start on, nothing that a job
//! erases is found or shown any more.

use serde::Serialize;
use serde_json::json;
use sightline_core::{CameraId, SightingId, Timestamp, TrackId};
use sightline_search::Scope;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Admin, Desk, run_to_completion};
use crate::app::App;
use crate::error::Error;
use crate::state::{AuditEntry, ErasureJob, ErasureReceipt, JobState, NewErasureJob};

/// Pictures that a job erases.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScopeView {
    /// Id of the camera.
    #[schema(value_type = String)]
    pub camera: CameraId,
    /// Only this track.
    #[schema(value_type = Option<String>)]
    pub track_id: Option<TrackId>,
    /// Earliest capture time, inclusive.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Timestamp>,
    /// Latest capture time, inclusive.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub to: Option<Timestamp>,
}

/// Counts of what a job has erased so far.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErasedView {
    /// Sightings that are not stored any more, in any model's index.
    pub sightings: u64,
    /// Files of the gallery: pictures and patch features.
    pub files: u64,
}

/// Erasure job. From the moment that it exists, nothing that it erases is found or shown any more.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErasureView {
    /// Id of the job, as in `/v1/erasures/{id}`.
    pub id: Uuid,
    /// State: `running`, `done`, or `failed` (another attempt follows at `retry_at`).
    pub state: JobState,
    /// Fraction done, 0 to 1.
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub progress: f64,
    /// What has been erased so far.
    pub erased: ErasedView,
    /// What the job erases.
    pub scopes: Vec<ScopeView>,
    /// Camera that is removed with its people, if any.
    #[schema(value_type = Option<String>)]
    pub removes_camera: Option<CameraId>,
    /// Time of the request.
    #[schema(value_type = String, format = DateTime)]
    pub requested_at: Timestamp,
    /// Token name and id of whoever asked.
    pub requested_by: String,
    /// Position of the request in the audit trail.
    pub audit_seq: i64,
    /// Attempts that failed so far; the pause before the next one grows with them.
    pub attempts: u32,
    /// Error of the last attempt.
    pub error: Option<String>,
    /// Time of the next attempt after a failed one.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub retry_at: Option<Timestamp>,
    /// Time at which the job was done.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
    /// Receipt, when done.
    pub receipt: Option<ErasureReceipt>,
}

impl From<ErasureJob> for ErasureView {
    fn from(job: ErasureJob) -> Self {
        let scope = |s: Scope| ScopeView { camera: s.camera, track_id: s.track, from: s.from, to: s.to };
        Self {
            id: job.id,
            state: job.state,
            progress: job.progress.clamp(0.0, 1.0),
            erased: ErasedView { sightings: job.erased.points, files: job.erased.files },
            scopes: job.scopes.into_iter().map(scope).collect(),
            removes_camera: job.removes,
            requested_at: job.requested_at,
            requested_by: job.requested_by,
            audit_seq: job.audit_seq,
            attempts: job.attempts,
            error: job.error,
            retry_at: job.retry_at,
            finished_at: job.finished_at,
            receipt: job.receipt,
        }
    }
}

/// What an erasure is to erase.
#[derive(Debug)]
pub enum ErasureTarget {
    /// People of a camera in a span of capture times, which ends now at the latest: the camera goes
    /// on, and what it records from now on stays.
    Camera {
        /// Id of the camera.
        camera: CameraId,
        /// Earliest capture time, inclusive.
        from: Option<Timestamp>,
        /// Latest capture time, inclusive.
        to: Option<Timestamp>,
    },
    /// These sightings, with all pictures of their tracks.
    Sightings(Vec<SightingId>),
}

/// An erasure as a caller asks for it. Every limit that needs no look-up holds already.
#[derive(Debug)]
pub struct ErasureOrder {
    /// What is to be erased.
    pub target: ErasureTarget,
    /// Purpose, for the audit trail.
    pub purpose: Option<String>,
}

impl Desk<Admin> {
    /// Starts an erasure job. It outlives the process.
    ///
    /// # Errors
    /// [`Error::UnknownCamera`], [`Error::NotFound`] when none of the sightings is there, or
    /// [`Error::Unavailable`].
    pub async fn start_erasure(&self, order: ErasureOrder) -> Result<ErasureView, Error> {
        let index = self.index()?;
        let ErasureOrder { target, purpose } = order;
        let (scopes, sightings) = match target {
            ErasureTarget::Camera { camera, from, to } => (vec![self.camera_scope(camera, from, to).await?], None),
            ErasureTarget::Sightings(ids) => {
                let (scopes, missing) = index.tracks_of(ids.clone()).await?;
                match missing.first() {
                    // What is gone already needs no erasure, but a list of wrong ids must not look
                    // done.
                    Some(id) if scopes.is_empty() => return Err(Error::NotFound(format!("there is no sighting {id}"))),
                    _ => (scopes, Some(ids)),
                }
            }
        };
        let detail = json!({ "scopes": scopes, "sightings": sightings });
        let requested_by = self.caller.signature();
        let entry = AuditEntry { who: requested_by.clone(), action: "erasure.start", purpose, detail };
        let app = self.app.clone();
        // A caller who hangs up leaves no record without its job, and no job that hides nothing
        // yet.
        run_to_completion(async move {
            let stored = app.state().run(move |s| {
                let audit_seq = s.record(&entry)?;
                s.start_erasure(&NewErasureJob { removes: None, scopes, requested_by, audit_seq })
            });
            let job = stored.await?;
            hide_at_once(&app, &job).await;
            Ok(job.into())
        })
        .await
    }

    async fn camera_scope(
        &self,
        camera: CameraId,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<Scope, Error> {
        if self.app.known_camera(&camera).await?.is_none() {
            return Err(Error::UnknownCamera(camera.to_string()));
        }
        let now = Timestamp::now();
        let to = to.map_or(now, |to| to.min(now));
        match from {
            Some(from) if from > to => Err(Error::Invalid(format!("from {from} is later than to {to}"))),
            _ => Ok(Scope { from, to: Some(to), ..Scope::camera(camera) }),
        }
    }

    /// Returns an erasure job with its progress.
    ///
    /// # Errors
    /// [`Error::NotFound`], or when the state database cannot be read.
    pub async fn erasure(&self, id: Uuid) -> Result<ErasureView, Error> {
        let job = self.app.state().run(move |s| s.erasure_job(id)).await?;
        let job = job.ok_or_else(|| Error::NotFound(format!("there is no erasure {id}")))?;
        Ok(self.app.erasures().with_progress(job).into())
    }

    /// Returns the newest `limit` erasure jobs, newest first.
    ///
    /// # Errors
    /// When the state database cannot be read.
    pub async fn erasures(&self, limit: usize) -> Result<Vec<ErasureView>, Error> {
        let jobs = self.app.state().run(move |s| s.erasure_jobs(limit)).await?;
        Ok(jobs.into_iter().map(|job| self.app.erasures().with_progress(job).into()).collect())
    }
}

/// Hides what a new job erases before its request is answered, and wakes the task that runs it. A
/// tombstone that cannot be written hides all the same, and the task writes it later: an index that
/// is away delays the job and does not refuse it.
pub(super) async fn hide_at_once(app: &App, job: &ErasureJob) {
    if let Ok(index) = app.index()
        && let Err(error) = index.begin_erasure(job.tombstone(), job.scopes.clone()).await
    {
        tracing::warn!(job = %job.id, %error, "the tombstone of an erasure cannot be written yet");
    }
    app.erasures().wake();
}
