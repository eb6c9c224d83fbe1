//! CADA at its published size with random weights (speed does not depend on their values): a picture, eight pictures,
//! a query of 25 tokens, and the re-ranking of 32 pictures.
//!
//! `SIGHTLINE_DEVICE=cuda:0 cargo bench -p sightline-embed --features cuda --bench cada` measures a GPU, with larger
//! batches too.
#![allow(missing_docs)] // criterion_group! makes an undocumented function

use std::hint::black_box;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use criterion::{Criterion, criterion_group, criterion_main};
use sightline_embed::kernel::Precision;
use sightline_embed::model::{Architecture, Cada, Decoder, TokenBatch, weights};

fn model(arch: &Architecture, device: &Device, dtype: DType) -> candle_core::Result<Cada> {
    let needed = weights::required(arch, Decoder::None).map_err(candle_core::Error::wrap)?;
    let random = |shape: &candle_core::Shape| {
        let n = shape.elem_count() as u64;
        let values = (0..n).map(|i| ((i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / 8_388_608.0 - 1.0) * 0.03);
        Tensor::from_iter(values, &Device::Cpu)?.reshape(shape.clone())
    };
    let tensors = needed.into_iter().map(|(n, s)| Ok((n, random(&s)?))).collect::<candle_core::Result<_>>()?;
    Cada::new(arch, Decoder::None, VarBuilder::from_tensors(tensors, dtype, device))
}

/// Waits until a GPU is done: it has only been told what to do when the call comes back.
fn finish(x: candle_core::Result<Tensor>) {
    let x = x.expect("the published dimensions are consistent");
    x.device().synchronize().expect("the device works");
    black_box(x);
}

fn cada(c: &mut Criterion) {
    sightline_embed::keep_large_buffers();
    let device = std::env::var("SIGHTLINE_DEVICE").unwrap_or_else(|_| "cpu".into());
    let device = sightline_embed::open_device(&device).expect("SIGHTLINE_DEVICE names a device that is there");
    let arch = Architecture::cada_base();
    let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &device).expect("allocates");
    let text: Vec<u32> = std::iter::once(101).chain(2000..2023).chain([102]).collect();
    let (one, many) = (TokenBatch::new(&[&text], 0, None), TokenBatch::new(&vec![&text; 32], 0, None));
    let patches = ones(&[32, 197, 768]);
    let (precisions, batches) = match device.is_cpu() {
        true => (vec![Precision::F32, Precision::Bf16], vec![1, 8]),
        false => (vec![Precision::F32, Precision::Bf16, Precision::F16], vec![1, 8, 64]),
    };
    for precision in precisions {
        let cada = model(&arch, &device, precision.dtype(&device)).expect("the published dimensions are consistent");
        let mut group = c.benchmark_group(format!("cada-base-{}", precision.name()));
        group.sample_size(10);
        precision.scope(|| {
            for &n in &batches {
                let input = ones(&[n, 3, 224, 224]);
                group.bench_function(format!("image-b{n}"), |b| b.iter(|| finish(cada.image_embeds(&input))));
            }
            group.bench_function("text-25", |b| b.iter(|| finish(cada.text_embeds(&one, None))));
            group.bench_function("rerank-32x25", |b| b.iter(|| finish(cada.fused(&many, &patches, None))));
        });
        group.finish();
    }
}

criterion_group!(benches, cada);
criterion_main!(benches);
