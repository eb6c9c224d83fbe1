//! A whole model folder made of the golden data, for tests of what loads one.

use std::collections::HashMap;

use candle_core::Tensor;
use sightline_core::RgbImage;
use sightline_core::config::{EmbedConfig, EmbedPrecision};
use sightline_testing::write_tiny_model;
use tempfile::TempDir;

use crate::golden;

/// A temporary model folder with the tiny reference model, its weights changed by `change`.
pub fn model_with(change: impl Fn(&mut HashMap<String, Tensor>)) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = golden::weights();
    change(&mut tensors);
    write_tiny_model(dir.path(), &tensors);
    dir
}

pub fn model() -> TempDir {
    model_with(|_| {})
}

pub fn config() -> EmbedConfig {
    let default = sightline_core::Config::layered(None, []).unwrap().embed;
    EmbedConfig { precision: EmbedPrecision::F32, threads: 2, batch: 4, linger_ms: 20, ..default }
}

/// The six raw pictures of the golden data.
pub fn pictures() -> Vec<RgbImage> {
    let stored = golden::tensors("cada-tiny/preprocess.safetensors");
    (0..6)
        .map(|i| {
            let t = &stored[&format!("raw_{i}")];
            let (h, w, _) = t.dims3().unwrap();
            RgbImage::new(w as u32, h as u32, t.flatten_all().unwrap().to_vec1::<u8>().unwrap()).unwrap()
        })
        .collect()
}

/// The six captions of the golden data.
pub fn captions() -> Vec<String> {
    let cases = golden::json("tokenizer_cases.json");
    cases["cases"].as_array().unwrap()[..6].iter().map(|c| c["raw"].as_str().unwrap().to_owned()).collect()
}
