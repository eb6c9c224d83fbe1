//! Cameras: those that the caller may see, and their addition and removal.

use serde::Serialize;
use serde_json::json;
use sightline_core::config::CameraConfig;
use sightline_core::{CameraId, Timestamp};
use sightline_search::Scope;
use utoipa::ToSchema;

use super::erasures::{ErasureView, hide_at_once};
use super::{Admin, Desk, Viewer, run_to_completion};
use crate::app::App;
use crate::auth::Caller;
use crate::cameras::{CameraRefused, CameraView};
use crate::erasure::admit_from;
use crate::error::Error;
use crate::state::{AuditEntry, CameraRow, CameraSource, NewErasureJob, Role, State as Database};

/// What became of a camera that was removed, and of its people.
#[derive(Debug, Serialize, ToSchema)]
pub struct Removal {
    /// Id of the camera.
    #[schema(value_type = String)]
    pub camera: CameraId,
    /// Whether the footage was kept.
    pub kept: bool,
    /// Job that stops the camera and erases its people; `null` when they are kept.
    pub erasure: Option<ErasureView>,
    /// Position of the removal in the audit trail.
    pub audit_seq: i64,
    /// Whether the configuration file still lists the camera; it then returns at the next start.
    pub returns_at_restart: bool,
    /// Whether the camera runs in another process. Pictures of it that arrive later are then
    /// refused or erased without another request.
    pub watched: bool,
}

fn missing(id: &CameraId) -> Error {
    Error::NotFound(format!("there is no camera {:?}", id.as_str()))
}

impl Desk<Viewer> {
    /// Returns every camera that the caller may see, ordered by id.
    ///
    /// # Errors
    /// When the state database cannot be read.
    pub async fn cameras(&self) -> Result<Vec<CameraView>, Error> {
        let rows = self.scope_for_lists().await?;
        Ok(self.app.camera_views(&rows, self.sees_addresses()).await)
    }

    /// Returns one camera.
    ///
    /// # Errors
    /// [`Error::NotFound`] also for a camera outside of the caller's scope.
    pub async fn camera(&self, id: &CameraId) -> Result<CameraView, Error> {
        let mut rows = self.scope_for_lists().await?;
        rows.retain(|r| r.spec.id == *id);
        let view = self.app.camera_views(&rows, self.sees_addresses()).await.pop();
        view.ok_or_else(|| missing(id))
    }

    async fn scope_for_lists(&self) -> Result<Vec<CameraRow>, Error> {
        self.app.visible_cameras(&self.caller).await
    }

    /// Addresses are for administrators.
    fn sees_addresses(&self) -> bool {
        self.caller.role == Role::Admin
    }
}

impl Desk<Admin> {
    /// Adds and starts a camera, and remembers it across restarts. The change finishes even when
    /// the caller disconnects.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the camera exists or is being erased, or the node's refusal.
    pub async fn add_camera(&self, camera: CameraConfig) -> Result<CameraView, Error> {
        run_to_completion(add_now(self.app.clone(), self.caller.clone(), camera)).await
    }

    /// Removes a camera. Its people are erased by a job, and not found any more from the answer on;
    /// with `keep` they stay searchable. The change finishes even when the caller disconnects.
    ///
    /// # Errors
    /// [`Error::NotFound`], the node's refusal, or [`Error::Unavailable`].
    pub async fn remove_camera(&self, id: CameraId, keep: bool) -> Result<Removal, Error> {
        run_to_completion(remove_now(self.app.clone(), self.caller.clone(), id, keep)).await
    }
}

async fn add_now(app: App, caller: Caller, camera: CameraConfig) -> Result<CameraView, Error> {
    let (control, index) = (app.control()?.clone(), app.index()?.clone());
    let id = camera.id.clone();
    let _changing = app.changing_cameras().await;
    let known = app.known_camera(&id).await?;
    let jobs = app.state().run(Database::unfinished_erasures).await?;
    if known.is_some_and(|k| !k.archived) {
        return Err(Error::Conflict(format!("there is a camera {:?} already", id.as_str())));
    }
    if jobs.iter().any(|job| job.removes.as_ref() == Some(&id)) {
        return Err(Error::Conflict(format!("the footage of camera {:?} is still being erased", id.as_str())));
    }
    let detail = json!({ "camera": id, "url": camera.url.to_string() });
    let entry = AuditEntry { who: caller.signature(), action: "camera.add", purpose: None, detail };
    let spec = camera.clone();
    index.forget_coverage(id.clone()).await;
    let from = admit_from(&camera, Timestamp::now());
    let (started, remote) = (control.clone(), control.remote());
    call_node(&id, move || started.add(camera)).await?;
    // From here on it records anew; what was erased of it stays erased.
    let admitted = index.admit(id.clone(), from).await;
    let stored = app.state().run(move |s| {
        s.record(&entry)?;
        if !remote {
            return s.add_camera(&spec);
        }
        // The camera is stored where it runs. From here on its footage is wanted again.
        s.forget_camera(&spec.id)?;
        s.finish_erasure(&spec.id)
    });
    let stored = match admitted {
        Ok(()) => stored.await.map_err(Error::from),
        Err(refused) => Err(refused.into()),
    };
    if let Err(e) = stored {
        // A camera that could not be stored must not run either.
        let undo = id.clone();
        call_node(&id, move || control.remove(&undo)).await?;
        return Err(e);
    }
    let row = app.known_camera(&id).await?.ok_or_else(|| missing(&id))?;
    let mut views = app.camera_views(&[row], true).await;
    views.pop().ok_or_else(|| missing(&id))
}

