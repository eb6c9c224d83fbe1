//! Model folders from a run: weights as f16, configuration, tokenizer.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor};
use candle_nn::VarMap;

use crate::model::ModelConfig;

/// Writes `config`, the model's variables (without the auxiliary heads) as `dtype` and `tokenizer` to `out`.
///
/// # Errors
/// A value that is not finite, or a file that cannot be written.
pub fn write(out: &Path, config: &ModelConfig, variables: &VarMap, dtype: DType, tokenizer: &[u8]) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    {
        let data = variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (name, var) in data.iter().filter(|(name, _)| !name.starts_with("attributes.")) {
            let tensor = var.as_tensor().to_dtype(dtype)?;
            let largest = tensor.to_dtype(DType::F32)?.abs()?.max_all()?.to_scalar::<f32>()?;
            ensure!(largest.is_finite(), "{name} holds a value that {dtype:?} cannot");
            tensors.insert(name.clone(), tensor);
        }
    }
    candle_core::safetensors::save(&tensors, out.join("model.safetensors")).context("writing model.safetensors")?;
    fs::write(out.join("config.json"), serde_json::to_vec_pretty(config)?)?;
    fs::write(out.join("tokenizer.json"), tokenizer)?;
    Ok(())
}
