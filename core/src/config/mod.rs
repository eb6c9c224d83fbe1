//! Configuration: one commented file is both the documentation and the compiled-in default. A
//! user's file is merged into it, then the environment (`SIGHTLINE__SECTION__KEY`). Unknown keys
//! are errors that name the nearest valid key.

mod load;
mod range;
mod sections;

pub use crate::camera::CameraConfig;
pub use load::{ConfigError, DEFAULT_TOML};
pub use range::OutOfRange;
pub use sections::{
    AuditConfig, BusCompression, BusConfig, DataConfig, DetectConfig, EmbedConfig, EmbedPrecision, GalleryConfig,
    IndexConfig, IngestConfig, MAX_RERANK, ModelConfig, MonitorConfig, PatchCoding, Quantization, RtspTransport,
    ScoreForm, SearchConfig, ServerConfig, ShotsConfig, TrackConfig, VectorPlace, VectorsConfig,
};

use serde::{Deserialize, Serialize};

/// The whole configuration. Every key and its meaning: `docker/sightline.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// REST API and page.
    pub server: ServerConfig,
    /// Audit trail.
    pub audit: AuditConfig,
    /// The folder for everything that must survive a restart.
    pub data: DataConfig,
    /// The CADA model.
    pub model: ModelConfig,
    /// Decoding.
    pub ingest: IngestConfig,
    /// Person detection.
    pub detect: DetectConfig,
    /// Tracking.
    pub track: TrackConfig,
    /// Selection of the pictures of a track.
    pub shots: ShotsConfig,
    /// Feature extraction.
    pub embed: EmbedConfig,
    /// Search and re-ranking.
    pub search: SearchConfig,
    /// Kafka between separate roles.
    pub bus: BusConfig,
    /// Vector store.
    pub vectors: VectorsConfig,
    /// Pictures and patch features.
    pub gallery: GalleryConfig,
    /// Indexing.
    pub index: IndexConfig,
    /// Health and metrics of separate roles.
    pub monitor: MonitorConfig,
    /// Cameras that exist from the start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cameras: Vec<CameraConfig>,
}
