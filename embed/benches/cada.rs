//! CADA at its published size with random weights (speed does not depend on their values): a
//! picture, eight pictures, a query of 25 tokens, and the re-ranking of 32 pictures.
//!
//! `SIGHTLINE_DEVICE=cuda:0 cargo bench -p sightline-embed --features cuda --bench cada` measures a
//! GPU, with larger batches too.
#![allow(missing_docs)] // criterion_group! makes an undocumented function

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use sightline_embed::kernel::Precision;
use sightline_embed::model::{Architecture, Device, Network, TokenBatch};
use sightline_embed::net::WeightSource;
use sightline_embed::{EmbedError, keep_large_buffers, open_device};

/// Random weights of any name and shape.
struct Random;

impl WeightSource for Random {
    fn tensor(&mut self, _: &str, shape: &[usize]) -> Result<Vec<f32>, EmbedError> {
        let n = shape.iter().product::<usize>() as u64;
        let hash = |i: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / 8_388_608.0 - 1.0;
        Ok((0..n).map(|i| hash(i) * 0.03).collect())
    }
}

fn network(arch: &Architecture, device: &Device, precision: Precision) -> Network {
    match device {
        Device::Cpu => Network::on_cpu(arch, &mut Random, precision).expect("every shape is given"),
        #[cfg(feature = "candle")]
        Device::Candle(device) => on_gpu(arch, device, precision).expect("enough memory on the GPU"),
    }
}

#[cfg(feature = "candle")]
fn on_gpu(arch: &Architecture, device: &candle_core::Device, precision: Precision) -> Result<Network, EmbedError> {
    use candle_core::{DType, Tensor};
    use sightline_embed::graph::{Cada, WordPredictor};
    let dtype = match precision {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
        Precision::F16 => DType::F16,
    };
    let tensors = sightline_embed::net::required(arch)?.into_iter().map(|(name, shape)| {
        let values = Random.tensor(&name, &shape)?;
        Ok((name, Tensor::from_vec(values, shape, &candle_core::Device::Cpu)?))
    });
    let tensors = tensors.collect::<Result<_, EmbedError>>()?;
    let vb = candle_nn::VarBuilder::from_tensors(tensors, dtype, device);
    let cada = Cada::new(arch, WordPredictor::None, vb)?;
    Ok(Network::Graph(Box::new(sightline_embed::model::GraphNetwork::of(cada, device.clone(), precision))))
}

fn cada(c: &mut Criterion) {
    keep_large_buffers();
    let device = std::env::var("SIGHTLINE_DEVICE").unwrap_or_else(|_| "cpu".into());
    let device = open_device(&device).expect("SIGHTLINE_DEVICE names a device that is there");
    let arch = Architecture::cada_base();
    let text: Vec<u32> = std::iter::once(101).chain(2000..2023).chain([102]).collect();
    let (one, many) = (TokenBatch::new(&[&text], 0, None), TokenBatch::new(&vec![&text; 32], 0, None));
    let patches = vec![1f32; 32 * 197 * 768];
    let (precisions, batches) = match device.is_cpu() {
        true => (vec![Precision::F32, Precision::Bf16], vec![1, 8]),
        false => (vec![Precision::F32, Precision::Bf16, Precision::F16], vec![1, 8, 64]),
    };
    for precision in precisions {
        let network = network(&arch, &device, precision);
        let mut group = c.benchmark_group(format!("cada-base-{}", precision.name()));
        group.sample_size(10);
        for &n in &batches {
            let input = vec![1f32; n * 3 * 224 * 224];
            group.bench_function(format!("image-b{n}"), |b| b.iter(|| black_box(network.encode_images(&input))));
        }
        group.bench_function("text-25", |b| b.iter(|| black_box(network.text_features(&one))));
        group.bench_function("rerank-32x25", |b| b.iter(|| black_box(network.match_logits(&many, &patches))));
        group.finish();
    }
}

criterion_group!(benches, cada);
criterion_main!(benches);
