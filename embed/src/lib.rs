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
//! [`preprocess`] and [`text`] their inputs. [`synth`] draws persons to learn from, and [`train`] learns from them.

pub mod kernel;
pub mod model;
pub mod nn;
pub mod preprocess;
pub mod synth;
pub mod text;
pub mod train;

mod error;

pub use error::EmbedError;
