//! The layers against candle's slow composite ops, forward and backward, and the proof that nothing is cut off from the
//! gradient.

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use sightline_embed::model::{Cada, Decoder, Pass, TokenBatch};
use sightline_embed::nn::{self, Dropout, LayerNorm, Linear, MASKED, Mask};

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
        |t| Linear::from_tensors(t[1].clone(), t[2].clone())?.forward(&t[0]),
        |t| t[0].broadcast_matmul(&t[1].t()?)?.broadcast_add(&t[2]),
    );
}

#[test]
fn gelu_and_softmax() {
    let x = random(&[7, 33], 4);
    same("gelu", &[&x], |t| nn::gelu(&(&t[0] * 5.0)?), |t| (&t[0] * 5.0)?.gelu_erf());
    same("softmax", &[&x], |t| nn::softmax(&(&t[0] * 5.0)?), |t| candle_nn::ops::softmax(&(&t[0] * 5.0)?, D::Minus1));
    same("l2", &[&x], |t| nn::l2_normalize(&t[0]), |t| t[0].broadcast_div(&t[0].sqr()?.sum_keepdim(1)?.sqrt()?));
}

#[test]
fn layer_norm() {
    for width in [5, 64, 100] {
        let x = random(&[2, 37, width], 5);
        let map = VarMap::new();
        let norm = LayerNorm::new(width, 1e-6, VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu)).unwrap();
        let (w, b) = {
            let data = map.data().lock().unwrap();
            (data["weight"].clone(), data["bias"].clone())
        };
        w.set(random(&[width], 6).as_tensor()).unwrap();
        b.set(random(&[width], 7).as_tensor()).unwrap();
        same(
            "layer norm",
            &[&x, &w, &b],
            |t| norm.forward(&t[0]),
            |t| candle_nn::ops::layer_norm_slow(&t[0], &t[1], &t[2], 1e-6),
        );
    }
}

#[test]
fn embedding_skips_padding() {
    let table = random(&[6, 8], 8);
    let ids = [0u32, 3, 3, 5, 0];
    let y = nn::embedding(table.as_tensor(), &ids, Some(0)).unwrap();
    let slow = table.index_select(&Tensor::new(&ids, &Device::Cpu).unwrap(), 0).unwrap();
    assert_eq!(golden::max_diff(&y, &slow), 0.0);
    let grads = y.sum_all().unwrap().backward().unwrap();
    let rows = grads.get(table.as_tensor()).unwrap().to_vec2::<f32>().unwrap();
    let want = [0.0, 0.0, 0.0, 2.0, 0.0, 1.0];
    assert!(rows.iter().zip(want).all(|(row, w)| row.iter().all(|v| *v == w)), "{rows:?}");
    assert!(nn::embedding(table.as_tensor(), &[6], None).is_err());
}

#[test]
fn first_tensors_of_both_encoders() {
    let pixels = random(&[2, 3, 12, 8], 1).as_tensor().detach();
    let slow = pixels.reshape(&[2, 3, 3, 4, 2, 4][..]).unwrap().permute([0, 2, 4, 1, 3, 5]).unwrap();
    let slow = slow.reshape((2, 6, 48)).unwrap();
    assert_eq!(golden::max_diff(&nn::patches(&pixels, 4).unwrap(), &slow), 0.0);
    assert!(nn::patches(&pixels, 5).is_err());
    let (patches, class, places) = (random(&[2, 6, 8], 2), random(&[1, 1, 8], 3), random(&[1, 7, 8], 4));
    same(
        "class and positions",
        &[&patches, &class, &places],
        |t| nn::class_and_positions(&t[0], &t[1], &t[2]),
        |t| Tensor::cat(&[&t[1].broadcast_as((2, 1, 8))?, &t[0]], 1)?.broadcast_add(&t[2]),
    );
    let (words, positions) = (random(&[6, 8], 5), random(&[9, 8], 6));
    let ids = [4u32, 3, 0, 3, 5, 0];
    same(
        "words and positions",
        &[&words, &positions],
        |t| nn::text_input(&t[0], &t[1], &ids, 3, 0),
        |t| nn::embedding(&t[0], &ids, Some(0))?.reshape((2, 3, 8))?.broadcast_add(&t[1].narrow(0, 0, 3)?),
    );
    let (w, p) = (words.as_tensor(), positions.as_tensor());
    assert!(nn::text_input(w, p, &[6, 0], 2, 0).is_err() && nn::text_input(w, p, &[1; 10], 10, 0).is_err());
}

