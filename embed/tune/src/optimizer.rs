//! AdamW in one pass over every parameter, in place, with a state that can be stored and resumed
//! exactly.
//!
//! candle's own optimiser makes a dozen temporary tensors per parameter and hides its moments, so a
//! run could not be continued where it stopped.
//!
//! Each parameter counts its own updates, as in PyTorch: bias correction depends on how often the
//! moments were updated, and a parameter that was frozen or had no gradient kept its moments. With
//! the run's count instead, a parameter that starts at step 1,200 would move by up to 5.5 times the
//! learning rate for its first hundred steps.

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
    /// comes after the run's first step; parameters that are updated from the start are not
    /// affected. 0 for none, as in PyTorch.
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
    /// Whether its first update came after the run's first step.
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
    /// Creates an optimiser of `variables`, which it sorts by name.
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

    /// Sets the factor on the learning rate of each parameter by its name: a part that was trained
    /// elsewhere should learn more slowly than new parts.
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
        // Every sum has a fixed order, so that a repeated run is bit-identical.
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

    /// Restores the state that [`AdamW::state`] returned after `step` steps. An older checkpoint
    /// has no counts per parameter; parameters with non-zero moments then take the run's count, so
    /// that their bias corrections stay the same.
    ///
    /// # Errors
    /// A missing moment, a moment of another size, or a step that is not a number.
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
mod tests;
