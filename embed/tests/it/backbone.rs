//! The backbone on the CPU and as a graph against an implementation in NumPy (f64), with weights
//! and a picture made by rule.
//!
//! `golden/backbone-lite0.safetensors` holds the tokens of EfficientNet-Lite0 at 64 x 32, as
//! [`ByRule`] has its weights.

use sightline_embed::EmbedError;
use sightline_embed::kernel::Precision;
use sightline_embed::model::Backbone;
use sightline_embed::net::{BackboneNet, WeightSource};

use crate::golden;

const KIND: Backbone = Backbone::EfficientNetLite0;
const SIZE: [usize; 2] = [64, 32];

/// Weights that follow from their names: uniform, scaled so that maps keep their size.
#[derive(Debug, Clone, Copy)]
struct ByRule;

fn fnv(name: &str) -> u32 {
    name.bytes().fold(2_166_136_261, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619))
}

fn by_rule(name: &str, shape: &[usize]) -> Vec<f32> {
    match name {
        "tokens.mean" => return vec![0.0; shape[0]],
        "tokens.scale" => return vec![1.0; shape[0]],
        _ => {}
    }
    let count: usize = shape.iter().product();
    let scale = if shape.len() > 1 { (24.0 / shape[1..].iter().product::<usize>() as f64).sqrt() } else { 0.2 };
    let number = |i: usize| {
        let mut u = (i as u32).wrapping_mul(2_654_435_761).wrapping_add(fnv(name));
        u = (u ^ (u >> 15)).wrapping_mul(2_246_822_519);
        u ^= u >> 13;
        ((f64::from(u) / 4_294_967_296.0 - 0.5) * scale) as f32
    };
    (0..count).map(number).collect()
}

impl WeightSource for ByRule {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EmbedError> {
        Ok(by_rule(name.trim_start_matches("backbone."), shape))
    }
}

/// A picture without an object, normalised as ImageNet's: `[3, 64, 32]`.
fn pixels() -> Vec<f32> {
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let value = |c: usize, x: i64, y: i64| match c {
        0 => x * 7 + y * 3,
        1 => x * x + y * 5,
        _ => y * 11 - x * 2,
    };
    let mut all = Vec::new();
    for c in 0..3 {
        for y in 0..SIZE[0] as i64 {
            all.extend(
                (0..SIZE[1] as i64)
                    .map(|x| ((value(c, x, y).rem_euclid(256) as f64 / 255.0 - mean[c]) / std[c]) as f32),
            );
        }
    }
    all
}

fn expected() -> Vec<f32> {
    golden::values(&golden::tensors("backbone-lite0.safetensors")["tokens"])
}

/// Largest difference in units of the largest value.
fn worst(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    got.iter().zip(want).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

#[test]
fn the_cpu_gives_the_reference_s_tokens() {
    for (precision, tolerance) in [(Precision::F32, 2e-5), (Precision::Bf16, 3e-2)] {
        let net = BackboneNet::new(KIND, "backbone.", &mut ByRule, precision).unwrap();
        let got = net.tokens(&pixels(), SIZE).unwrap();
        let off = worst(&got, &expected());
        assert!(off < tolerance, "{precision:?}: {off}");
    }
}

#[test]
fn a_batch_gives_what_each_picture_gives() {
    let net = BackboneNet::new(KIND, "backbone.", &mut ByRule, Precision::Bf16).unwrap();
    let one = pixels();
    let other: Vec<f32> = one.iter().rev().copied().collect();
    let both = net.tokens(&[&one[..], &other].concat(), SIZE).unwrap();
    let apart = [net.tokens(&one, SIZE).unwrap().to_vec(), net.tokens(&other, SIZE).unwrap().to_vec()].concat();
    assert_eq!(both.to_vec(), apart);
}

/// Weights by rule, but the first number of the tensor named is NaN.
struct Damaged(&'static str);

impl WeightSource for Damaged {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EmbedError> {
        let mut values = ByRule.tensor(name, shape)?;
        if name.trim_start_matches("backbone.") == self.0 {
            values[0] = f32::NAN;
        }
        Ok(values)
    }
}

/// The clamp after a convolution keeps NaN: otherwise damaged weights would give features that look
/// sound.
#[test]
fn damaged_weights_reach_every_token() {
    for name in ["stem.weight", "blocks.0.depthwise.weight", "blocks.1.expand.bias"] {
        let net = BackboneNet::new(KIND, "backbone.", &mut Damaged(name), Precision::F32).unwrap();
        let tokens = net.tokens(&pixels(), SIZE).unwrap();
        assert!(!tokens.is_empty());
        for token in tokens.chunks(KIND.token_width()) {
            assert!(token.iter().any(|x| x.is_nan()), "{name}");
        }
    }
}

#[test]
fn other_sizes_are_refused() {
    let net = BackboneNet::new(KIND, "backbone.", &mut ByRule, Precision::F32).unwrap();
    assert!(net.tokens(&[0.0; 3 * 64 * 16], [64, 16]).is_err(), "half a cell");
    assert!(net.tokens(&[0.0; 3 * 64 * 32 + 1], SIZE).is_err(), "no whole picture");
    assert!(net.tokens(&[], SIZE).unwrap().is_empty());
}

#[cfg(feature = "candle")]
pub mod graph {
    use candle_core::{DType, Device, Shape, Tensor};
    use candle_nn::var_builder::SimpleBackend;
    use candle_nn::{Init, VarBuilder};
    use sightline_embed::graph::BackboneGraph;

    use super::*;

    impl SimpleBackend for ByRule {
        fn get(&self, s: Shape, name: &str, _: Init, dtype: DType, dev: &Device) -> candle_core::Result<Tensor> {
            Tensor::from_vec(by_rule(name, s.dims()), s, dev)?.to_dtype(dtype)
        }

        fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
            candle_core::bail!("{name} was asked for without a shape")
        }

        fn contains_tensor(&self, _: &str) -> bool {
            true
        }
    }

    /// Holds the graph on `device`, its tensors of `dtype`, to the reference within `tolerance`.
    pub fn check(device: &Device, dtype: DType, tolerance: f32) {
        let backend: Box<dyn SimpleBackend> = Box::new(ByRule);
        let graph = BackboneGraph::new(KIND, VarBuilder::new_with_args(backend, dtype, device)).unwrap();
        let pixels = Tensor::from_vec(pixels(), (1, 3, SIZE[0], SIZE[1]), device).unwrap();
        let got = graph.tokens(&pixels).unwrap().to_dtype(DType::F32).unwrap().to_device(&Device::Cpu).unwrap();
        let off = worst(&golden::values(&got), &expected());
        assert!(off < tolerance, "{device:?} {dtype:?}: {off}");
    }

    #[test]
    fn the_graph_gives_the_reference_s_tokens() {
        check(&Device::Cpu, DType::F32, 2e-5);
    }
}
