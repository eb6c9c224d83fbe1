//! Integration tests of the trainer. Data under `tests/golden` was made with the authors' code,
//! unmodified.
#![allow(clippy::unwrap_used)]

mod ablate;
mod backbone;
mod baseline;
mod eval_cli;
mod evaluate;
mod facts;
#[path = "../../../tests/it/folder.rs"]
mod folder;
#[path = "../../../tests/it/golden.rs"]
mod golden;
mod import;
mod objective;
mod ops;
mod overfit;
mod people;
mod shipped_model;
mod train_cli;
mod train_golden;
mod train_golden_steps;
mod train_init;
mod train_run;
mod weights;
