//! Every engine of this machine against an `f64` reference, on shapes whole and ragged, in all
//! layouts.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// Engines of this machine; [`the_engines_of_this_machine`] names those that are not tested here.
fn engines() -> Vec<Engine> {
    Engine::ALL.into_iter().filter(|e| e.available()).collect()
}

#[test]
fn the_engines_of_this_machine() {
    let (here, absent): (Vec<Engine>, Vec<Engine>) = Engine::ALL.into_iter().partition(|e| e.available());
    let level = CpuLevel::current();
    eprintln!("engines tested at level {level:?}: {here:?}; not available, not tested: {absent:?}");
    assert!(here.contains(&Engine::Gemm), "it runs everywhere");
    assert_eq!(here.contains(&Engine::Avx2F32), level >= CpuLevel::Avx2);
    assert_eq!(here.contains(&Engine::Avx512F32), level >= CpuLevel::Avx512);
    assert!(level >= CpuLevel::Avx512 || !here.iter().any(|e| e.is_bf16()), "bf16 needs AVX-512");
}

/// Numbers in (-1, 1) that depend on the seed and the position.
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Memory layout of an operand.
#[derive(Clone, Copy, Debug)]
enum Layout {
    Rows,
    Columns,
    Gaps,
}

fn view(data: &[f32], rows: usize, cols: usize, layout: Layout) -> Mat<'_> {
    match layout {
        Layout::Rows => Mat::new(data, rows, cols).unwrap(),
        Layout::Columns => Mat::strided(data, rows, cols, 1, rows).unwrap(),
        Layout::Gaps => Mat::strided(data, rows, cols, 2 * cols + 3, 2).unwrap(),
    }
}

struct Case {
    m: usize,
    n: usize,
    k: usize,
    layouts: (Layout, Layout),
    bias: bool,
    gelu: bool,
    add: u8,
    threads: usize,
    seed: u64,
}

/// `2/√π e^(-x²) Σ 2ⁿ x^(2n+1) / (1·3·…·(2n+1))`: no cancellation.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for i in 1..300 {
        term *= 2.0 * x * x / f64::from(2 * i + 1);
        sum += term;
    }
    sum * (-x * x).exp() * 2.0 / std::f64::consts::PI.sqrt()
}

/// Every engine by both functions: within the error bound, and nothing outside the view is touched.
fn check(case: &Case) {
    let Case { m, n, k, layouts, .. } = *case;
    let (a, b) = (numbers(m * (2 * k + 3) + 1, case.seed), numbers(k * (2 * n + 3) + 1, case.seed + 1));
    let (a, b) = (view(&a, m, k, layouts.0), view(&b, k, n, layouts.1));
    let bias = numbers(n, case.seed + 2);
    let residual = numbers(m * n, case.seed + 3);
    let residual = view(&residual, m, n, if case.add == 3 { Layout::Columns } else { Layout::Rows });
    let before = numbers(m * (n + 5), case.seed + 4);
    let epilogue = Epilogue {
        bias: case.bias.then_some(&bias[..]),
        gelu: case.gelu,
        add: match case.add {
            0 => Add::Nothing,
            1 => Add::Output,
            _ => Add::Matrix(residual),
        },
    };
    let expected: Vec<(f64, f64)> = (0..m * n)
        .map(|at| {
            let (i, j) = (at / n, at % n);
            let mut sum = epilogue.bias.map_or(0.0, |bias| f64::from(bias[j]));
            let mut size = sum.abs();
            for l in 0..k {
                let product = f64::from(a.at(i, l)) * f64::from(b.at(l, j));
                sum += product;
                size += product.abs();
            }
            if case.gelu {
                sum *= 0.5 * (1.0 + erf(sum / std::f64::consts::SQRT_2));
            }
            let add = match case.add {
                0 => 0.0,
                1 => f64::from(before[i * (n + 5) + j]),
                _ => f64::from(residual.at(i, j)),
            };
            (sum + add, size)
        })
        .collect();
    let weight: Vec<f32> = (0..n * k).map(|i| b.at(i % k, i / k)).collect();
    for engine in engines() {
        let packed = PackedWeights::on(engine, Mat::new(&weight, n, k).unwrap()).unwrap();
        let rounding = if engine.is_bf16() { 1.0 / 128.0 } else { 0.0 } + k as f64 * f64::from(f32::EPSILON);
        for prepacked in [false, true] {
            let mut c = before.clone();
            let out = MatMut::strided(&mut c, m, n, n + 5).unwrap();
            if prepacked {
                packed.forward(a, out, epilogue, case.threads).unwrap();
            } else {
                matmul_on(engine, a, b, out, epilogue, case.threads).unwrap();
            }
            for (at, (expected, size)) in expected.iter().enumerate() {
                let (i, j) = (at / n, at % n);
                let error = (f64::from(c[i * (n + 5) + j]) - expected).abs();
                // GELU's slope stays below 1.13; sums and GELU are rounded to f32.
                let bound = 1.13 * size * rounding + 2e-6 * (1.0 + expected.abs());
                assert!(
                    error <= bound,
                    "{engine:?} {m}x{n}x{k} {layouts:?} prepacked {prepacked} at ({i}, {j}): {error} > {bound}"
                );
            }
            for i in 0..m {
                let gap = i * (n + 5) + n..(i + 1) * (n + 5);
                assert_eq!(c[gap.clone()], before[gap], "{engine:?} wrote between the rows");
            }
            let new = match (case.add, prepacked) {
                (1, _) => continue,
                (_, true) => packed.product(a, epilogue, case.threads).unwrap(),
                (_, false) => {
                    let precision = if engine.is_bf16() { Precision::Bf16 } else { Precision::F32 };
                    product(a, b, precision, epilogue, case.threads).unwrap()
                }
            };
            let same = prepacked || engine == Engine::for_product(Precision::Bf16) || engine == Engine::Gemm;
            if same {
                for (at, x) in new.iter().enumerate() {
                    // The `gemm` crate may sum in another order for another row stride.
                    let other = c[at / n * (n + 5) + at % n];
                    let slack = if engine == Engine::Gemm { 1e-4 * (1.0 + x.abs()) } else { 0.0 };
                    assert!((x - other).abs() <= slack, "{engine:?} {m}x{n}x{k}: {x} in new memory, else {other}");
                }
            }
        }
    }
}

