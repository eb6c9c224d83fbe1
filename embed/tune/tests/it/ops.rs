//! Our differentiable ops against candle's composite ones, forward and backward, and the proof that
//! nothing is cut off from the gradient.

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use sightline_embed::graph::{self, Cada, Dropout, Linear, Pass, WordPredictor};
use sightline_embed::model::TokenBatch;
use sightline_tune::ops::{self, network};

use crate::golden;

fn random(shape: &[usize], seed: u64) -> Var {
    let n: usize = shape.iter().product();
    let mut state = seed;
    let values: Vec<f32> = (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

/// Compares value and gradients of two ways to compute the same from the same variables.
fn same(
    what: &str,
    vars: &[&Var],
    ours: impl Fn(&[Tensor]) -> Result<Tensor>,
    slow: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let inputs: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let (a, b) = (ours(&inputs).unwrap(), slow(&inputs).unwrap());
    let scale = |t: &Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap().max(1e-3);
    let forward = golden::max_diff(&a, &b) / f64::from(scale(&b));
    // An uneven weighting of the outputs, so that no gradient cancels.
    let loss = |y: &Tensor| (y.sin()? + (y * 0.3)?)?.sum_all();
    let (ga, gb) = (loss(&a).unwrap().backward().unwrap(), loss(&b).unwrap().backward().unwrap());
    let mut worst: f64 = 0.0;
    for (i, v) in vars.iter().enumerate() {
        let ours = ga.get(v.as_tensor()).unwrap_or_else(|| panic!("{what}: input {i} has no gradient"));
        let want = gb.get(v.as_tensor()).unwrap();
        worst = worst.max(golden::max_diff(ours, want) / f64::from(scale(want)));
    }
    println!("{what}: forward {forward:.1e}, gradient {worst:.1e} (relative to the largest element)");
    assert!(forward < 1e-5 && worst < 2e-5, "{what}: forward {forward:.1e}, gradient {worst:.1e}");
}

#[test]
fn linear() {
    let (x, w, b) = (random(&[3, 5, 24], 1), random(&[40, 24], 2), random(&[40], 3));
    same(
        "linear",
        &[&x, &w, &b],
        |t| ops::linear(&Linear::from_tensors(t[1].clone(), t[2].clone())?, &t[0]),
        |t| t[0].broadcast_matmul(&t[1].t()?)?.broadcast_add(&t[2]),
    );
}

/// Values and gradients of PyTorch 2.15's `F.normalize`, of a row of zeros too.
#[test]
fn a_row_of_zeros_has_a_finite_gradient() {
    let x = Var::from_tensor(&Tensor::new(&[[0f32, 0.0, 0.0], [3.0, 4.0, 0.0]], &Device::Cpu).unwrap()).unwrap();
    let outer = Tensor::new(&[[1f32, 2.0, 3.0], [1.0, 2.0, 3.0]], &Device::Cpu).unwrap();
    let y = graph::l2_normalize(x.as_tensor()).unwrap();
    assert_eq!(y.to_vec2::<f32>().unwrap(), [[0.0, 0.0, 0.0], [0.6, 0.8, 0.0]]);
    let grads = (y * outer).unwrap().sum_all().unwrap().backward().unwrap();
    let got = grads.get(x.as_tensor()).unwrap().to_vec2::<f32>().unwrap();
    let want = [[1e12, 2e12, 3e12], [-0.064, 0.048, 0.6]];
    for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
        assert!((got - want).abs() <= 1e-6 * want.abs(), "{got}, {want} by PyTorch");
    }
}

#[test]
fn first_tensors_of_both_encoders() {
    let pixels = random(&[2, 3, 12, 8], 1).as_tensor().detach();
    let slow = pixels.reshape(&[2, 3, 3, 4, 2, 4][..]).unwrap().permute([0, 2, 4, 1, 3, 5]).unwrap();
    let slow = slow.reshape((2, 6, 48)).unwrap();
    assert_eq!(golden::max_diff(&ops::patches(&pixels, 4).unwrap(), &slow), 0.0);
    assert!(ops::patches(&pixels, 5).is_err());
    let (patches, class, places) = (random(&[2, 6, 8], 2), random(&[1, 1, 8], 3), random(&[1, 7, 8], 4));
    same(
        "class and positions",
        &[&patches, &class, &places],
        |t| ops::class_and_positions(&t[0], &t[1], &t[2]),
        |t| Tensor::cat(&[&t[1].broadcast_as((2, 1, 8))?, &t[0]], 1)?.broadcast_add(&t[2]),
    );
    let (words, positions) = (random(&[6, 8], 5), random(&[9, 8], 6));
    let ids = [4u32, 3, 0, 3, 5, 0];
    same(
        "words and positions",
        &[&words, &positions],
        |t| ops::text_input(&t[0], &t[1], &ids, 3, 0),
        |t| graph::embedding(&t[0], &ids, 0)?.reshape((2, 3, 8))?.broadcast_add(&t[1].narrow(0, 0, 3)?),
    );
    let (w, p) = (words.as_tensor(), positions.as_tensor());
    assert!(ops::text_input(w, p, &[6, 0], 2, 0).is_err() && ops::text_input(w, p, &[1; 10], 10, 0).is_err());
}

#[test]
fn padding_gives_its_embedding_no_gradient() {
    let table = random(&[6, 8], 8);
    let ids = [0u32, 3, 3, 5, 0];
    let y = graph::embedding(table.as_tensor(), &ids, 0).unwrap();
    let slow = table.index_select(&Tensor::new(&ids, &Device::Cpu).unwrap(), 0).unwrap();
    assert_eq!(golden::max_diff(&y, &slow), 0.0);
    let grads = y.sum_all().unwrap().backward().unwrap();
    let rows = grads.get(table.as_tensor()).unwrap().to_vec2::<f32>().unwrap();
    let want = [0.0, 0.0, 0.0, 2.0, 0.0, 1.0];
    assert!(rows.iter().zip(want).all(|(row, w)| row.iter().all(|v| *v == w)), "{rows:?}");
    assert!(graph::embedding(table.as_tensor(), &[6], 0).is_err());
}

/// The stacks of training against the graph of a GPU, with the rows of padding computed too.
#[test]
fn a_stack_equals_the_graph() {
    let texts = TokenBatch::new(&[vec![101, 500, 600, 102, 9], vec![101, 7, 102], vec![101, 8, 8, 102]], 0, None);
    same_by_stack_and_graph(&texts.padded(5, 0), false);
}

/// Without the rows of padding, which then are zero and count for nothing.
#[test]
fn a_packed_stack_equals_the_graph() {
    let texts = TokenBatch::new(&[vec![101, 500, 600, 102, 9], vec![101, 7, 102], vec![101, 8, 8, 102]], 0, None);
    assert!(texts.may_pack());
    same_by_stack_and_graph(&texts, true);
}

fn same_by_stack_and_graph(texts: &TokenBatch, packed: bool) {
    let map = VarMap::new();
    let vb = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
    let cada = Cada::new(&golden::arch(), WordPredictor::None, vb).unwrap();
    let images = random(&[3, 9, 64], 3);
    let places = texts.lengths().iter().flat_map(|l| (0..5).map(move |i| if i < *l || !packed { 1f32 } else { 0.0 }));
    let places = Tensor::from_vec(places.collect::<Vec<f32>>(), (3, 5, 1), &Device::Cpu).unwrap();
    let pixels = random(&[3, 3, 64, 32], 4).as_tensor().detach();
    let run = |stacks: bool, direct: bool| {
        let image = Some(images.as_tensor());
        let passes = [
            Pass { image, ..Pass::default() },
            Pass { image, causal: true, ..Pass::default() },
            Pass { image: None, ..Pass::default() },
        ];
        let text = |pass: &Pass| match stacks {
            true => network::bert(&cada.text_encoder, texts, pass).unwrap(),
            false => cada.text_encoder.forward(texts, pass).unwrap(),
        };
        let mut outputs: Vec<Tensor> = passes.iter().map(text).collect();
        if packed && stacks {
            for output in &outputs {
                let kept = output.broadcast_mul(&places).unwrap();
                assert_eq!(golden::max_diff(output, &kept), 0.0, "rows of padding are not zero");
            }
        }
        outputs = outputs.iter().map(|y| y.broadcast_mul(&places).unwrap()).collect();
        outputs.push(match stacks {
            true => network::image_embeds(&cada, &pixels).unwrap(),
            false => cada.image_embeds(&pixels).unwrap(),
        });
        let loss = outputs.iter().map(|y| (y.sin().unwrap() + (y * 0.3).unwrap()).unwrap().sum_all().unwrap());
        let loss = loss.reduce(|a, b| (a + b).unwrap()).unwrap();
        let grads = if direct { ops::backward(&loss).unwrap() } else { loss.backward().unwrap() };
        (outputs, grads)
    };
    let (want, want_grads) = run(false, false);
    for direct in [false, true] {
        let (got, grads) = run(true, direct);
        let largest = |t: &Tensor| f64::from(t.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap());
        for (got, want) in got.iter().zip(&want) {
            assert!(golden::max_diff(got, want) < 1e-5 * largest(want), "outputs differ");
        }
        let data = map.data().lock().unwrap();
        let mut vars: Vec<(&str, &Tensor)> = data.iter().map(|(name, var)| (name.as_str(), var.as_tensor())).collect();
        vars.push(("images", images.as_tensor()));
        let (mut worst, mut compared) = (0f64, 0);
        for (name, var) in vars {
            let Some(want) = want_grads.get(var) else { continue };
            let got = grads.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
            // Where the true gradient is zero, rounding is all there is.
            let distance = golden::max_diff(got, want) / largest(want).max(1e-2);
            (worst, compared) = (worst.max(distance), compared + 1);
            assert!(distance < 1e-4, "{name}: {distance:.1e}");
        }
        assert!(compared > 60, "{compared} gradients compared");
        println!(
            "stack against graph, packed {packed}, direct {direct}: worst gradient {worst:.1e} of the largest element"
        );
    }
}

/// A loss that uses every part must reach every variable; a detached op would leave a hole here.
/// Texts without dropout go through the stacks, with dropout through the graph.
#[test]
fn every_variable_gets_a_gradient() {
    let arch = golden::arch();
    for (predictor, rate) in [(WordPredictor::Own, 0.0), (WordPredictor::Shared, 0.0), (WordPredictor::Own, 0.1)] {
        let map = VarMap::new();
        let cada = Cada::new(&arch, predictor, VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu)).unwrap();
        let pixels = random(&[2, 3, 64, 32], 1).as_tensor().detach();
        let texts = TokenBatch::new(&[vec![101, 500, 600, 102], vec![101, 7, 102]], 0, None);
        let dropout = Dropout::new(rate, 1).unwrap();
        let images = network::image_embeds(&cada, &pixels).unwrap();
        let global = graph::l2_normalize(&network::image_proj(&cada, &images).unwrap()).unwrap();
        let hidden = network::text_embeds(&cada, &texts, Some(&dropout)).unwrap();
        let text = network::text_proj(&cada, &texts, &hidden).unwrap();
        let fused = network::fused(&cada, &texts, &images, Some(&dropout)).unwrap();
        let logits = network::itm_logits(&cada, &fused).unwrap();
        let local = network::itm_local_logits(&cada, &fused.narrow(1, 1, 2).unwrap().mean(1).unwrap()).unwrap();
        let mlm = cada.text_decoder.as_ref().unwrap();
        let hidden = network::bert(&mlm.bert, &texts, &Pass { image: Some(&images), ..Pass::default() }).unwrap();
        let words = network::word_logits(mlm, &hidden).unwrap();
        let loss = [global, text, logits, local, words]
            .iter()
            .map(|t| t.sin().unwrap().sum_all().unwrap())
            .reduce(|a, b| (a + b).unwrap())
            .unwrap();
        let grads = loss.backward().unwrap();
        let data = map.data().lock().unwrap();
        assert!(data.len() > 80);
        for (name, var) in data.iter() {
            let g = grads.get(var.as_tensor()).unwrap_or_else(|| panic!("{name} has no gradient"));
            assert_eq!(g.dims(), var.dims(), "{name}");
            let size = g.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            // Adding a constant to every key changes no probability: that gradient is rounding
            // noise.
            let flat = name.ends_with("key.bias");
            assert!(size.is_finite() && (size > 0.0 || flat), "{name}: largest gradient {size}");
        }
        println!("{predictor:?}, dropout {rate}: {} variables, all with a gradient", data.len());
    }
}
