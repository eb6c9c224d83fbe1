//! AdamW in one pass over every parameter, in place, with a state that can be stored and resumed
//! exactly.
//!
//! candle's own optimiser makes a dozen temporary tensors per parameter and hides its moments, so a
//! run could not be continued where it stopped.
//!
//! Each parameter counts its own updates, as PyTorch's does: bias correction divides by how far the
//! moments have come, and the moments of a parameter that was frozen or had no gradient have not
//! moved. With the run's count instead, a parameter that starts at step 1,200 is moved by up to 5.5
//! times the learning rate for its first hundred steps.

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::{CpuStorage, DType, Device, InplaceOp2, Layout, Result, Tensor, Var, backprop::GradStore, bail};
use rayon::prelude::*;

use crate::ops::with_values;
use sightline_embed::multiversion;

/// Default warm-up, in updates, of a parameter whose first update comes after the run's first step.
/// It is about as long as the presets' warm-up (150 steps), for the same reason: second moments of
/// few gradients are unreliable.
pub const LATE_WARMUP: usize = 100;

/// Settings of AdamW (specification, section 5). Weight decay is applied first (`p *= 1 - lr *
/// decay`), to every parameter, as in the reference.
#[derive(Clone, Copy, Debug)]
pub struct AdamWConfig {
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the square root of the second moment, against division by zero.
    pub eps: f64,
    /// Weight decay.
    pub decay: f64,
    /// Updates over which the learning rate of a parameter rises linearly when its first update
    /// comes after the run's first step; parameters that are there from the start are not touched
    /// by it. 0 for none, as in PyTorch.
    pub late_warmup: usize,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.05, late_warmup: LATE_WARMUP }
    }
}

/// A parameter and its moments.
struct ParameterState {
    name: String,
    var: Var,
    first: Vec<f32>,
    second: Vec<f32>,
    /// Number of updates of this parameter.
    step: usize,
    /// Its first update came after the run's first step.
    late: bool,
    /// Factor on the learning rate.
    factor: f64,
}

impl ParameterState {
    /// Counts one update and returns its coefficients at learning rate `lr`.
    fn rule(&mut self, config: &AdamWConfig, lr: f64, scale: f32, run_step: usize) -> UpdateRule {
        if self.step == 0 {
            self.late = run_step > 1;
        }
        self.step += 1;
        let warm = if self.late { self.step as f64 / config.late_warmup.max(1) as f64 } else { 1.0 };
        let lr = lr * warm.min(1.0) * self.factor;
        let AdamWConfig { beta1, beta2, eps, decay, .. } = *config;
        let (fix1, fix2) = (1.0 - beta1.powi(self.step as i32), 1.0 - beta2.powi(self.step as i32));
        UpdateRule {
            scale,
            rate: (lr / fix1) as f32,
            root: (1.0 / fix2.sqrt()) as f32,
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            eps: eps as f32,
            keep: (1.0 - lr * decay) as f32,
        }
    }
}

/// The optimiser and its moments.
pub struct AdamW {
    config: AdamWConfig,
    parameters: Vec<ParameterState>,
    step: usize,
}

impl AdamW {
    /// An optimiser of `variables`, which it sorts by name.
    pub fn new(mut variables: Vec<(String, Var)>, config: AdamWConfig) -> Self {
        variables.sort_by(|a, b| a.0.cmp(&b.0));
        let parameters = variables
            .into_iter()
            .map(|(name, var)| {
                let n = var.elem_count();
                ParameterState {
                    name,
                    var,
                    first: vec![0.0; n],
                    second: vec![0.0; n],
                    step: 0,
                    late: false,
                    factor: 1.0,
                }
            })
            .collect();
        Self { config, parameters, step: 0 }
    }

    /// Sets the factor on the learning rate of each parameter by its name: a part that was trained elsewhere learns more
    /// slowly than fresh ones.
    pub fn scale_rates(&mut self, factor: impl Fn(&str) -> f64) {
        self.parameters.iter_mut().for_each(|parameter| parameter.factor = factor(&parameter.name));
    }

    /// Steps taken so far.
    pub fn steps(&self) -> usize {
        self.step
    }

