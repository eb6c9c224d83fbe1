//! Multi-head attention of one item, forward and backward, on rows that are in the cache.
//!
//! Heads lie side by side in the rows of the projections, `width / heads` columns each, and are
//! read in place.

use std::ops::Range;

use super::gemm::Strided;
use super::pool::Buffer;
use super::rows::{softmax, softmax_grad};
use super::small::{padded, product, transpose};

/// Additive attention mask on the score of a masked key: -10000 and not minus infinity, as in the
/// reference (specification, section 1).
pub const MASKED: f32 = -10_000.0;

/// Shape of the attention of one item: `queries` rows of `width` numbers attend to `keys` rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Number of query rows.
    pub queries: usize,
    /// Number of key rows.
    pub keys: usize,
    /// Numbers per row, over all heads.
    pub width: usize,
    /// Number of heads; it divides `width`.
    pub heads: usize,
}

/// The projections of one item.
#[derive(Clone, Copy, Debug)]
pub enum Projections<'a> {
    /// Query, key and value side by side, `[queries, 3 * width]`: self-attention.
    Fused(&'a [f32]),
    /// The query `[queries, width]`, and key and value side by side `[keys, 2 * width]`:
    /// cross-attention.
    Separate(&'a [f32], &'a [f32]),
}

/// The gradients of [`Projections`], of the same shapes.
#[derive(Debug)]
pub enum ProjectionGradients<'a> {
    /// See [`Projections::Fused`].
    Fused(&'a mut [f32]),
    /// See [`Projections::Separate`].
    Separate(&'a mut [f32], &'a mut [f32]),
}

/// Position of a head in a matrix: its first column, and the row stride.
#[derive(Clone, Copy)]
struct HeadPosition {
    column: usize,
    stride: usize,
}

/// Rows of one head of a matrix.
#[derive(Clone, Copy)]
struct Head<'a> {
    values: &'a [f32],
    stride: usize,
}

impl<'a> Head<'a> {
    fn new(values: &'a [f32], position: HeadPosition) -> Self {
        Self { values: &values[position.column..], stride: position.stride }
    }

    /// Pointer to the head, after a check that `rows x width` numbers lie inside the slice.
    fn at(&self, rows: usize, width: usize) -> Strided<*const f32> {
        assert!(rows == 0 || (rows - 1) * self.stride + width <= self.values.len(), "a head lies inside its matrix");
        Strided::new(self.values.as_ptr(), self.stride, 1)
    }
}

/// Mutable head: a pointer, because the heads of one matrix interleave.
#[derive(Clone, Copy)]
struct HeadMut(Strided<*mut f32>);

// SAFETY: it is an address into a matrix that is borrowed exclusively for as long as tasks run, and
// tasks write to heads that are apart from each other.
unsafe impl Send for HeadMut {}
// SAFETY: as above.
unsafe impl Sync for HeadMut {}

impl HeadMut {
    fn new(values: &mut [f32], position: HeadPosition, rows: usize, width: usize) -> Self {
        let end = if rows == 0 { 0 } else { position.column + (rows - 1) * position.stride + width };
        assert!(end <= values.len(), "a head lies inside its matrix");
        Self(Strided::new(values.as_mut_ptr().wrapping_add(position.column), position.stride, 1))
    }
}

impl AttentionShape {
    /// Numbers per row of one head.
    fn head_width(&self) -> usize {
        self.width / self.heads
    }

    /// Factor on scores: 1 / sqrt(head width).
    fn scale(&self) -> f32 {
        1.0 / (self.head_width() as f32).sqrt()
    }

    /// Number of probabilities of all heads, `[heads, queries, keys]`.
    #[must_use]
    pub fn probabilities(&self) -> usize {
        self.heads * self.queries * self.keys
    }

    /// Positions of query, key and value of head `head`; key and value are in the second matrix
    /// unless the projection is fused.
    fn positions(&self, fused: bool, head: usize) -> [HeadPosition; 3] {
        let (d, from) = (self.width, head * self.head_width());
        if fused {
            [0, 1, 2].map(|i| HeadPosition { column: i * d + from, stride: 3 * d })
        } else {
            let key = |i| HeadPosition { column: i * d + from, stride: 2 * d };
            [HeadPosition { column: from, stride: d }, key(0), key(1)]
        }
    }

