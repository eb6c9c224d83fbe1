//! `/v1/cameras`: list, add and remove cameras at run time. A removal erases the camera's people
//! unless the request keeps them.

use axum::Json;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use sightline_core::config::{CameraConfig, RtspTransport};
use sightline_core::{CameraId, CameraUrl, Timestamp};
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};
use utoipa::{IntoParams, ToSchema};

use crate::cameras::CameraView;
use crate::desk::{Admin, Desk, Removal, Viewer};
use crate::error::{Error, ErrorBody};
use crate::extract::{ApiJson, ApiPath, ApiQuery};
use crate::state::Role;

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
    /// Analysed frames per second. This one and the next eight override the node's `[ingest]`, and
    /// `score_threshold` its `[detect]`, for this camera.
    pub fps: Option<f64>,
    /// Height in pixels to which frames are scaled down before analysis.
    pub max_height: Option<u32>,
    /// Seconds without a frame after which the camera is connected anew.
    pub stall_seconds: Option<f64>,
    /// Seconds that a connection attempt may take until its first frame.
    pub connect_seconds: Option<f64>,
    /// Seconds until the first new attempt.
    pub backoff_first_seconds: Option<f64>,
    /// Seconds up to which the pause between attempts doubles.
    pub backoff_last_seconds: Option<f64>,
    /// RTSP only: `tcp`, `udp`, or `auto` (UDP first, then TCP).
    #[schema(schema_with = transports)]
    pub rtsp_transport: Option<RtspTransport>,
    /// RTSP only: milliseconds to wait for late packets.
    pub rtsp_latency_ms: Option<u32>,
    /// Score below which a detection starts no track, 0 to 1.
    pub score_threshold: Option<f32>,
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

/// OpenAPI schema of a transport: a string enumeration.
fn transports() -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["tcp", "udp", "auto"])).build()
}

impl From<NewCamera> for CameraConfig {
    fn from(new: NewCamera) -> Self {
        Self {
            id: new.id,
            url: new.url,
            fps: new.fps,
            max_height: new.max_height,
            stall_seconds: new.stall_seconds,
            connect_seconds: new.connect_seconds,
            backoff_first_seconds: new.backoff_first_seconds,
            backoff_last_seconds: new.backoff_last_seconds,
            rtsp_transport: new.rtsp_transport,
            rtsp_latency_ms: new.rtsp_latency_ms,
            score_threshold: new.score_threshold,
            start_time: new.start_time,
            looped: new.looped,
            realtime: new.realtime,
            node: new.node,
        }
    }
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

/// Lists every camera that the token may see, with its state and the reason for it.
#[utoipa::path(get, path = "/v1/cameras", tag = "cameras", responses((status = 200, body = CameraList)))]
pub async fn list(desk: Desk<Viewer>) -> Result<Json<CameraList>, Error> {
    Ok(Json(CameraList { cameras: desk.cameras().await?, role: desk.role() }))
}

/// Returns one camera.
#[utoipa::path(get, path = "/v1/cameras/{id}", tag = "cameras", params(("id" = String, Path)),
    responses((status = 200, body = CameraView), (status = 404, body = ErrorBody)))]
pub async fn get(desk: Desk<Viewer>, ApiPath(id): ApiPath<CameraId>) -> Result<Json<CameraView>, Error> {
    Ok(Json(desk.camera(&id).await?))
}

/// Adds and starts a camera. The server remembers it across restarts.
#[utoipa::path(post, path = "/v1/cameras", tag = "cameras", request_body = NewCamera,
    responses((status = 201, body = CameraView), (status = 409, body = ErrorBody), (status = 501, body = ErrorBody)))]
pub async fn add(desk: Desk<Admin>, ApiJson(new): ApiJson<NewCamera>) -> Result<(StatusCode, Json<CameraView>), Error> {
    Ok((StatusCode::CREATED, Json(desk.add_camera(new.into()).await?)))
}

/// Stops a camera and erases everybody it recorded, or keeps them searchable with `keep=true`. An
/// erasure is a job: the answer comes at once, nobody of the camera is found any more from then on,
/// and other cameras can be added and removed meanwhile.
#[utoipa::path(delete, path = "/v1/cameras/{id}", tag = "cameras", params(("id" = String, Path), RemoveParams),
    responses((status = 200, body = Removal, description = "removed, its people are kept"),
              (status = 202, body = Removal, description = "its people are being erased; follow `erasure`"),
              (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 501, body = ErrorBody)))]
pub async fn remove(
    desk: Desk<Admin>,
    ApiPath(id): ApiPath<CameraId>,
    ApiQuery(params): ApiQuery<RemoveParams>,
) -> Result<(StatusCode, Json<Removal>), Error> {
    let removal = desk.remove_camera(id, params.keep).await?;
    let status = if removal.kept { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(removal)))
}
