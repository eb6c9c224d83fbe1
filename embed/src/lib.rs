//! The heart of Sightline: CADA, which puts pictures of persons and descriptions of persons into one space, and judges
//! a description against one picture.
//!
//! ```text
//! picture -> preprocess -> ViT -> patch features --+--> global feature (search)
//!                                                  |
//! text -> clean, tokens -> BERT -> global feature  +--> decoder -> match probability (re-ranking)
//! ```
//!
//! [`nn`] holds the layers, [`model`] the networks and their weights.

pub mod kernel;
pub mod model;
pub mod nn;
pub mod synth;
pub mod train;

mod error;

pub use error::EmbedError;
