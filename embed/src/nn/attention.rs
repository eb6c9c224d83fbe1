//! Multi-head attention as one op per call, with its own backward.
//!
//! Heads are read in place through strides: no transposed copies, no score tensors in memory. The backward pass
//! computes the probabilities again instead of keeping them, which is one of its six products.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp3, DType, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

use super::dropout::{Drop, Dropout};
use super::gemm::{At, product};
use super::simd::{softmax_grad_row, softmax_row};
use super::{contiguous, matmul, ours, softmax};

/// What is added to the score of a key that must not be seen: not minus infinity, as in the reference.
pub const MASKED: f32 = -10_000.0;

/// Which keys each query may see: those within each text's length and, when causal, not after the query.
#[derive(Clone, Debug)]
pub struct Mask {
    lengths: Arc<[usize]>,
    keys: usize,
    causal: bool,
}

impl Mask {
    /// For texts of `lengths` padded to `keys` tokens.
    pub fn new(lengths: &[usize], keys: usize, causal: bool) -> Self {
        Self { lengths: lengths.into(), keys, causal }
    }

    /// Whether it is one for texts with so many keys each: as many as it is padded to, or as many as are true.
    pub(super) fn fits(&self, keys: impl ExactSizeIterator<Item = usize>) -> bool {
        self.lengths.len() == keys.len()
            && self.lengths.iter().zip(keys).all(|(own, keys)| keys == self.keys || keys == *own.min(&self.keys))
    }

    /// How many keys query `i` of text `b` sees; they are the first ones.
    pub(super) fn visible(&self, b: usize, i: usize) -> usize {
        let length = self.lengths[b].min(self.keys);
        if self.causal { length.min(i + 1) } else { length }
    }

    /// Whether anything is hidden at all.
    fn hides(&self) -> bool {
        self.causal || self.lengths.iter().any(|l| *l < self.keys)
    }

    /// The additive form `[batch, 1, queries, keys]`: 0 or [`MASKED`].
    fn additive(&self, queries: usize, like: &Tensor) -> Result<Tensor> {
        let mut values = Vec::with_capacity(self.lengths.len() * queries * self.keys);
        for b in 0..self.lengths.len() {
            for i in 0..queries {
                let seen = self.visible(b, i);
                values.extend((0..self.keys).map(|j| if j < seen { 0.0 } else { MASKED }));
            }
        }
        Tensor::from_vec(values, (self.lengths.len(), 1, queries, self.keys), like.device())?.to_dtype(like.dtype())
    }
}

/// softmax(q k^T / sqrt(head width) + mask) v for every head.
///
/// `q` `[batch, queries, width]`, `k` and `v` `[batch, keys, width]` -> `[batch, queries, width]`, of one type; head h owns
/// columns `h * width / heads ..`. `dropout` acts on the probabilities.
///
/// # Errors
/// Shapes that do not fit each other.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    mask: Option<&Mask>,
    dropout: Option<&Dropout>,
) -> Result<Tensor> {
    let dims = Dims::new(q, k, v, heads, mask)?;
    if !ours(q) {
        let mut p = attention_probs(q, k, heads, mask)?;
        if let Some(d) = dropout {
            p = d.forward(&p)?;
        }
        return matmul(&p, &split_heads(v, heads)?)?.transpose(1, 2)?.contiguous()?.flatten_from(2);
    }
    let op = Op { dims, mask: mask.filter(|m| m.hides()).cloned(), drop: dropout.map(Dropout::draw) };
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}

