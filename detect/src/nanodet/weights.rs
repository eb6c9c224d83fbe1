//! Loads the weights: every tensor is checked before the first one is used, and errors name the
//! file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use super::layers::{LAYERS, Layer};
use crate::DetectError;

/// The tensors of NanoDet-g, as `f32`.
pub struct Weights {
    path: PathBuf,
    tensors: HashMap<String, Vec<f32>>,
}

/// Checks that `path` holds NanoDet-g: all tensors with their shapes and finite values, and no
/// others.
///
/// # Errors
/// When it does not, or cannot be read.
pub fn verify(path: &Path) -> Result<(), DetectError> {
    Weights::load(path).map(|_| ())
}

impl Weights {
    /// Reads and checks a safetensors file.
    ///
    /// # Errors
    /// See [`verify`].
    pub fn load(path: &Path) -> Result<Self, DetectError> {
        let bytes = std::fs::read(path).map_err(|source| DetectError::Io { path: path.into(), source })?;
        let wrong = |reason: String| DetectError::Weights { path: path.into(), reason };
        let file = SafeTensors::deserialize(&bytes).map_err(|e| wrong(format!("not a whole safetensors file: {e}")))?;
        let mut tensors = HashMap::new();
        for layer in LAYERS.iter() {
            for (name, shape) in tensors_of(layer) {
                let view = file.tensor(&name).map_err(|_| wrong(format!("{name} is missing")))?;
                if view.dtype() != Dtype::F32 {
                    return Err(wrong(format!("{name} is {:?}, not F32", view.dtype())));
                }
                if view.shape() != shape {
                    return Err(wrong(format!("{name} has the shape {:?}, not {shape:?}", view.shape())));
                }
                let values: Vec<f32> =
                    view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
                if !values.iter().all(|v| v.is_finite()) {
                    return Err(wrong(format!("{name} has values that are not finite")));
                }
                tensors.insert(name, values);
            }
        }
        if file.len() != tensors.len() {
            return Err(wrong(format!("it holds {} tensors, NanoDet-g has {}", file.len(), tensors.len())));
        }
        Ok(Self { path: path.into(), tensors })
    }

    /// Weight `[out][in][k][k]` and bias of a layer.
    pub fn of(&self, layer: &Layer) -> (&[f32], &[f32]) {
        let [weight, bias] = tensors_of(layer).map(|(name, _)| self.tensors.get(&name).map_or(&[][..], Vec::as_slice));
        (weight, bias)
    }

    /// An error about this file.
    pub(super) fn wrong(&self, reason: String) -> DetectError {
        DetectError::Weights { path: self.path.clone(), reason }
    }
}

/// The names and shapes of a layer's weight and bias.
pub(crate) fn tensors_of(layer: &Layer) -> [(String, Vec<usize>); 2] {
    let s = layer.shape;
    [
        (format!("{}.weight", layer.name), vec![s.outputs, s.inputs, s.kernel, s.kernel]),
        (format!("{}.bias", layer.name), vec![s.outputs]),
    ]
}