    /// Takes one step at learning rate `lr`. Parameters that have no gradient, or whose name is
    /// `frozen`, stay unchanged, and so does their own count of steps. With `clip`, gradients are
    /// scaled down to that total norm. Returns the norm before clipping.
    ///
    /// # Errors
    /// When candle fails.
    pub fn step(
        &mut self,
        grads: &GradStore,
        lr: f64,
        clip: Option<f64>,
        frozen: impl Fn(&str) -> bool,
    ) -> Result<f64> {
        self.step += 1;
        let gradient = |parameter: &ParameterState| match grads.get(parameter.var.as_tensor()) {
            Some(g) if !frozen(&parameter.name) => g.contiguous().map(Some),
            _ => Ok(None),
        };
        let all = self.parameters.iter().map(gradient).collect::<Result<Vec<_>>>()?;
        // Each sum in a fixed order, so that a run repeats itself to the bit.
        let squares = |g: &Option<Tensor>| match g {
            Some(g) => {
                with_values(g, |g| g.par_chunks(VALUES_PER_TASK).map(square_sum).collect::<Vec<f64>>().iter().sum())
            }
            None => Ok(0.0),
        };
        let norm = all.par_iter().map(squares).collect::<Result<Vec<f64>>>()?.iter().sum::<f64>().sqrt();
        if !norm.is_finite() {
            bail!("the gradient is not finite at step {}", self.step);
        }
        let scale = clip.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0)) as f32;
        let (config, run_step) = (self.config, self.step);
        self.parameters.par_iter_mut().zip(all).try_for_each(|(parameter, gradient)| match gradient {
            Some(g) => {
                let rule = parameter.rule(&config, lr, scale, run_step);
                let moments = RefCell::new((&mut parameter.first[..], &mut parameter.second[..]));
                parameter.var.inplace_op2(&g, &Update { rule, moments })
            }
            None => Ok(()),
        })?;
        Ok(norm)
    }

    /// Moments by name (`first.*`, `second.*`), and as scalars how often each parameter was updated
    /// (`step.*`) and whether it started late (`late.*`, 0 or 1), for a checkpoint.
    ///
    /// # Errors
    /// When candle fails.
    pub fn state(&self) -> Result<HashMap<String, Tensor>> {
        let mut all = HashMap::new();
        for parameter in &self.parameters {
            for (prefix, values) in [("first", &parameter.first), ("second", &parameter.second)] {
                all.insert(
                    format!("{prefix}.{}", parameter.name),
                    Tensor::from_slice(values, parameter.var.shape(), &Device::Cpu)?,
                );
            }
            for (prefix, count) in [("step", parameter.step as u32), ("late", u32::from(parameter.late))] {
                all.insert(format!("{prefix}.{}", parameter.name), Tensor::new(count, &Device::Cpu)?);
            }
        }
        Ok(all)
    }

    /// Restores the state that [`AdamW::state`] returned after `step` steps. In an older
    /// checkpoint, which has no count per parameter, parameters with moments take the run's count,
    /// so that their bias corrections stay the same.
    ///
    /// # Errors
    /// A missing moment or one of another size, or a step that is no number.
    pub fn restore(&mut self, state: &HashMap<String, Tensor>, step: usize) -> Result<()> {
        for parameter in &mut self.parameters {
            for (prefix, values) in [("first", &mut parameter.first), ("second", &mut parameter.second)] {
                let name = format!("{prefix}.{}", parameter.name);
                match state.get(&name) {
                    Some(t) if t.elem_count() == values.len() => {
                        *values = t.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?
                    }
                    _ => bail!("the checkpoint lacks {name} of {} values", values.len()),
                }
            }
            let count = |prefix: &str| match state.get(&format!("{prefix}.{}", parameter.name)) {
                Some(t) => t.to_dtype(DType::U32)?.to_scalar::<u32>().map(|n| Some(n as usize)),
                None => Ok(None),
            };
            let moved = parameter.first.iter().chain(&parameter.second).any(|v| *v != 0.0);
            parameter.step = count("step")?.unwrap_or(if moved { step } else { 0 });
            parameter.late = count("late")?.unwrap_or(0) != 0;
        }
        self.step = step;
        Ok(())
    }
}

/// Values per parallel task.
const VALUES_PER_TASK: usize = 1 << 15;

/// Coefficients of one update, the same for every value of a parameter.
#[derive(Clone, Copy)]
struct UpdateRule {
    /// Factor on the gradient, from clipping.
    scale: f32,
    /// Learning rate over the bias correction of the first moment.
    rate: f32,
    /// 1 / sqrt(bias correction of the second moment).
    root: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    /// Factor of weight decay on the value.
    keep: f32,
}

/// The update of one variable, in place.
struct Update<'a> {
    rule: UpdateRule,
    moments: RefCell<(&'a mut [f32], &'a mut [f32])>,
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, values: &mut CpuStorage, at: &Layout, g: &CpuStorage, gl: &Layout) -> Result<()> {
        let (Some((from, to)), Some((g_from, g_to))) = (at.contiguous_offsets(), gl.contiguous_offsets()) else {
            bail!("AdamW needs contiguous variables");
        };
        let CpuStorage::F32(values) = values else { bail!("AdamW needs f32 variables") };
        let (values, g) = (&mut values[from..to], &g.as_slice::<f32>()?[g_from..g_to]);
        let mut moments = self.moments.borrow_mut();
        let (first, second) = &mut *moments;
        let parts = (
            values.par_chunks_mut(VALUES_PER_TASK),
            g.par_chunks(VALUES_PER_TASK),
            first.par_chunks_mut(VALUES_PER_TASK),
            second.par_chunks_mut(VALUES_PER_TASK),
        );
        let rule = self.rule;
        parts.into_par_iter().for_each(|(p, g, m, v)| update(rule, p, g, m, v));
        Ok(())
    }
}

multiversion! {
    fn update(rule: UpdateRule, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        let UpdateRule { scale, rate, root, beta1, beta2, eps, keep } = rule;
        let n = p.len();
        let (g, m, v) = (&g[..n], &mut m[..n], &mut v[..n]);
        for i in 0..n {
            let g = g[i] * scale;
            m[i] = beta1 * m[i] + (1.0 - beta1) * g;
            v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
            p[i] = p[i] * keep - rate * m[i] / (v[i].sqrt() * root + eps);
        }
    }
}

multiversion! {
    fn square_sum(x: &[f32]) -> f64 {
        let mut lanes = [0f64; 8];
        let whole = x.chunks_exact(8);
        let rest: f64 = whole.remainder().iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        for part in whole {
            for (lane, v) in lanes.iter_mut().zip(part) {
                *lane += f64::from(*v) * f64::from(*v);
            }
        }
        rest + lanes.iter().sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
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

    /// Gradients as `backward` makes them; those that are null are not there.
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

    /// Every step of every run; `frozen` says whether a gradient that is missing is there after
    /// all, but of a frozen name.
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
                        assert!(
                            off < 1e-6,
                            "run {number}, step {at}, {name}: {got}, {want} by PyTorch, off by {off:e}"
                        );
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

    /// One value with the same gradient at every step from `from` on: how far each step takes it,
    /// in learning rates.
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
            optimizer
                .parameters
                .iter()
                .map(|parameter| (parameter.name.clone(), parameter.step, parameter.late))
                .collect()
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
}
