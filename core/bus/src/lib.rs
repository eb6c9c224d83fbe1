//! The bus between processes: the records of its topics, and Apache Kafka, which carries them.
//!
//! [`wire`] is the schema of the records, [`placement`] says which camera node runs which camera;
//! both need no server. Feature `kafka` adds producer, consumer, topics, dead letters and the topics
//! of cameras and nodes. In one process the stages are joined by
//! [`sightline_core::queue::Queue`] instead, and no record is encoded.

#[cfg(feature = "kafka")]
mod kafka;
pub mod placement;
pub mod tracker;
pub mod wire;

#[cfg(feature = "kafka")]
pub use kafka::*;
