//! AdamW in one pass over every parameter, with a state that can be stored and resumed exactly.
//!
//! candle's own optimiser makes a dozen temporary tensors per parameter and hides its moments, so a run could not be
//! continued where it stopped.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor, Var, backprop::GradStore, bail};
use rayon::prelude::*;

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
        let mut flat = Vec::with_capacity(self.slots.len());
        let mut square = 0f64;
        for slot in &self.slots {
            let grad = match grads.get(slot.var.as_tensor()) {
                Some(g) if !frozen(&slot.name) => Some(g.flatten_all()?.to_vec1::<f32>()?),
                _ => None,
            };
            if let Some(g) = &grad {
                square +=
                    g.par_chunks(1 << 16).map(|c| c.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>()).sum::<f64>();
            }
            flat.push(grad);
        }
        let norm = square.sqrt();
        if !norm.is_finite() {
            bail!("the gradient is not finite at step {}", self.step);
        }
        let scale = clip.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0)) as f32;
        let fix1 = 1.0 - beta1.powi(self.step as i32);
        let fix2 = 1.0 - beta2.powi(self.step as i32);
        let (rate, root) = ((lr / fix1) as f32, (1.0 / fix2.sqrt()) as f32);
        let (b1, b2, e, keep) = (beta1 as f32, beta2 as f32, eps as f32, (1.0 - lr * decay) as f32);
        for (slot, grad) in self.slots.iter_mut().zip(flat) {
            let Some(grad) = grad else { continue };
            let mut values = slot.var.flatten_all()?.to_vec1::<f32>()?;
            values
                .par_chunks_mut(1 << 14)
                .zip(grad.par_chunks(1 << 14))
                .zip(slot.first.par_chunks_mut(1 << 14).zip(slot.second.par_chunks_mut(1 << 14)))
                .for_each(|((p, g), (m, v))| {
                    for i in 0..p.len() {
                        let g = g[i] * scale;
                        m[i] = b1 * m[i] + (1.0 - b1) * g;
                        v[i] = b2 * v[i] + (1.0 - b2) * g * g;
                        p[i] = p[i] * keep - rate * m[i] / (v[i].sqrt() * root + e);
                    }
                });
            slot.var.set(&Tensor::from_vec(values, slot.var.shape(), slot.var.device())?)?;
        }
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
