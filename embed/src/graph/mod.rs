//! CADA as a graph of candle operations: for GPUs, and for the parts that training differentiates.
//!
//! The forward pass runs on any device in any data type, and has a gradient if its tensors are
//! variables. On a CPU it is slow and not used for serving: [`crate::net`] computes the same there,
//! and tests compare both with the same golden data. The structs have public fields, because the
//! trainer walks them to differentiate whole stacks of layers.

mod backbone;
mod bert;
mod cada;
mod dropout;
mod layers;
mod vit;

pub use crate::model::WordPredictor;
pub use backbone::BackboneGraph;
pub use bert::{AttentionBlock, Bert, BertLayer, MlmDecoder, Pass};
pub use cada::Cada;
pub use dropout::Dropout;
pub(crate) use layers::gpu_dtype;
pub use layers::{LayerNorm, Linear, attention, attention_probs, embedding, l2_normalize, softmax};
pub use vit::{Vit, VitBlock};

use std::sync::Mutex;

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::EmbedError;
use crate::model::{Architecture, WORD_HEAD_PREFIX};
use crate::net::{WeightFile, WeightSource};

/// Loads CADA for inference from a weights file, with tensors of `dtype` on `device`; `words` adds
/// the word predictor, from a file of its own.
///
/// # Errors
/// Missing tensors, wrong shapes, or a device without enough memory for them.
pub fn load(
    file: WeightFile,
    words: Option<(WordPredictor, WeightFile)>,
    arch: &Architecture,
    dtype: DType,
    device: &Device,
) -> Result<Cada, EmbedError> {
    let (predictor, head) = words.map_or((WordPredictor::None, None), |(kind, file)| (kind, Some(file)));
    let backend: Box<dyn SimpleBackend> = Box::new(FileBackend(Mutex::new((file, head))));
    Ok(Cada::new(arch, predictor, VarBuilder::new_with_args(backend, dtype, device))?)
}

/// Backend that gives candle the tensors of a [`WeightFile`], and those of a word head from a
/// second file.
struct FileBackend(Mutex<(WeightFile, Option<WeightFile>)>);

impl SimpleBackend for FileBackend {
    fn get(&self, s: Shape, name: &str, _: Init, dtype: DType, dev: &Device) -> candle_core::Result<Tensor> {
        let mut files = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let file = match &mut *files {
            (_, Some(head)) if name.starts_with(WORD_HEAD_PREFIX) => head,
            (file, _) => file,
        };
        let values = file.tensor(name, s.dims()).map_err(candle_core::Error::wrap)?;
        Tensor::from_vec(values, s, &Device::Cpu)?.to_dtype(dtype)?.to_device(dev)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name} was asked for without a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
