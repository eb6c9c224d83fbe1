//! Serving: the loaded model, its inference thread, and the embedding stage of the pipeline.

mod attributes;
mod device;
#[cfg(test)]
mod double;
mod embedder;
mod explain;
mod jobs;
mod model;
mod pictures;
mod self_test;
pub mod stage;

pub use attributes::{MASK, MaskedWord};
pub use device::{choose_precision, device_name, keep_large_buffers, open_device};
pub use embedder::Embedder;
pub use explain::{ExplainMethod, Explanation, Highlight};
pub use model::{ImageFeatures, MatchScore, Model, ModelInfo, QueryPhrase, TextQuery};
pub use self_test::{SelfTest, self_test, write_self_test};
