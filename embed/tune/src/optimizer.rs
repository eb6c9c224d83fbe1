//! AdamW in one pass over every parameter, in place, with a state that can be stored and resumed exactly.
//!
//! candle's own optimiser makes a dozen temporary tensors per parameter and hides its moments, so a run could not be
//! continued where it stopped.

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::{CpuStorage, DType, Device, InplaceOp2, Layout, Result, Tensor, Var, backprop::GradStore, bail};
use rayon::prelude::*;

use crate::ops::with_values;
use sightline_embed::multiversion;

/// Settings; decay acts first (`p *= 1 - lr * decay`) and on every parameter, as in the reference.
#[derive(Clone, Copy, Debug)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay.
    pub decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.05 }
    }
}

struct Slot {
    name: String,
    var: Var,
    first: Vec<f32>,
    second: Vec<f32>,
}

/// The optimiser and its moments.
pub struct AdamW {
    config: AdamWConfig,
    slots: Vec<Slot>,
    step: usize,
}

impl AdamW {
    /// For `variables`, in the order of their names.
    pub fn new(mut variables: Vec<(String, Var)>, config: AdamWConfig) -> Self {
        variables.sort_by(|a, b| a.0.cmp(&b.0));
        let slots = variables
            .into_iter()
            .map(|(name, var)| {
                let n = var.elem_count();
                Slot { name, var, first: vec![0.0; n], second: vec![0.0; n] }
            })
            .collect();
        Self { config, slots, step: 0 }
    }

    /// Steps taken so far.
    pub fn steps(&self) -> usize {
        self.step
    }

    /// One step at learning rate `lr`; parameters without a gradient and those `frozen` names stay as they are.
    /// Gradients are scaled down to a total norm of `clip` when given. Returns the norm before that.
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
        let AdamWConfig { beta1, beta2, eps, decay } = self.config;
        let gradient = |slot: &Slot| match grads.get(slot.var.as_tensor()) {
            Some(g) if !frozen(&slot.name) => g.contiguous().map(Some),
            _ => Ok(None),
        };
        let all = self.slots.iter().map(gradient).collect::<Result<Vec<_>>>()?;
        // Each sum in a fixed order, so that a run repeats itself to the bit.
        let squares = |g: &Option<Tensor>| match g {
            Some(g) => with_values(g, |g| g.par_chunks(GRAIN).map(square_sum).collect::<Vec<f64>>().iter().sum()),
            None => Ok(0.0),
        };
        let norm = all.par_iter().map(squares).collect::<Result<Vec<f64>>>()?.iter().sum::<f64>().sqrt();
        if !norm.is_finite() {
            bail!("the gradient is not finite at step {}", self.step);
        }
        let fix1 = 1.0 - beta1.powi(self.step as i32);
        let fix2 = 1.0 - beta2.powi(self.step as i32);
        let rule = Rule {
            scale: clip.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0)) as f32,
            rate: (lr / fix1) as f32,
            root: (1.0 / fix2.sqrt()) as f32,
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            eps: eps as f32,
            keep: (1.0 - lr * decay) as f32,
        };
        self.slots.par_iter_mut().zip(all).try_for_each(|(slot, gradient)| match gradient {
            Some(g) => {
                let moments = RefCell::new((&mut slot.first[..], &mut slot.second[..]));
                slot.var.inplace_op2(&g, &Update { rule, moments })
            }
            None => Ok(()),
        })?;
        Ok(norm)
    }

    /// Moments by name (`first.*`, `second.*`), for a checkpoint.
    ///
    /// # Errors
    /// When candle fails.
    pub fn state(&self) -> Result<HashMap<String, Tensor>> {
        let mut all = HashMap::new();
        for slot in &self.slots {
            for (prefix, values) in [("first", &slot.first), ("second", &slot.second)] {
                all.insert(
                    format!("{prefix}.{}", slot.name),
                    Tensor::from_slice(values, slot.var.shape(), &Device::Cpu)?,
                );
            }
        }
        Ok(all)
    }

    /// Takes back what [`AdamW::state`] gave, after `step` steps.
    ///
    /// # Errors
    /// A missing moment or one of another size.
    pub fn restore(&mut self, state: &HashMap<String, Tensor>, step: usize) -> Result<()> {
        for slot in &mut self.slots {
            for (prefix, values) in [("first", &mut slot.first), ("second", &mut slot.second)] {
                let name = format!("{prefix}.{}", slot.name);
                match state.get(&name) {
                    Some(t) if t.elem_count() == values.len() => {
                        *values = t.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?
                    }
                    _ => bail!("the checkpoint lacks {name} of {} values", values.len()),
                }
            }
        }
        self.step = step;
        Ok(())
    }
}

/// Numbers a task handles.
const GRAIN: usize = 1 << 15;

/// What one step does to every number.
#[derive(Clone, Copy)]
struct Rule {
    scale: f32,
    rate: f32,
    root: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    keep: f32,
}

/// The step of one variable, in place.
struct Update<'a> {
    rule: Rule,
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
            values.par_chunks_mut(GRAIN),
            g.par_chunks(GRAIN),
            first.par_chunks_mut(GRAIN),
            second.par_chunks_mut(GRAIN),
        );
        let rule = self.rule;
        parts.into_par_iter().for_each(|(p, g, m, v)| update(rule, p, g, m, v));
        Ok(())
    }
}

multiversion! {
    fn update(rule: Rule, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        let Rule { scale, rate, root, beta1, beta2, eps, keep } = rule;
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
