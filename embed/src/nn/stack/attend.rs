//! The attention sublayer: `x + out(attention(norm(x)))`, or `norm(x + out(attention(x)))`, on itself or on another side.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::super::buffer::Buffer;
use super::super::{LayerNorm, Linear, Mask};
use super::dense::{Dense, Direction, dims, gradients, parameters};
use super::feed::plus;
use super::heads::{Head, HeadMut, HeadShape};
use super::rows::{Norm, add, column_sums};
use super::{CHUNK_ROWS, Gradients, Other, Place, Rows, Saved, Sums, total};
use crate::kernel::{Add, Epilogue, Precision};

/// Attention with its projections, residual and norm.
#[derive(Clone, Debug)]
pub struct Attend {
    /// Where the norm is.
    pub place: Place,
    /// The norm.
    pub norm: LayerNorm,
    /// Projections of the rows themselves: query, key and value (as three layers or a fused one), or the query alone
    /// when the keys come from the other side.
    pub own: Vec<Linear>,
    /// Key and value of the other side, or none.
    pub other: Vec<Linear>,
    /// The output projection.
    pub dense: Linear,
    /// Heads.
    pub heads: usize,
    /// Which keys each query sees.
    pub mask: Option<Mask>,
}

/// How the batch is cut: whole items, as many as fill a chunk.
struct Plan {
    at: Rows,
    shape: HeadShape,
    heads: usize,
    items: usize,
    key_width: usize,
    cross: bool,
}

impl Plan {
    fn rows(&self) -> usize {
        self.items * self.at.tokens
    }

    fn keys(&self) -> usize {
        self.items * self.shape.keys
    }

    /// Numbers of a row of the own projection.
    fn own(&self) -> usize {
        if self.cross { self.at.width } else { 3 * self.at.width }
    }

    fn probabilities(&self, items: usize) -> usize {
        items * self.heads * self.shape.queries * self.shape.keys
    }

    /// Query, key and value of head `h` of the `i`th item of a chunk.
    fn parts<'a>(&self, i: usize, h: usize, own: &'a [f32], kv: &'a [f32]) -> [Head<'a>; 3] {
        let (d, w, HeadShape { queries, keys, .. }) = (self.at.width, self.shape.width, self.shape);
        let stride = self.own();
        let part = |values: &'a [f32], from: usize, stride: usize| Head { values: &values[from..], stride };
        let q = part(own, i * queries * stride + h * w, stride);
        let [k, v] = [0, 1].map(|which| {
            if self.cross {
                part(kv, i * keys * 2 * d + which * d + h * w, 2 * d)
            } else {
                part(own, i * keys * stride + (1 + which) * d + h * w, stride)
            }
        });
        [q, k, v]
    }

    /// The same of their gradients.
    fn parts_mut(&self, i: usize, h: usize, own: &mut [f32], kv: &mut [f32]) -> [HeadMut; 3] {
        let (d, HeadShape { queries, keys, width: w }) = (self.at.width, self.shape);
        let stride = self.own();
        let q = HeadMut::of(own, i * queries * stride + h * w, stride, queries, w);
        let [k, v] = [0, 1].map(|which| {
            if self.cross {
                HeadMut::of(kv, i * keys * 2 * d + which * d + h * w, 2 * d, keys, w)
            } else {
                HeadMut::of(own, i * keys * stride + (1 + which) * d + h * w, stride, keys, w)
            }
        });
        [q, k, v]
    }
}

impl Attend {
    fn cross(&self) -> bool {
        !self.other.is_empty()
    }

    pub(super) fn parameters(&self) -> Vec<&Tensor> {
        let linear = parameters(&self.own).chain(parameters(&self.other));
        self.norm.parameters().into_iter().chain(linear).chain([self.dense.weight(), self.dense.bias()]).collect()
    }

    pub(super) fn check(&self, rows: Rows, other: Option<Rows>) -> Result<()> {
        let d = rows.width;
        let own = (if self.cross() { d } else { 3 * d }, d);
        let other_fits = match (self.cross(), other) {
            (true, Some(o)) => o.batch == rows.batch && dims(&self.other)? == (2 * d, o.width),
            (crosses, _) => !crosses,
        };
        let heads_fit = self.heads > 0 && d.is_multiple_of(self.heads) && self.dense.weight().dims2()? == (d, d);
        if dims(&self.own)? != own || !other_fits || !heads_fit {
            bail!("attention of {} heads does not fit {rows:?} and {other:?}", self.heads);
        }
        let keys = other.filter(|_| self.cross()).map_or(rows.tokens, |o| o.tokens);
        match &self.mask {
            Some(mask) if !mask.fits(rows.batch, keys) => bail!("{mask:?} does not fit {rows:?} and {keys} keys"),
            _ => self.norm.check(d),
        }
    }

