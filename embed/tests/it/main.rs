//! Integration tests of the embedder. Data under `tests/golden` was made with the authors' code, unmodified.
#![allow(clippy::unwrap_used)]

mod bf16;
#[cfg(feature = "cuda")]
mod cuda;
mod embedder;
mod eval;
mod folder;
mod golden;
mod half;
#[cfg(feature = "kafka")]
mod kafka;
mod layers;
mod phrases;
mod preprocess;
mod shipped_model;
mod stage;
mod text;
mod weights;
