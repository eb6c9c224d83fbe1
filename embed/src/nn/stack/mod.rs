//! A chain of transformer sublayers as one node of candle's graph, for training on the CPU.
//!
//! candle's backward pass makes a tensor of zeros and a sum for every argument of every node, and every op walks all of
//! its tensor in memory. A [`stack()`] is one node: its sublayers hand each other their gradients directly, and each works
//! through the rows in chunks that stay in the second-level cache from its first product to its last. What is not
//! needed again is not kept: norms and GELU are computed once more in the backward pass.
//!
//! Inference, dropout and devices other than the CPU use the ops beside this one, which compute the same.

mod attend;
mod dense;
mod feed;
mod heads;
mod rows;

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};

pub use attend::Attend;
pub use feed::Feed;

use super::buffer::Buffer;
use super::grads::{Slots, give, token};
use super::{LayerNorm, contiguous, ours};
use crate::kernel::Precision;
use rows::Norm;

/// Where a residual sublayer has its norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `x + branch(norm(x))`, as in ViT.
    Before,
    /// `norm(x + branch(x))`, as in BERT.
    After,
}

/// A sublayer of a stack.
#[derive(Clone, Debug)]
pub enum Layer {
    /// Self- or cross-attention with residual and norm.
    Attend(Attend),
    /// Two linear layers with GELU between them, residual and norm.
    Feed(Feed),
    /// A norm alone.
    Norm(LayerNorm),
}

/// Rows of a batch of items one behind the other: `[batch, tokens, width]`, or items of different lengths.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rows {
    /// Row at which each item starts, and the number of rows behind them.
    starts: Vec<usize>,
    width: usize,
}

impl Rows {
    fn new(lengths: impl IntoIterator<Item = usize>, width: usize) -> Self {
        let ends = lengths.into_iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        });
        Self { starts: std::iter::once(0).chain(ends).collect(), width }
    }

    /// Of `[batch, tokens, width]`.
    fn of(x: &Tensor) -> Result<Self> {
        let (batch, tokens, width) = x.dims3()?;
        Ok(Self::new(std::iter::repeat_n(tokens, batch), width))
    }

    fn batch(&self) -> usize {
        self.starts.len() - 1
    }

    /// Rows of all items, or of those before `item`.
    fn before(&self, item: usize) -> usize {
        self.starts[item]
    }

    /// Rows of `item`.
    fn length(&self, item: usize) -> usize {
        self.starts[item + 1] - self.starts[item]
    }

    fn lengths(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        (0..self.batch()).map(|item| self.length(item))
    }

    /// Numbers of all rows.
    fn len(&self) -> usize {
        self.before(self.batch()) * self.width
    }
}

/// What the other side of cross-attention sees.
#[derive(Clone, Copy)]
struct Other<'a> {
    rows: &'a Rows,
    values: &'a [f32],
}

/// Rows of sublayers' tensors that one task takes through a whole sublayer: with their intermediates they fill half of a
/// second-level cache of two megabytes.
const CHUNK_ROWS: usize = 256;

/// What a sublayer keeps for its backward pass.
#[derive(Default)]
struct Saved(Vec<Buffer>);

/// What a sublayer's backward pass gives: the gradient of its input, and one per parameter in their order.
struct Gradients {
    input: Buffer,
    parameters: Vec<Vec<f32>>,
}

impl Layer {
    fn parameters(&self) -> Vec<&Tensor> {
        match self {
            Self::Attend(l) => l.parameters(),
            Self::Feed(l) => l.parameters(),
            Self::Norm(norm) => norm.parameters().into(),
        }
    }

    fn forward(&self, at: &Rows, x: &[f32], other: Option<Other<'_>>, p: Precision) -> Result<(Buffer, Saved)> {
        match self {
            Self::Attend(l) => l.run(at, x, other, p),
            Self::Feed(l) => l.run(at, x, p),
            Self::Norm(norm) => Ok((Norm::read(norm)?.forward_all(x), Saved::default())),
        }
    }

