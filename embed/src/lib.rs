//! The heart of Sightline: CADA, which puts pictures of persons and descriptions of persons into one space, and judges
//! a description against one picture.
//!
//! ```text
//! picture -> preprocess -> ViT -> patch features --+--> global feature (search)
//!                                                  |
//! text -> clean, tokens -> BERT -> global feature  +--> decoder -> match probability (re-ranking)
//! ```
//!
//! [`nn`] holds the layers, [`kernel`] their fast matrix products, [`model`] the networks and their weights,
//! [`preprocess`] and [`text`] their inputs. [`Model`] is all of it on the calling thread, [`Embedder`] on a thread of its
//! own, [`stage`] its place in the pipeline.

pub mod kernel;
pub mod model;
pub mod nn;
pub mod preprocess;
pub mod text;

mod decode;
mod device;
mod embedder;
mod error;
mod folder;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod inference;
mod jobs;
mod self_test;
pub mod stage;

pub use decode::decode_image;
pub use device::{choose_precision, device_name, keep_large_buffers, open_device};
pub use embedder::Embedder;
pub use error::EmbedError;
pub use folder::{DEFAULT_MODEL, ModelFolder, QUERY_BANK, resolve_model_folder};
pub use inference::{ImageFeatures, MatchScore, Model, ModelInfo, TextQuery};
pub use self_test::{self_test, write_self_test};
