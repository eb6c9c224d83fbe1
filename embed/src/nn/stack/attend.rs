//! The attention sublayer: `x + out(attention(norm(x)))`, or `norm(x + out(attention(x)))`, on itself or on another side.

use std::ops::Range;

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
struct Plan<'a> {
    at: &'a Rows,
    /// Rows that keys and values come from: the other side's, or the same.
    side: &'a Rows,
    heads: usize,
    cross: bool,
    chunks: Vec<Range<usize>>,
}

/// A head of an item of a chunk.
struct Spot {
    /// Number of the item in the batch.
    item: usize,
    /// Number of the head.
    head: usize,
    /// First row and first key of the item in the chunk.
    row: usize,
    key: usize,
    /// Its probabilities among those of the chunk.
    p: Range<usize>,
    shape: HeadShape,
}

impl<'a> Plan<'a> {
    fn new(at: &'a Rows, side: &'a Rows, heads: usize, cross: bool) -> Self {
        let most = at.before(at.batch()).max(side.before(side.batch()));
        // As many chunks on one thread as on another, of about the same size: sums over chunks round by their number.
        let threads = rayon::current_num_threads().max(2);
        let target = most.div_ceil(most.div_ceil(CHUNK_ROWS).next_multiple_of(threads).max(1)).max(1);
        let (mut chunks, mut from) = (Vec::new(), 0);
        while from < at.batch() {
            let full = |to: usize| (at.before(to) - at.before(from)).max(side.before(to) - side.before(from)) >= target;
            let to = (from + 1..at.batch()).find(|&to| full(to)).unwrap_or(at.batch());
            chunks.push(from..to);
            from = to;
        }
        Self { at, side, heads, cross, chunks }
    }

    /// `of` every chunk, times `width`.
    fn sizes(&self, of: fn(&Self, &Range<usize>) -> usize, width: usize) -> Vec<usize> {
        self.chunks.iter().map(|items| of(self, items) * width).collect()
    }

    fn rows(&self, items: &Range<usize>) -> usize {
        self.at.before(items.end) - self.at.before(items.start)
    }

    fn keys(&self, items: &Range<usize>) -> usize {
        self.side.before(items.end) - self.side.before(items.start)
    }

    fn probabilities(&self, items: &Range<usize>) -> usize {
        items.clone().map(|i| self.heads * self.at.length(i) * self.side.length(i)).sum()
    }

    /// Numbers of a row of the own projection.
    fn own(&self) -> usize {
        if self.cross { self.at.width } else { 3 * self.at.width }
    }

    /// Numbers of a row of the other side's projection.
    fn kv(&self) -> usize {
        if self.cross { 2 * self.at.width } else { 0 }
    }

    /// Numbers of a row of the other side.
    fn side(&self) -> usize {
        if self.cross { self.side.width } else { 0 }
    }