fn slow_attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, bias: Option<&Tensor>) -> Result<Tensor> {
    let split = |t: &Tensor| -> Result<Tensor> {
        let (b, n, d) = t.dims3()?;
        t.reshape((b, n, heads, d / heads))?.transpose(1, 2)?.contiguous()
    };
    let scale = 1.0 / ((q.dim(2)? / heads) as f64).sqrt();
    let mut scores = (split(q)?.matmul(&split(k)?.t()?)? * scale)?;
    if let Some(bias) = bias {
        scores = scores.broadcast_add(bias)?;
    }
    let context = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&split(v)?)?;
    context.transpose(1, 2)?.contiguous()?.flatten_from(2)
}

#[test]
fn attention() {
    let (q, k, v) = (random(&[2, 5, 24], 1), random(&[2, 9, 24], 2), random(&[2, 9, 24], 3));
    let vars = [&q, &k, &v];
    same(
        "attention",
        &vars,
        |t| nn::attention(&t[0], &t[1], &t[2], 3, None, None),
        |t| slow_attention(&t[0], &t[1], &t[2], 3, None),
    );
    let mask = Mask::new(&[4, 9], 9, false);
    let hidden = |b: usize, j: usize| if b == 0 && j >= 4 { MASKED } else { 0.0 };
    let bias: Vec<f32> = (0..2).flat_map(|b| (0..9).map(move |j| hidden(b, j))).collect();
    let bias = Tensor::from_vec(bias, (2, 1, 1, 9), &Device::Cpu).unwrap();
    same(
        "masked attention",
        &vars,
        |t| nn::attention(&t[0], &t[1], &t[2], 3, Some(&mask), None),
        |t| slow_attention(&t[0], &t[1], &t[2], 3, Some(&bias)),
    );
    let q = random(&[2, 9, 24], 4);
    let causal: Vec<f32> = (0..81).map(|p| if p % 9 > p / 9 { MASKED } else { 0.0 }).collect();
    let causal = Tensor::from_vec(causal, (1, 1, 9, 9), &Device::Cpu).unwrap();
    same(
        "causal attention",
        &[&q, &k, &v],
        |t| nn::attention(&t[0], &t[1], &t[2], 4, Some(&Mask::new(&[9, 9], 9, true)), None),
        |t| slow_attention(&t[0], &t[1], &t[2], 4, Some(&causal)),
    );
    let qkv = random(&[3, 7, 72], 5);
    same(
        "fused self-attention",
        &[&qkv],
        |t| nn::self_attention(&t[0], 6),
        |t| {
            let part = |i: usize| t[0].narrow(2, i * 24, 24);
            slow_attention(&part(0)?, &part(1)?, &part(2)?, 6, None)
        },
    );
    assert!(nn::attention(q.as_tensor(), k.as_tensor(), v.as_tensor(), 5, None, None).is_err());
    assert!(nn::self_attention(qkv.as_tensor(), 5).is_err());
}

/// Both ways through both encoders: a dropout that drops nothing is off, one that drops next to nothing takes the ops.
#[test]
fn a_stack_equals_its_ops() {
    let texts = TokenBatch::new(&[vec![101, 500, 600, 102, 9], vec![101, 7, 102], vec![101, 8, 8, 102]], 0, None);
    same_by_stack_and_ops(&texts.padded(5, 0), false);
}

/// Without the rows of padding, which then are zero and count for nothing.
#[test]
fn a_packed_stack_equals_its_ops() {
    let texts = TokenBatch::new(&[vec![101, 500, 600, 102, 9], vec![101, 7, 102], vec![101, 8, 8, 102]], 0, None);
    assert!(texts.may_pack());
    same_by_stack_and_ops(&texts, true);
}

