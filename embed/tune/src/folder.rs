//! Model folders from a run: weights as f16, configuration, tokenizer.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Tensor};
use candle_nn::VarMap;

use super::{Result, TrainError};
use sightline_embed::model::ModelConfig;

/// Parts that only training has: the auxiliary heads and the word predictor.
const TRAINING: [&str; 2] = ["attributes.", "text_decoder."];

/// Writes `config`, the model's variables (without what only training has) as `dtype` and `tokenizer` to `out`.
///
/// # Errors
/// A value that is not finite, or a file that cannot be written.
pub fn write(out: &Path, config: &ModelConfig, variables: &VarMap, dtype: DType, tokenizer: &[u8]) -> Result<()> {
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    {
        let data = variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (name, var) in data.iter().filter(|(name, _)| !TRAINING.iter().any(|part| name.starts_with(part))) {
            let tensor = narrowed(name, var.as_tensor(), dtype, out)?;
            tensors.insert(name.clone(), tensor);
        }
    }
    write_tensors(out, config, &tensors, tokenizer)
}

/// The same of `tensors` as they are.
///
/// # Errors
/// A file that cannot be written.
pub fn write_tensors(
    out: &Path,
    config: &ModelConfig,
    tensors: &HashMap<String, Tensor>,
    tokenizer: &[u8],
) -> Result<()> {
    fs::create_dir_all(out).map_err(TrainError::io(out))?;
    candle_core::safetensors::save(tensors, out.join("model.safetensors"))?;
    let text = serde_json::to_vec_pretty(config).map_err(|e| TrainError::content(out, e))?;
    fs::write(out.join("config.json"), text).map_err(TrainError::io(out))?;
    fs::write(out.join("tokenizer.json"), tokenizer).map_err(TrainError::io(out))?;
    Ok(())
}

/// `tensor` as `dtype`. `origin` and `name` are said in errors.
///
/// # Errors
/// A value that is not finite, or is not any more in `dtype`.
pub(super) fn narrowed(name: &str, tensor: &Tensor, dtype: DType, origin: &Path) -> Result<Tensor> {
    let tensor = tensor.to_dtype(dtype)?;
    let largest = tensor.to_dtype(DType::F32)?.flatten_all()?.abs()?.max_all()?.to_scalar::<f32>()?;
    // max passes over NaN; a sum does not.
    let sum = tensor.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
    if !largest.is_finite() || sum.is_nan() {
        return Err(TrainError::content(origin, format!("{name} holds a value that {dtype:?} cannot")));
    }
    Ok(tensor)
}
