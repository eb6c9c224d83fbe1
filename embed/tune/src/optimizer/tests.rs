//! `tests/golden/train/adamw.json` was made by PyTorch 2.15:
//!
//! ```python
//! LR = [1e-3, 2e-3, 5e-3, 5e-3, 5e-3, 3e-3, 1e-2, 1e-2, 1e-3, 5e-4, 5e-4, 1e-4]
//! HAS = {"start": lambda t: True, "late": lambda t: t >= 4, "paused": lambda t: not 3 <= t < 7}
//! def run(decay, clip):
//!     p = {n: torch.nn.Parameter(torch.randn(3)) for n in HAS}
//!     opt = torch.optim.AdamW(p.values(), lr=0.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay)
//!     for t, lr in enumerate(LR):
//!         g = {n: torch.randn(3) * 10 ** (t % 3 - 1) if has(t) else None for n, has in HAS.items()}
//!         for n in p:
//!             p[n].grad = None if g[n] is None else g[n].clone()
//!         norm = torch.nn.utils.clip_grad_norm_(p.values(), clip or float("inf"))
//!         opt.param_groups[0]["lr"] = lr
//!         opt.step()
//! runs = [run(0.0, None), run(0.05, None), run(0.3, 1.5)]  # after manual_seed(7)
//! ```

use serde_json::Value;

use super::*;
use crate::ops::backward;

const PYTORCH: AdamWConfig = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.05, late_warmup: 0 };

fn numbers(v: &Value) -> Vec<f32> {
    v.as_array().expect("numbers").iter().map(|v| v.as_f64().expect("a number") as f32).collect()
}

/// Parameters by name, and an optimiser of them.
fn fresh(initial: &Value, config: AdamWConfig) -> (Vec<(String, Var)>, AdamW) {
    let var = |v: &Value| Var::from_vec(numbers(v), 3, &Device::Cpu).expect("a variable");
    let all = initial.as_object().expect("by name").iter().map(|(name, v)| (name.clone(), var(v)));
    let all: Vec<(String, Var)> = all.collect();
    (all.clone(), AdamW::new(all, config))
}

/// Gradients as `backward` computes them; null ones are left out.
fn gradients(variables: &[(String, Var)], wanted: &Value) -> GradStore {
    let mut loss = Tensor::zeros((), DType::F32, &Device::Cpu).expect("zero");
    for (name, var) in variables.iter().filter(|(name, _)| !wanted[name].is_null()) {
        let slope = Tensor::new(numbers(&wanted[name]), &Device::Cpu).expect("a gradient");
        let part = (var.as_tensor() * slope).and_then(|part| part.sum_all());
        loss = part.and_then(|part| loss + part).expect("a loss");
    }
    backward(&loss).expect("differentiable")
}

fn values(variables: &[(String, Var)]) -> Vec<f32> {
    variables.iter().flat_map(|(_, var)| var.as_tensor().to_vec1::<f32>().expect("f32")).collect()
}

fn golden() -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/train/adamw.json");
    serde_json::from_slice(&std::fs::read(path).expect("the golden file")).expect("JSON")
}

/// Follows every step of every run. With `frozen`, the missing gradient of "paused" exists, but the
/// parameter is frozen.
fn follow(frozen: bool) {
    for (number, run) in golden()["runs"].as_array().expect("runs").iter().enumerate() {
        let config = AdamWConfig { decay: run["decay"].as_f64().expect("a decay"), ..PYTORCH };
        let (variables, mut optimizer) = fresh(&run["initial"], config);
        for (at, step) in run["steps"].as_array().expect("steps").iter().enumerate() {
            let mut slopes = step["gradients"].clone();
            let missing = |name: &str| step["gradients"][name].is_null();
            if frozen && missing("paused") {
                slopes["paused"] = serde_json::json!([9.0, -9.0, 9.0]);
            }
            let grads = gradients(&variables, &slopes);
            let lr = step["lr"].as_f64().expect("a rate");
            let norm = optimizer.step(&grads, lr, run["clip"].as_f64(), |name| frozen && missing(name));
            let norm = norm.expect("a step");
            let expected = step["norm"].as_f64().expect("a norm");
            assert!((norm / expected - 1.0).abs() < 1e-6, "run {number}, step {at}: norm {norm}, {expected}");
            for (name, var) in &variables {
                let got = var.as_tensor().to_vec1::<f32>().expect("f32");
                for (got, want) in got.iter().zip(numbers(&step["values"][name])) {
                    let off = (got - want).abs() / want.abs();
                    assert!(off < 1e-6, "run {number}, step {at}, {name}: {got}, {want} by PyTorch, off by {off:e}");
                }
            }
        }
    }
}

#[test]
fn every_step_is_that_of_pytorch() {
    follow(false);
}

#[test]
fn a_frozen_parameter_is_one_without_a_gradient() {
    follow(true);
}