    /// `g` is the gradient of the output; that of `other` is added to the last argument.
    fn backward(
        &self,
        at: &Rows,
        (x, saved): (&[f32], &Saved),
        g: &[f32],
        other: Option<(Other<'_>, &mut [f32])>,
        p: Precision,
    ) -> Result<Gradients> {
        match self {
            Self::Attend(l) => l.run_back(at, (x, saved), g, other, p),
            Self::Feed(l) => l.run_back(at, (x, saved), g, p),
            Self::Norm(norm) => {
                let (input, sums) = Norm::read(norm)?.backward_all(x, g);
                Ok(Gradients { input, parameters: sums })
            }
        }
    }
}

/// `x` `[batch, tokens, width]` through `layers`, first to last, in the current precision; `other` `[batch, rows, width
/// of the other side]` is what cross-attention attends to. CPU only, f32.
///
/// # Errors
/// Shapes that do not fit each other, cross-attention without `other`.
pub fn stack(x: &Tensor, other: Option<&Tensor>, layers: Vec<Layer>) -> Result<Tensor> {
    over(x, Rows::of(x)?, other, layers)
}

/// The same for items of `lengths` rows, one behind the other in `x` `[sum of lengths, width]`.
///
/// # Errors
/// As [`stack()`], and lengths that are not those of `x`.
pub fn stack_packed(x: &Tensor, lengths: &[usize], other: Option<&Tensor>, layers: Vec<Layer>) -> Result<Tensor> {
    let (count, width) = x.dims2()?;
    let rows = Rows::new(lengths.iter().copied(), width);
    if rows.len() != count * width || lengths.contains(&0) {
        bail!("{count} rows are not items of the lengths {lengths:?}");
    }
    over(x, rows, other, layers)
}

fn over(x: &Tensor, rows: Rows, other: Option<&Tensor>, layers: Vec<Layer>) -> Result<Tensor> {
    let other_rows = other.map(Rows::of).transpose()?;
    for layer in &layers {
        match layer {
            Layer::Attend(l) => l.check(&rows, other_rows.as_ref())?,
            Layer::Feed(l) => l.check(rows.width)?,
            Layer::Norm(norm) => norm.check(rows.width)?,
        }
    }
    if layers.is_empty() {
        return Ok(x.clone());
    }
    let slots = Slots::default();
    let parameters: Vec<&Tensor> = layers.iter().flat_map(Layer::parameters).collect();
    let token = token(&parameters, &slots)?;
    let x = x.contiguous()?;
    let other = other.map_or(Ok(x.clone()), Tensor::contiguous)?;
    let op = Stack { rows, other: other_rows, precision: Precision::current(), slots, kept: Mutex::default(), layers };
    x.apply_op3(&other, &token, op)
}

/// Whether a pass over `x` with these layers is one that a [`stack()`] serves: on the CPU, with something to train.
pub fn trains(x: &Tensor, layers: &[Layer]) -> bool {
    ours(x) && (x.track_op() || layers.iter().any(|l| l.parameters().iter().any(|p| p.track_op())))
}

struct Stack {
    rows: Rows,
    other: Option<Rows>,
    precision: Precision,
    slots: Slots,
    layers: Vec<Layer>,
    kept: Mutex<Kept>,
}

/// Per layer what it saved, and the output of every layer but the last.
#[derive(Default)]
struct Kept {
    saved: Vec<Saved>,
    outputs: Vec<Buffer>,
}

impl CustomOp3 for Stack {
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
        let run = || -> Result<(Kept, Buffer)> {
            let (mut kept, mut last) = (Kept::default(), Buffer::default());
            for (i, layer) in self.layers.iter().enumerate() {
                let input = if i == 0 { x } else { &last };
                let (output, saved) = layer.forward(&self.rows, input, other, self.precision)?;
                kept.saved.push(saved);
                if i > 0 {
                    kept.outputs.push(std::mem::take(&mut last));
                }
                last = output;
            }
            Ok((kept, last))
        };
        let (kept, last) = on_a_worker(run)?;
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        Ok((CpuStorage::F32(last.into_vec()), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        other: &Tensor,
        token: &Tensor,
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
        let mut other_gradient = self.other.as_ref().map(|rows| Buffer::zeros(rows.len()));
        let guard = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept: &Kept = &guard;
        let run = || -> Result<(Vec<Sums>, Option<Buffer>)> {
            let (mut parameters, mut flowing) = (Vec::new(), None::<Buffer>);
            // Nothing is wanted of the first layers where they and what comes in are constant.
            let wanted = |layer: &Layer| layer.parameters().iter().any(|p| p.track_op());
            let first =
                if x.track_op() || other.track_op() { 0 } else { self.layers.iter().position(wanted).unwrap_or(0) };
            for (i, layer) in self.layers.iter().enumerate().rev() {
                if i < first {
                    parameters.push(vec![Vec::new(); layer.parameters().len()]);
                    continue;
                }
                let input = if i == 0 { xs } else { &kept.outputs[i - 1] };
                let g = flowing.as_deref().unwrap_or(gs);
                let cross = self.other.as_ref().map(|rows| Other { rows, values }).zip(other_gradient.as_deref_mut());
                let gradients = layer.backward(&self.rows, (input, &kept.saved[i]), g, cross, self.precision)?;
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
            Some(dx) if x.track_op() => give(x, dx.into_vec())?,
            _ => None,
        };
        let dother = match other_gradient {
            Some(d) if other.track_op() => give(other, d.into_vec())?,
            _ => None,
        };
        let dtoken = if token.track_op() { Some(token.ones_like()?) } else { None };
        Ok((dx, dother, dtoken))
    }
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stack({} layers of {} items)", self.layers.len(), self.rows.batch())
    }
}

/// Runs `work` on a thread of the pool, so that its many parallel parts begin and end without putting the caller to
/// sleep and waking it each time.
fn on_a_worker<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}

/// Sums over the rows of a chunk: of a norm's weight and bias, of biases.
type Sums = Vec<Vec<f32>>;

/// Those of all chunks, added up in the order of the chunks: no sum depends on which thread was
/// faster.
fn total(parts: Vec<Sums>) -> Sums {
    let mut parts = parts.into_iter();
    let mut sums = parts.next().unwrap_or_default();
    for part in parts {
        for (sum, part) in sums.iter_mut().zip(part) {
            sum.iter_mut().zip(part).for_each(|(s, p)| *s += p);
        }
    }
    sums
}
