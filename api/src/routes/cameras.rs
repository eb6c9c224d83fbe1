//! `/v1/cameras`: list, add and remove cameras at run time. A removal erases the camera's people
//! unless the request keeps them.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sightline_core::config::CameraConfig;
use sightline_core::{CameraId, CameraUrl, Timestamp};
use sightline_search::Scope;
use utoipa::{IntoParams, ToSchema};

use crate::app::App;
use crate::auth::Caller;
use crate::cameras::{CameraRefused, CameraView};
use crate::erasure::admit_from;
use crate::error::{Error, ErrorBody};
use crate::extract::{ApiJson, ApiPath, ApiQuery};
use crate::routes::erasures::{ErasureView, hide_at_once};
use crate::state::{AuditEntry, CameraSource, NewErasureJob, Role, State as Database};

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
}

fn yes() -> bool {
    true
}

/// A removed camera.
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
    let (control, engine) = (app.control()?.clone(), app.engine()?.clone());
    let camera = CameraConfig {
        id: new.id,
        url: new.url,
        fps: new.fps,
        start_time: new.start_time,
        looped: new.looped,
        realtime: new.realtime,
    };
    let id = camera.id.clone();
    let _changing = app.changing_cameras().await;
    let known = app.known_camera(&id).await?;
    let pending = app.state().run(Database::unfinished_erasures).await?;
    if known.is_some_and(|k| !k.archived) {
        return Err(Error::Conflict(format!("there is a camera {:?} already", id.as_str())));
    }
    if pending.iter().any(|job| job.removes.as_ref() == Some(&id)) {
        return Err(Error::Conflict(format!("the footage of camera {:?} is still being erased", id.as_str())));
    }
    let detail = json!({ "camera": id, "url": camera.url.to_string() });
    let entry = AuditEntry { who: caller.signature(), action: "camera.add", purpose: None, detail };
    let spec = camera.clone();
    engine.restart_camera(&id).await;
    let from = admit_from(&camera, Timestamp::now());
    let (started, remote) = (control.clone(), control.remote());
    call_node(&id, move || started.add(camera)).await?;
    // From here on it records anew; what was erased of it stays erased.
    let admitted = engine.admit(id.clone(), from).await;
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
        refused => refused,
    };
    if let Err(e) = stored {
        // A camera that could not be stored must not run either.
        let undo = id.clone();
        call_node(&id, move || control.remove(&undo)).await?;
        return Err(e);
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

/// Stops a camera and erases everybody it recorded, or keeps them searchable with `keep=true`. An
/// erasure is a job: the answer comes at once, nobody of the camera is found any more from then on,
/// and other cameras can be added and removed meanwhile.
#[utoipa::path(delete, path = "/v1/cameras/{id}", tag = "cameras", params(("id" = String, Path), RemoveParams),
    responses((status = 200, body = Removal, description = "removed, its people are kept"),
              (status = 202, body = Removal, description = "its people are being erased; follow `erasure`"),
              (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
              (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 429, body = ErrorBody),
              (status = 501, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn remove(
    State(app): State<App>,
    caller: Caller,
    ApiPath(id): ApiPath<CameraId>,
    ApiQuery(params): ApiQuery<RemoveParams>,
) -> Result<(StatusCode, Json<Removal>), Error> {
    caller.require(Role::Admin)?;
    caller.require_all_cameras()?;
    run_to_completion(remove_now(app, caller, id, params.keep)).await
}

async fn remove_now(app: App, caller: Caller, id: CameraId, keep: bool) -> Result<(StatusCode, Json<Removal>), Error> {
    app.engine()?;
    let _changing = app.changing_cameras().await;
    let row = app.known_camera(&id).await?;
    let remote = app.control().is_ok_and(|c| c.remote());
    let (camera, watched) = (id.clone(), remote && !keep);
    let Some(row) = row else {
        // A removal can be asked for again while it is under way: an attempt follows at once.
        let jobs = app.state().run(|s| s.unfinished_erasures()).await?;
        let mut job =
            jobs.into_iter().find(|job| job.removes.as_ref() == Some(&id) && !keep).ok_or_else(|| missing(&id))?;
        job.retry_at = None;
        let (audit_seq, again) = (job.audit_seq, job.id);
        app.state().run(move |s| s.retry_erasure(again)).await?;
        app.erasures().wake();
        let erasure = Some(ErasureView::from(app.erasures().with_progress(job)));
        let removal = Removal { camera, kept: false, erasure, audit_seq, returns_at_restart: false, watched };
        return Ok((StatusCode::ACCEPTED, Json(removal)));
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
        let wanted = id.clone();
        let kept = remote.then(|| row.spec.clone());
        let audit_seq = app
            .state()
            .run(move |s| {
                let seq = s.record(&entry)?;
                // A camera of another process becomes known here when its footage is kept.
                kept.map_or(Ok(()), |spec| s.add_camera(&spec))?;
                s.archive_camera(&wanted)?;
                Ok(seq)
            })
            .await?;
        if let Ok(control) = app.control().cloned() {
            let stopping = id.clone();
            call_node(&id, move || control.remove(&stopping)).await?;
        }
        tracing::info!(camera = %id, "camera removed; its people are kept");
        let removal = Removal { camera, kept: true, erasure: None, audit_seq, returns_at_restart, watched };
        return Ok((StatusCode::OK, Json(removal)));
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
    let removal = Removal { camera, kept: false, erasure: Some(job.into()), audit_seq, returns_at_restart, watched };
    Ok((StatusCode::ACCEPTED, Json(removal)))
}
