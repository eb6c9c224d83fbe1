//! The state of a camera as an operator needs it: what the camera node reports, joined with how far the index has come.
//!
//! "Registered" is not "searchable": a camera counts as searchable only once footage of its present connection has
//! arrived in the index, and only as long as the index keeps up.

use serde::Serialize;
use sightline_core::config::CameraConfig;
use sightline_core::{CameraId, Timestamp};
use url::Url;
use utoipa::ToSchema;

use crate::engine::Watermark;
use crate::state::{CameraRow, CameraSource};

/// A camera whose index lags by more than this is decoding, but not searchable.
pub const LAG_LIMIT_S: f64 = 10.0;

/// What the camera node says about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// No frame yet.
    Connecting,
    /// Frames arrive.
    Decoding,
    /// The connection was lost; the next attempt is scheduled.
    Retrying,
    /// No attempt will help.
    Failed,
    /// The footage is over.
    Ended,
}

/// What the camera node counts and knows of one camera.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeStatus {
    /// The camera.
    pub camera: CameraId,
    /// What the node says.
    pub state: NodeState,
    /// Why, where there is a why.
    pub reason: Option<String>,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// Which connection this is, from 0 at process start.
    pub connection: u64,
    /// Frames decoded.
    pub frames_decoded: u64,
    /// Frames analysed.
    pub frames_analysed: u64,
    /// Frames that should have been analysed and were dropped.
    pub frames_dropped: u64,
    /// Pictures published.
    pub crops: u64,
    /// Pictures dropped because the embedder was too slow.
    pub crops_dropped: u64,
    /// Seconds until the next attempt.
    pub retry_in_s: Option<f64>,
}

/// Why the camera node does not take a camera.
#[derive(Debug, thiserror::Error)]
pub enum CameraRefused {
    /// The address or a setting cannot work.
    #[error("{0}")]
    Invalid(String),
    /// It is there already, or there is no room for one more.
    #[error("{0}")]
    Conflict(String),
    /// The node is stopping or broken.
    #[error("{0}")]
    Down(String),
}

/// The camera node, as far as the API steers it. Calls may block for a short while.
pub trait CameraControl: Send + Sync {
    /// Starts a camera.
    ///
    /// # Errors
    /// Why it cannot be started.
    fn add(&self, camera: CameraConfig) -> Result<(), CameraRefused>;

    /// Stops a camera; nothing happens when it is not running.
    fn remove(&self, camera: &CameraId);

    /// What every running camera does.
    fn status(&self) -> Vec<NodeStatus>;
}

/// State of a camera as the operator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CameraState {
    /// No frame yet.
    Connecting,
    /// Frames arrive, but the index has not caught up with this connection.
    Decoding,
    /// What the camera sees is found by a search within seconds.
    Searchable,
    /// The connection was lost; another attempt is scheduled.
    Retrying,
    /// No attempt will help.
    Failed,
    /// The footage is over, or the camera was removed; what it recorded is searchable.
    Ended,
}

/// One camera in the answers of `/v1/cameras`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CameraView {
    /// The camera's immutable id.
    #[schema(value_type = String)]
    pub id: CameraId,
    /// What it does.
    pub state: CameraState,
    /// Why, where there is a why.
    pub reason: Option<String>,
    /// Since when.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Everything captured up to here is found by a search.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub searchable_through: Option<Timestamp>,
    /// Seconds by which the index is behind.
    pub lag_s: Option<f64>,
    /// Part of the footage that was dropped because the machine is too slow, 0 to 1.
    pub dropped_fraction: f64,
    /// Seconds until the next attempt to connect.
    pub retry_in_s: Option<f64>,
    /// `config` (defined in the configuration file) or `api` (added at run time).
    pub source: &'static str,
    /// Stopped for good; its footage is still searchable.
    pub archived: bool,
    /// Its address, passwords masked; for administrators only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Frames decoded since the start.
    pub frames_decoded: u64,
    /// Frames analysed since the start.
    pub frames_analysed: u64,
    /// Frames dropped since the start.
    pub frames_dropped: u64,
    /// Pictures published since the start.
    pub crops: u64,
    /// Pictures dropped since the start.
    pub crops_dropped: u64,
}

