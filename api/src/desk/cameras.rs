//! Cameras: those that the caller may see, and their addition and removal.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use sightline_core::config::CameraConfig;
use sightline_core::{CameraId, Timestamp};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{Admin, Desk, Viewer};
use crate::app::App;
use crate::auth::Caller;
use crate::cameras::{CameraRefused, CameraView, LastReport};
use crate::error::Error;
use crate::state::{AuditEntry, CameraRow, CameraSource, Role, State as Database};

/// Longest wait before an erasure for pictures that are in flight to the index.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Counts of what an erasure removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Erased {
    /// Sightings removed from the vector store.
    pub sightings: u64,
    /// Files removed from the gallery: pictures and patch features.
    pub files: u64,
}

/// Receipt of a removed camera.
#[derive(Debug, Serialize, ToSchema)]
pub struct Removal {
    /// Id of the camera.
    #[schema(value_type = String)]
    pub camera: CameraId,
    /// Time at which the removal was complete.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Whether the footage was kept.
    pub kept: bool,
    /// Counts of what was erased.
    pub erased: Erased,
    /// Position of the removal in the audit trail.
    pub audit_seq: i64,
    /// Whether the configuration file still lists the camera; it then returns at the next start.
    pub returns_at_restart: bool,
    /// Whether the camera runs in another process. Pictures of it that arrive later are then erased
    /// without another request.
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
        Ok(self.app.visible_cameras(&self.caller).await?.0)
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

    /// Stops a camera and erases its people, or keeps them searchable with `keep`. The change
    /// finishes even when the caller disconnects.
    ///
    /// # Errors
    /// [`Error::NotFound`], the node's refusal, or [`Error::Unavailable`]; the erasure is then
    /// repeated by the same request.
    pub async fn remove_camera(&self, id: CameraId, keep: bool) -> Result<Removal, Error> {
        run_to_completion(remove_now(self.app.clone(), self.caller.clone(), id, keep)).await
    }
}

/// Runs a change as a separate task, so that it finishes even when the caller disconnects.
async fn run_to_completion<T: Send + 'static>(
    change: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(change).await.map_err(|e| Error::Internal(format!("a change of the cameras broke off: {e}")))?
}

async fn add_now(app: App, caller: Caller, camera: CameraConfig) -> Result<CameraView, Error> {
    let control = app.control()?.clone();
    let id = camera.id.clone();
    let _changing = app.changing_cameras().await;
    let known = app.known_camera(&id).await?;
    let pending = app.state().run(Database::pending_erasures).await?;
    if known.is_some_and(|k| !k.archived) {
        return Err(Error::Conflict(format!("there is a camera {:?} already", id.as_str())));
    }
    if pending.contains(&id) {
        return Err(Error::Conflict(format!("the footage of camera {:?} is still being erased", id.as_str())));
    }
    let detail = json!({ "camera": id, "url": camera.url.to_string() });
    let entry = AuditEntry { who: caller.signature(), action: "camera.add", purpose: None, detail };
    let spec = camera.clone();
    if let Ok(index) = app.index() {
        index.forget_coverage(id.clone()).await;
    }
    let (started, remote) = (control.clone(), control.remote());
    call_node(&id, move || started.add(camera)).await?;
    let stored = app.state().run(move |s| {
        s.record(&entry)?;
        if !remote {
            return s.add_camera(&spec);
        }
        // The camera is stored where it runs. From here on its footage is wanted again.
        s.forget_camera(&spec.id)?;
        s.finish_erasure(&spec.id)
    });
    if let Err(e) = stored.await {
        // A camera that could not be stored must not run either.
        let undo = id.clone();
        call_node(&id, move || control.remove(&undo)).await?;
        return Err(e.into());
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
    let index = app.index()?.clone();
    let _changing = app.changing_cameras().await;
    let _removing = app.removing(&id);
    let row = app.known_camera(&id).await?;
    let begun = app.state().run(Database::erasures).await?;
    // A failed erasure can be requested again under the same id.
    if row.is_none() && (keep || !begun.iter().any(|e| e.camera == id && e.watched_since.is_none())) {
        return Err(missing(&id));
    }
    let remote = app.control().is_ok_and(|c| c.remote());
    if let (Some(row), Ok(control)) = (&row, app.control().cloned())
        && !row.archived
    {
        let wanted = id.clone();
        call_node(&id, move || control.removable(&wanted)).await?;
    }
    let detail = json!({ "camera": id, "keep": keep });
    let entry = AuditEntry { who: caller.signature(), action: "camera.remove", purpose: None, detail };
    let wanted = id.clone();
    let kept = row.as_ref().filter(|_| keep && remote).map(|r| r.spec.clone());
    // The removal is recorded and marked first: after a crash from here on, the next start resumes
    // the erasure.
    let audit_seq = app
        .state()
        .run(move |s| {
            let seq = s.record(&entry)?;
            if keep {
                // A camera of another process becomes known here when its footage is kept.
                kept.map_or(Ok(()), |spec| s.add_camera(&spec))?;
                s.archive_camera(&wanted)?
            } else {
                s.begin_erasure(&wanted)?
            }
            Ok(seq)
        })
        .await?;
    stop_and_drain(&app, &id).await?;
    let mut erased = Erased::default();
    if !keep {
        let receipt = index.erase_camera(id.clone()).await?;
        erased = Erased { sightings: receipt.points, files: receipt.files };
        let wanted = id.clone();
        app.state().run(move |s| if remote { Ok(()) } else { s.finish_erasure(&wanted) }).await?;
    }
    tracing::info!(camera = %id, keep, sightings = erased.sightings, files = erased.files, "camera removed");
    Ok(Removal {
        camera: id,
        at: Timestamp::now(),
        kept: keep,
        erased,
        audit_seq,
        returns_at_restart: row.is_some_and(|r| r.source == CameraSource::Config && !r.archived),
        watched: remote && !keep,
    })
}

/// Stops the camera and waits until the pictures that it has published have reached the index; an
/// earlier erasure would miss the last people.
async fn stop_and_drain(app: &App, id: &CameraId) -> Result<(), Error> {
    let Ok(control) = app.control().cloned() else { return Ok(()) };
    let remote = control.remote();
    let index = app.index()?;
    let stopping = id.clone();
    let ran = tokio::task::spawn_blocking(move || {
        let last_report = control.status().into_iter().find(|h| h.report.camera == stopping);
        control.remove(&stopping).map(|()| last_report)
    });
    let last_report = ran.await.map_err(|e| Error::Internal(format!("stopping camera {id}: {e}")))??;
    // A camera that does not run sends nothing more. A camera in another process is not waited for:
    // its late pictures are erased as they arrive, see [`crate::erasure`].
    let Some(LastReport { report: node, .. }) = last_report.filter(|_| !remote) else { return Ok(()) };
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    while Instant::now() < deadline {
        let mark = index.coverage().get(id);
        // A connection without a single frame publishes nothing, so it has no end to wait for.
        if node.frames_analysed == 0 || mark.is_some_and(|m| m.ended && m.connection >= Some(node.connection)) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tracing::warn!(camera = %id, "the end of the camera's footage did not reach the index in time");
    Ok(())
}
