//! The settings of a camera, validated and with defaults filled in: what the rest of the crate
//! uses.

use std::time::Duration;

use sightline_core::camera::{AllowedSources, CameraConfigError, CameraUrl, Source};
use sightline_core::config::{CameraConfig, IngestConfig, RtspTransport};
use sightline_core::{CameraId, Timestamp};

use crate::IngestError;

/// The fixed settings of one camera.
#[derive(Clone, Debug)]
pub struct CameraSpec {
    pub(crate) id: CameraId,
    pub(crate) url: CameraUrl,
    pub(crate) source: Source,
    pub(crate) fps: f64,
    pub(crate) max_height: u32,
    pub(crate) start_time: Option<Timestamp>,
    pub(crate) looped: bool,
    pub(crate) realtime: bool,
    pub(crate) transport: RtspTransport,
    pub(crate) latency_ms: u32,
    pub(crate) connect: Duration,
    pub(crate) stall: Duration,
    pub(crate) backoff: (Duration, Duration),
    /// Where the camera may lead to.
    pub(crate) sources: AllowedSources,
    /// The camera stands in the configuration of this node, so that its address needs no rule.
    pub(crate) configured: bool,
}

impl CameraSpec {
    /// Validates one camera's configuration and completes it with the node's.
    ///
    /// # Errors
    /// As [`CameraConfig::check`].
    pub fn new(camera: CameraConfig, node: &IngestConfig) -> Result<Self, IngestError> {
        let source = camera.check(node).map_err(|e| match e {
            CameraConfigError::Url(e) => IngestError::Url(e),
            e => IngestError::Setting { camera: camera.id.clone(), reason: e.to_string() },
        })?;
        let ingest = camera.ingest(node);
        let seconds = Duration::from_secs_f64;
        Ok(Self {
            id: camera.id,
            url: camera.url,
            source,
            fps: ingest.fps,
            max_height: ingest.max_height,
            start_time: camera.start_time,
            looped: camera.looped,
            realtime: camera.realtime,
            transport: ingest.rtsp_transport,
            latency_ms: ingest.rtsp_latency_ms,
            connect: seconds(ingest.connect_seconds),
            stall: seconds(ingest.stall_seconds),
            backoff: (seconds(ingest.backoff_first_seconds), seconds(ingest.backoff_last_seconds)),
            sources: ingest.sources,
            configured: false,
        })
    }

    /// The same camera as one of this node's own configuration.
    #[must_use]
    pub fn configured(self, configured: bool) -> Self {
        Self { configured, ..self }
    }

    /// Whether no frame is ever dropped and a slow consumer slows the footage down. True for files,
    /// and for the test picture when it is not paced.
    pub fn lossless(&self) -> bool {
        match self.source {
            Source::File(_) => true,
            Source::Test(_) => !self.realtime,
            _ => false,
        }
    }

    /// Whether frames wait for their time at the end of the pipeline, because GStreamer would
    /// otherwise read the footage ahead.
    pub(crate) fn paced(&self) -> bool {
        match self.source {
            Source::File(_) => self.realtime,
            Source::Http(_) => true,
            _ => false,
        }
    }

    /// Whether the capture time is the start time plus the position in the footage instead of the
    /// wall clock.
    pub(crate) fn media_time(&self) -> bool {
        self.lossless() || self.start_time.is_some() || self.looped
    }

    /// Whether a failure is final, because a retry would meet the same footage.
    pub(crate) fn failures_are_final(&self) -> bool {
        matches!(self.source, Source::File(_) | Source::Test(_))
    }

    /// The longest pause between frames that is not a stall; `None` where pauses are part of the
    /// footage.
    pub(crate) fn stall_after(&self) -> Option<Duration> {
        if self.lossless() {
            None
        } else if self.paced() {
            // The pipeline itself pauses until the next analysed frame is due.
            Some(self.stall + Duration::from_secs_f64(2.0 / self.fps))
        } else {
            Some(self.stall)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sightline_core::Config;

    fn spec(url: &str, change: impl Fn(&mut CameraConfig)) -> Result<CameraSpec, IngestError> {
        let mut camera = CameraConfig::new("gate".parse().expect("valid"), url);
        change(&mut camera);
        CameraSpec::new(camera, &Config::layered(None, []).expect("default").ingest)
    }

    #[test]
    fn what_a_camera_has_for_itself_replaces_what_the_node_has() {
        let node = spec("rtsp://h/s", |_| ()).expect("valid");
        assert_eq!((node.transport, node.latency_ms, node.stall.as_secs()), (RtspTransport::Tcp, 200, 5));
        let own = spec("rtsp://h/s", |c| {
            (c.rtsp_transport, c.rtsp_latency_ms) = (Some(RtspTransport::Udp), Some(900));
            (c.stall_seconds, c.backoff_first_seconds) = (Some(9.0), Some(2.0));
        });
        let own = own.expect("valid");
        assert_eq!((own.transport, own.latency_ms, own.stall.as_secs()), (RtspTransport::Udp, 900, 9));
        assert_eq!(own.backoff, (Duration::from_secs(2), Duration::from_secs(60)));
    }

    #[test]
    fn a_setting_that_is_refused_is_told_with_the_camera() {
        let e = spec("rtsp://h/s", |c| c.fps = Some(0.0)).expect_err("refused");
        assert_eq!(e.to_string(), "camera gate: fps = 0 is out of range: above 0, at most 60");
        assert!(matches!(spec("rtsp://h/s", |c| c.looped = true), Err(IngestError::Setting { .. })));
        assert!(matches!(spec("gopher://h", |_| ()), Err(IngestError::Url(_))));
    }

    #[test]
    fn files_lose_nothing_and_live_cameras_never_wait() {
        assert!(spec("file:///a.avi", |_| ()).expect("valid").lossless());
        assert!(!spec("rtsp://h/s", |_| ()).expect("valid").lossless());
        assert!(!spec("videotestsrc://", |_| ()).expect("valid").lossless());
        assert!(spec("videotestsrc://", |c| c.realtime = false).expect("valid").lossless());
    }
}