/// Runs `from..to` of the golden run with decay and clipping.
fn steps(variables: &[(String, Var)], optimizer: &mut AdamW, run: &Value, range: std::ops::Range<usize>) {
    for step in &run["steps"].as_array().expect("steps")[range] {
        let grads = gradients(variables, &step["gradients"]);
        let lr = step["lr"].as_f64().expect("a rate");
        optimizer.step(&grads, lr, run["clip"].as_f64(), |_| false).expect("a step");
    }
}

#[test]
fn restored_goes_on_to_the_bit() {
    let run = &golden()["runs"][2];
    for late_warmup in [0, 6] {
        let config = AdamWConfig { late_warmup, ..PYTORCH };
        let (straight, mut optimizer) = fresh(&run["initial"], config);
        steps(&straight, &mut optimizer, run, 0..12);
        // Before, in and after each parameter's pause and warm-up.
        for cut in 1..12 {
            let (first, mut optimizer) = fresh(&run["initial"], config);
            steps(&first, &mut optimizer, run, 0..cut);
            let state = optimizer.state().expect("a state");
            let (second, mut other) = fresh(&run["initial"], config);
            for ((_, to), (_, from)) in second.iter().zip(&first) {
                to.set(from.as_tensor()).expect("same shape");
            }
            other.restore(&state, optimizer.steps()).expect("a whole state");
            steps(&second, &mut other, run, cut..12);
            assert_eq!(values(&second), values(&straight), "cut at {cut}, warm-up {late_warmup}");
        }
    }
}

/// Gives one value the same gradient at every step from `from` on. Returns how far each step moves
/// it, in learning rates.
fn strides(from: usize, config: AdamWConfig, steps: usize) -> Vec<f64> {
    let initial = serde_json::json!({"it": [0.0, 0.0, 0.0], "other": [0.0, 0.0, 0.0]});
    let (variables, mut optimizer) = fresh(&initial, AdamWConfig { decay: 0.0, ..config });
    let mut at = 0.0;
    let stride = |step| {
        let slopes = serde_json::json!({"other": [1.0, 1.0, 1.0], "it": (step >= from).then_some([0.5, 0.5, 0.5])});
        optimizer.step(&gradients(&variables, &slopes), 1e-3, None, |_| false).expect("a step");
        let now = f64::from(variables[0].1.as_tensor().to_vec1::<f32>().expect("f32")[0]);
        let stride = (at - now) / 1e-3;
        at = now;
        stride
    };
    (0..from + steps).map(stride).skip(from).collect()
}

#[test]
fn a_late_parameter_starts_as_gently_as_an_early_one() {
    for from in [0, 1, 1200] {
        for (at, stride) in strides(from, PYTORCH, 150).iter().enumerate() {
            assert!((stride - 1.0).abs() < 1e-3, "started at {from}: {stride} learning rates at its step {at}");
        }
    }
    let late = strides(1200, AdamWConfig::default(), 150);
    for (at, stride) in late.iter().enumerate() {
        let warm = ((at + 1) as f64 / 100.0).min(1.0);
        assert!((stride - warm).abs() < 1e-3, "{stride} learning rates at its step {at}, not {warm}");
    }
}

#[test]
fn a_parameter_from_the_start_has_no_warm_up_of_its_own() {
    let run = &golden()["runs"][2];
    let ends = [0, LATE_WARMUP].map(|late_warmup| {
        let (variables, mut optimizer) = fresh(&run["initial"], AdamWConfig { late_warmup, ..PYTORCH });
        steps(&variables, &mut optimizer, run, 0..12);
        variables.iter().map(|(name, var)| (name.clone(), var.as_tensor().to_vec1::<f32>().expect("f32"))).collect()
    });
    let [without, with]: [Vec<(String, Vec<f32>)>; 2] = ends;
    for ((name, without), (_, with)) in without.iter().zip(&with) {
        // "paused" is frozen in its middle, not late.
        assert_eq!(without != with, name == "late", "{name}");
    }
}

#[test]
fn a_checkpoint_without_steps_of_parameters_goes_on() {
    let run = &golden()["runs"][0];
    let (first, mut optimizer) = fresh(&run["initial"], PYTORCH);
    steps(&first, &mut optimizer, run, 0..3);
    let mut state = optimizer.state().expect("a state");
    state.retain(|name, _| name.starts_with("first.") || name.starts_with("second."));
    let (second, mut other) = fresh(&run["initial"], PYTORCH);
    other.restore(&state, 3).expect("moments are enough");
    let told = |optimizer: &AdamW| -> Vec<(String, usize, bool)> {
        optimizer.parameters.iter().map(|parameter| (parameter.name.clone(), parameter.step, parameter.late)).collect()
    };
    let expected = [("late", 0), ("paused", 3), ("start", 3)].map(|(name, step)| (name.to_owned(), step, false));
    assert_eq!(told(&other), expected);
    // What has not moved yet starts late, as it would have without the stop.
    steps(&second, &mut other, run, 4..5);
    assert_eq!(told(&other)[0], ("late".to_owned(), 1, true));
    state.remove("first.late");
    let e = other.restore(&state, 3).expect_err("refused").to_string();
    assert!(e.contains("first.late of 3 values"), "{e}");
}