/// [`attention`] of a fused projection `[batch, tokens, 3 * width]` (query, key, value side by side) on itself,
/// without a mask.
///
/// # Errors
/// A width that three or the heads do not divide.
pub fn self_attention(qkv: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, tokens, wide) = qkv.dims3()?;
    let width = wide / 3;
    if wide % 3 != 0 || heads == 0 || width % heads != 0 {
        bail!("{heads} heads cannot share a fused projection of width {wide}");
    }
    if !ours(qkv) {
        let part = |i| qkv.narrow(2, i * width, width);
        return attention(&part(0)?, &part(1)?, &part(2)?, heads, None, None);
    }
    let dims = Dims { batch, heads, queries: tokens, keys: tokens, head_width: width / heads };
    qkv.contiguous()?.apply_op1(Fused(Op { dims, mask: None, drop: None }))
}

/// The probabilities alone, `[batch, heads, queries, keys]`: for explanations and for devices other than the CPU.
///
/// # Errors
/// Shapes that do not fit each other.
pub fn attention_probs(q: &Tensor, k: &Tensor, heads: usize, mask: Option<&Mask>) -> Result<Tensor> {
    let dims = Dims::new(q, k, k, heads, mask)?;
    let q = (split_heads(q, heads)? * dims.scale() as f64)?;
    let scores = matmul(&q, &split_heads(k, heads)?.t()?)?;
    match mask {
        Some(m) => softmax(&scores.broadcast_add(&m.additive(dims.queries, &scores)?)?),
        None => softmax(&scores),
    }
}

fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, n, d) = x.dims3()?;
    x.reshape((b, n, heads, d / heads))?.transpose(1, 2)?.contiguous()
}

#[derive(Clone, Copy)]
struct Dims {
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    head_width: usize,
}

impl Dims {
    fn new(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, mask: Option<&Mask>) -> Result<Self> {
        let ((batch, queries, width), (kb, keys, kw)) = (q.dims3()?, k.dims3()?);
        let fits = heads > 0 && width % heads == 0 && (kb, kw) == (batch, width) && v.dims() == k.dims();
        if !fits || mask.is_some_and(|m| m.keys != keys || m.lengths.len() != batch) {
            bail!("attention of {heads} heads: q {:?}, k {:?}, v {:?}, mask {mask:?}", q.shape(), k.shape(), v.shape());
        }
        Ok(Self { batch, heads, queries, keys, head_width: width / heads })
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_width as f32).sqrt()
    }

    fn width(&self) -> usize {
        self.heads * self.head_width
    }
}

/// A `[batch, rows, ..]` tensor whose rows are `stride` apart; `P` is `*const f32` or `*mut f32`.
#[derive(Clone, Copy)]
struct View<P> {
    ptr: P,
    rows: usize,
    stride: usize,
}

// SAFETY: tasks read shared data, and write only the head they own (see `for_each_head`).
unsafe impl<P> Sync for View<P> {}
// SAFETY: as above.
unsafe impl<P> Send for View<P> {}

impl View<*const f32> {
    fn head(self, d: &Dims, b: usize, h: usize) -> At<*const f32> {
        At::new(self.ptr.wrapping_add(b * self.rows * self.stride + h * d.head_width), self.stride, 1)
    }
}

impl View<*mut f32> {
    fn head(self, d: &Dims, b: usize, h: usize) -> At<*mut f32> {
        At::new(self.ptr.wrapping_add(b * self.rows * self.stride + h * d.head_width), self.stride, 1)
    }
}

fn transposed(a: At<*const f32>) -> At<*const f32> {
    At::new(a.ptr, a.cs, a.rs)
}

#[derive(Clone)]
struct Op {
    dims: Dims,
    mask: Option<Mask>,
    drop: Option<Drop>,
}

const ALONE: gemm::Parallelism = gemm::Parallelism::None;

impl Op {
    /// Runs `f(batch, head, scratch)` for every head; each (batch, head) is given to one task only.
    fn for_each_head(&self, scratch: usize, f: impl Fn(usize, usize, &mut [f32]) + Sync + Send) {
        let (n, heads) = (self.dims.batch * self.dims.heads, self.dims.heads);
        // Below some 200,000 products a task costs more to hand over than to do.
        let per_head = self.dims.queries * self.dims.keys * self.dims.head_width;
        (0..n)
            .into_par_iter()
            .with_min_len(200_000 / per_head.max(1) + 1)
            .for_each_init(|| vec![0f32; scratch], |buffer, i| f(i / heads, i % heads, buffer));
    }

