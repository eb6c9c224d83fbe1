//! State of a camera as an operator sees it: the camera node's report, combined with the watermark
//! of the index.
//!
//! "Registered" is not "searchable": a camera is searchable once footage of its current connection
//! has reached the index, and as long as the index keeps up and the node reports.

use serde::Serialize;
use sightline_core::{CameraId, CameraState, NodeReport, Timestamp};
use sightline_search::KnownCoverage;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use super::LastReport;
use crate::state::{CameraRow, CameraSource};

/// Lag of the index in seconds above which a camera counts as decoding instead of searchable.
pub const LAG_LIMIT_S: f64 = 10.0;

/// Age of the last report in seconds above which the node counts as lost. Nodes report every two
/// seconds, so five reports in a row are missing then.
pub const REPORT_TIMEOUT_S: f64 = 10.0;

/// What is known of one camera: from its configuration, its node and the index.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CameraView {
    /// Immutable id of the camera.
    #[schema(value_type = String)]
    pub id: CameraId,
    /// How far its footage gets: connected, decoded, searchable, or why not.
    #[schema(schema_with = states)]
    pub state: CameraState,
    /// Reason for the state, if there is one. What a node says about a camera may name its address,
    /// host or file, and is shown to administrators only.
    pub reason: Option<String>,
    /// Time since which the camera has this state.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// All footage captured up to this time is searchable.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub searchable_through: Option<Timestamp>,
    /// Lag of the index behind the camera, in seconds.
    pub lag_s: Option<f64>,
    /// Fraction of the footage that was dropped because the machine is too slow, 0 to 1.
    pub dropped_fraction: f64,
    /// Seconds until the next connection attempt.
    pub retry_in_s: Option<f64>,
    /// Where the camera is defined: `config` (configuration file of this process), `api` (added at
    /// run time) or `node` (configuration of a camera node).
    pub source: &'static str,
    /// Whether the camera was removed and its footage kept searchable.
    pub archived: bool,
    /// Address of the camera, with passwords masked; shown to administrators only.
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

/// OpenAPI schema of a state: a string enumeration.
fn states() -> Object {
    let words = CameraState::ALL.map(CameraState::as_str);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build()
}

/// Combines everything known about a camera.
pub fn view(
    row: &CameraRow,
    last_report: Option<&LastReport>,
    mark: Option<&KnownCoverage>,
    now: Timestamp,
    with_url: bool,
) -> CameraView {
    // A camera of which nothing has become searchable yet has a report, at most.
    let mark = mark.filter(|m| m.coverage.searchable_through.is_some());
    let lag_s = mark.filter(|m| m.coverage.connection.is_some()).map(|m| lag(row, last_report, m, now));
    let (state, mut reason) = state_of(row, last_report, mark, lag_s);
    let node = last_report.map(|h| &h.report);
    if !with_url && reason.is_some() && reason.as_deref() == node.and_then(|n| n.reason.as_deref()) {
        reason = Some(reason_without_address(state).to_owned());
    }
    CameraView {
        id: row.spec.id.clone(),
        state,
        reason,
        since: node.map(|n| n.since),
        searchable_through: mark.and_then(|m| m.coverage.searchable_through),
        lag_s,
        dropped_fraction: dropped_fraction(node, mark),
        retry_in_s: node.and_then(|n| n.retry_in_s),
        source: match row.source {
            CameraSource::Config => "config",
            CameraSource::Api => "api",
            CameraSource::Node => "node",
        },
        archived: row.archived,
        url: (with_url && !row.spec.url.is_empty()).then(|| row.spec.url.to_string()),
        frames_decoded: node.map_or(0, |n| n.frames_decoded),
        frames_analysed: node.map_or(0, |n| n.frames_analysed),
        frames_dropped: node.map_or(0, |n| n.frames_dropped),
        crops: node.map_or(0, |n| n.crops),
        crops_dropped: node.map_or(0, |n| n.crops_dropped),
    }
}

/// What everybody may know of a reason that a node gave.
fn reason_without_address(state: CameraState) -> &'static str {
    match state {
        CameraState::Failed => "it cannot be used; administrators see why",
        CameraState::Ended => "its footage is over",
        _ => "it cannot be reached at the moment; administrators see why",
    }
}

