//! The state of a run on disk: whole or not at all.
//!
//! A checkpoint is written beside the last one and takes its place by renaming, so that a run killed at any moment finds
//! a complete one.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarMap;
use serde_json::{Value, json};

use super::optimizer::AdamW;
use super::{Result, TrainError};

/// Writes variables, moments and `state` to `run`/checkpoint.
///
/// # Errors
/// A folder or file that cannot be written; the checkpoint before stays.
pub fn save(run: &Path, variables: &VarMap, optimizer: &AdamW, state: &Value) -> Result<()> {
    let (part, last, now) = (run.join("checkpoint.part"), run.join("checkpoint.last"), run.join("checkpoint"));
    let _ = fs::remove_dir_all(&part);
    fs::create_dir_all(&part).map_err(TrainError::io(&part))?;
    variables.save(part.join("variables.safetensors"))?;
    candle_core::safetensors::save(&optimizer.state()?, part.join("optimizer.safetensors"))?;
    let state = json!({"step": optimizer.steps(), "run": state});
    fs::write(part.join("state.json"), format!("{state:#}")).map_err(TrainError::io(&part))?;
    let _ = fs::remove_dir_all(&last);
    if now.exists() {
        fs::rename(&now, &last).map_err(TrainError::io(&now))?;
    }
    fs::rename(&part, &now).map_err(TrainError::io(&part))?;
    let _ = fs::remove_dir_all(&last);
    Ok(())
}

/// Restores variables and moments from `run`/checkpoint (or the one before, if a kill came between two renames).
/// Gives the state, or nothing when there is no checkpoint.
///
/// # Errors
/// An unreadable checkpoint or one of another model.
pub fn load(run: &Path, variables: &VarMap, optimizer: &mut AdamW) -> Result<Option<Value>> {
    let Some(folder) =
        ["checkpoint", "checkpoint.last"].map(|n| run.join(n)).into_iter().find(|p| p.join("state.json").is_file())
    else {
        return Ok(None);
    };
    let file = folder.join("state.json");
    let text = fs::read(&file).map_err(TrainError::io(&file))?;
    let state: Value = serde_json::from_slice(&text).map_err(|e| TrainError::content(&file, e))?;
    let tensors: HashMap<String, Tensor> =
        candle_core::safetensors::load(folder.join("variables.safetensors"), &Device::Cpu)?;
    {
        let data = variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (name, var) in data.iter() {
            let tensor =
                tensors.get(name).ok_or_else(|| TrainError::content(&folder, format!("no variable {name}")))?;
            var.set(&tensor.to_dtype(DType::F32)?)?;
        }
    }
    let moments = candle_core::safetensors::load(folder.join("optimizer.safetensors"), &Device::Cpu)?;
    let step = state["step"].as_u64().ok_or_else(|| TrainError::content(&file, "no step"))?;
    optimizer.restore(&moments, step as usize)?;
    Ok(Some(state["run"].clone()))
}
