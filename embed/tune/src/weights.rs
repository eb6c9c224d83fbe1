//! Loads weights from safetensors and PyTorch's `.pth`, and checks names and shapes against the
//! architecture before use.
//!
//! The list of required tensors is recorded while the architecture is built, so it cannot be out of
//! date.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder, VarMap};

use sightline_embed::EmbedError;
use sightline_embed::graph::{Cada, WordPredictor};
use sightline_embed::kernel::Precision;
use sightline_embed::model::{Architecture, Network};
use sightline_embed::net::WeightSource;

use crate::legacy_checkpoint;
use crate::trainee::Frozen;

/// Tensors by name.
pub type Tensors = HashMap<String, Tensor>;

/// Names and shapes of every tensor that CADA with `decoder` reads.
///
/// # Errors
/// When the architecture contradicts itself.
pub fn required(arch: &Architecture, decoder: WordPredictor) -> Result<BTreeMap<String, Shape>, EmbedError> {
    let seen = Arc::new(Mutex::new(BTreeMap::new()));
    let backend: Box<dyn SimpleBackend> = Box::new(Recorder(Arc::clone(&seen)));
    Cada::new(arch, decoder, VarBuilder::new_with_args(backend, DType::F32, &Device::Cpu))?;
    let mut seen = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(std::mem::take(&mut *seen))
}

/// Records the name and shape of each tensor and returns a broadcast zero, so that a model of 361
/// million parameters takes no memory.
struct Recorder(Arc<Mutex<BTreeMap<String, Shape>>>);

impl SimpleBackend for Recorder {
    fn get(&self, s: Shape, name: &str, _: Init, dtype: DType, dev: &Device) -> candle_core::Result<Tensor> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(name.to_owned(), s.clone());
        Tensor::zeros((), dtype, dev)?.broadcast_as(s)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name} was asked for without a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// Reads every floating-point tensor of a `.safetensors` file, or of a PyTorch checkpoint (`.pth`,
/// `.pt`, `.bin`: under `model` as the reference writes it, or at the top), as f32 on the CPU.
/// Integer buffers (`position_ids`, `queue_ptr`) are left out.
///
/// # Errors
/// An unreadable, empty or damaged file, or a file without tensors.
pub fn read(path: &Path) -> Result<Tensors, EmbedError> {
    let bytes = std::fs::metadata(path).map_err(EmbedError::io(path))?.len();
    if bytes == 0 {
        return Err(EmbedError::EmptyWeights { path: path.to_owned() });
    }
    let pickled = path.extension().is_some_and(|e| ["pth", "pt", "bin"].iter().any(|p| e.eq_ignore_ascii_case(p)));
    let format = if pickled { "a PyTorch checkpoint" } else { "safetensors" };
    let unreadable =
        |e: candle_core::Error| EmbedError::Unreadable { path: path.to_owned(), format, message: first_line(&e) };
    let all: Vec<(String, Tensor)> = if pickled {
        // candle fails on a missing key, and without a key finds no tensor in a nested checkpoint.
        if legacy_checkpoint::is_legacy(path).map_err(EmbedError::io(path))? {
            legacy_checkpoint::read(path).map_err(unreadable)?
        } else {
            match candle_core::pickle::read_all_with_key(path, Some("model")) {
                Ok(t) if !t.is_empty() => t,
                nested => match candle_core::pickle::read_all_with_key(path, None) {
                    Ok(t) => t,
                    Err(e) => return Err(unreadable(nested.err().unwrap_or(e))),
                },
            }
        }
    } else {
        candle_core::safetensors::load(path, &Device::Cpu).map_err(unreadable)?.into_iter().collect()
    };
    let mut tensors = Tensors::new();
    for (name, tensor) in all.into_iter().filter(|(_, t)| t.dtype().is_float()) {
        let tensor = tensor.to_dtype(DType::F32)?.contiguous()?;
        tensors.insert(name, tensor);
    }
    if tensors.is_empty() {
        return Err(EmbedError::NothingMapped { origin: path.display().to_string(), found: 0, example: String::new() });
    }
    Ok(tensors)
}

