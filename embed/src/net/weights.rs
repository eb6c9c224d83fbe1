//! Weights by name: the sources that networks read from, and the check that a file has all tensors
//! of an architecture.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensorError, SafeTensors, View};

use super::Cada;
use crate::EmbedError;
use crate::kernel::Precision;
use crate::model::Architecture;

/// Source of tensors by name, one at a time, as f32.
pub trait WeightSource {
    /// The tensor `name`, row-major; it must have the shape `shape`.
    ///
    /// # Errors
    /// When it is missing, of another shape, or cannot be read.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EmbedError>;
}

/// Weight source with a name prefix (`visual_encoder.`), so that a network asks for its own names
/// (`norm.weight`).
pub struct PrefixedWeights<'a> {
    source: &'a mut dyn WeightSource,
    prefix: String,
}

impl<'a> PrefixedWeights<'a> {
    /// Source without a prefix.
    pub fn new(source: &'a mut dyn WeightSource) -> Self {
        Self { source, prefix: String::new() }
    }

    /// Source whose prefix is extended by `name` and a dot.
    pub fn below(&mut self, name: impl std::fmt::Display) -> PrefixedWeights<'_> {
        PrefixedWeights { prefix: format!("{}{name}.", self.prefix), source: self.source }
    }

    /// The tensor `name` of `shape`.
    ///
    /// # Errors
    /// As [`WeightSource::tensor`].
    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EmbedError> {
        self.source.tensor(&format!("{}{name}", self.prefix), shape)
    }
}

/// Names and shapes of all tensors that the network of `arch` reads in serving.
///
/// # Errors
/// When the architecture contradicts itself.
pub fn required(arch: &Architecture) -> Result<BTreeMap<String, Vec<usize>>, EmbedError> {
    let mut recorder = Recorder::default();
    Cada::build(arch, &mut recorder, Precision::F32, true)?;
    Ok(recorder.0)
}

/// Records the requested names and shapes. The network is built without its weights, so that a
/// model of 361 M parameters takes no memory.
#[derive(Default)]
struct Recorder(BTreeMap<String, Vec<usize>>);

impl WeightSource for Recorder {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EmbedError> {
        self.0.insert(name.to_owned(), shape.to_vec());
        Ok(Vec::new())
    }
}

/// A safetensors file of f32, f16 or bf16 tensors, held as bytes; a tensor is converted to f32 when
/// it is requested.
pub struct WeightFile {
    bytes: Vec<u8>,
    origin: String,
}

impl WeightFile {
    /// Reads the file; no tensor is converted yet.
    ///
    /// # Errors
    /// An unreadable, empty or damaged file.
    pub fn read(path: &Path) -> Result<Self, EmbedError> {
        let bytes = std::fs::read(path).map_err(EmbedError::io(path))?;
        if bytes.is_empty() {
            return Err(EmbedError::EmptyWeights { path: path.to_owned() });
        }
        if let Err(e) = SafeTensors::deserialize(&bytes) {
            return Err(unreadable(path, &e));
        }
        Ok(Self { bytes, origin: path.display().to_string() })
    }

    fn tensors(&self) -> Result<SafeTensors<'_>, EmbedError> {
        SafeTensors::deserialize(&self.bytes).map_err(|e| unreadable(Path::new(&self.origin), &e))
    }

    /// Checks that the file has every tensor of `required`, in its shape and in a readable type.
    ///
    /// # Errors
    /// No tensor with a required name, missing tensors, or wrong shapes; the message names them.
    pub fn check(&self, required: &BTreeMap<String, Vec<usize>>) -> Result<(), EmbedError> {
        let tensors = self.tensors()?;
        let (mut found, mut missing, mut wrong) = (0, Vec::new(), Vec::new());
        for (name, shape) in required {
            match tensors.tensor(name) {
                Err(_) => missing.push(format!("{name} {shape:?}")),
                Ok(t) if t.shape() != shape => {
                    found += 1;
                    wrong.push(format!("{name}: expected {shape:?}, found {:?}", t.shape()));
                }
                Ok(t) if !is_read(t.dtype()) => {
                    found += 1;
                    wrong.push(wrong_type(name, t.dtype()));
                }
                Ok(_) => found += 1,
            }
        }
        let origin = self.origin.clone();
        if found == 0 {
            let names = tensors.names();
            let example = names.iter().min().map(|n| format!(" (for example {n:?})")).unwrap_or_default();
            return Err(EmbedError::NothingMapped { origin, found: names.len(), example });
        }
        if !missing.is_empty() {
            return Err(EmbedError::MissingTensors { origin, names: missing });
        }
        if !wrong.is_empty() {
            return Err(EmbedError::WrongShapes { origin, tensors: wrong });
        }
        Ok(())
    }
}

/// Writes named tensors to the file `path` in the safetensors format, with the permissions of any
/// new file. The writer of the `safetensors` crate makes files for their owner alone, so that a
/// service under another user could not read the model.
///
/// # Errors
/// Tensors whose data and shape contradict each other, or a file that cannot be written.
pub fn save_tensors<S, V>(path: &Path, tensors: impl IntoIterator<Item = (S, V)>) -> Result<(), EmbedError>
where
    S: AsRef<str> + Ord + std::fmt::Display,
    V: View,
{
    let bad = |e: SafeTensorError| EmbedError::Safetensors { path: path.to_owned(), message: e.to_string() };
    std::fs::write(path, safetensors::serialize(tensors, None).map_err(bad)?).map_err(EmbedError::io(path))
}

fn unreadable(path: &Path, e: &SafeTensorError) -> EmbedError {
    EmbedError::Unreadable { path: path.to_owned(), format: "safetensors", message: e.to_string() }
}

impl WeightSource for WeightFile {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EmbedError> {
        let tensors = self.tensors()?;
        let Ok(tensor) = tensors.tensor(name) else {
            let names = vec![format!("{name} {shape:?}")];
            return Err(EmbedError::MissingTensors { origin: self.origin.clone(), names });
        };
        if tensor.shape() != shape {
            let tensors = vec![format!("{name}: expected {shape:?}, found {:?}", tensor.shape())];
            return Err(EmbedError::WrongShapes { origin: self.origin.clone(), tensors });
        }
        if !is_read(tensor.dtype()) {
            let tensors = vec![wrong_type(name, tensor.dtype())];
            return Err(EmbedError::WrongShapes { origin: self.origin.clone(), tensors });
        }
        Ok(to_f32(tensor.dtype(), tensor.data()))
    }
}

/// Whether [`to_f32`] converts numbers of `dtype`.
fn is_read(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

fn wrong_type(name: &str, dtype: Dtype) -> String {
    format!("{name}: expected f32, f16 or bf16, found {dtype:?}")
}

/// Converts little-endian numbers of a floating-point type to f32; empty for other types.
pub(crate) fn to_f32(dtype: Dtype, data: &[u8]) -> Vec<f32> {
    use half::{bf16, f16};
    let pairs = || data.as_chunks::<2>().0.iter().copied();
    match dtype {
        Dtype::F32 => data.as_chunks::<4>().0.iter().copied().map(f32::from_le_bytes).collect(),
        Dtype::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        _ => Vec::new(),
    }
}
