//! Checkpoints: the state of a run on disk, written atomically.
//!
//! A checkpoint is written beside the last one, synced, and renamed into its place. A run that is
//! killed at any moment, or a full disk, leaves a complete checkpoint.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarMap;
use serde_json::{Value, json};

use super::optimizer::AdamW;
use super::{Result, TrainError, atomic};

/// Writes variables, moments and `state` to `run`/checkpoint.
///
/// # Errors
/// [`TrainError::Checkpoint`]: a folder or file that cannot be written; the previous checkpoint
/// stays.
pub fn save(run: &Path, variables: &VarMap, optimizer: &AdamW, state: &Value) -> Result<()> {
    let part = run.join("checkpoint.part");
    write(run, &part, variables, optimizer, state).map_err(|source| {
        let _ = fs::remove_dir_all(&part);
        TrainError::Checkpoint {
            step: optimizer.steps(),
            source: Box::new(source),
            run: run.to_owned(),
            kept: step(run),
        }
    })
}

fn write(run: &Path, part: &Path, variables: &VarMap, optimizer: &AdamW, state: &Value) -> Result<()> {
    let _ = fs::remove_dir_all(part);
    fs::create_dir_all(part).map_err(TrainError::io(part))?;
    let file = part.join("variables.safetensors");
    variables.save(&file).map_err(|e| TrainError::content(&file, first_line(&e)))?;
    let file = part.join("optimizer.safetensors");
    candle_core::safetensors::save(&optimizer.state()?, &file)
        .map_err(|e| TrainError::content(&file, first_line(&e)))?;
    let file = part.join("state.json");
    let state = json!({"step": optimizer.steps(), "run": state});
    fs::write(&file, format!("{state:#}")).map_err(TrainError::io(&file))?;
    for name in ["variables.safetensors", "optimizer.safetensors", "state.json", "."] {
        let path = part.join(name);
        File::open(&path).and_then(|f| f.sync_all()).map_err(TrainError::io(&path))?;
    }
    atomic::replace(part, &run.join("checkpoint"), &run.join("checkpoint.last"))?;
    // Syncing the folder makes the renames durable. Some file systems cannot do it; the renames are
    // done in any case.
    let _ = File::open(run).and_then(|folder| folder.sync_all());
    Ok(())
}

fn first_line(e: &candle_core::Error) -> String {
    e.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Folder of the checkpoint of `run`, or of the previous one if a kill came between the two
/// renames.
fn folder(run: &Path) -> Option<PathBuf> {
    ["checkpoint", "checkpoint.last"].map(|n| run.join(n)).into_iter().find(|p| p.join("state.json").is_file())
}

fn read(folder: &Path) -> Result<(usize, Value)> {
    let file = folder.join("state.json");
    let text = fs::read(&file).map_err(TrainError::io(&file))?;
    let state: Value = serde_json::from_slice(&text).map_err(|e| TrainError::content(&file, e))?;
    let step = state["step"].as_u64().ok_or_else(|| TrainError::content(&file, "no step"))?;
    Ok((step as usize, state["run"].clone()))
}

/// Step of the checkpoint in `run`; `None` without a readable one.
pub fn step(run: &Path) -> Option<usize> {
    read(&folder(run)?).ok().map(|(step, _)| step)
}

/// Loads the tensors of `file` into `variables`.
///
/// # Errors
/// An unreadable file, or one that lacks a variable or has another shape.
pub fn variables(file: &Path, variables: &VarMap) -> Result<()> {
    let tensors: HashMap<String, Tensor> =
        candle_core::safetensors::load(file, &Device::Cpu).map_err(|e| TrainError::content(file, first_line(&e)))?;
    let data = variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (name, var) in data.iter() {
        let tensor = tensors.get(name).ok_or_else(|| TrainError::content(file, format!("no variable {name}")))?;
        var.set(&tensor.to_dtype(DType::F32)?)
            .map_err(|e| TrainError::content(file, format!("{name}: {}", first_line(&e))))?;
    }
    Ok(())
}

/// Loads the variables of the checkpoint of `run` into `into`, without the moments. Does nothing
/// without a checkpoint.
///
/// # Errors
/// An unreadable checkpoint or one of another model.
pub fn load_variables(run: &Path, into: &VarMap) -> Result<()> {
    match folder(run) {
        Some(folder) => variables(&folder.join("variables.safetensors"), into),
        None => Ok(()),
    }
}

/// Restores variables and moments from `run`/checkpoint, or from the previous one if a kill came
/// between the two renames. Returns the stored state, or `None` without a checkpoint.
///
/// # Errors
/// An unreadable checkpoint or one of another model.
pub fn load(run: &Path, into: &VarMap, optimizer: &mut AdamW) -> Result<Option<Value>> {
    let Some(folder) = folder(run) else { return Ok(None) };
    let (step, state) = read(&folder)?;
    variables(&folder.join("variables.safetensors"), into)?;
    let file = folder.join("optimizer.safetensors");
    let moments =
        candle_core::safetensors::load(&file, &Device::Cpu).map_err(|e| TrainError::content(&file, first_line(&e)))?;
    optimizer.restore(&moments, step)?;
    Ok(Some(state))
}
