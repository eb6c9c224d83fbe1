//! Fine-tuning: data, losses, optimiser, evaluation, calibration and model folders.
//!
//! ```text
//! figures::Corpus -> Pool -> batches -> losses -> AdamW -> checkpoint -> model folder -> eval, calibrate
//! labelled people ----^         ^ what is true of whom (facts)
//! ```

pub mod ablate;
pub mod ara;
pub mod atomic;
pub mod atp;
pub mod attributes;
pub mod augment;
pub mod backbone;
pub mod baseline;
pub mod batch;
pub mod bootstrap;
pub mod calibrate;
pub mod checkpoint;
pub mod config;
pub mod contrast;
pub mod dataset;
mod error;
pub mod evaluate;
pub mod explain;
pub mod facts;
mod finite;
pub mod folder;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod gallery;
pub mod garments;
pub mod import;
pub mod init;
mod isotonic;
mod legacy_checkpoint;
pub mod logistic;
pub mod losses;
pub mod masked_words;
pub mod objective;
pub mod ops;
pub mod optimizer;
pub mod people;
pub mod plot;
pub mod pool;
pub mod pos_embed;
pub mod ranks;
pub mod recipe;
pub mod record;
pub mod run;
pub mod schedule;
pub mod separation;
pub mod source;
mod streams;
pub mod token_cache;
pub mod trainee;
pub mod validation;
pub mod vocabulary;
pub mod weights;

pub use error::{Result, TrainError};
