//! The tiny golden model as a folder that can be loaded: the architecture of the shipped one, with
//! random weights that the authors' code wrote.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Tensor, pickle, safetensors};

use crate::repository;

/// Returns the weights, in f32.
///
/// # Panics
/// When the golden data cannot be read.
pub fn tiny_weights() -> HashMap<String, Tensor> {
    let path = repository("embed/tests/golden/cada-tiny/weights.pth");
    let all = pickle::read_all_with_key(path, Some("model")).unwrap();
    let float = all.into_iter().filter(|(_, tensor)| tensor.dtype().is_float());
    float.map(|(name, tensor)| (name, tensor.to_dtype(DType::F32).unwrap().contiguous().unwrap())).collect()
}

/// Writes the model with these weights into an existing folder. It has no stored answers for the
/// self-test.
///
/// # Panics
/// When a file cannot be written.
pub fn write_tiny_model(folder: &Path, weights: &HashMap<String, Tensor>) {
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(repository("embed/tests/golden/cada-tiny").join(file), folder.join(file)).unwrap();
    }
    safetensors::save(weights, folder.join("model.safetensors")).unwrap();
}