    fn plan(&self, at: Rows, other: Option<Rows>) -> Plan {
        let cross = self.cross();
        let side = other.filter(|_| cross);
        let shape =
            HeadShape { queries: at.tokens, keys: side.map_or(at.tokens, |o| o.tokens), width: at.width / self.heads };
        let most = (CHUNK_ROWS / at.tokens.max(shape.keys).max(1)).max(1);
        let chunks = at.batch.div_ceil(most).next_multiple_of(2);
        let items = at.batch.div_ceil(chunks).max(1);
        Plan { at, shape, heads: self.heads, items, key_width: side.map_or(0, |o| o.width), cross }
    }

    /// Saves the own projection, that of the other side, the probabilities, the heads' output, and with the norm after
    /// the sum.
    pub(super) fn run(
        &self,
        at: Rows,
        x: &[f32],
        other: Option<Other<'_>>,
        precision: Precision,
    ) -> Result<(Buffer, Saved)> {
        let plan = self.plan(at, other.map(|o| o.rows));
        let side: &[f32] = if plan.cross { other.map_or(&[], |o| o.values) } else { &[] };
        let norm = Norm::read(&self.norm)?;
        let own_layer = Dense::read(&self.own, Direction::Forward, precision)?;
        let other_layer =
            if plan.cross { Some(Dense::read(&self.other, Direction::Forward, precision)?) } else { None };
        let dense = Dense::read(std::slice::from_ref(&self.dense), Direction::Forward, precision)?;
        let (d, keys) = (at.width, at.batch * plan.shape.keys);
        let mut y = Buffer::take(at.len());
        let mut own = Buffer::take(at.batch * at.tokens * plan.own());
        let mut kv = Buffer::take(if plan.cross { keys * 2 * d } else { 0 });
        let mut p = Buffer::take(plan.probabilities(at.batch));
        let mut context = Buffer::take(at.len());
        let mut sum = Buffer::take(if self.place == Place::After { at.len() } else { 0 });
        let rows = plan.rows();
        let parts = (
            (x.par_chunks(rows * d), pieces(side, plan.keys() * plan.key_width, at.batch.div_ceil(plan.items))),
            (
                y.par_chunks_mut(rows * d),
                own.par_chunks_mut(rows * plan.own()),
                pieces_mut(&mut kv, plan.keys() * 2 * d, at.batch.div_ceil(plan.items)),
                p.par_chunks_mut(plan.probabilities(plan.items)),
                context.par_chunks_mut(rows * d),
                pieces_mut(&mut sum, rows * d, at.batch.div_ceil(plan.items)),
            ),
        );
        let chunks = (parts.0.into_par_iter(), parts.1.into_par_iter()).into_par_iter().with_max_len(1).enumerate();
        chunks.try_for_each(|(chunk, ((x, side), (y, own, kv, p, context, sum)))| -> Result<()> {
            if self.place == Place::Before {
                norm.forward(x, y);
                own_layer.apply(y, own, own_layer.bias())?;
            } else {
                own_layer.apply(x, own, own_layer.bias())?;
            }
            if let Some(layer) = &other_layer {
                layer.apply(side, kv, layer.bias())?;
            }
            self.all_heads(&plan, chunk, own, kv, p, context);
            let residual = Epilogue { add: plus(x, d)?.add, ..dense.bias() };
            if self.place == Place::Before {
                dense.apply(context, y, residual)
            } else {
                dense.apply(context, sum, residual)?;
                norm.forward(sum, y);
                Ok(())
            }
        })?;
        Ok((y, Saved(vec![own, kv, p, context, sum])))
    }

    fn all_heads(&self, plan: &Plan, chunk: usize, own: &[f32], kv: &[f32], p: &mut [f32], context: &mut [f32]) {
        let HeadShape { queries, keys, width } = plan.shape;
        let mut scratch = Buffer::take(plan.shape.scratch());
        for (at, p) in p.chunks_exact_mut(queries * keys).enumerate() {
            let (i, h) = (at / plan.heads, at % plan.heads);
            let item = chunk * plan.items + i;
            let seen = self.mask.as_ref().map(|mask| move |row: usize| mask.visible(item, row));
            let d = plan.at.width;
            let out = HeadMut::of(context, i * queries * d + h * width, d, queries, width);
            // SAFETY: a head of a buffer that this task borrows exclusively.
            unsafe { plan.shape.forward(plan.parts(i, h, own, kv), p, out, seen, &mut scratch) };
        }
    }