/// Calls the camera node on a thread of the blocking pool.
async fn call_node<F>(id: &CameraId, call: F) -> Result<(), Error>
where
    F: FnOnce() -> Result<(), CameraRefused> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(call).await;
    Ok(done.map_err(|e| Error::Internal(format!("steering camera {id}: {e}")))??)
}

async fn remove_now(app: App, caller: Caller, id: CameraId, keep: bool) -> Result<Removal, Error> {
    app.index()?;
    let _changing = app.changing_cameras().await;
    let row = app.known_camera(&id).await?;
    let remote = app.control().is_ok_and(|c| c.remote());
    let (camera, watched) = (id.clone(), remote && !keep);
    let Some(row) = row else {
        // A removal can be asked for again while it is under way: an attempt follows at once.
        let jobs = app.state().run(Database::unfinished_erasures).await?;
        let mut job =
            jobs.into_iter().find(|job| job.removes.as_ref() == Some(&id) && !keep).ok_or_else(|| missing(&id))?;
        job.retry_at = None;
        let (audit_seq, again) = (job.audit_seq, job.id);
        app.state().run(move |s| s.retry_erasure(again)).await?;
        app.erasures().wake();
        let erasure = Some(ErasureView::from(app.erasures().with_progress(job)));
        return Ok(Removal { camera, kept: false, erasure, audit_seq, returns_at_restart: false, watched });
    };
    if let Ok(control) = app.control().cloned()
        && !row.archived
    {
        let wanted = id.clone();
        call_node(&id, move || control.removable(&wanted)).await?;
    }
    let returns_at_restart = row.source == CameraSource::Config && !row.archived;
    let detail = json!({ "camera": id, "keep": keep });
    let entry = AuditEntry { who: caller.signature(), action: "camera.remove", purpose: None, detail };
    if keep {
        let audit_seq = keep_now(&app, entry, row, remote).await?;
        return Ok(Removal { camera, kept: true, erasure: None, audit_seq, returns_at_restart, watched });
    }
    // Recorded and stored first: after a crash from here on, the next start goes on with the
    // erasure.
    let requested_by = caller.signature();
    let job = app
        .state()
        .run(move |s| {
            let audit_seq = s.record(&entry)?;
            let scopes = vec![Scope::camera(id.clone())];
            s.start_erasure(&NewErasureJob { removes: Some(id), scopes, requested_by, audit_seq })
        })
        .await?;
    hide_at_once(&app, &job).await;
    tracing::info!(%camera, job = %job.id, "camera removed; its people are being erased");
    let audit_seq = job.audit_seq;
    Ok(Removal { camera, kept: false, erasure: Some(job.into()), audit_seq, returns_at_restart, watched })
}

/// Archives a camera and stops it; returns the position of its audit record.
async fn keep_now(app: &App, entry: AuditEntry, row: CameraRow, remote: bool) -> Result<i64, Error> {
    let (id, archived) = (row.spec.id.clone(), row.spec.id.clone());
    // A camera of another process becomes known here when its footage is kept.
    let kept = remote.then_some(row.spec);
    let audit_seq = app
        .state()
        .run(move |s| {
            let seq = s.record(&entry)?;
            kept.map_or(Ok(()), |spec| s.add_camera(&spec))?;
            s.archive_camera(&archived)?;
            Ok(seq)
        })
        .await?;
    if let Ok(control) = app.control().cloned() {
        let stopping = id.clone();
        call_node(&id, move || control.remove(&stopping)).await?;
    }
    tracing::info!(camera = %id, "camera removed; its people are kept");
    Ok(audit_seq)
}
