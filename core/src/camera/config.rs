//! The configuration of one camera: its address, and the values of `[ingest]` and `[detect]` that it
//! has for itself. It is a `[[cameras]]` entry of the file, the body of `POST /v1/cameras`, and the
//! record of the topic `cameras`.
//!
//! An override that is left out is not written either, so that a camera without overrides is read
//! by nodes of an earlier version. Unknown keys are refused everywhere: upgrade the nodes before
//! the API.

use serde::{Deserialize, Serialize};

use super::{CameraUrl, Source, UrlError};
use crate::config::{IngestConfig, OutOfRange, RtspTransport};
use crate::{CameraId, Timestamp};

/// The keys of a `[[cameras]]` entry.
pub const CAMERA_KEYS: [&str; 15] = [
    "id",
    "url",
    "fps",
    "max_height",
    "stall_seconds",
    "connect_seconds",
    "backoff_first_seconds",
    "backoff_last_seconds",
    "rtsp_transport",
    "rtsp_latency_ms",
    "score_threshold",
    "start_time",
    "loop",
    "realtime",
    "node",
];

/// One camera. Each `None` takes the value of the node's `[ingest]` or `[detect]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CameraConfig {
    /// Immutable id.
    pub id: CameraId,
    /// Address of the footage: `rtsp://`, `http(s)://`, `file:///`, `v4l2:///dev/...`,
    /// `videotestsrc://`.
    #[serde(serialize_with = "CameraUrl::serialize_exposed")]
    pub url: CameraUrl,
    /// Instead of `ingest.fps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fps: Option<f64>,
    /// Instead of `ingest.max_height`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_height: Option<u32>,
    /// Instead of `ingest.stall_seconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_seconds: Option<f64>,
    /// Instead of `ingest.connect_seconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_seconds: Option<f64>,
    /// Instead of `ingest.backoff_first_seconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_first_seconds: Option<f64>,
    /// Instead of `ingest.backoff_last_seconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_last_seconds: Option<f64>,
    /// Instead of `ingest.rtsp_transport`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtsp_transport: Option<RtspTransport>,
    /// Instead of `ingest.rtsp_latency_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtsp_latency_ms: Option<u32>,
    /// Instead of `detect.score_threshold`, where a track starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_threshold: Option<f32>,
    /// Files: capture time of the first frame; the file's modification time when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// Files: start again at the end.
    #[serde(default, rename = "loop")]
    pub looped: bool,
    /// Files: play at the camera's pace (default) or as fast as the machine can.
    #[serde(default = "yes")]
    pub realtime: bool,
    /// Name of the camera node that is to run it; left out, the placement chooses one. It counts for
    /// cameras that are added through the API of separate roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

fn yes() -> bool {
    true
}

/// Why a camera's configuration is refused. The text contains no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CameraConfigError {
    /// The address is not valid.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// An override is out of range; the same range holds for the node's value.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// This kind of camera cannot have the setting.
    #[error("{0}")]
    Unfit(&'static str),
}

impl CameraConfig {
    /// A camera without overrides.
    pub fn new(id: CameraId, url: impl Into<CameraUrl>) -> Self {
        Self {
            id,
            url: url.into(),
            fps: None,
            max_height: None,
            stall_seconds: None,
            connect_seconds: None,
            backoff_first_seconds: None,
            backoff_last_seconds: None,
            rtsp_transport: None,
            rtsp_latency_ms: None,
            score_threshold: None,
            start_time: None,
            looped: false,
            realtime: true,
            node: None,
        }
    }

    /// `[ingest]` as it holds for this camera on a node with `node`.
    pub fn ingest(&self, node: &IngestConfig) -> IngestConfig {
        IngestConfig {
            fps: self.fps.unwrap_or(node.fps),
            max_height: self.max_height.unwrap_or(node.max_height),
            stall_seconds: self.stall_seconds.unwrap_or(node.stall_seconds),
            connect_seconds: self.connect_seconds.unwrap_or(node.connect_seconds),
            backoff_first_seconds: self.backoff_first_seconds.unwrap_or(node.backoff_first_seconds),
            backoff_last_seconds: self.backoff_last_seconds.unwrap_or(node.backoff_last_seconds),
            rtsp_transport: self.rtsp_transport.unwrap_or(node.rtsp_transport),
            rtsp_latency_ms: self.rtsp_latency_ms.unwrap_or(node.rtsp_latency_ms),
            ..node.clone()
        }
    }

