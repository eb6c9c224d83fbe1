//! CADA: embeds pictures of persons and descriptions of persons in one space, and matches a
//! description against one picture.
//!
//! ```text
//! picture -> preprocess -> ViT -> patch features --+--> global feature (search)
//!                                                  |
//! text -> clean, tokens -> BERT -> global feature  +--> decoder -> match probability (re-ranking)
//! ```
//!
//! [`kernel`] holds the fast arithmetic and nearly all unsafe code, [`net`] the networks on the
//! CPU, `graph` (feature `candle`) the same networks for GPUs and for training, [`text`] and
//! [`preprocess`] their inputs, [`model`] the model folder. [`Model`] runs all of it on the calling
//! thread, [`Embedder`] on a thread of its own, and [`stage`] as a stage of the pipeline.

#[cfg(feature = "candle")]
pub mod graph;
pub mod kernel;
pub mod model;
pub mod net;
pub mod serve;
pub mod text;

mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;

pub use error::EmbedError;
pub use model::preprocess;
pub use model::{
    DEFAULT_MODEL, ModelFolder, QUERY_BANK, decode_image, decode_image_within, model_of_data, resolve_model_folder,
};
pub use serve::{
    Embedder, ExplainMethod, Explanation, Highlight, ImageFeatures, MASK, MaskedWord, MatchScore, Model, ModelInfo,
    QueryPhrase, SelfTest, TextQuery, choose_precision, device_name, keep_large_buffers, open_device, self_test, stage,
    write_self_test,
};