    /// The probabilities of one head, `queries x keys`, before dropout.
    fn probabilities(&self, b: usize, q: At<*const f32>, k: At<*const f32>, p: &mut [f32]) {
        let Dims { queries, keys, head_width, .. } = self.dims;
        let dst = At::new(p.as_mut_ptr(), keys, 1);
        // SAFETY: p holds queries x keys, q and k are heads of tensors of checked shapes.
        unsafe { product((queries, keys, head_width), dst, q, transposed(k), 1.0, false, ALONE) };
        let scale = self.dims.scale();
        for (i, row) in p.chunks_exact_mut(keys).enumerate() {
            if let Some(mask) = &self.mask {
                let seen = mask.visible(b, i);
                row[seen..].iter_mut().for_each(|v| *v += MASKED / scale);
            }
            softmax_row(row, scale);
        }
    }

    /// Dropout on the probabilities (or their gradients) of one head, in place.
    fn drop_out(&self, b: usize, h: usize, p: &mut [f32]) {
        if let Some(drop) = &self.drop {
            let base = (b * self.dims.heads + h) * p.len();
            p.iter_mut().enumerate().for_each(|(i, v)| *v *= drop.factor(base + i));
        }
    }

    fn forward(&self, q: View<*const f32>, k: View<*const f32>, v: View<*const f32>) -> Vec<f32> {
        let d = &self.dims;
        let (queries, keys) = (d.queries, d.keys);
        let mut out = vec![0f32; d.batch * queries * d.width()];
        let dst = View { ptr: out.as_mut_ptr(), rows: queries, stride: d.width() };
        self.for_each_head(queries * keys, |b, h, p| {
            self.probabilities(b, q.head(d, b, h), k.head(d, b, h), p);
            self.drop_out(b, h, p);
            let (p, shape) = (At::new(p.as_ptr(), keys, 1), (queries, d.head_width, keys));
            // SAFETY: this task alone writes the columns of head h in the rows of batch b.
            unsafe { product(shape, dst.head(d, b, h), p, v.head(d, b, h), 1.0, false, ALONE) };
        });
        out
    }