    /// Validates the camera for a node with the `[ingest]` of `node`; returns the source that its
    /// address names.
    ///
    /// # Errors
    /// An invalid address, a value out of range, or a setting that is not for this kind of source.
    pub fn check(&self, node: &IngestConfig) -> Result<Source, CameraConfigError> {
        let source = self.url.source()?;
        self.ingest(node).check().map_err(OutOfRange::without_section)?;
        if let Some(score) = self.score_threshold {
            OutOfRange::unless((0.0..=1.0).contains(&score), "score_threshold", &score, "0 to 1")?;
        }
        let replayable = matches!(source, Source::File(_) | Source::Test(_));
        if !replayable && (self.looped || !self.realtime || self.start_time.is_some()) {
            return Err(CameraConfigError::Unfit("start_time, loop and realtime = false are for files only"));
        }
        if !matches!(source, Source::Rtsp(_)) && (self.rtsp_transport.is_some() || self.rtsp_latency_ms.is_some()) {
            return Err(CameraConfigError::Unfit(
                "rtsp_transport and rtsp_latency_ms are for rtsp:// and rtsps:// only",
            ));
        }
        if self.looped && matches!(&source, Source::Test(t) if t.num_buffers.is_none()) {
            return Err(CameraConfigError::Unfit("loop needs footage that ends: give num-buffers"));
        }
        Ok(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    fn all() -> CameraConfig {
        serde_json::from_value(serde_json::json!({
            "id": "gate", "url": "rtsp://cam/1", "fps": 2.5, "max_height": 720, "stall_seconds": 9.0,
            "connect_seconds": 20.0, "backoff_first_seconds": 1.0, "backoff_last_seconds": 2.0,
            "rtsp_transport": "udp", "rtsp_latency_ms": 900, "score_threshold": 0.75,
            "start_time": "2026-05-01T08:00:00Z", "loop": true, "realtime": false, "node": "ingest@rack-1"
        }))
        .expect("every key is known")
    }

    #[test]
    fn the_list_of_keys_is_that_of_the_camera() {
        let written = serde_json::to_value(all()).expect("JSON");
        let mut keys: Vec<&str> = written.as_object().expect("an object").keys().map(String::as_str).collect();
        let mut listed = CAMERA_KEYS;
        keys.sort_unstable();
        listed.sort_unstable();
        assert_eq!(keys, listed);
        let e = serde_json::from_str::<CameraConfig>(r#"{"id":"a","url":"rtsp://a","stall":3}"#).expect_err("unknown");
        assert!(e.to_string().contains("`stall`") && e.to_string().contains("`stall_seconds`"), "{e}");
    }

    #[test]
    fn overrides_replace_the_nodes_values_and_nothing_else() {
        let node = Config::layered(None, []).expect("default").ingest;
        let own = all().ingest(&node);
        assert_eq!((own.fps, own.max_height, own.stall_seconds, own.connect_seconds), (2.5, 720, 9.0, 20.0));
        assert_eq!((own.backoff_first_seconds, own.backoff_last_seconds), (1.0, 2.0));
        assert_eq!((own.rtsp_transport, own.rtsp_latency_ms), (RtspTransport::Udp, 900));
        assert_eq!((own.max_cameras, &own.sources), (node.max_cameras, &node.sources));
        let plain = CameraConfig::new("gate".parse().expect("valid"), "rtsp://cam/1");
        assert_eq!(plain.ingest(&node), node);
    }

    #[test]
    fn overrides_are_checked_like_the_nodes_values() {
        let node = Config::layered(None, []).expect("default").ingest;
        let plain = |url: &str| CameraConfig::new("gate".parse().expect("valid"), url);
        let said = |change: fn(&mut CameraConfig)| {
            let mut camera = plain("rtsp://u:secret@cam/1");
            change(&mut camera);
            camera.check(&node).expect_err("refused").to_string()
        };
        assert_eq!(said(|c| c.fps = Some(0.0)), "fps = 0 is out of range: above 0, at most 60");
        assert!(said(|c| c.fps = Some(f64::NAN)).starts_with("fps = NaN"));
        assert!(said(|c| c.max_height = Some(8)).starts_with("max_height = 8"));
        assert!(said(|c| c.stall_seconds = Some(f64::INFINITY)).starts_with("stall_seconds = inf"));
        assert!(said(|c| c.connect_seconds = Some(-1.0)).starts_with("connect_seconds = -1"));
        assert!(said(|c| c.backoff_last_seconds = Some(0.0)).starts_with("backoff_last_seconds = 0"));
        // Valid by itself, but above the node's last value.
        assert!(said(|c| c.backoff_first_seconds = Some(90.0)).starts_with("backoff_first_seconds = 90"));
        assert!(said(|c| c.rtsp_latency_ms = Some(60_000)).starts_with("rtsp_latency_ms = 60000"));
        assert!(said(|c| c.score_threshold = Some(1.5)).starts_with("score_threshold = 1.5"));
        let tcp = CameraConfig { rtsp_transport: Some(RtspTransport::Tcp), ..plain("http://cam/x.mjpg") };
        assert!(tcp.check(&node).expect_err("refused").to_string().contains("rtsp:// and rtsps://"));
        let (first, last) = (Some(90.0), Some(100.0));
        let both = CameraConfig { backoff_first_seconds: first, backoff_last_seconds: last, ..plain("rtsp://cam/1") };
        assert!(both.check(&node).is_ok());
    }

    #[test]
    fn only_footage_that_can_be_replayed_takes_replay_settings() {
        let node = Config::layered(None, []).expect("default").ingest;
        let with = |url: &str, change: fn(&mut CameraConfig)| {
            let mut camera = CameraConfig::new("gate".parse().expect("valid"), url);
            change(&mut camera);
            camera.check(&node)
        };
        assert!(with("file:///a.avi", |c| c.looped = true).is_ok());
        assert!(with("videotestsrc://?num-buffers=9", |c| c.looped = true).is_ok());
        for (url, change) in [
            ("rtsp://h/s", (|c| c.looped = true) as fn(&mut CameraConfig)),
            ("rtsp://h/s", |c| c.realtime = false),
            ("http://h/s", |c| c.start_time = Some(Timestamp::from_micros(0))),
            ("videotestsrc://", |c| c.looped = true),
        ] {
            assert!(matches!(with(url, change), Err(CameraConfigError::Unfit(_))), "{url}");
        }
    }
}
