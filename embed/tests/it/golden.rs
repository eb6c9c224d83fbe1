//! Access to the golden data, and distances to it. The trainer's tests include this file too, and
//! not every build of either uses all of it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use sightline_embed::EmbedError;
use sightline_embed::kernel::Precision;
use sightline_embed::model::{Architecture, ModelConfig, TokenBatch};
use sightline_embed::net::{self, WeightSource};
pub use sightline_testing::tiny_weights as weights;

/// A file of this crate, or of `embed` where the trainer asks.
pub fn path(name: &str) -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if own.exists() { own } else { PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name) }
}

pub fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path(name), &Device::Cpu).unwrap()
}

pub fn json(name: &str) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(path(name)).unwrap()).unwrap()
}

pub fn config() -> ModelConfig {
    ModelConfig::read(&path("cada-tiny/config.json")).unwrap()
}

pub fn arch() -> Architecture {
    config().architecture
}

/// Tensors as a source of weights.
pub struct Source<'a>(pub &'a HashMap<String, Tensor>);

impl WeightSource for Source<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EmbedError> {
        let tensor = self.0.get(name).unwrap_or_else(|| panic!("{name} is asked for and not there"));
        assert_eq!(tensor.dims(), shape, "{name}");
        Ok(values(tensor))
    }
}

/// The tiny reference model on the CPU.
pub fn net(precision: Precision) -> net::Cada {
    net::Cada::new(&arch(), &mut Source(&weights()), precision).unwrap()
}

/// Numbers of a tensor, row-major.
pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest absolute difference.
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "lengths differ");
    assert!(a.iter().all(|v| v.is_finite()));
    a.iter().zip(b).map(|(x, y)| f64::from((x - y).abs())).fold(0.0, f64::max)
}

/// Stored ids `[n, 73]` as a batch; `padded` keeps the 73 columns.
pub fn tokens(ids: &Tensor, mask: &Tensor, padded: bool) -> TokenBatch {
    let ids = ids.to_dtype(DType::U32).unwrap().to_vec2::<u32>().unwrap();
    let lengths = mask.to_dtype(DType::F32).unwrap().sum(1).unwrap().to_vec1::<f32>().unwrap();
    let texts: Vec<Vec<u32>> = ids.iter().zip(lengths).map(|(t, n)| t[..n as usize].to_vec()).collect();
    TokenBatch::new(&texts, 0, padded.then_some(ids[0].len()))
}

pub fn max_diff(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims(), "shapes differ");
    distance(&values(a), &values(b))
}

/// The limit `tolerances.json` suggests for a tensor of eval.safetensors.
pub fn tolerance(name: &str) -> f64 {
    let key = match name {
        n if n.starts_with("mlm_logits") => "MLM logits (abs)",
        n if n.starts_with("mlm_loss") => "losses (abs)",
        n if n.starts_with("cosine") || n.starts_with("cross_attn") => "cosine, probabilities (abs)",
        _ => "eval sequences, logits, features (abs)",
    };
    json("tolerances.json")["suggested_test_tolerance"][key].as_f64().unwrap()
}
