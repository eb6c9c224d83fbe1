//! The settings of a camera, validated and with defaults filled in: what the rest of the crate
//! uses.

use std::time::Duration;

use sightline_core::camera::{CameraUrl, Source};
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
    pub(crate) connect: Duration,
    pub(crate) stall: Duration,
    pub(crate) backoff: (Duration, Duration),
}

impl CameraSpec {
    /// Validates one camera's configuration and completes it with the node's.
    ///
    /// # Errors
    /// When the address is not valid, `fps` is out of range, or a setting for files is given for
    /// another source.
    pub fn new(camera: CameraConfig, node: &IngestConfig) -> Result<Self, IngestError> {
        let source = camera.url.source()?;
        let refuse = |reason: &str| Err(IngestError::Setting { camera: camera.id.clone(), reason: reason.into() });
        let fps = camera.fps.unwrap_or(node.fps);
        if !(fps > 0.0 && fps <= 60.0) {
            return refuse("fps must be above 0 and at most 60");
        }
        let replayable = matches!(source, Source::File(_) | Source::Test(_));
        if !replayable && (camera.looped || !camera.realtime || camera.start_time.is_some()) {
            return refuse("start_time, loop and realtime = false are for files only");
        }
        if camera.looped && matches!(&source, Source::Test(t) if t.num_buffers.is_none()) {
            return refuse("loop needs footage that ends: give num-buffers");
        }
        let seconds = Duration::from_secs_f64;
        Ok(Self {
            id: camera.id,
            url: camera.url,
            source,
            fps,
            max_height: node.max_height,
            start_time: camera.start_time,
            looped: camera.looped,
            realtime: camera.realtime,
            transport: node.rtsp_transport,
            connect: seconds(node.connect_seconds),
            stall: seconds(node.stall_seconds),
            backoff: (seconds(node.backoff_first_seconds), seconds(node.backoff_last_seconds)),
        })
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
        let mut camera = CameraConfig {
            id: "gate".parse().expect("valid"),
            url: url.into(),
            fps: None,
            start_time: None,
            looped: false,
            realtime: true,
            node: None,
        };
        change(&mut camera);
        CameraSpec::new(camera, &Config::layered(None, []).expect("default").ingest)
    }

    #[test]
    fn only_footage_that_can_be_replayed_takes_replay_settings() {
        assert!(spec("file:///a.avi", |c| c.looped = true).is_ok());
        assert!(spec("videotestsrc://?num-buffers=9", |c| c.looped = true).is_ok());
        for (url, change) in [
            ("rtsp://h/s", (|c| c.looped = true) as fn(&mut CameraConfig)),
            ("rtsp://h/s", |c| c.realtime = false),
            ("http://h/s", |c| c.start_time = Some(Timestamp::from_micros(0))),
            ("videotestsrc://", |c| c.looped = true),
            ("rtsp://h/s", |c| c.fps = Some(0.0)),
            ("rtsp://h/s", |c| c.fps = Some(f64::NAN)),
        ] {
            assert!(matches!(spec(url, change), Err(IngestError::Setting { .. })), "{url}");
        }
    }

    #[test]
    fn files_lose_nothing_and_live_cameras_never_wait() {
        assert!(spec("file:///a.avi", |_| ()).expect("valid").lossless());
        assert!(!spec("rtsp://h/s", |_| ()).expect("valid").lossless());
        assert!(!spec("videotestsrc://", |_| ()).expect("valid").lossless());
        assert!(spec("videotestsrc://", |c| c.realtime = false).expect("valid").lossless());
    }
}