fn first_line(e: &candle_core::Error) -> String {
    e.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Result of [`select`].
#[derive(Debug)]
pub struct Selection {
    /// The tensors that the architecture reads, all with the right shapes.
    pub used: Tensors,
    /// Names of tensors that the architecture does not read, sorted.
    pub unused: Vec<String>,
}

/// Picks the tensors that `required` names from `tensors` and checks every shape. `origin` names
/// the file in errors.
///
/// # Errors
/// No tensor that maps, missing tensors or wrong shapes; the error names all of them.
pub fn select(mut tensors: Tensors, required: &BTreeMap<String, Shape>, origin: &str) -> Result<Selection, EmbedError> {
    let (mut used, mut missing, mut wrong) = (Tensors::new(), Vec::new(), Vec::new());
    let found = tensors.len();
    let example = tensors.keys().min().map(|n| format!(" (for example {n:?})")).unwrap_or_default();
    for (name, shape) in required {
        match tensors.remove(name) {
            None => missing.push(format!("{name} {:?}", shape.dims())),
            Some(t) if t.shape() != shape => {
                wrong.push(format!("{name}: expected {:?}, found {:?}", shape.dims(), t.dims()));
            }
            Some(t) => {
                used.insert(name.clone(), t);
            }
        }
    }
    let origin = origin.to_owned();
    if used.is_empty() && wrong.is_empty() {
        return Err(EmbedError::NothingMapped { origin, found, example });
    }
    if !missing.is_empty() {
        return Err(EmbedError::MissingTensors { origin, names: missing });
    }
    if !wrong.is_empty() {
        return Err(EmbedError::WrongShapes { origin, tensors: wrong });
    }
    let mut unused: Vec<String> = tensors.into_keys().collect();
    unused.sort();
    Ok(Selection { used, unused })
}

/// Builds CADA for training, with new variables in a new `VarMap`. The model reads the `frozen`
/// ones as constants, so that no gradient is computed for them. Overwrite variables with [`assign`]
/// to start from given weights.
///
/// # Errors
/// When the architecture contradicts itself.
pub fn trainable(
    arch: &Architecture,
    decoder: WordPredictor,
    device: &Device,
    frozen: Frozen,
) -> Result<(Cada, VarMap), EmbedError> {
    let variables = VarMap::new();
    let backend: Box<dyn SimpleBackend> = Box::new(PartlyFrozen { variables: variables.clone(), frozen });
    let model = Cada::new(arch, decoder, VarBuilder::new_with_args(backend, DType::F32, device))?;
    Ok((model, variables))
}

/// Creates variables. Frozen ones are returned detached from the computation graph and share the
/// variable's memory.
struct PartlyFrozen {
    variables: VarMap,
    frozen: Frozen,
}

impl SimpleBackend for PartlyFrozen {
    fn get(&self, s: Shape, name: &str, init: Init, dtype: DType, dev: &Device) -> candle_core::Result<Tensor> {
        let tensor = self.variables.get(s, name, init, dtype, dev)?;
        Ok(if self.frozen.has(name) { tensor.detach() } else { tensor })
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name} was asked for without a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// Writes `tensors` into the variables of the same names and returns the names of variables that
/// kept their values.
///
/// # Errors
/// No name in common, or a wrong shape.
pub fn assign(variables: &VarMap, tensors: &Tensors, origin: &str) -> Result<Vec<String>, EmbedError> {
    let data = variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (mut kept, mut wrong) = (Vec::new(), Vec::new());
    for (name, variable) in data.iter() {
        match tensors.get(name) {
            None => kept.push(name.clone()),
            Some(t) if t.shape() != variable.shape() => {
                wrong.push(format!("{name}: expected {:?}, found {:?}", variable.dims(), t.dims()));
            }
            Some(t) => variable.set(&t.to_dtype(DType::F32)?.to_device(variable.device())?)?,
        }
    }
    if !wrong.is_empty() {
        wrong.sort();
        return Err(EmbedError::WrongShapes { origin: origin.to_owned(), tensors: wrong });
    }
    if kept.len() == data.len() {
        let example = tensors.keys().min().map(|n| format!(" (for example {n:?})")).unwrap_or_default();
        return Err(EmbedError::NothingMapped { origin: origin.to_owned(), found: tensors.len(), example });
    }
    kept.sort();
    Ok(kept)
}

/// Provides tensors in memory as the weights of a serving network.
pub struct TensorSource<'a>(pub &'a Tensors);

impl WeightSource for TensorSource<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EmbedError> {
        let origin = || "the tensors at hand".to_owned();
        match self.0.get(name) {
            None => Err(EmbedError::MissingTensors { origin: origin(), names: vec![format!("{name} {shape:?}")] }),
            Some(t) if t.dims() != shape => {
                let tensors = vec![format!("{name}: expected {shape:?}, found {:?}", t.dims())];
                Err(EmbedError::WrongShapes { origin: origin(), tensors })
            }
            Some(t) => Ok(t.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?),
        }
    }
}

/// The serving network of the current variables, on the CPU, in the current precision of the
/// thread.
///
/// # Errors
/// A missing variable that the network needs.
pub fn network(arch: &Architecture, variables: &VarMap) -> Result<Network, EmbedError> {
    let tensors: Tensors = {
        let data = variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        data.iter().map(|(name, variable)| (name.clone(), variable.as_tensor().clone())).collect()
    };
    Network::on_cpu(arch, &mut TensorSource(&tensors), Precision::current())
}