/// Joins what is known of a camera.
pub fn view(
    row: &CameraRow,
    node: Option<&NodeStatus>,
    mark: Option<&Watermark>,
    now: Timestamp,
    with_url: bool,
) -> CameraView {
    let lag_s = mark.filter(|m| m.connection.is_some()).map(|m| lag(&row.spec.url, m, now));
    let (state, reason) = judge(row.archived, node, mark, lag_s);
    CameraView {
        id: row.spec.id.clone(),
        state,
        reason,
        since: node.map(|n| n.since),
        searchable_through: mark.map(|m| m.through),
        lag_s,
        dropped_fraction: node.map_or(0.0, dropped_fraction),
        retry_in_s: node.and_then(|n| n.retry_in_s),
        source: match row.source {
            CameraSource::Config => "config",
            CameraSource::Api => "api",
        },
        archived: row.archived,
        url: with_url.then(|| mask(&row.spec.url)),
        frames_decoded: node.map_or(0, |n| n.frames_decoded),
        frames_analysed: node.map_or(0, |n| n.frames_analysed),
        frames_dropped: node.map_or(0, |n| n.frames_dropped),
        crops: node.map_or(0, |n| n.crops),
        crops_dropped: node.map_or(0, |n| n.crops_dropped),
    }
}

/// Seconds the index is behind. Live footage is compared with the clock; a recording's capture times lie anywhere, so
/// there it is the time since the index last heard of it.
fn lag(url: &str, mark: &Watermark, now: Timestamp) -> f64 {
    let recording = url.starts_with("file:");
    match (recording, mark.ended) {
        (_, true) => 0.0,
        (true, false) => now.seconds_since(mark.arrived).max(0.0),
        (false, false) => now.seconds_since(mark.through).max(0.0),
    }
}

fn judge(
    archived: bool,
    node: Option<&NodeStatus>,
    mark: Option<&Watermark>,
    lag_s: Option<f64>,
) -> (CameraState, Option<String>) {
    let Some(node) = node else {
        return if archived {
            (CameraState::Ended, Some("removed; its footage is kept and searchable".into()))
        } else {
            (CameraState::Connecting, Some("waiting for the camera node".into()))
        };
    };
    let here = mark.filter(|m| m.connection == Some(node.connection));
    match node.state {
        NodeState::Connecting => (CameraState::Connecting, node.reason.clone()),
        NodeState::Retrying => (CameraState::Retrying, node.reason.clone()),
        NodeState::Failed => (CameraState::Failed, node.reason.clone()),
        NodeState::Ended if here.is_some_and(|m| m.ended) => (CameraState::Ended, node.reason.clone()),
        NodeState::Ended => {
            (CameraState::Decoding, Some("the footage is over; the rest of it is being indexed".into()))
        }
        NodeState::Decoding => match (here, lag_s) {
            (Some(_), Some(lag)) if lag <= LAG_LIMIT_S => (CameraState::Searchable, None),
            (Some(_), Some(lag)) => (CameraState::Decoding, Some(format!("the index is {lag:.0} s behind"))),
            _ => (CameraState::Decoding, Some("no footage of this connection has reached the index yet".into())),
        },
    }
}

/// Part of the footage nobody will find: frames not analysed, and of the rest pictures not embedded.
fn dropped_fraction(n: &NodeStatus) -> f64 {
    let part = |lost: u64, kept: u64| if lost + kept == 0 { 0.0 } else { lost as f64 / (lost + kept) as f64 };
    let kept = (1.0 - part(n.frames_dropped, n.frames_analysed)) * (1.0 - part(n.crops_dropped, n.crops));
    1.0 - kept
}