/// Lag of the index in seconds. Live footage is compared with the clock. The capture times of a
/// recording are arbitrary, so its lag is the time since its coverage last advanced. Whether a
/// node's own camera is live is unknown here; but reports travel behind the footage that they
/// describe, so the age of the newest report is the lag.
fn lag(row: &CameraRow, last_report: Option<&LastReport>, mark: &KnownCoverage, now: Timestamp) -> f64 {
    let since = match (row.source, last_report) {
        _ if mark.coverage.ended => return 0.0,
        (CameraSource::Node, Some(h)) => h.report.at,
        (CameraSource::Node, None) => mark.advanced_at,
        _ if row.spec.url.is_file() => mark.advanced_at,
        _ => mark.coverage.searchable_through.unwrap_or(mark.advanced_at),
    };
    now.seconds_since(since).max(0.0)
}

fn state_of(
    row: &CameraRow,
    last_report: Option<&LastReport>,
    mark: Option<&KnownCoverage>,
    lag_s: Option<f64>,
) -> (CameraState, Option<String>) {
    if row.archived {
        return (CameraState::Ended, Some("removed; its footage is kept and searchable".into()));
    }
    let Some(LastReport { report: node, age_s }) = last_report else {
        return if row.source == CameraSource::Node {
            (
                CameraState::Retrying,
                Some("no node has reported it since the start; what is stored is searchable".into()),
            )
        } else {
            (CameraState::Connecting, Some("waiting for the camera node".into()))
        };
    };
    let here = mark.filter(|m| m.coverage.connection == Some(node.connection));
    let over = node.state == CameraState::Ended && here.is_some_and(|m| m.coverage.ended);
    if *age_s > REPORT_TIMEOUT_S && !over {
        return (CameraState::Retrying, Some(format!("its node has not reported for {age_s:.0} s")));
    }
    match node.state {
        CameraState::Connecting => (CameraState::Connecting, node.reason.clone()),
        CameraState::Retrying => (CameraState::Retrying, node.reason.clone()),
        CameraState::Failed => (CameraState::Failed, node.reason.clone()),
        CameraState::Refused => (CameraState::Refused, node.reason.clone()),
        CameraState::Ended if over => (CameraState::Ended, node.reason.clone()),
        CameraState::Ended => {
            (CameraState::Decoding, Some("the footage is over; the rest of it is being indexed".into()))
        }
        CameraState::Decoding | CameraState::Searchable => match (here, lag_s) {
            (Some(_), Some(lag)) if lag <= LAG_LIMIT_S => (CameraState::Searchable, None),
            (Some(_), Some(lag)) => (CameraState::Decoding, Some(format!("the index is {lag:.0} s behind"))),
            _ => (CameraState::Decoding, Some("no footage of this connection has reached the index yet".into())),
        },
    }
}