fn same_by_stack_and_ops(texts: &TokenBatch, packed: bool) {
    let arch = golden::arch();
    let map = VarMap::new();
    let cada = Cada::new(&arch, Decoder::None, VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu)).unwrap();
    let images = random(&[3, 9, 64], 3);
    let places = texts.lengths().iter().flat_map(|l| (0..5).map(move |i| if i < *l || !packed { 1f32 } else { 0.0 }));
    let places = Tensor::from_vec(places.collect::<Vec<f32>>(), (3, 5, 1), &Device::Cpu).unwrap();
    let pixels = random(&[3, 3, 64, 32], 4);
    let run = |rate: f32, direct: bool| {
        let dropout = Dropout::new(rate, 1).unwrap();
        let (image, dropout) = (Some(images.as_tensor()), Some(&dropout));
        let passes = [
            Pass { image, causal: false, dropout },
            Pass { image, causal: true, dropout },
            Pass { image: None, causal: false, dropout },
        ];
        let mut outputs: Vec<Tensor> =
            passes.iter().map(|pass| cada.text_encoder().forward(texts, pass).unwrap()).collect();
        if packed && rate == 0.0 {
            for output in &outputs {
                let kept = output.broadcast_mul(&places).unwrap();
                assert_eq!(golden::max_diff(output, &kept), 0.0, "rows of padding are not zero");
            }
        }
        outputs = outputs.iter().map(|y| y.broadcast_mul(&places).unwrap()).collect();
        let vit = cada.visual_encoder();
        let by_ops = || {
            let embedded = vit.embed(pixels.as_tensor()).unwrap();
            vit.blocks().iter().fold(embedded, |x, block| block.forward(&x).unwrap())
        };
        let normed = |x: Tensor| {
            let data = map.data().lock().unwrap();
            let [w, b] = ["weight", "bias"].map(|n| data[&format!("visual_encoder.norm.{n}")].as_tensor().clone());
            candle_nn::ops::layer_norm_slow(&x, &w, &b, 1e-6).unwrap()
        };
        outputs.push(if rate == 0.0 { vit.forward(pixels.as_tensor()).unwrap() } else { normed(by_ops()) });
        let loss = outputs.iter().map(|y| (y.sin().unwrap() + (y * 0.3).unwrap()).unwrap().sum_all().unwrap());
        let loss = loss.reduce(|a, b| (a + b).unwrap()).unwrap();
        let grads = if direct { nn::backward(&loss).unwrap() } else { loss.backward().unwrap() };
        (outputs, grads)
    };
    let (want, want_grads) = run(1e-30, false);
    for direct in [false, true] {
        let (got, grads) = run(0.0, direct);
        let largest = |t: &Tensor| f64::from(t.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap());
        for (got, want) in got.iter().zip(&want) {
            assert!(golden::max_diff(got, want) < 1e-5 * largest(want), "outputs differ");
        }
        let data = map.data().lock().unwrap();
        let mut vars: Vec<(&str, &Tensor)> = data.iter().map(|(name, var)| (name.as_str(), var.as_tensor())).collect();
        vars.extend([("images", images.as_tensor()), ("pixels", pixels.as_tensor())]);
        let mut worst = 0f64;
        for (name, var) in vars {
            let Some(want) = want_grads.get(var) else { continue };
            let got = grads.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
            // Where the true gradient is zero, rounding is all there is.
            let distance = golden::max_diff(got, want) / largest(want).max(1e-2);
            worst = worst.max(distance);
            assert!(distance < 1e-4, "{name}: {distance:.1e}");
        }
        println!(
            "stack against ops, packed {packed}, direct {direct}: worst gradient {worst:.1e} of the largest element"
        );
    }
}