fn layout() -> impl Strategy<Value = Layout> {
    prop_oneof![Just(Layout::Rows), Just(Layout::Columns), Just(Layout::Gaps)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_engine_is_within_its_bound(
        (m, n, k) in (1usize..100, 1usize..100, 0usize..140),
        layouts in (layout(), layout()),
        (bias, gelu, add) in (any::<bool>(), any::<bool>(), 0u8..4),
        threads in 1usize..4,
        seed in any::<u32>(),
    ) {
        check(&Case { m, n, k, layouts, bias, gelu, add, threads, seed: u64::from(seed) });
    }
}

#[test]
fn whole_tiles_and_several_passes_over_k() {
    for (m, n, k) in [(64, 64, 1040), (300, 96, 512), (32, 32, 32), (33, 31, 1057), (1, 1, 1), (16, 200, 2336)] {
        for (bias, gelu, add) in [(true, false, 0), (true, true, 1), (false, false, 1), (true, false, 2)] {
            for layouts in [(Layout::Rows, Layout::Columns), (Layout::Columns, Layout::Rows)] {
                check(&Case { m, n, k, layouts, bias, gelu, add, threads: 2, seed: 7 });
            }
        }
    }
}

#[test]
fn empty_shapes_do_nothing_or_the_epilogue_alone() {
    for engine in engines() {
        let (empty, mut c) = ([0.0f32; 0], [5.0f32; 4]);
        let (a, b) = (Mat::new(&empty, 2, 0).unwrap(), Mat::new(&empty, 0, 2).unwrap());
        let out = MatMut::new(&mut c, 2, 2).unwrap();
        matmul_on(engine, a, b, out, Epilogue::bias(Some(&[1.0, 2.0])), 1).unwrap();
        assert_eq!(c, [1.0, 2.0, 1.0, 2.0]);
        let out = MatMut::new(&mut [], 0, 2).unwrap();
        matmul_on(engine, Mat::new(&empty, 0, 2).unwrap(), Mat::new(&c, 2, 2).unwrap(), out, Epilogue::default(), 1)
            .unwrap();
    }
}

#[test]
fn new_memory_adds_nothing_to_a_product() {
    let (x, w) = (numbers(5 * 40, 1), numbers(33 * 40, 2));
    let (a, w) = (Mat::new(&x, 5, 40).unwrap(), Mat::new(&w, 33, 40).unwrap());
    let both = [Epilogue::default(), Epilogue::accumulate()];
    let same = |[plain, added]: [Vec<f32>; 2], name: &str| {
        assert_eq!((plain.len(), added.len()), (5 * 33, 5 * 33));
        assert!(plain.iter().zip(&added).all(|(x, y)| (x - y).abs() <= 1e-5), "{name}: {plain:?} {added:?}");
    };
    for precision in [Precision::F32, Precision::Bf16] {
        same(both.map(|epilogue| product(a, w.t(), precision, epilogue, 1).unwrap()), precision.name());
    }
    for engine in engines() {
        let packed = PackedWeights::on(engine, w).unwrap();
        same(both.map(|epilogue| packed.product(a, epilogue, 1).unwrap()), &format!("{engine:?}"));
    }
}

#[test]
fn bf16_exact_numbers_give_exact_sums() {
    // Integers below 256 are bf16 numbers and their sums here are f32 numbers: nothing may be lost.
    let (m, n, k) = (65, 70, 129);
    let a: Vec<f32> = (0..m * k).map(|i| (i * 7 % 31) as f32 - 15.0).collect();
    let b: Vec<f32> = (0..k * n).map(|i| (i * 5 % 29) as f32 - 14.0).collect();
    let mut expected = vec![0.0f32; m * n];
    for (i, x) in expected.iter_mut().enumerate() {
        *x = (0..k).map(|l| a[i / n * k + l] * b[l * n + i % n]).sum();
    }
    for engine in engines() {
        let mut c = vec![f32::NAN; m * n];
        let (a, b) = (Mat::new(&a, m, k).unwrap(), Mat::new(&b, k, n).unwrap());
        matmul_on(engine, a, b, MatMut::new(&mut c, m, n).unwrap(), Epilogue::default(), 2).unwrap();
        assert_eq!(c, expected, "{engine:?}");
    }
}

#[test]
fn rounding_is_to_nearest_even() {
    // 1 + 2^-8 lies halfway between two bf16 numbers, 1 and 1 + 2^-7: even is 1. 1 + 3 * 2^-8 goes
    // up to 1 + 2^-6.
    let half = 1.0 / 256.0f32;
    for (x, rounded) in [(1.0 + half, 1.0), (1.0 + 3.0 * half, 1.0 + 4.0 * half), (1.0 + 1.01 * half, 1.0 + 2.0 * half)]
    {
        for engine in engines().into_iter().filter(|e| e.is_bf16()) {
            let mut c = [0.0];
            let (a, b) = ([x], [1.0]);
            let (a, b) = (Mat::new(&a, 1, 1).unwrap(), Mat::new(&b, 1, 1).unwrap());
            matmul_on(engine, a, b, MatMut::new(&mut c, 1, 1).unwrap(), Epilogue::default(), 1).unwrap();
            assert_eq!(c[0], rounded, "{engine:?} rounds {x}");
        }
    }
}

#[test]
fn nan_and_infinity_reach_their_row_and_no_other() {
    let (m, n, k) = (40, 35, 70);
    for (bad, test) in [
        (f32::NAN, f32::is_nan as fn(f32) -> bool),
        (f32::INFINITY, |x| x == f32::INFINITY),
        (f32::NEG_INFINITY, |x| x == f32::NEG_INFINITY),
    ] {
        let mut a = vec![1.0; m * k];
        a[17 * k + 69] = bad;
        let b = vec![0.5; k * n];
        for engine in engines() {
            let mut c = vec![0.0; m * n];
            let (a, b) = (Mat::new(&a, m, k).unwrap(), Mat::new(&b, k, n).unwrap());
            matmul_on(engine, a, b, MatMut::new(&mut c, m, n).unwrap(), Epilogue::default(), 1).unwrap();
            for (i, x) in c.iter().enumerate() {
                assert!(if i / n == 17 { test(*x) } else { *x == 35.0 }, "{engine:?}: {x} at ({}, {})", i / n, i % n);
            }
        }
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let (x, mut c) = ([0.0f32; 12], [0.0f32; 12]);
    assert!(matches!(Mat::new(&x, 4, 4), Err(KernelError::Extent { len: 12, .. })));
    assert!(Mat::strided(&x, 2, 2, usize::MAX, 1).is_err());
    assert!(MatMut::strided(&mut c, 2, 4, 3).is_err(), "rows may not overlap");
    let (a, b) = (Mat::new(&x, 3, 4).unwrap(), Mat::new(&x, 3, 4).unwrap());
    let mut multiply = |a: Mat<'_>, b: Mat<'_>, m, n, bias: &[f32]| {
        matmul(a, b, MatMut::new(&mut c, m, n).unwrap(), Precision::F32, Epilogue::bias(Some(bias)), 1)
    };
    assert!(matches!(multiply(a, b, 3, 4, &[0.0; 4]), Err(KernelError::Shape { what: "the right operand", .. })));
    assert!(matches!(multiply(a, b.t(), 3, 4, &[0.0; 4]), Err(KernelError::Shape { what: "the output", .. })));
    assert!(matches!(multiply(a, b.t(), 3, 3, &[0.0; 4]), Err(KernelError::Shape { what: "the bias", .. })));
    assert!(multiply(a, b.t(), 3, 3, &[0.0; 3]).is_ok());
}

#[test]
fn gelu_matches_its_definition() {
    let x: Vec<f32> = (-8000..8000).map(|i| i as f32 / 1000.0).collect();
    let mut y = x.clone();
    gelu(&mut y);
    for (x, y) in x.iter().zip(y) {
        let expected = f64::from(*x) * 0.5 * (1.0 + erf(f64::from(*x) / std::f64::consts::SQRT_2));
        let error = (f64::from(y) - expected).abs();
        assert!(error <= 5e-7 * f64::from(x.abs().max(1.0)), "gelu({x}) is off by {error}");
    }
    let mut odd = [f32::NAN, f32::INFINITY, -100.0];
    gelu(&mut odd);
    assert!(odd[0].is_nan() && odd[1] == f32::INFINITY && odd[2].abs() < 1e-30, "{odd:?}");
}