    /// Every head of every item of a chunk.
    fn spots(&self, items: &Range<usize>) -> impl Iterator<Item = Spot> + '_ {
        let (first, mut end) = (items.start, 0);
        items.clone().flat_map(move |item| (0..self.heads).map(move |head| (item, head))).map(move |(item, head)| {
            let (queries, keys) = (self.at.length(item), self.side.length(item));
            let from = end;
            end += queries * keys;
            Spot {
                item,
                head,
                row: self.at.before(item) - self.at.before(first),
                key: self.side.before(item) - self.side.before(first),
                p: from..end,
                shape: HeadShape { queries, keys, width: self.at.width / self.heads },
            }
        })
    }

    /// Scratch that every head of a chunk can do with.
    fn scratch(&self, items: &Range<usize>) -> Buffer {
        Buffer::take(self.spots(items).map(|spot| spot.shape.scratch()).max().unwrap_or_default())
    }

    /// Query, key and value of a head.
    fn parts<'v>(&self, spot: &Spot, own: &'v [f32], kv: &'v [f32]) -> [Head<'v>; 3] {
        let (d, from, stride) = (self.at.width, spot.head * spot.shape.width, self.own());
        let part = |values: &'v [f32], from: usize, stride: usize| Head { values: &values[from..], stride };
        let q = part(own, spot.row * stride + from, stride);
        let [k, v] = [0, 1].map(|which| {
            if self.cross {
                part(kv, spot.key * 2 * d + which * d + from, 2 * d)
            } else {
                part(own, spot.key * stride + (1 + which) * d + from, stride)
            }
        });
        [q, k, v]
    }

    /// The same of their gradients.
    fn parts_mut(&self, spot: &Spot, own: &mut [f32], kv: &mut [f32]) -> [HeadMut; 3] {
        let HeadShape { queries, keys, width } = spot.shape;
        let (d, from, stride) = (self.at.width, spot.head * width, self.own());
        let q = HeadMut::of(own, spot.row * stride + from, stride, queries, width);
        let [k, v] = [0, 1].map(|which| {
            if self.cross {
                HeadMut::of(kv, spot.key * 2 * d + which * d + from, 2 * d, keys, width)
            } else {
                HeadMut::of(own, spot.key * stride + (1 + which) * d + from, stride, keys, width)
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

    pub(super) fn check(&self, rows: &Rows, other: Option<&Rows>) -> Result<()> {
        let d = rows.width;
        let own = (if self.cross() { d } else { 3 * d }, d);
        let other_fits = match (self.cross(), other) {
            (true, Some(o)) => o.batch() == rows.batch() && dims(&self.other)? == (2 * d, o.width),
            (crosses, _) => !crosses,
        };
        let heads_fit = self.heads > 0 && d.is_multiple_of(self.heads) && self.dense.weight().dims2()? == (d, d);
        if dims(&self.own)? != own || !other_fits || !heads_fit {
            bail!("attention of {} heads does not fit {rows:?} and {other:?}", self.heads);
        }
        let side = other.filter(|_| self.cross()).unwrap_or(rows);
        match &self.mask {
            Some(mask) if !mask.fits(side.lengths()) => bail!("{mask:?} does not fit {rows:?} and keys of {side:?}"),
            _ => self.norm.check(d),
        }
    }

    fn plan<'a>(&self, at: &'a Rows, other: Option<&'a Rows>) -> Plan<'a> {
        let cross = self.cross();
        Plan::new(at, other.filter(|_| cross).unwrap_or(at), self.heads, cross)
    }

    /// Saves the own projection, that of the other side, the probabilities, the heads' output, and with the norm after
    /// the sum.
    pub(super) fn run(
        &self,
        at: &Rows,
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
        let (d, all) = (at.width, 0..at.batch());
        let mut y = Buffer::take(at.len());
        let mut own = Buffer::take(plan.rows(&all) * plan.own());
        let mut kv = Buffer::take(plan.keys(&all) * plan.kv());
        let mut p = Buffer::take(plan.probabilities(&all));
        let mut context = Buffer::take(at.len());
        let mut sum = Buffer::take(if self.place == Place::After { at.len() } else { 0 });
        let (rows, key_rows) = (plan.sizes(Plan::rows, d), plan.sizes(Plan::keys, plan.side()));
        let parts = (
            (&plan.chunks, pieces(x, &rows), pieces(side, &key_rows)),
            (
                pieces_mut(&mut y, &rows),
                pieces_mut(&mut own, &plan.sizes(Plan::rows, plan.own())),
                pieces_mut(&mut kv, &plan.sizes(Plan::keys, plan.kv())),
                pieces_mut(&mut p, &plan.sizes(Plan::probabilities, 1)),
                pieces_mut(&mut context, &rows),
                pieces_mut(&mut sum, &rows),
            ),
        );
        let chunks = (parts.0.into_par_iter(), parts.1.into_par_iter()).into_par_iter().with_max_len(1);
        chunks.try_for_each(|((items, x, side), (y, own, kv, p, context, sum))| -> Result<()> {
            if self.place == Place::Before {
                norm.forward(x, y);
                own_layer.apply(y, own, own_layer.bias())?;
            } else {
                own_layer.apply(x, own, own_layer.bias())?;
            }
            if let Some(layer) = &other_layer {
                layer.apply(side, kv, layer.bias())?;
            }
            self.all_heads(&plan, items, own, kv, p, context);
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

    fn all_heads(
        &self,
        plan: &Plan<'_>,
        items: &Range<usize>,
        own: &[f32],
        kv: &[f32],
        p: &mut [f32],
        context: &mut [f32],
    ) {
        let (d, mut scratch) = (plan.at.width, plan.scratch(items));
        for spot in plan.spots(items) {
            let HeadShape { queries, width, .. } = spot.shape;
            let seen = self.mask.as_ref().map(|mask| move |row: usize| mask.visible(spot.item, row));
            let out = HeadMut::of(context, spot.row * d + spot.head * width, d, queries, width);
            let p = &mut p[spot.p.clone()];
            // SAFETY: a head of a buffer that this task borrows exclusively.
            unsafe { spot.shape.forward(plan.parts(&spot, own, kv), p, out, seen, &mut scratch) };
        }
    }

    pub(super) fn run_back(
        &self,
        at: &Rows,
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
        let d = at.width;
        let mut dx = Buffer::take(at.len());
        let (mut d_own, mut d_kv) = (Buffer::take(own.len()), Buffer::take(kv.len()));
        // With the norm after: the gradient of the sum. With the norm before: the normed input once more.
        let mut between = Buffer::take(at.len());
        let (rows, key_rows) = (plan.sizes(Plan::rows, d), plan.sizes(Plan::keys, plan.side()));
        let (own_rows, kv_rows) = (plan.sizes(Plan::rows, plan.own()), plan.sizes(Plan::keys, plan.kv()));
        let parts = (
            (
                &plan.chunks,
                pieces(x, &rows),
                pieces(g, &rows),
                pieces(own, &own_rows),
                pieces(kv, &kv_rows),
                pieces(p, &plan.sizes(Plan::probabilities, 1)),
                pieces(sum, &rows),
            ),
            (
                pieces_mut(&mut dx, &rows),
                pieces_mut(&mut d_own, &own_rows),
                pieces_mut(&mut d_kv, &kv_rows),
                pieces_mut(&mut between, &rows),
                pieces_mut(side_gradient, &key_rows),
            ),
        );
        let chunks = (parts.0.into_par_iter(), parts.1.into_par_iter()).into_par_iter().with_max_len(1);
        let sums =
            chunks.map(|((items, x, g, own, kv, p, sum), (dx, d_own, d_kv, between, side_gradient))| -> Result<Sums> {
                let mut norm_sums = norm.zeros();
                let mut inner = Buffer::take(x.len());
                if self.place == Place::After {
                    norm.backward(sum, g, between, &mut norm_sums);
                }
                let outer = if self.place == Place::After { &*between } else { g };
                dense.apply(outer, &mut inner, Epilogue::default())?;
                all_heads_back(&plan, items, (own, kv, p), &inner, d_own, d_kv);
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

fn all_heads_back(
    plan: &Plan<'_>,
    items: &Range<usize>,
    (own, kv, p): (&[f32], &[f32], &[f32]),
    g: &[f32],
    d_own: &mut [f32],
    d_kv: &mut [f32],
) {
    let (d, mut scratch) = (plan.at.width, plan.scratch(items));
    for spot in plan.spots(items) {
        let g = Head { values: &g[spot.row * d + spot.head * spot.shape.width..], stride: d };
        let gradients = plan.parts_mut(&spot, d_own, d_kv);
        let p = &p[spot.p.clone()];
        // SAFETY: heads apart from each other in buffers that this task borrows exclusively.
        unsafe { spot.shape.backward(plan.parts(&spot, own, kv), p, g, gradients, &mut scratch) };
    }
}

/// `all` cut into pieces of `sizes`; empty ones of nothing.
fn pieces<'a>(all: &'a [f32], sizes: &[usize]) -> Vec<&'a [f32]> {
    let mut rest = all;
    let next = |size: &usize| {
        let (piece, behind) = rest.split_at((*size).min(rest.len()));
        rest = behind;
        piece
    };
    sizes.iter().map(next).collect()
}

/// The same to write.
fn pieces_mut<'a>(all: &'a mut [f32], sizes: &[usize]) -> Vec<&'a mut [f32]> {
    let mut rest = all;
    let next = |size: &usize| {
        let size = (*size).min(rest.len());
        let (piece, behind) = std::mem::take(&mut rest).split_at_mut(size);
        rest = behind;
        piece
    };
    sizes.iter().map(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_has_chunks_and_as_many_as_any_other() {
        // A batch of the default preset: 64 pictures of 33 rows.
        let at = Rows::new([33; 64], 256);
        for threads in [1, 2, 4, 8, 16] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            let chunks = pool.install(|| Plan::new(&at, &at, 4, false).chunks);
            assert_eq!(chunks.len() % threads, 0, "{} chunks on {threads} threads", chunks.len());
            let items: Vec<usize> = chunks.into_iter().flatten().collect();
            assert_eq!(items, (0..64).collect::<Vec<_>>());
        }
    }
}
