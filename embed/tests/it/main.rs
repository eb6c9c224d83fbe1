//! Integration tests of the embedder. Data under `tests/golden` was made with the authors' code,
//! unmodified.
#![allow(clippy::unwrap_used)]

mod attributes;
mod backbone;
mod bf16;
#[cfg(feature = "cuda")]
mod cuda;
mod embedder;
mod explain;
mod folder;
mod golden;
#[cfg(feature = "candle")]
mod graph;
#[cfg(feature = "candle")]
mod half;
#[cfg(feature = "kafka")]
mod needs_kafka;
mod net;
mod phrases;
mod preprocess;
mod shipped_model;
mod stage;
mod text;
