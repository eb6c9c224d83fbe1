//! The ranges of values, and those of `[ingest]`, which hold for the node's values and for each
//! camera's own alike.

use super::IngestConfig;

/// The longest duration that a setting may have. A longer one, infinity for example, is a mistake,
/// and does not fit a `Duration`.
const DAY_SECONDS: f64 = 86_400.0;
pub(super) const SECONDS: &str = "above 0, at most 86400 (a day)";

/// A value out of range.
#[derive(Debug, thiserror::Error)]
#[error("{key} = {value} is out of range: {expected}")]
pub struct OutOfRange {
    /// `section.key`, or the key of a camera.
    pub key: &'static str,
    /// The given value.
    pub value: String,
    /// The accepted range.
    pub expected: &'static str,
}

impl OutOfRange {
    pub(crate) fn unless(
        ok: bool,
        key: &'static str,
        value: &dyn std::fmt::Display,
        expected: &'static str,
    ) -> Result<(), Self> {
        if ok { Ok(()) } else { Err(Self { key, value: value.to_string(), expected }) }
    }

    /// The same about a camera, whose keys stand in no section.
    pub(crate) fn without_section(self) -> Self {
        Self { key: self.key.split_once('.').map_or(self.key, |(_, key)| key), ..self }
    }
}

pub(super) fn seconds(value: f64) -> bool {
    value > 0.0 && value <= DAY_SECONDS
}

impl IngestConfig {
    pub(crate) fn check(&self) -> Result<(), OutOfRange> {
        let range = OutOfRange::unless;
        range(self.fps > 0.0 && self.fps <= 60.0, "ingest.fps", &self.fps, "above 0, at most 60")?;
        range(self.max_height >= 64, "ingest.max_height", &self.max_height, "at least 64")?;
        range(seconds(self.stall_seconds), "ingest.stall_seconds", &self.stall_seconds, SECONDS)?;
        range(seconds(self.connect_seconds), "ingest.connect_seconds", &self.connect_seconds, SECONDS)?;
        range(seconds(self.backoff_last_seconds), "ingest.backoff_last_seconds", &self.backoff_last_seconds, SECONDS)?;
        range(
            self.backoff_first_seconds > 0.0 && self.backoff_first_seconds <= self.backoff_last_seconds,
            "ingest.backoff_first_seconds",
            &self.backoff_first_seconds,
            "above 0, at most backoff_last_seconds",
        )?;
        range(self.rtsp_latency_ms <= 10_000, "ingest.rtsp_latency_ms", &self.rtsp_latency_ms, "0 to 10000")
    }
}