    pub(super) fn run_back(
        &self,
        at: Rows,
        (x, saved): (&[f32], &Saved),
        g: &[f32],
        other: Option<(Other<'_>, &mut [f32])>,
        precision: Precision,
    ) -> Result<Gradients> {
        let [own, kv, p, context, sum] = &saved.0[..] else { bail!("attention has nothing saved") };
        let plan = self.plan(at, other.as_ref().map(|(o, _)| o.rows));
        let (side, side_gradient): (&[f32], &mut [f32]) = match other {
            Some((o, gradient)) if plan.cross => (o.values, gradient),
            _ => (&[], &mut []),
        };
        let norm = Norm::read(&self.norm)?;
        let own_layer = Dense::read(&self.own, Direction::Backward, precision)?;
        let other_layer =
            if plan.cross { Some(Dense::read(&self.other, Direction::Backward, precision)?) } else { None };
        let dense = Dense::read(std::slice::from_ref(&self.dense), Direction::Backward, precision)?;
        let (d, rows) = (at.width, plan.rows());
        let mut dx = Buffer::take(at.len());
        let (mut d_own, mut d_kv) = (Buffer::take(own.len()), Buffer::take(kv.len()));
        // With the norm after: the gradient of the sum. With the norm before: the normed input once more.
        let mut between = Buffer::take(at.len());
        let count = at.batch.div_ceil(plan.items);
        let parts = (
            (
                x.par_chunks(rows * d),
                g.par_chunks(rows * d),
                own.par_chunks(rows * plan.own()),
                pieces(kv, plan.keys() * 2 * d, count),
                p.par_chunks(plan.probabilities(plan.items)),
                pieces(sum, rows * d, count),
            ),
            (
                dx.par_chunks_mut(rows * d),
                d_own.par_chunks_mut(rows * plan.own()),
                pieces_mut(&mut d_kv, plan.keys() * 2 * d, count),
                between.par_chunks_mut(rows * d),
                pieces_mut(side_gradient, plan.keys() * plan.key_width, count),
            ),
        );
        let chunks = (parts.0.into_par_iter(), parts.1.into_par_iter()).into_par_iter().with_max_len(1);
        let sums = chunks.map(|((x, g, own, kv, p, sum), (dx, d_own, d_kv, between, side_gradient))| -> Result<Sums> {
            let mut norm_sums = norm.zeros();
            let mut inner = Buffer::take(x.len());
            if self.place == Place::After {
                norm.backward(sum, g, between, &mut norm_sums);
            }
            let outer = if self.place == Place::After { &*between } else { g };
            dense.apply(outer, &mut inner, Epilogue::default())?;
            all_heads_back(&plan, own, kv, p, &inner, d_own, d_kv);
            if let Some(layer) = &other_layer {
                layer.apply(d_kv, side_gradient, Epilogue { add: Add::Output, ..Epilogue::default() })?;
            }
            let out_bias = column_sums(outer, d);
            if self.place == Place::After {
                own_layer.apply(d_own, dx, plus(between, d)?)?;
            } else {
                own_layer.apply(d_own, &mut inner, Epilogue::default())?;
                norm.backward(x, &inner, dx, &mut norm_sums);
                add(dx, g);
                norm.forward(x, between);
            }
            let [dw, db] = norm_sums;
            let kv_bias = if plan.cross { column_sums(d_kv, 2 * d) } else { Vec::new() };
            Ok(vec![dw, db, column_sums(d_own, plan.own()), kv_bias, out_bias])
        });
        let mut all = total(sums.collect::<Result<_>>()?);
        let biases = all.split_off(2);
        let (input, outer) = if self.place == Place::Before { (&between[..], g) } else { (x, &between[..]) };
        all.extend(gradients(&self.own, &d_own, input, &biases[0], precision)?);
        if plan.cross {
            all.extend(gradients(&self.other, &d_kv, side, &biases[1], precision)?);
        }
        all.extend(gradients(std::slice::from_ref(&self.dense), outer, context, &biases[2], precision)?);
        Ok(Gradients { input: dx, parameters: all })
    }
}

fn all_heads_back(plan: &Plan, own: &[f32], kv: &[f32], p: &[f32], g: &[f32], d_own: &mut [f32], d_kv: &mut [f32]) {
    let (d, HeadShape { queries, keys, width }) = (plan.at.width, plan.shape);
    let mut scratch = Buffer::take(plan.shape.scratch());
    for (at, p) in p.chunks_exact(queries * keys).enumerate() {
        let (i, h) = (at / plan.heads, at % plan.heads);
        let g = Head { values: &g[i * queries * d + h * width..], stride: d };
        let gradients = plan.parts_mut(i, h, d_own, d_kv);
        // SAFETY: heads apart from each other in buffers that this task borrows exclusively.
        unsafe { plan.shape.backward(plan.parts(i, h, own, kv), p, g, gradients, &mut scratch) };
    }
}

/// `count` pieces of `size` numbers; empty ones of nothing.
fn pieces(all: &[f32], size: usize, count: usize) -> Vec<&[f32]> {
    if all.is_empty() { vec![&[]; count] } else { all.chunks(size).collect() }
}

/// The same to write.
fn pieces_mut(all: &mut [f32], size: usize, count: usize) -> Vec<&mut [f32]> {
    if all.is_empty() { (0..count).map(|_| &mut [][..]).collect() } else { all.chunks_mut(size).collect() }
}
