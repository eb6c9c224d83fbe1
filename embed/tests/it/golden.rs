//! Access to the golden data, and distances to it.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use sightline_embed::model::{Architecture, Cada, Decoder, ModelConfig, TokenBatch, weights};

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

pub fn cada() -> Cada {
    weights::load(&path("cada-tiny/weights.pth"), &arch(), Decoder::Own, &Device::Cpu).unwrap()
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
    let (a, b) = (a.flatten_all().unwrap(), b.flatten_all().unwrap());
    let (a, b) = (a.to_vec1::<f32>().unwrap(), b.to_vec1::<f32>().unwrap());
    assert!(a.iter().all(|v| v.is_finite()));
    a.iter().zip(b).map(|(x, y)| f64::from((x - y).abs())).fold(0.0, f64::max)
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
