//! Attention sublayer: `x + out(attention(norm(x)))`, or `norm(x + out(attention(x)))`. The rows
//! attend to themselves (self-attention) or to other rows (cross-attention).

use std::ops::Range;

use rayon::prelude::*;

use super::chunks::{Intermediate, item_chunks, pieces, pieces_mut, saved_buffer, saved_pieces};
use super::dense::{Dense, Norm};
use super::rows::{Mask, Rows};
use super::{NormPlace, Other, ShapeError};
use crate::kernel::{AttentionShape, Buffer, Projections};

/// Attention with its projections, residual and norm.
#[derive(Debug)]
pub struct Attention {
    /// Position of the norm.
    pub place: NormPlace,
    /// Layer norm.
    pub norm: Norm,
    /// Projection of the rows themselves: query, key and value as one layer, or the query alone in
    /// cross-attention.
    pub own: Dense,
    /// Projection of the other side to key and value as one layer; `None` in self-attention.
    pub other: Option<Dense>,
    /// Output projection.
    pub output: Dense,
    /// Number of heads.
    pub heads: usize,
}

/// Intermediates of an attention sublayer that the backward pass reads.
#[derive(Debug, Default)]
pub struct AttentionSaved {
    /// Output of the own projection.
    pub own: Buffer,
    /// Output of the other side's projection; empty for self-attention.
    pub other: Buffer,
    /// Probabilities `[items, heads, queries, keys]`, items one behind the other.
    pub probabilities: Buffer,
    /// Output of the heads.
    pub context: Buffer,
    /// Input of the norm in [`NormPlace::After`]; else empty.
    pub sum: Buffer,
}

/// Plan of a batch: its chunks of whole items, and the sizes of the tensors that belong to each
/// chunk.
#[derive(Debug)]
pub struct AttentionPlan<'a> {
    /// Layout of the query rows.
    pub at: &'a Rows,
    /// Layout of the key rows: the other side's, or `at` in self-attention.
    pub side: &'a Rows,
    /// Whether it is cross-attention, so that `side` is the other side.
    pub cross: bool,
    heads: usize,
    /// Items of every chunk.
    pub chunks: Vec<Range<usize>>,
}

impl<'a> AttentionPlan<'a> {
    /// Plans attention of `heads` heads for rows `at`, which attend to themselves or to `other`.
    #[must_use]
    pub fn new(at: &'a Rows, other: Option<&'a Rows>, heads: usize) -> Self {
        let side = other.unwrap_or(at);
        let chunks = item_chunks(at, side, rayon::current_num_threads());
        Self { at, side, cross: other.is_some(), heads, chunks }
    }

    /// Query rows of every chunk, times `width`.
    #[must_use]
    pub fn row_sizes(&self, width: usize) -> Vec<usize> {
        self.sizes(|items| (self.at.before(items.end) - self.at.before(items.start)) * width)
    }

    /// Key rows of every chunk, times `width`.
    #[must_use]
    pub fn key_sizes(&self, width: usize) -> Vec<usize> {
        self.sizes(|items| (self.side.before(items.end) - self.side.before(items.start)) * width)
    }

    /// Number of probabilities of every chunk.
    #[must_use]
    pub fn probability_sizes(&self) -> Vec<usize> {
        self.sizes(|items| items.clone().map(|item| self.shape(item).probabilities()).sum())
    }

    fn sizes(&self, of: impl Fn(&Range<usize>) -> usize) -> Vec<usize> {
        self.chunks.iter().map(of).collect()
    }

    /// Shape of the attention of `item`.
    #[must_use]
    pub fn shape(&self, item: usize) -> AttentionShape {
        let (queries, keys) = (self.at.length(item), self.side.length(item));
        AttentionShape { queries, keys, width: self.at.width, heads: self.heads }
    }

    /// Numbers per row of the own projection.
    #[must_use]
    pub fn own_width(&self) -> usize {
        if self.cross { self.at.width } else { 3 * self.at.width }
    }

    /// Numbers per row of the other side's projection; 0 for self-attention.
    #[must_use]
    pub fn other_width(&self) -> usize {
        if self.cross { 2 * self.at.width } else { 0 }
    }

    /// Numbers per row of the other side; 0 for self-attention.
    #[must_use]
    pub fn side_width(&self) -> usize {
        if self.cross { self.side.width } else { 0 }
    }

    /// Position of `item` in its chunk `items`: the range of its numbers in a matrix of query rows
    /// and in a matrix of key rows, which have the given widths.
    #[must_use]
    pub fn place(&self, items: &Range<usize>, item: usize, widths: (usize, usize)) -> (Range<usize>, Range<usize>) {
        let within = |rows: &Rows, width: usize| {
            let from = rows.before(item) - rows.before(items.start);
            from * width..(from + rows.length(item)) * width
        };
        (within(self.at, widths.0), within(self.side, widths.1))
    }

    /// Projections of `item`, given those of its chunk.
    #[must_use]
    pub fn projections<'v>(
        &self,
        items: &Range<usize>,
        item: usize,
        own: &'v [f32],
        other: &'v [f32],
    ) -> Projections<'v> {
        let (rows, keys) = self.place(items, item, (self.own_width(), self.other_width()));
        if self.cross { Projections::Separate(&own[rows], &other[keys]) } else { Projections::Fused(&own[rows]) }
    }
}

