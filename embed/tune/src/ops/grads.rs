//! Accumulates gradients of variables in place.
//!
//! For every use of a variable, candle's backward pass makes a tensor of zeros and a sum.
//! [`backward`] lets our own ops add directly to one accumulator per variable; contributions of
//! candle's ops are added at the end. A plain `loss.backward()` gives the same gradients,
//! accumulated by candle.
//!
//! An op of candle has at most three arguments, but a stack of layers has dozens of parameters, so
//! a chain of [`ParameterToken`]s represents them. Candle reaches the nodes of the chain after the
//! stack's node; by then the stack has written the gradients of their parameters to
//! [`GradientSlots`].

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor, TensorId};
use rayon::prelude::*;

type Accumulators = HashMap<TensorId, (Tensor, Vec<f32>)>;

thread_local! {
    /// Accumulators; `Some` while [`backward`] runs on this thread.
    static ACTIVE: RefCell<Option<Accumulators>> = const { RefCell::new(None) };
}

/// The gradients of the scalar `loss`: the same as `loss.backward()`, but faster.
///
/// # Errors
/// When candle fails.
pub fn backward(loss: &Tensor) -> Result<GradStore> {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            ACTIVE.set(None);
        }
    }
    let _reset = Reset;
    ACTIVE.set(Some(Accumulators::new()));
    let mut grads = loss.backward()?;
    for (variable, sum) in ACTIVE.take().unwrap_or_default().into_values() {
        let sum = Tensor::from_vec(sum, variable.shape(), variable.device())?;
        let sum = match grads.remove(&variable) {
            Some(other) => (sum + other)?,
            None => sum,
        };
        grads.insert(&variable, sum);
    }
    Ok(grads)
}

/// Values per parallel task.
const VALUES_PER_TASK: usize = 1 << 14;

/// Passes on the gradient of an op's argument: adds it to the variable's accumulator and returns
/// `None`, or returns it as a tensor for candle. `None` also if `argument` tracks no gradient.
pub(super) fn pass_gradient(argument: &Tensor, gradient: Vec<f32>) -> Result<Option<Tensor>> {
    if !argument.track_op() {
        return Ok(None);
    }
    if !argument.is_variable() {
        return Tensor::from_vec(gradient, argument.shape(), argument.device()).map(Some);
    }
    ACTIVE.with_borrow_mut(|active| match active {
        None => Tensor::from_vec(gradient, argument.shape(), argument.device()).map(Some),
        Some(sums) => {
            match sums.get_mut(&argument.id()) {
                Some((_, sum)) => sum
                    .par_chunks_mut(VALUES_PER_TASK)
                    .zip(gradient.par_chunks(VALUES_PER_TASK))
                    .for_each(|(sum, part)| sum.iter_mut().zip(part).for_each(|(s, p)| *s += p)),
                None => {
                    sums.insert(argument.id(), (argument.clone(), gradient));
                }
            }
            Ok(None)
        }
    })
}

/// Passes on a sparse gradient like [`pass_gradient`]; `add` adds it to the accumulator.
pub(super) fn pass_sparse_gradient(argument: &Tensor, add: impl FnOnce(&mut [f32])) -> Result<Option<Tensor>> {
    if !argument.track_op() {
        return Ok(None);
    }
    let sum = ACTIVE.with_borrow_mut(|active| active.as_mut()?.remove(&argument.id()));
    let mut sum = sum.map_or_else(|| vec![0.0; argument.elem_count()], |(_, sum)| sum);
    add(&mut sum);
    pass_gradient(argument, sum)
}

/// Gradients of a stack's parameters, one per parameter, written by its backward pass.
pub(super) type GradientSlots = Arc<Mutex<Vec<Option<Vec<f32>>>>>;

/// A scalar that depends on `parameters` in candle's graph; its backward pass takes their gradients
/// out of `slots`.
pub(super) fn parameter_token(parameters: &[&Tensor], slots: &GradientSlots) -> Result<Tensor> {
    let mut token = Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu)?;
    for (i, pair) in parameters.chunks(2).enumerate() {
        if pair.iter().any(|p| p.track_op()) {
            let second = pair.get(1).copied().unwrap_or(&token).clone();
            token = token.apply_op3(pair[0], &second, ParameterToken { slots: Arc::clone(slots), first: 2 * i })?;
        }
    }
    Ok(token)
}

struct ParameterToken {
    slots: GradientSlots,
    first: usize,
}

impl CustomOp3 for ParameterToken {
    fn name(&self) -> &'static str {
        "parameters"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), 1.into()))
    }

    fn bwd(
        &self,
        before: &Tensor,
        first: &Tensor,
        second: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let take = |i: usize, parameter: &Tensor| {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            match slots.get_mut(i).and_then(Option::take) {
                Some(gradient) => pass_gradient(parameter, gradient),
                None => Ok(None),
            }
        };
        let before = before.track_op().then(|| grad.clone());
        Ok((before, take(self.first, first)?, take(self.first + 1, second)?))
    }
}