/// The address without its secrets: password, and query values whose name speaks of one.
pub fn mask(text: &str) -> String {
    if text.starts_with("file:") || text.starts_with("v4l2:") {
        return text.to_owned();
    }
    let Ok(mut url) = Url::parse(text) else { return "(not an address)".to_owned() };
    if url.password().is_some() && url.set_password(Some("***")).is_err() {
        return "(address hidden)".to_owned();
    }
    if url.query().is_some() {
        let secret = |k: &str| ["pass", "pwd", "token", "key", "auth", "secret", "sig"].iter().any(|s| k.contains(s));
        let pairs: Vec<(String, String)> = url
            .query_pairs()
            .map(|(k, v)| (k.to_string(), if secret(&k.to_ascii_lowercase()) { "***".into() } else { v.to_string() }))
            .collect();
        url.query_pairs_mut().clear().extend_pairs(pairs);
    }
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(url: &str) -> CameraRow {
        CameraRow {
            spec: serde_json::from_value(serde_json::json!({ "id": "a", "url": url })).expect("valid"),
            source: CameraSource::Api,
            archived: false,
            added_at: Timestamp::from_micros(0),
        }
    }

    fn node(state: NodeState, connection: u64) -> NodeStatus {
        NodeStatus {
            camera: "a".parse().expect("valid"),
            state,
            reason: None,
            since: Timestamp::from_micros(0),
            connection,
            frames_decoded: 100,
            frames_analysed: 80,
            frames_dropped: 20,
            crops: 9,
            crops_dropped: 1,
            retry_in_s: None,
        }
    }

    fn mark(connection: u64, through_s: i64, ended: bool) -> Watermark {
        let t = Timestamp::from_micros(through_s * 1_000_000);
        Watermark { connection: Some(connection), through: t, ended, arrived: t }
    }

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

    #[test]
    fn searchable_only_when_this_connection_has_arrived_in_time() {
        let r = row("rtsp://camera");
        let state = |n: &NodeStatus, m: Option<&Watermark>| view(&r, Some(n), m, NOW, false).state;
        let decoding = node(NodeState::Decoding, 3);
        assert_eq!(state(&decoding, None), CameraState::Decoding);
        assert_eq!(state(&decoding, Some(&mark(2, 999, false))), CameraState::Decoding);
        assert_eq!(state(&decoding, Some(&mark(3, 980, false))), CameraState::Decoding);
        assert_eq!(state(&decoding, Some(&mark(3, 995, false))), CameraState::Searchable);
        assert_eq!(state(&node(NodeState::Retrying, 3), Some(&mark(3, 999, false))), CameraState::Retrying);
    }

    #[test]
    fn a_recording_has_ended_once_all_of_it_is_indexed() {
        let r = row("file:///a.mp4");
        let ended = node(NodeState::Ended, 0);
        let with = |m: Watermark| view(&r, Some(&ended), Some(&m), NOW, false);
        assert_eq!(with(mark(0, 5, false)).state, CameraState::Decoding);
        let done = with(mark(0, 5, true));
        assert_eq!((done.state, done.lag_s), (CameraState::Ended, Some(0.0)));
    }

    #[test]
    fn what_was_dropped_multiplies() {
        assert!((dropped_fraction(&node(NodeState::Decoding, 0)) - 0.28).abs() < 1e-9);
    }

    #[test]
    fn secrets_do_not_leave() {
        assert_eq!(mask("rtsp://user:hunter2@cam/1"), "rtsp://user:***@cam/1");
        assert_eq!(mask("http://cam/v?Password=x&ch=2"), "http://cam/v?Password=***&ch=2");
        assert_eq!(mask("videotestsrc://"), "videotestsrc://");
        assert_eq!(mask("file:cache/a.avi"), "file:cache/a.avi");
        let shown = view(&row("rtsp://user:hunter2@cam/1"), None, None, NOW, false);
        assert_eq!(shown.url, None);
    }
}
