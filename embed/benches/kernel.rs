//! Matrix products of the shapes that training and inference meet, on every engine of the machine,
//! by one and by two threads. Throughput counts a multiply-add as two operations: "Gelem/s" reads
//! as GFLOP/s.
#![allow(missing_docs)] // criterion's macros make public items

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sightline_embed::kernel::{Engine, Epilogue, Mat, MatMut, PackedWeights, matmul_on};

/// Which of a linear layer's products: `x Wᵀ + b`, `g W`, `gᵀ x`.
#[derive(Clone, Copy)]
enum Kind {
    Forward,
    InputGradient,
    WeightGradient,
}

/// Rows, inputs and outputs of a linear layer.
const LAYERS: [(usize, usize, usize); 8] = [
    // ViT of width 256, 32 pictures of 73 patch rows.
    (2336, 256, 256),
    (2336, 256, 768),
    (2336, 256, 1024),
    // Its decoder, 96 pairs of 25 tokens.
    (2400, 256, 1024),
    // Eight pictures and one query at the published size.
    (1576, 768, 3072),
    (1576, 3072, 768),
    (1576, 768, 768),
    (25, 768, 3072),
];

fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 31 % 97) as f32 / 48.0 - 1.0).collect()
}

fn products(c: &mut Criterion) {
    for (rows, inputs, outputs) in LAYERS {
        for (kind, name) in
            [(Kind::Forward, "forward"), (Kind::InputGradient, "input-grad"), (Kind::WeightGradient, "weight-grad")]
        {
            let (m, n, k) = match kind {
                Kind::Forward => (rows, outputs, inputs),
                Kind::InputGradient => (rows, inputs, outputs),
                Kind::WeightGradient => (outputs, inputs, rows),
            };
            let (a, b, bias) = (numbers(m * k), numbers(k * n), numbers(n));
            let (a, b, epilogue) = match kind {
                Kind::Forward => (Mat::new(&a, m, k), Mat::new(&b, n, k).map(Mat::t), Epilogue::bias(Some(&bias))),
                Kind::InputGradient => (Mat::new(&a, m, k), Mat::new(&b, k, n), Epilogue::default()),
                Kind::WeightGradient => (Mat::new(&a, k, m).map(Mat::t), Mat::new(&b, k, n), Epilogue::default()),
            };
            let (a, b) = (a.expect("the lengths fit"), b.expect("the lengths fit"));
            let mut out = vec![0.0; m * n];
            let mut group = c.benchmark_group(format!("{name}/{rows}x{inputs}x{outputs}"));
            group.sample_size(20).throughput(Throughput::Elements(2 * (m * n * k) as u64));
            for engine in Engine::ALL.into_iter().filter(|e| e.available()) {
                for threads in [1, 2] {
                    group.bench_function(BenchmarkId::new(format!("{engine:?}"), threads), |bench| {
                        bench.iter(|| {
                            let out = MatMut::new(&mut out, m, n).expect("the lengths fit");
                            matmul_on(engine, a, b, out, epilogue, threads).expect("the shapes fit");
                        });
                    });
                    let Kind::Forward = kind else { continue };
                    let weights = PackedWeights::on(engine, b.t()).expect("an available engine");
                    group.bench_function(BenchmarkId::new(format!("{engine:?}-packed-gelu"), threads), |bench| {
                        bench.iter(|| {
                            let out = MatMut::new(&mut out, m, n).expect("the lengths fit");
                            let epilogue = Epilogue { gelu: true, ..epilogue };
                            weights.forward(a, out, epilogue, threads).expect("the shapes fit");
                        });
                    });
                }
            }
            group.finish();
        }
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