    /// Writes the gradients of q, k and v into `dq`, `dk`, `dv`, all of which it fills.
    #[allow(clippy::too_many_arguments)]
    fn backward(
        &self,
        q: View<*const f32>,
        k: View<*const f32>,
        v: View<*const f32>,
        grad: View<*const f32>,
        dq: View<*mut f32>,
        dk: View<*mut f32>,
        dv: View<*mut f32>,
    ) {
        let d = &self.dims;
        let Dims { queries: n, keys: m, head_width: w, .. } = *d;
        self.for_each_head(n * m * 3, |b, h, scratch| {
            let (p, rest) = scratch.split_at_mut(n * m);
            let (dropped, dp) = rest.split_at_mut(n * m);
            let (qh, kh, vh, gh) = (q.head(d, b, h), k.head(d, b, h), v.head(d, b, h), grad.head(d, b, h));
            self.probabilities(b, qh, kh, p);
            dropped.copy_from_slice(p);
            self.drop_out(b, h, dropped);
            let (pm, dpm) = (At::new(dropped.as_ptr(), m, 1), At::new(dp.as_mut_ptr(), m, 1));
            // SAFETY: scratch is ours; the heads written belong to this task alone; shapes are checked.
            unsafe {
                product((m, w, n), dv.head(d, b, h), transposed(pm), gh, 1.0, false, ALONE);
                product((n, m, w), dpm, gh, transposed(vh), 1.0, false, ALONE);
            }
            self.drop_out(b, h, dp);
            for (p, dp) in p.chunks_exact(m).zip(dp.chunks_exact_mut(m)) {
                softmax_grad_row(p, dp, d.scale());
            }
            let ds = At::new(dp.as_ptr(), m, 1);
            // SAFETY: as above.
            unsafe {
                product((n, w, m), dq.head(d, b, h), ds, kh, 1.0, false, ALONE);
                product((m, w, n), dk.head(d, b, h), transposed(ds), qh, 1.0, false, ALONE);
            }
        });
    }
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let d = &self.dims;
        let view = |x: &[f32], rows| View { ptr: x.as_ptr(), rows, stride: d.width() };
        let (q, k) = (contiguous("attention", q, lq)?, contiguous("attention", k, lk)?);
        let v = contiguous("attention", v, lv)?;
        let out = self.forward(view(q, d.queries), view(k, d.keys), view(v, d.keys));
        Ok((CpuStorage::F32(out), lq.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let d = &self.dims;
        let grad = grad.contiguous()?;
        let [mut dq, mut dk, mut dv] = [q, k, v].map(|t| vec![0f32; t.elem_count()]);
        {
            let guards = [q, k, v, &grad].map(Tensor::storage_and_layout);
            let mut views = Vec::with_capacity(4);
            for ((storage, layout), rows) in guards.iter().zip([d.queries, d.keys, d.keys, d.queries]) {
                views.push(View { ptr: cpu_slice(storage, layout)?.as_ptr(), rows, stride: d.width() });
            }
            let out = |v: &mut Vec<f32>, rows| View { ptr: v.as_mut_ptr(), rows, stride: d.width() };
            let (oq, ok, ov) = (out(&mut dq, d.queries), out(&mut dk, d.keys), out(&mut dv, d.keys));
            self.backward(views[0], views[1], views[2], views[3], oq, ok, ov);
        }
        let tensor = |v, like: &Tensor| Tensor::from_vec(v, like.shape(), like.device()).map(Some);
        Ok((tensor(dq, q)?, tensor(dk, k)?, tensor(dv, v)?))
    }
}

fn cpu_slice<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match storage {
        Storage::Cpu(s) => contiguous("attention", s, layout),
        _ => bail!("attention's own backward runs on the CPU only, on {:?}", DType::F32),
    }
}

/// Attention of one `[batch, tokens, 3 * width]` tensor on itself.
struct Fused(Op);

impl Fused {
    /// Query, key and value inside the fused tensor that starts at `ptr`.
    fn parts(&self, ptr: *const f32) -> [View<*const f32>; 3] {
        let (d, rows) = (&self.0.dims, self.0.dims.queries);
        [0, 1, 2].map(|i| View { ptr: ptr.wrapping_add(i * d.width()), rows, stride: 3 * d.width() })
    }
}

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "self-attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let d = &self.0.dims;
        let [q, k, v] = self.parts(contiguous("self-attention", qkv, layout)?.as_ptr());
        Ok((CpuStorage::F32(self.0.forward(q, k, v)), (d.batch, d.queries, d.width()).into()))
    }

    fn bwd(&self, qkv: &Tensor, _result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let d = &self.0.dims;
        let grad = grad.contiguous()?;
        let mut out = vec![0f32; qkv.elem_count()];
        {
            let ((s, l), (gs, gl)) = (qkv.storage_and_layout(), grad.storage_and_layout());
            let [q, k, v] = self.parts(cpu_slice(&s, l)?.as_ptr());
            let grad = View { ptr: cpu_slice(&gs, gl)?.as_ptr(), rows: d.queries, stride: d.width() };
            let base = out.as_mut_ptr();
            let [dq, dk, dv] = [0, 1, 2].map(|i| View {
                ptr: base.wrapping_add(i * d.width()),
                rows: d.queries,
                stride: 3 * d.width(),
            });
            self.0.backward(q, k, v, grad, dq, dk, dv);
        }
        Tensor::from_vec(out, qkv.shape(), qkv.device()).map(Some)
    }
}
