//! A chain of transformer sublayers as one node of candle's graph, for training on the CPU.
//!
//! candle's backward pass makes a tensor of zeros and a sum for every argument of every node, and
//! every op passes over its whole tensor in memory. A [`stack()`] is one node: its sublayers pass
//! gradients to each other directly, and each processes the rows in chunks that stay in the
//! second-level cache. The backward pass computes norms and GELU again.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp3, Error, Layout, Result, Shape, Storage, Tensor, bail};
use sightline_embed::graph::LayerNorm;
use sightline_embed::kernel::{Buffer, Precision};
use sightline_embed::net::{Layer, Mask, Other, Rows, Saved};

use super::attention::AttentionTensors;
use super::contiguous;
use super::dense::{Sums, norm, norm_backward};
use super::feed_forward::FeedForwardTensors;
use super::grads::{GradientSlots, parameter_token, pass_gradient};

/// The variables of one sublayer.
#[derive(Clone, Debug)]
pub enum Sublayer {
    /// Self- or cross-attention with residual and norm.
    Attention(AttentionTensors),
    /// Two linear layers with GELU between them, residual and norm.
    FeedForward(FeedForwardTensors),
    /// A single norm.
    Norm(LayerNorm),
}

/// Result of a sublayer's backward pass: the gradient of its input, and one gradient per parameter.
pub(super) struct Gradients {
    pub(super) input: Buffer,
    pub(super) parameters: Vec<Vec<f32>>,
}

impl Sublayer {
    fn parameters(&self) -> Vec<&Tensor> {
        match self {
            Self::Attention(l) => l.parameters(),
            Self::FeedForward(l) => l.parameters(),
            Self::Norm(norm) => vec![&norm.weight, &norm.bias],
        }
    }

    /// The serving layer, with its weights packed into the kernel's tiles for the forward pass.
    fn prepacked(&self, precision: Precision) -> Result<Layer> {
        Ok(match self {
            Self::Attention(l) => Layer::Attention(l.prepacked(precision)?),
            Self::FeedForward(l) => Layer::FeedForward(l.prepacked(precision)?),
            Self::Norm(l) => Layer::Norm(norm(l)?),
        })
    }

