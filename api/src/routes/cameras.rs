//! `/v1/cameras`: list, add and remove cameras at run time. A removal erases the camera's people
//! unless the request keeps them.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sightline_core::config::CameraConfig;
use sightline_core::{CameraId, CameraUrl, Timestamp};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use crate::app::App;
use crate::auth::Caller;
use crate::cameras::{CameraRefused, CameraView, LastReport};
use crate::engine::Erased;
use crate::error::{Error, ErrorBody};
use crate::extract::{ApiJson, ApiPath, ApiQuery};
use crate::state::{AuditEntry, CameraSource, Role, State as Database};

/// Longest wait before an erasure for pictures that are in flight to the index.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Cameras that the token may see.
#[derive(Debug, Serialize, ToSchema)]
pub struct CameraList {
    /// Cameras, ordered by id.
    pub cameras: Vec<CameraView>,
    /// Role of the calling token, so that a page offers only what the token permits.
    pub role: Role,
}

/// Camera to add.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCamera {
    /// Immutable id: 1 to 64 of `a-z 0-9 - _`.
    #[schema(value_type = String)]
    pub id: CameraId,
    /// Address: `rtsp://`, `http(s)://`, `file:...`, `v4l2:///dev/...` or `videotestsrc://`.
    #[schema(value_type = String)]
    pub url: CameraUrl,
    /// Analysed frames per second; overrides `ingest.fps`.
    pub fps: Option<f64>,
    /// Files only: capture time of the first frame; default: the file's modification time.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub start_time: Option<Timestamp>,
    /// Files only: start again at the end.
    #[serde(default, rename = "loop")]
    pub looped: bool,
    /// Files only: play at recording speed (default), or with `false` as fast as the machine can.
    #[serde(default = "yes")]
    pub realtime: bool,
    /// Separate roles only: name of the camera node that is to run it; by default the nodes share
    /// the cameras by their capacities.
    pub node: Option<String>,
}

fn yes() -> bool {
    true
}

/// Receipt of a removed camera.
#[derive(Debug, Serialize, ToSchema)]
pub struct Receipt {
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

/// Options of a removal.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RemoveParams {
    /// Keep the people that the camera recorded searchable; by default they are erased.
    #[serde(default)]
    pub keep: bool,
}

fn missing(id: &CameraId) -> Error {
    Error::NotFound(format!("there is no camera {:?}", id.as_str()))
}

/// Lists every camera that the token may see, with its state and the reason for it.
#[utoipa::path(get, path = "/v1/cameras", tag = "cameras", responses((status = 200, body = CameraList)))]
pub async fn list(State(app): State<App>, caller: Caller) -> Result<Json<CameraList>, Error> {
    let rows = app.visible_cameras(&caller).await?;
    let cameras = app.camera_views(&rows, caller.role == Role::Admin).await;
    Ok(Json(CameraList { cameras, role: caller.role }))
}

/// Returns one camera.
#[utoipa::path(get, path = "/v1/cameras/{id}", tag = "cameras", params(("id" = String, Path)),
    responses((status = 200, body = CameraView), (status = 404, body = ErrorBody)))]
pub async fn get(
    State(app): State<App>,
    caller: Caller,
    ApiPath(id): ApiPath<CameraId>,
) -> Result<Json<CameraView>, Error> {
    let rows = app.visible_cameras(&caller).await?;
    let row = rows.into_iter().find(|r| r.spec.id == id).ok_or_else(|| missing(&id))?;
    let mut views = app.camera_views(&[row], caller.role == Role::Admin).await;
    views.pop().map(Json).ok_or_else(|| missing(&id))
}

/// Adds and starts a camera. The server remembers it across restarts.
#[utoipa::path(post, path = "/v1/cameras", tag = "cameras", request_body = NewCamera,
    responses((status = 201, body = CameraView), (status = 400, body = ErrorBody), (status = 403, body = ErrorBody),
              (status = 409, body = ErrorBody), (status = 501, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn add(
    State(app): State<App>,
    caller: Caller,
    ApiJson(new): ApiJson<NewCamera>,
) -> Result<(StatusCode, Json<CameraView>), Error> {
    caller.require(Role::Admin)?;
    caller.require_all_cameras()?;
    run_to_completion(add_now(app, caller, new)).await
}

/// Runs a change as a separate task, so that it finishes even when the caller disconnects.
async fn run_to_completion<T: Send + 'static>(
    change: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(change).await.map_err(|e| Error::Internal(format!("a change of the cameras broke off: {e}")))?
}

async fn add_now(app: App, caller: Caller, new: NewCamera) -> Result<(StatusCode, Json<CameraView>), Error> {
    let control = app.control()?.clone();
    let camera = CameraConfig {
        id: new.id,
        url: new.url,
        fps: new.fps,
        start_time: new.start_time,
        looped: new.looped,
        realtime: new.realtime,
        node: new.node,
    };
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
    if let Ok(engine) = app.engine() {
        engine.restart_camera(&id).await;
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
    Ok((StatusCode::CREATED, Json(views.pop().ok_or_else(|| missing(&id))?)))
}

/// Calls the camera node on a thread of the blocking pool.
async fn call_node<F>(id: &CameraId, call: F) -> Result<(), Error>
where
    F: FnOnce() -> Result<(), CameraRefused> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(call).await;
    Ok(done.map_err(|e| Error::Internal(format!("steering camera {id}: {e}")))??)
}

/// Stops a camera and erases everybody it recorded, or keeps them searchable with `keep=true`.
/// Answers when the removal is complete.
#[utoipa::path(delete, path = "/v1/cameras/{id}", tag = "cameras", params(("id" = String, Path), RemoveParams),
    responses((status = 200, body = Receipt), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
              (status = 409, body = ErrorBody), (status = 501, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn remove(
    State(app): State<App>,
    caller: Caller,
    ApiPath(id): ApiPath<CameraId>,
    ApiQuery(params): ApiQuery<RemoveParams>,
) -> Result<Json<Receipt>, Error> {
    caller.require(Role::Admin)?;
    caller.require_all_cameras()?;
    run_to_completion(remove_now(app, caller, id, params.keep)).await
}

async fn remove_now(app: App, caller: Caller, id: CameraId, keep: bool) -> Result<Json<Receipt>, Error> {
    let engine = app.engine()?.clone();
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
        erased = engine.erase_camera(id.clone()).await?;
        let wanted = id.clone();
        app.state().run(move |s| if remote { Ok(()) } else { s.finish_erasure(&wanted) }).await?;
    }
    tracing::info!(camera = %id, keep, sightings = erased.sightings, files = erased.files, "camera removed");
    Ok(Json(Receipt {
        camera: id,
        at: Timestamp::now(),
        kept: keep,
        erased,
        audit_seq,
        returns_at_restart: row.is_some_and(|r| r.source == CameraSource::Config && !r.archived),
        watched: remote && !keep,
    }))
}

/// Stops the camera and waits until the pictures that it has published have reached the index; an
/// earlier erasure would miss the last people.
async fn stop_and_drain(app: &App, id: &CameraId) -> Result<(), Error> {
    let Ok(control) = app.control().cloned() else { return Ok(()) };
    let remote = control.remote();
    let engine = app.engine()?;
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
        let mark = engine.watermarks().get(id).copied();
        // A connection without a single frame publishes nothing, so it has no end to wait for.
        if node.frames_analysed == 0 || mark.is_some_and(|m| m.ended && m.connection >= Some(node.connection)) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tracing::warn!(camera = %id, "the end of the camera's footage did not reach the index in time");
    Ok(())
}
