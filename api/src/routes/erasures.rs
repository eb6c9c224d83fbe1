//! `/v1/erasures`: erase people by camera, by camera and time, or by sighting, and follow the job.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sightline_core::{CameraId, SightingId, Timestamp, TrackId};
use sightline_search::Scope;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::app::App;
use crate::auth::Caller;
use crate::error::{Error, ErrorBody};
use crate::extract::{ApiJson, ApiPath, ApiQuery};
use crate::state::{AuditEntry, ErasureJob, ErasureReceipt, JobState, NewErasureJob, Role};

/// Largest number of sightings in one request.
const MAX_SIGHTINGS: usize = 1000;

/// Largest number of characters of a purpose.
const MAX_PURPOSE: usize = 1000;

/// Largest and default number of jobs in a list.
const MAX_LIST: usize = 1000;
const LIST: usize = 100;

/// Erasure to start: either of a camera, in a span of capture times or without, or of sightings.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewErasure {
    /// Camera whose people are erased. The camera goes on; `DELETE /v1/cameras/{id}` removes it.
    #[schema(value_type = Option<String>)]
    pub camera: Option<CameraId>,
    /// With `camera`: earliest capture time, inclusive.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Timestamp>,
    /// With `camera`: latest capture time, inclusive; by default and at most the present.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub to: Option<Timestamp>,
    /// Sightings to erase, with all pictures of their tracks: 1 to 1000.
    #[schema(value_type = Option<Vec<uuid::Uuid>>)]
    pub sightings: Option<Vec<SightingId>>,
    /// Purpose, for the audit trail.
    #[schema(max_length = 1000)]
    pub purpose: Option<String>,
}

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
    /// Sightings.
    pub sightings: u64,
    /// Files of the gallery: pictures and patch features.
    pub files: u64,
}

/// Erasure job. From the moment that it exists, nothing that it erases is found or shown any more.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErasureView {
    /// Id of the job.
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
    /// Failed attempts.
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

/// Erasure jobs.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErasureList {
    /// Jobs, newest first.
    pub erasures: Vec<ErasureView>,
}

/// Options of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Largest number of jobs.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<usize>,
}

/// Path of a job.
fn path(id: Uuid) -> String {
    format!("/v1/erasures/{id}")
}

/// Starts an erasure. The answer comes at once, with the job; from then on nothing of it is found,
/// and the job's receipt says when everything is deleted.
#[utoipa::path(post, path = "/v1/erasures", tag = "erasures", request_body = NewErasure,
    responses((status = 202, body = ErasureView, headers(("location" = String, description = "path of the job"))),
              (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
              (status = 404, body = ErrorBody, description = "none of the sightings is there"),
              (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 429, body = ErrorBody),
              (status = 503, body = ErrorBody)))]
pub async fn start(
    State(app): State<App>,
    caller: Caller,
    ApiJson(new): ApiJson<NewErasure>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<ErasureView>), Error> {
    caller.require(Role::Admin)?;
    caller.require_all_cameras()?;
    let engine = app.engine()?.clone();
    if new.purpose.as_ref().is_some_and(|p| p.chars().count() > MAX_PURPOSE) {
        return Err(Error::Invalid(format!("purpose has more than {MAX_PURPOSE} characters")));
    }
    let sightings = new.sightings.clone();
    let scopes = match (new.camera, new.sightings) {
        (Some(camera), None) => vec![camera_scope(&app, camera, new.from, new.to).await?],
        (None, Some(ids)) => {
            if new.from.is_some() || new.to.is_some() {
                return Err(Error::Invalid("from and to belong to camera, not to sightings".into()));
            }
            if !(1..=MAX_SIGHTINGS).contains(&ids.len()) {
                return Err(Error::Invalid(format!("sightings: name 1 to {MAX_SIGHTINGS} of them")));
            }
            let (scopes, missing) = engine.tracks_of(ids).await?;
            match missing.first() {
                // What is gone already needs no erasure, but a list of wrong ids must not look
                // done.
                Some(id) if scopes.is_empty() => return Err(Error::NotFound(format!("there is no sighting {id}"))),
                _ => scopes,
            }
        }
        _ => return Err(Error::Invalid("name either a camera or sightings".into())),
    };
    let detail = json!({ "scopes": scopes, "sightings": sightings });
    let entry = AuditEntry { who: caller.signature(), action: "erasure.start", purpose: new.purpose, detail };
    let requested_by = caller.signature();
    let job = app
        .state()
        .run(move |s| {
            let audit_seq = s.record(&entry)?;
            s.start_erasure(&NewErasureJob { removes: None, scopes, requested_by, audit_seq })
        })
        .await?;
    hide_at_once(&app, &job).await;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, path(job.id))], Json(job.into())))
}

/// Hides what a new job erases before its request is answered, and wakes the task that runs it. The
/// task repeats this: the job is stored, so an index that is away delays it and does not refuse it.
pub(super) async fn hide_at_once(app: &App, job: &ErasureJob) {
    if let Ok(engine) = app.engine()
        && let Err(error) = engine.begin_erasure(job.tombstone(), job.scopes.clone()).await
    {
        tracing::warn!(job = %job.id, %error, "an erasure cannot begin yet");
    }
    app.erasures().wake();
}

async fn camera_scope(
    app: &App,
    camera: CameraId,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
) -> Result<Scope, Error> {
    if app.known_camera(&camera).await?.is_none() {
        return Err(Error::UnknownCamera(camera.to_string()));
    }
    // The camera goes on: what it records from now on stays.
    let now = Timestamp::now();
    let to = to.map_or(now, |to| to.min(now));
    match from {
        Some(from) if from > to => Err(Error::Invalid(format!("from {from} is later than to {to}"))),
        _ => Ok(Scope { from, to: Some(to), ..Scope::camera(camera) }),
    }
}

/// Returns an erasure job, with its receipt when it is done.
#[utoipa::path(get, path = "/v1/erasures/{id}", tag = "erasures", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = ErasureView), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
              (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 429, body = ErrorBody),
              (status = 503, body = ErrorBody)))]
pub async fn get(
    State(app): State<App>,
    caller: Caller,
    ApiPath(id): ApiPath<Uuid>,
) -> Result<Json<ErasureView>, Error> {
    caller.require(Role::Admin)?;
    caller.require_all_cameras()?;
    let job = app.state().run(move |s| s.erasure_job(id)).await?;
    let job = job.ok_or_else(|| Error::NotFound(format!("there is no erasure {id}")))?;
    Ok(Json(app.erasures().with_progress(job).into()))
}

/// Lists the erasure jobs, newest first.
#[utoipa::path(get, path = "/v1/erasures", tag = "erasures", params(ListParams),
    responses((status = 200, body = ErasureList), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
              (status = 403, body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    ApiQuery(params): ApiQuery<ListParams>,
) -> Result<Json<ErasureList>, Error> {
    caller.require(Role::Admin)?;
    caller.require_all_cameras()?;
    let limit = params.limit.unwrap_or(LIST);
    if !(1..=MAX_LIST).contains(&limit) {
        return Err(Error::Invalid(format!("limit {limit} is out of range: 1 to {MAX_LIST}")));
    }
    let jobs = app.state().run(move |s| s.erasure_jobs(limit)).await?;
    let erasures = jobs.into_iter().map(|job| app.erasures().with_progress(job).into()).collect();
    Ok(Json(ErasureList { erasures }))
}