    fn heads_of<'a>(&self, projections: Projections<'a>, head: usize) -> [Head<'a>; 3] {
        match projections {
            Projections::Fused(all) => self.positions(true, head).map(|position| Head::new(all, position)),
            Projections::Separate(own, other) => {
                let [q, k, v] = self.positions(false, head);
                [Head::new(own, q), Head::new(other, k), Head::new(other, v)]
            }
        }
    }

    fn check(&self, projections: Projections<'_>) {
        let Self { queries, keys, width, heads } = *self;
        assert!(heads > 0 && width.is_multiple_of(heads), "{heads} heads do not divide rows of {width}");
        let fits = match projections {
            Projections::Fused(all) => queries == keys && all.len() == 3 * queries * width,
            Projections::Separate(own, other) => own.len() == queries * width && other.len() == 2 * keys * width,
        };
        assert!(fits, "projections do not fit {self:?}");
    }

    /// `out = softmax(q kᵀ scale) v` for every head, `[queries, width]`.
    ///
    /// Query `i` attends to the first `seen(i)` keys. The probabilities `[heads, queries, keys]`
    /// are written to `kept`, if given. With `parallel` the heads are distributed over rayon's
    /// current pool.
    ///
    /// # Panics
    /// When the slices do not have these shapes.
    pub fn forward(
        &self,
        projections: Projections<'_>,
        seen: &(impl Fn(usize) -> usize + Sync),
        kept: Option<&mut [f32]>,
        out: &mut [f32],
        parallel: bool,
    ) {
        self.check(projections);
        let (n, m, w) = (self.queries, self.keys, self.head_width());
        assert_eq!(out.len(), n * self.width, "one row a query");
        if n == 0 {
            return;
        }
        let outputs: Vec<HeadMut> = (0..self.heads)
            .map(|head| HeadMut::new(out, HeadPosition { column: head * w, stride: self.width }, n, w))
            .collect();
        let mut kept: Vec<Option<&mut [f32]>> = match kept {
            Some(all) => {
                assert_eq!(all.len(), self.probabilities(), "one probability a head, query and key");
                if m == 0 {
                    (0..self.heads).map(|_| None).collect()
                } else {
                    all.chunks_exact_mut(n * m).map(Some).collect()
                }
            }
            None => (0..self.heads).map(|_| None).collect(),
        };
        let run = |heads: Range<usize>, kept: &mut [Option<&mut [f32]>]| {
            let mut transposed = Buffer::take(w * padded(m));
            let mut own = Buffer::take(if kept.iter().all(Option::is_some) { 0 } else { n * m });
            for (head, kept) in heads.zip(kept) {
                let p = kept.as_deref_mut().unwrap_or(&mut own);
                // SAFETY: heads are apart from each other inside `out`, which is borrowed
                // exclusively here.
                unsafe { self.head(self.heads_of(projections, head), p, outputs[head], seen, &mut transposed) };
            }
        };
        if parallel && self.heads > 1 {
            let each = self.heads.div_ceil(rayon::current_num_threads());
            let run = &run;
            rayon::scope(|scope| {
                for (i, kept) in kept.chunks_mut(each).enumerate() {
                    scope.spawn(move |_| run(i * each..i * each + kept.len(), kept));
                }
            });
        } else {
            run(0..self.heads, &mut kept);
        }
    }

    /// One head: probabilities into `p` (queries x keys) and `out = p v`.
    ///
    /// # Safety
    /// Nothing else reads or writes `out` during the call.
    unsafe fn head(
        &self,
        [q, k, v]: [Head<'_>; 3],
        p: &mut [f32],
        out: HeadMut,
        seen: &impl Fn(usize) -> usize,
        transposed: &mut [f32],
    ) {
        let (n, m, w) = (self.queries, self.keys, self.head_width());
        assert_eq!(p.len(), n * m, "one probability a query and key");
        transpose(k.values, m, w, k.stride, transposed);
        let scores = Strided::new(p.as_mut_ptr(), m, 1);
        let keys = Strided::new(transposed.as_ptr(), padded(m), 1);
        // SAFETY: heads are checked to lie inside their matrices, `p` and `transposed` hold n x m
        // and w x padded(m) numbers.
        unsafe { product((n, m, w), scores, q.at(n, w), keys) };
        for (i, row) in p.chunks_exact_mut(m.max(1)).enumerate() {
            row[seen(i).min(m)..].iter_mut().for_each(|s| *s += MASKED / self.scale());
            softmax(row, self.scale());
        }
        // SAFETY: as above; `out` is the caller's promise.
        unsafe { product((n, w, m), out.0, Strided::new(p.as_ptr(), m, 1), v.at(m, w)) };
    }

    /// Writes the gradients of the projections for the gradient `g` `[queries, width]` of the
    /// output and the probabilities `p` that [`AttentionShape::forward`] kept.
    ///
    /// # Panics
    /// When the slices do not have these shapes.
    pub fn backward(&self, projections: Projections<'_>, p: &[f32], g: &[f32], gradients: ProjectionGradients<'_>) {
        self.check(projections);
        let (n, m, w) = (self.queries, self.keys, self.head_width());
        assert!(
            g.len() == n * self.width && p.len() == self.probabilities(),
            "gradient and probabilities fit {self:?}"
        );
        let (mut transposed, mut dp) = (Buffer::take(w * padded(m)), Buffer::take(n * m));
        let mut targets = gradients;
        for head in 0..self.heads {
            let [q, k, v] = self.heads_of(projections, head);
            let p = &p[head * n * m..(head + 1) * n * m];
            let g = Head::new(g, HeadPosition { column: head * w, stride: self.width });
            let [dq, dk, dv] = match &mut targets {
                ProjectionGradients::Fused(all) => {
                    let [q, k, v] = self.positions(true, head);
                    [HeadMut::new(all, q, n, w), HeadMut::new(all, k, m, w), HeadMut::new(all, v, m, w)]
                }
                ProjectionGradients::Separate(own, other) => {
                    let [q, k, v] = self.positions(false, head);
                    [HeadMut::new(own, q, n, w), HeadMut::new(other, k, m, w), HeadMut::new(other, v, m, w)]
                }
            };
            transpose(v.values, m, w, v.stride, &mut transposed);
            let by_key = |p: &[f32]| Strided::new(p.as_ptr(), 1, m);
            // SAFETY: heads are checked to lie inside their matrices, the gradients are borrowed
            // exclusively and apart from each other, and scratch has the size of the products.
            unsafe {
                product((m, w, n), dv.0, by_key(p), g.at(n, w));
                let values = Strided::new(transposed.as_ptr(), padded(m), 1);
                product((n, m, w), Strided::new(dp.as_mut_ptr(), m, 1), g.at(n, w), values);
            }
            for (p, dp) in p.chunks_exact(m.max(1)).zip(dp.chunks_exact_mut(m.max(1))) {
                softmax_grad(p, dp, self.scale());
            }
            // SAFETY: as above.
            unsafe {
                product((n, w, m), dq.0, Strided::new(dp.as_ptr(), m, 1), k.at(m, w));
                product((m, w, n), dk.0, by_key(&dp), q.at(n, w));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(len: usize, seed: u32) -> Vec<f32> {
        let hash = |i: u32| ((i ^ seed).wrapping_mul(0x9e37_79b9) ^ (i >> 3)).wrapping_mul(0x85eb_ca6b);
        (0..len as u32).map(|i| (hash(i) as f32 / (1u32 << 31) as f32) - 1.0).collect()
    }

    /// Attention by its definition, in f64.
    fn plain(
        shape: AttentionShape,
        [q, k, v]: [&dyn Fn(usize, usize) -> f32; 3],
        seen: &dyn Fn(usize) -> usize,
    ) -> Vec<f64> {
        let w = shape.width / shape.heads;
        let mut out = vec![0.0; shape.queries * shape.width];
        for h in 0..shape.heads {
            for i in 0..shape.queries {
                let score = |j: usize| {
                    let dot: f64 = (0..w).map(|c| f64::from(q(i, h * w + c)) * f64::from(k(j, h * w + c))).sum();
                    dot / (w as f64).sqrt() + if j < seen(i) { 0.0 } else { f64::from(MASKED) }
                };
                let scores: Vec<f64> = (0..shape.keys).map(score).collect();
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let e: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                let total: f64 = e.iter().sum();
                for c in 0..w {
                    out[i * shape.width + h * w + c] =
                        (0..shape.keys).map(|j| e[j] / total * f64::from(v(j, h * w + c))).sum();
                }
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn attention_is_its_definition(
            queries in 1usize..40, keys in 1usize..40, heads in 1usize..5, w in 1usize..40, hidden in 0usize..40,
            fused: bool, parallel: bool, keep: bool, seed: u32,
        ) {
            let keys = if fused { queries } else { keys };
            let shape = AttentionShape { queries, keys, width: heads * w, heads };
            let d = shape.width;
            let (own, other) = if fused {
                (numbers(3 * queries * d, seed), Vec::new())
            } else {
                (numbers(queries * d, seed), numbers(2 * keys * d, seed ^ 99))
            };
            let seen = |i: usize| (keys - hidden.min(keys - 1)).min(i + 1 + keys / 2);
            let want = if fused {
                plain(shape, [&|i, c| own[i * 3 * d + c], &|j, c| own[j * 3 * d + d + c], &|j, c| own[j * 3 * d + 2 * d + c]], &seen)
            } else {
                plain(shape, [&|i, c| own[i * d + c], &|j, c| other[j * 2 * d + c], &|j, c| other[j * 2 * d + d + c]], &seen)
            };
            let projections = if fused { Projections::Fused(&own) } else { Projections::Separate(&own, &other) };
            let mut out = vec![f32::NAN; queries * d];
            let mut p = vec![f32::NAN; shape.probabilities()];
            shape.forward(projections, &seen, keep.then_some(&mut p[..]), &mut out, parallel);
            for (got, want) in out.iter().zip(&want) {
                prop_assert!((f64::from(*got) - want).abs() < 2e-5, "{got} instead of {want}");
            }
            if keep {
                for row in p.chunks(keys) {
                    prop_assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                }
            }
        }

        /// The gradient of a weighted sum of the output against finite differences of the
        /// definition.
        #[test]
        fn the_gradient_is_that_of_the_definition(
            queries in 1usize..6, keys in 1usize..6, heads in 1usize..3, w in 1usize..5, fused: bool, seed: u32, at: usize,
        ) {
            let keys = if fused { queries } else { keys };
            let shape = AttentionShape { queries, keys, width: heads * w, heads };
            let d = shape.width;
            let own = numbers(if fused { 3 * queries * d } else { queries * d }, seed);
            let other = if fused { Vec::new() } else { numbers(2 * keys * d, seed ^ 99) };
            let g = numbers(queries * d, seed ^ 7);
            let seen = |i: usize| (i + 1).min(keys);
            let value = |own: &[f32], other: &[f32]| -> f64 {
                let out = if fused {
                    plain(shape, [&|i, c| own[i * 3 * d + c], &|j, c| own[j * 3 * d + d + c], &|j, c| own[j * 3 * d + 2 * d + c]], &seen)
                } else {
                    plain(shape, [&|i, c| own[i * d + c], &|j, c| other[j * 2 * d + c], &|j, c| other[j * 2 * d + d + c]], &seen)
                };
                out.iter().zip(&g).map(|(o, g)| o * f64::from(*g)).sum()
            };
            let projections = if fused { Projections::Fused(&own) } else { Projections::Separate(&own, &other) };
            let (mut out, mut p) = (vec![0.0; queries * d], vec![0.0; shape.probabilities()]);
            shape.forward(projections, &seen, Some(&mut p), &mut out, false);
            let (mut d_own, mut d_other) = (vec![f32::NAN; own.len()], vec![f32::NAN; other.len()]);
            let targets = if fused { ProjectionGradients::Fused(&mut d_own) } else { ProjectionGradients::Separate(&mut d_own, &mut d_other) };
            shape.backward(projections, &p, &g, targets);
            let all: Vec<f32> = d_own.iter().chain(&d_other).copied().collect();
            let i = at % all.len();
            let moved = |by: f32| {
                let (mut own, mut other) = (own.clone(), other.clone());
                if i < own.len() { own[i] += by } else { other[i - own.len()] += by }
                value(&own, &other)
            };
            let numeric = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            prop_assert!((numeric - f64::from(all[i])).abs() < 1e-3, "{i}: {} instead of {numeric}", all[i]);
        }
    }
}