/// Values and gradients of PyTorch 2.15's `F.normalize`, of a row of zeros too.
#[test]
fn a_row_of_zeros_has_a_finite_gradient() {
    let x = Var::from_tensor(&Tensor::new(&[[0f32, 0.0, 0.0], [3.0, 4.0, 0.0]], &Device::Cpu).unwrap()).unwrap();
    let outer = Tensor::new(&[[1f32, 2.0, 3.0], [1.0, 2.0, 3.0]], &Device::Cpu).unwrap();
    let y = nn::l2_normalize(x.as_tensor()).unwrap();
    assert_eq!(y.to_vec2::<f32>().unwrap(), [[0.0, 0.0, 0.0], [0.6, 0.8, 0.0]]);
    let grads = (y * outer).unwrap().sum_all().unwrap().backward().unwrap();
    let got = grads.get(x.as_tensor()).unwrap().to_vec2::<f32>().unwrap();
    let want = [[1e12, 2e12, 3e12], [-0.064, 0.048, 0.6]];
    for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
        assert!((got - want).abs() <= 1e-6 * want.abs(), "{got}, {want} by PyTorch");
    }
}

/// With dropout the op is still a fixed function of its inputs, so finite differences can judge its gradient.
#[test]
fn attention_with_dropout_has_the_right_gradient() {
    let (q, k, v) = (random(&[1, 3, 8], 1), random(&[1, 4, 8], 2), random(&[1, 4, 8], 3));
    let value = |q: &Tensor, k: &Tensor, v: &Tensor| {
        let y = nn::attention(q, k, v, 2, None, Some(&Dropout::new(0.4, 9).unwrap())).unwrap();
        (&y * y.cos().unwrap()).unwrap().sum_all().unwrap()
    };
    let grads = value(&q, &k, &v).backward().unwrap();
    for (which, var) in [&q, &k, &v].into_iter().enumerate() {
        let got = grads.get(var.as_tensor()).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let base = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for i in (0..base.len()).step_by(5) {
            let at = |step: f32| {
                let mut moved = base.clone();
                moved[i] += step;
                let moved = Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap();
                let pick = |n: usize, t: &Var| if n == which { moved.clone() } else { t.as_tensor().clone() };
                value(&pick(0, &q), &pick(1, &k), &pick(2, &v)).to_scalar::<f32>().unwrap()
            };
            let numeric = (at(0.01) - at(-0.01)) / 0.02;
            assert!((numeric - got[i]).abs() < 2e-3, "input {which}, element {i}: {numeric} against {}", got[i]);
        }
    }
}

/// A loss that uses every part must reach every variable; a detached op would leave a hole here.
#[test]
fn every_variable_gets_a_gradient() {
    let arch = golden::arch();
    for decoder in [Decoder::Own, Decoder::Shared] {
        let map = VarMap::new();
        let cada = Cada::new(&arch, decoder, VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu)).unwrap();
        let pixels = random(&[2, 3, 64, 32], 1);
        let texts = TokenBatch::new(&[vec![101, 500, 600, 102], vec![101, 7, 102]], 0, None);
        let dropout = Dropout::new(0.1, 1).unwrap();
        let images = cada.image_embeds(pixels.as_tensor()).unwrap();
        let global = nn::l2_normalize(&cada.image_proj(&images).unwrap()).unwrap();
        let text = cada.text_proj(&cada.text_embeds(&texts, Some(&dropout)).unwrap()).unwrap();
        let fused = cada.fused(&texts, &images, Some(&dropout)).unwrap();
        let logits = cada.itm_logits(&fused).unwrap();
        let local = cada.itm_local_logits(&fused.narrow(1, 1, 2).unwrap().mean(1).unwrap()).unwrap();
        let mlm = cada.text_decoder().unwrap();
        let hidden = mlm.bert().forward(&texts, &Pass { image: Some(&images), ..Pass::default() }).unwrap();
        let words = mlm.logits(&hidden).unwrap();
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
            // Adding a constant to every key changes no probability: that gradient is rounding noise.
            let flat = name.ends_with("key.bias");
            assert!(size.is_finite() && (size > 0.0 || flat), "{name}: largest gradient {size}");
        }
        println!("{decoder:?}: {} variables, all with a gradient", data.len());
    }
}