    /// Computes the gradients. `g` is the gradient of the output; the gradient of `other` is added
    /// to the slice beside it.
    fn backward(
        &self,
        at: &Rows,
        (x, saved): (&[f32], &Saved),
        g: &[f32],
        other: Option<(Other<'_>, &mut [f32])>,
        p: Precision,
    ) -> Result<Gradients> {
        match (self, saved) {
            (Self::Attention(l), Saved::Attention(saved)) => l.backward(at, (x, saved), g, other, p),
            (Self::FeedForward(l), Saved::FeedForward(saved)) => l.backward(at, (x, saved), g, p),
            (Self::Norm(l), Saved::Norm) => {
                let (input, parameters) = norm_backward(&norm(l)?, x, g);
                Ok(Gradients { input, parameters })
            }
            _ => bail!("a sublayer was given what another one saved"),
        }
    }
}

/// Passes `x` `[batch, tokens, width]` through `layers`, first to last, in the current precision.
/// Cross-attention attends to `other` `[batch, rows, width of the other side]`; `mask` hides keys
/// from self-attention. CPU only, f32.
///
/// # Errors
/// Shapes that do not fit each other, cross-attention without `other`.
pub fn stack(x: &Tensor, other: Option<&Tensor>, mask: Option<&Mask>, layers: Vec<Sublayer>) -> Result<Tensor> {
    apply(x, equal_lengths(x)?, other, mask, layers)
}

/// Works like [`stack()`], for items of `lengths` rows that follow each other in `x` `[sum of
/// lengths, width]`, see [`super::drop_padding`].
///
/// # Errors
/// The errors of [`stack()`], and lengths that are not those of `x`.
pub fn stack_without_padding(
    x: &Tensor,
    lengths: &[usize],
    other: Option<&Tensor>,
    mask: Option<&Mask>,
    layers: Vec<Sublayer>,
) -> Result<Tensor> {
    let (count, width) = x.dims2()?;
    let rows = Rows::new(lengths.iter().copied(), width);
    if rows.count() != count || lengths.contains(&0) {
        bail!("{count} rows are not items of the lengths {lengths:?}");
    }
    apply(x, rows, other, mask, layers)
}

/// The rows of `[batch, tokens, width]`.
fn equal_lengths(x: &Tensor) -> Result<Rows> {
    let (batch, tokens, width) = x.dims3()?;
    Ok(Rows::even(batch, tokens, width))
}

fn apply(x: &Tensor, rows: Rows, other: Option<&Tensor>, mask: Option<&Mask>, layers: Vec<Sublayer>) -> Result<Tensor> {
    let other_rows = other.map(equal_lengths).transpose()?;
    let parameters: Vec<&Tensor> = layers.iter().flat_map(Sublayer::parameters).collect();
    let slots = GradientSlots::default();
    let save = x.track_op() || other.is_some_and(Tensor::track_op) || parameters.iter().any(|p| p.track_op());
    let parameter_token = parameter_token(&parameters, &slots)?;
    let x = x.contiguous()?;
    let other = other.map_or(Ok(x.clone()), Tensor::contiguous)?;
    let op = StackOp {
        rows,
        other: other_rows,
        mask: mask.cloned(),
        precision: Precision::current(),
        slots,
        save,
        saved: Mutex::default(),
        layers,
    };
    x.apply_op3(&other, &parameter_token, op)
}

struct StackOp {
    rows: Rows,
    other: Option<Rows>,
    mask: Option<Mask>,
    precision: Precision,
    slots: GradientSlots,
    /// Whether there will be a backward pass.
    save: bool,
    layers: Vec<Sublayer>,
    saved: Mutex<AllSaved>,
}

/// What each layer saved, and the output of every layer except the last.
#[derive(Default)]
struct AllSaved {
    layers: Vec<Saved>,
    outputs: Vec<Buffer>,
}

impl CustomOp3 for StackOp {
    fn name(&self) -> &'static str {
        "stack"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        other: &CpuStorage,
        other_layout: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = contiguous("stack", x, x_layout)?;
        let values = contiguous("stack", other, other_layout)?;
        let other = self.other.as_ref().map(|rows| Other { rows, values });
        let run = || -> Result<(AllSaved, Buffer)> {
            let (mut all, mut last) = (AllSaved::default(), Buffer::default());
            for (i, layer) in self.layers.iter().enumerate() {
                let input = if i == 0 { x } else { &last };
                let packed = layer.prepacked(self.precision)?;
                let (output, saved) =
                    packed.forward(&self.rows, input, other, self.mask.as_ref(), self.save).map_err(Error::wrap)?;
                all.layers.extend(saved);
                if i > 0 && self.save {
                    all.outputs.push(std::mem::take(&mut last));
                }
                last = output;
            }
            Ok((all, last))
        };
        let (all, last) = on_a_worker(run)?;
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = all;
        let values = if self.layers.is_empty() { x.to_vec() } else { last.into_vec() };
        Ok((CpuStorage::F32(values), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        other: &Tensor,
        parameter_token: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let guards = [x, other, &grad].map(Tensor::storage_and_layout);
        let [(Storage::Cpu(xs), xl), (Storage::Cpu(os), ol), (Storage::Cpu(gs), gl)] =
            [0, 1, 2].map(|i| (&*guards[i].0, guards[i].1))
        else {
            bail!("a stack's own backward runs on the CPU only");
        };
        let (xs, gs) = (contiguous("stack", xs, xl)?, contiguous("stack", gs, gl)?);
        let values = contiguous("stack", os, ol)?;
        let mut other_gradient = self.other.as_ref().map(|rows| Buffer::zeros(rows.numbers()));
        let guard = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let saved: &AllSaved = &guard;
        let run = || -> Result<(Vec<Sums>, Option<Buffer>)> {
            let (mut parameters, mut flowing) = (Vec::new(), None::<Buffer>);
            // Leading layers without trainable parameters need no backward pass if the inputs are
            // constant.
            let wanted = |layer: &Sublayer| layer.parameters().iter().any(|p| p.track_op());
            let first =
                if x.track_op() || other.track_op() { 0 } else { self.layers.iter().position(wanted).unwrap_or(0) };
            for (i, layer) in self.layers.iter().enumerate().rev() {
                if i < first {
                    parameters.push(vec![Vec::new(); layer.parameters().len()]);
                    continue;
                }
                let input = if i == 0 { xs } else { &saved.outputs[i - 1] };
                let g = flowing.as_deref().unwrap_or(gs);
                let cross = self.other.as_ref().map(|rows| Other { rows, values }).zip(other_gradient.as_deref_mut());
                let gradients = layer.backward(&self.rows, (input, &saved.layers[i]), g, cross, self.precision)?;
                flowing = Some(gradients.input);
                parameters.push(gradients.parameters);
            }
            Ok((parameters, flowing))
        };
        let (parameters, flowing) = on_a_worker(run)?;
        drop(guards);
        let all = parameters.into_iter().rev().flatten().map(Some).collect();
        *self.slots.lock().unwrap_or_else(PoisonError::into_inner) = all;
        let dx = match flowing {
            Some(dx) if x.track_op() => pass_gradient(x, dx.into_vec())?,
            _ => None,
        };
        let dother = match other_gradient {
            Some(d) if other.track_op() => pass_gradient(other, d.into_vec())?,
            _ => None,
        };
        let dtoken = if parameter_token.track_op() { Some(parameter_token.ones_like()?) } else { None };
        Ok((dx, dother, dtoken))
    }
}

/// Runs `work` on a thread of the pool, so that its many parallel parts begin and end without
/// putting the caller to sleep and waking it each time.
fn on_a_worker<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}
