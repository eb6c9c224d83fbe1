//! The sections of the configuration file and the types of their values. `docker/sightline.toml`
//! documents each key.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::camera::AllowedSources;

/// `[server]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ServerConfig {
    pub listen: SocketAddr,
    pub tls_certificate: PathBuf,
    pub tls_key: PathBuf,
    pub require_tokens: bool,
    pub trusted_proxies: Vec<IpNet>,
    pub metrics_listen: String,
    pub max_body_bytes: usize,
    pub body_seconds: f64,
    pub header_seconds: f64,
    pub max_connections: usize,
    pub max_connections_per_address: usize,
    pub max_requests: usize,
    pub rate_per_minute: u32,
    pub address_rate_per_minute: u32,
    pub log_json: bool,
}

/// `[audit]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct AuditConfig {
    pub retention_days: f64,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct DataConfig {
    pub folder: PathBuf,
}

/// `[model]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ModelConfig {
    pub folder: PathBuf,
}

/// Transport of RTSP media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum RtspTransport {
    Tcp,
    Udp,
    Auto,
}

/// `[ingest]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct IngestConfig {
    pub fps: f64,
    pub max_height: u32,
    pub stall_seconds: f64,
    pub connect_seconds: f64,
    pub backoff_first_seconds: f64,
    pub backoff_last_seconds: f64,
    pub rtsp_transport: RtspTransport,
    pub rtsp_latency_ms: u32,
    pub max_cameras: usize,
    pub sources: AllowedSources,
}

/// `[detect]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct DetectConfig {
    pub weights: PathBuf,
    pub input_size: u32,
    pub score_threshold: f32,
    pub nms_iou: f32,
    pub threads: usize,
}

/// `[track]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct TrackConfig {
    pub high: f32,
    pub low: f32,
    pub new_track: f32,
    pub match_cost: f32,
    pub lost_seconds: f64,
}

/// `[shots]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ShotsConfig {
    pub per_track: u8,
    pub min_height: u32,
    pub jpeg_quality: u8,
}

/// Numeric precision of the model: on a CPU that of its matrix products, with f32 for everything
/// else; on a GPU that of all computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmbedPrecision {
    /// f16 on a GPU, bf16 on a CPU that has instructions for it, else f32.
    Auto,
    /// Single precision.
    F32,
    /// Factors rounded to bfloat16, sums in f32; an error on a CPU without instructions for it.
    Bf16,
    /// IEEE half precision, sums in f32; GPUs only.
    F16,
}

/// `[embed]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct EmbedConfig {
    pub device: String,
    pub precision: EmbedPrecision,
    pub batch: usize,
    pub linger_ms: u64,
    pub threads: usize,
    pub keep_large_buffers: bool,
}

/// The score by which pictures are ranked after the decoder has re-ranked them (specification,
/// section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScoreForm {
    /// Cosine + match logit, as in the authors' code.
    Raw,
    /// Cosine + match probability, as in the paper.
    Probability,
    /// Match probability alone: a calibrated probability already takes the cosine into account.
    /// Equal probabilities rank by cosine.
    Calibrated,
}

/// Largest number of tracks that one search may re-rank: each costs up to three passes of the
/// decoder, and more would take minutes on a CPU.
pub const MAX_RERANK: usize = 256;

/// `[search]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct SearchConfig {
    pub rerank: usize,
    pub max_limit: usize,
    pub confident_probability: f32,
    pub score: ScoreForm,
    pub concurrent: usize,
}

/// `[bus]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct BusConfig {
    pub brokers: String,
    pub crops_topic: String,
    pub sightings_topic: String,
    pub cameras_topic: String,
    pub nodes_topic: String,
    pub dead_letter_suffix: String,
    pub partitions: i32,
    pub replication: i32,
    pub retention_hours: u64,
    pub compression: BusCompression,
    pub patches: PatchCoding,
    pub in_flight_bytes: usize,
    pub spool_bytes: u64,
    pub drain_seconds: f64,
}

/// Compression of records on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum BusCompression {
    None,
    Lz4,
    Zstd,
}

impl BusCompression {
    /// The value of librdkafka's `compression.codec`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// Encoding of patch features on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PatchCoding {
    /// Half precision, exact.
    F16,
    /// A signed byte per value and a scale per row: half the bytes.
    Int8,
}

/// Where the vectors are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VectorPlace {
    /// Qdrant's engine inside the process, in the data folder.
    Embedded,
    /// A Qdrant server or cluster.
    Server,
}

/// Quantisation of stored vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// Full precision alone.
    None,
    /// One byte per value for the first pass, full precision for the best of its results.
    Int8,
}

/// `[vectors]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct VectorsConfig {
    pub store: VectorPlace,
    pub url: String,
    pub api_key: String,
    pub collection: String,
    pub shards: u32,
    pub replication: u32,
    pub on_disk: bool,
    pub quantization: Quantization,
    pub oversampling: f64,
    pub timeout_seconds: f64,
}

/// `[gallery]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct GalleryConfig {
    pub url: String,
}

/// `[index]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct IndexConfig {
    pub batch: usize,
    pub retention_days: f64,
}

/// `[monitor]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct MonitorConfig {
    pub listen: SocketAddr,
    pub node: String,
}
