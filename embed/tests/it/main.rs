//! Integration tests of the embedder. Data under `tests/golden` was made with the authors' code, unmodified.
#![allow(clippy::unwrap_used)]

mod ablate;
mod baseline;
mod bf16;
#[cfg(feature = "cuda")]
mod cuda;
mod embedder;
mod eval;
mod folder;
mod golden;
mod half;
mod import;
mod judge;
#[cfg(feature = "kafka")]
mod kafka;
mod layers;
mod objective;
mod overfit;
mod preprocess;
mod stage;
mod synth;
mod tagger;
mod text;
mod train_cli;
mod train_default;
mod train_golden;
mod train_golden_steps;
mod train_init;
mod train_mined;
mod train_run;
mod weights;
mod words;