impl Attention {
    pub(super) fn check(&self, rows: &Rows, other: Option<&Rows>, mask: Option<&Mask>) -> Result<(), ShapeError> {
        let d = rows.width;
        let own_outputs = if self.other.is_some() { d } else { 3 * d };
        let other_fits = match (&self.other, other) {
            (Some(layer), Some(other)) => {
                other.items() == rows.items() && (layer.outputs(), layer.inputs()) == (2 * d, other.width)
            }
            (layer, _) => layer.is_none(),
        };
        let fits = (self.own.outputs(), self.own.inputs()) == (own_outputs, d)
            && (self.output.outputs(), self.output.inputs()) == (d, d)
            && self.heads > 0
            && d.is_multiple_of(self.heads);
        if !fits || !other_fits {
            return Err(ShapeError(format!("attention of {} heads does not fit {rows:?} and {other:?}", self.heads)));
        }
        let side = other.filter(|_| self.other.is_some()).unwrap_or(rows);
        match mask {
            Some(mask) if !mask.fits(side.lengths()) => {
                Err(ShapeError(format!("{mask:?} does not fit keys of {side:?}")))
            }
            _ => self.norm.check(d),
        }
    }

    /// `x`, of rows laid out as `at` -> the same shape; with `save` also the intermediates that the
    /// backward pass reads.
    ///
    /// # Errors
    /// Rows that do not fit the layer, each other or the mask.
    pub fn forward(
        &self,
        at: &Rows,
        x: &[f32],
        other: Option<Other<'_>>,
        mask: Option<&Mask>,
        save: bool,
    ) -> Result<(Buffer, Option<AttentionSaved>), ShapeError> {
        self.check(at, other.map(|o| o.rows), mask)?;
        let mut plan = AttentionPlan::new(at, other.filter(|_| self.other.is_some()).map(|o| o.rows), self.heads);
        // Fewer chunks than threads: one chunk, whose products and heads are spread over the
        // threads.
        let wide = plan.chunks.len() < rayon::current_num_threads();
        if wide {
            plan.chunks = std::iter::once(0..at.items()).collect();
        }
        let side: &[f32] = if plan.cross { other.map_or(&[], |o| o.values) } else { &[] };
        let d = at.width;
        let after = self.place == NormPlace::After;
        let mut y = Buffer::take(at.numbers());
        let mut own = saved_buffer(at.count() * plan.own_width(), save);
        let mut kv = saved_buffer(plan.side.count() * plan.other_width(), save);
        let probability_sizes = plan.probability_sizes();
        let mut p = saved_buffer(probability_sizes.iter().sum(), save);
        let mut context = saved_buffer(at.numbers(), save);
        let mut sum = saved_buffer(if after { at.numbers() } else { 0 }, save);
        let rows = plan.row_sizes(d);
        let parts = (
            (
                &plan.chunks,
                pieces(x, &rows),
                pieces(side, &plan.key_sizes(plan.side_width())),
                pieces_mut(&mut y, &rows),
            ),
            (
                saved_pieces(&mut own, &plan.row_sizes(plan.own_width())),
                saved_pieces(&mut kv, &plan.key_sizes(plan.other_width())),
                saved_pieces(&mut p, &probability_sizes),
                saved_pieces(&mut context, &rows),
                saved_pieces(&mut sum, &rows),
            ),
        );
        let chunks = (parts.0.into_par_iter(), parts.1.into_par_iter()).into_par_iter().with_max_len(1);
        chunks.try_for_each(|((items, x, side, y), (own, kv, mut p, context, sum))| -> Result<(), ShapeError> {
            let threads = usize::from(!wide);
            let rows = x.len() / d.max(1);
            let keys = if plan.cross { side.len() / plan.side_width().max(1) } else { 0 };
            let mut own = Intermediate::new(own, rows * plan.own_width());
            let mut kv = Intermediate::new(kv, keys * plan.other_width());
            let mut context = Intermediate::new(context, x.len());
            if after {
                self.own.apply(x, &mut own, self.own.bias(), threads)?;
            } else {
                self.norm.run(x, y, wide);
                self.own.apply(y, &mut own, self.own.bias(), threads)?;
            }
            if let Some(layer) = &self.other {
                layer.apply(side, &mut kv, layer.bias(), threads)?;
            }
            let mut from = 0;
            for item in items.clone() {
                let shape = plan.shape(item);
                let seen = |i: usize| mask.map_or(shape.keys, |mask| mask.visible(item, i));
                let kept = p.as_mut().map(|p| &mut p[from..from + shape.probabilities()]);
                from += shape.probabilities();
                let (out, _) = plan.place(items, item, (d, 0));
                shape.forward(plan.projections(items, item, &own, &kv), &seen, kept, &mut context[out], wide);
            }
            if after {
                let mut sum = Intermediate::new(sum, x.len());
                self.output.apply(&context, &mut sum, self.output.bias_plus(x)?, threads)?;
                self.norm.run(&sum, y, wide);
                Ok(())
            } else {
                self.output.apply(&context, y, self.output.bias_plus(x)?, threads)
            }
        })?;
        let saved = match (own, kv, p, context, sum) {
            (Some(own), Some(other), Some(probabilities), Some(context), Some(sum)) => {
                Some(AttentionSaved { own, other, probabilities, context, sum })
            }
            _ => None,
        };
        Ok((y, saved))
    }
}