/// Fraction of the footage that cannot be found: frames not analysed, of the rest pictures not
/// embedded (embedder or broker too slow, outbox full), and of the rest pictures that the index
/// rejected.
fn dropped_fraction(node: Option<&NodeReport>, mark: Option<&KnownCoverage>) -> f64 {
    let kept = |lost: u64, kept: u64| if lost + kept == 0 { 1.0 } else { kept as f64 / (lost + kept) as f64 };
    let on_the_way = node.map_or(1.0, |n| kept(n.frames_dropped, n.frames_analysed) * kept(n.crops_dropped, n.crops));
    1.0 - on_the_way * mark.map_or(1.0, |m| kept(m.coverage.rejected, m.coverage.indexed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sightline_core::message::Origin;
    use sightline_search::CameraCoverage;

    fn row(url: &str) -> CameraRow {
        CameraRow {
            spec: serde_json::from_value(serde_json::json!({ "id": "a", "url": url })).expect("valid"),
            source: CameraSource::Api,
            archived: false,
            added_at: Timestamp::from_micros(0),
        }
    }

    fn node(state: CameraState, connection: u64) -> LastReport {
        let camera: CameraId = "a".parse().expect("valid");
        LastReport::from(NodeReport {
            origin: Origin::of_camera("test", 0, &camera),
            camera,
            at: Timestamp::from_micros(997_000_000),
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
            spooled_bytes: 0,
        })
    }

    fn mark(connection: u64, through_s: i64, ended: bool) -> KnownCoverage {
        let t = Timestamp::from_micros(through_s * 1_000_000);
        let connection = Some(connection);
        let coverage = CameraCoverage { connection, searchable_through: Some(t), ended, ..CameraCoverage::default() };
        KnownCoverage { coverage, advanced_at: t }
    }

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

    #[test]
    fn searchable_only_when_this_connection_has_arrived_in_time() {
        let r = row("rtsp://camera");
        let state = |n: &LastReport, m: Option<&KnownCoverage>| view(&r, Some(n), m, NOW, false).state;
        let decoding = node(CameraState::Decoding, 3);
        assert_eq!(state(&decoding, None), CameraState::Decoding);
        assert_eq!(state(&decoding, Some(&mark(2, 999, false))), CameraState::Decoding);
        assert_eq!(state(&decoding, Some(&mark(3, 980, false))), CameraState::Decoding);
        assert_eq!(state(&decoding, Some(&mark(3, 995, false))), CameraState::Searchable);
        assert_eq!(state(&node(CameraState::Retrying, 3), Some(&mark(3, 999, false))), CameraState::Retrying);
    }

    #[test]
    fn a_recording_has_ended_once_all_of_it_is_indexed() {
        let r = row("file:///a.mp4");
        let ended = node(CameraState::Ended, 0);
        let with = |m: KnownCoverage| view(&r, Some(&ended), Some(&m), NOW, false);
        assert_eq!(with(mark(0, 5, false)).state, CameraState::Decoding);
        let done = with(mark(0, 5, true));
        assert_eq!((done.state, done.lag_s), (CameraState::Ended, Some(0.0)));
    }

    #[test]
    fn a_node_that_stops_reporting_is_retrying() {
        let r = row("rtsp://camera");
        let silent = |state, age_s| LastReport { age_s, ..node(state, 3) };
        let shown = view(&r, Some(&silent(CameraState::Decoding, 14.2)), Some(&mark(3, 999, false)), NOW, false);
        let why = Some("its node has not reported for 14 s".to_owned());
        assert_eq!((shown.state, shown.reason), (CameraState::Retrying, why));
        let shown = view(&r, Some(&silent(CameraState::Decoding, 9.0)), Some(&mark(3, 999, false)), NOW, false);
        assert_eq!(shown.state, CameraState::Searchable);
        let shown = view(&r, Some(&silent(CameraState::Ended, 900.0)), Some(&mark(3, 5, true)), NOW, false);
        assert_eq!(shown.state, CameraState::Ended, "there is nothing left to report");
    }

    #[test]
    fn a_nodes_own_camera_is_as_late_as_its_newest_report() {
        let r = CameraRow { source: CameraSource::Node, ..row("") };
        // Footage of another year: only the report says how late it arrived.
        let shown = view(&r, Some(&node(CameraState::Decoding, 0)), Some(&mark(0, 5, false)), NOW, true);
        assert_eq!((shown.state, shown.lag_s, shown.source), (CameraState::Searchable, Some(3.0), "node"));
        assert_eq!(shown.url, None, "nobody told it");
        assert_eq!(view(&r, None, Some(&mark(0, 5, false)), NOW, true).state, CameraState::Retrying);
    }

    #[test]
    fn what_was_dropped_multiplies() {
        let n = node(CameraState::Decoding, 0);
        assert!((dropped_fraction(Some(&n.report), None) - 0.28).abs() < 1e-9);
        let mut refused = mark(0, 5, false);
        (refused.coverage.indexed, refused.coverage.rejected) = (3, 1);
        assert!((dropped_fraction(Some(&n.report), Some(&refused)) - 0.46).abs() < 1e-9);
        assert_eq!(dropped_fraction(None, None), 0.0);
    }

    #[test]
    fn a_nodes_reason_is_for_administrators() {
        let r = row("rtsp://10.1.2.3/1");
        let mut refused = node(CameraState::Retrying, 3);
        refused.report.reason = Some("10.1.2.3:554 refuses the connection".into());
        let shown = |with_url| view(&r, Some(&refused), None, NOW, with_url).reason.expect("a reason");
        assert_eq!(shown(true), "10.1.2.3:554 refuses the connection");
        assert!(!shown(false).contains("10.1.2.3"), "{}", shown(false));
        // What the API itself says is for everybody.
        let late = LastReport { age_s: 14.0, ..refused };
        let why = view(&r, Some(&late), None, NOW, false).reason.expect("a reason");
        assert!(why.starts_with("its node has not reported"), "{why}");
    }

    #[test]
    fn addresses_are_for_administrators_and_masked() {
        let r = row("rtsp://user:hunter2@cam/1");
        assert_eq!(view(&r, None, None, NOW, false).url, None);
        assert_eq!(view(&r, None, None, NOW, true).url.as_deref(), Some("rtsp://***@cam/1"));
    }
}
