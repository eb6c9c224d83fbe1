//! The attention sublayer's tensors, and its backward pass.

use candle_core::{Error, Result, Tensor};
use rayon::prelude::*;
use sightline_embed::graph::{LayerNorm, Linear};
use sightline_embed::kernel::{Add, Buffer, Epilogue, Precision, ProjectionGradients, add_assign, column_sums};
use sightline_embed::net::{Attention, AttentionPlan, AttentionSaved, NormPlace, Other, Rows, pieces, pieces_mut};

use super::dense::{Direction, NormSums, Sums, dense, gradients, norm, parameters, total};
use super::feed_forward::residual;
use super::stack::Gradients;

/// Attention with its projections, residual and norm.
#[derive(Clone, Debug)]
pub struct AttentionTensors {
    /// Pre-norm (ViT) or post-norm (BERT).
    pub place: NormPlace,
    /// Layer norm of `width`.
    pub norm: LayerNorm,
    /// Projections of the rows themselves: query, key and value (three layers or a fused one), or
    /// only the query in cross-attention.
    pub own: Vec<Linear>,
    /// Key and value projections of the other side (the image); empty in self-attention.
    pub other: Vec<Linear>,
    /// The output projection.
    pub output: Linear,
    /// Number of heads; it divides the width.
    pub heads: usize,
}

impl AttentionTensors {
    pub(super) fn parameters(&self) -> Vec<&Tensor> {
        let linear = parameters(&self.own).chain(parameters(&self.other));
        let norm = [&self.norm.weight, &self.norm.bias];
        norm.into_iter().chain(linear).chain([&self.output.weight, &self.output.bias]).collect()
    }

    fn cross(&self) -> bool {
        !self.other.is_empty()
    }

    pub(super) fn prepacked(&self, precision: Precision) -> Result<Attention> {
        let forward = |layers: &[Linear]| dense(layers, Direction::Forward, precision);
        Ok(Attention {
            place: self.place,
            norm: norm(&self.norm)?,
            own: forward(&self.own)?,
            other: if self.cross() { Some(forward(&self.other)?) } else { None },
            output: forward(std::slice::from_ref(&self.output))?,
            heads: self.heads,
        })
    }

    pub(super) fn backward(
        &self,
        at: &Rows,
        (x, saved): (&[f32], &AttentionSaved),
        g: &[f32],
        other: Option<(Other<'_>, &mut [f32])>,
        precision: Precision,
    ) -> Result<Gradients> {
        let side_rows = other.as_ref().map(|(o, _)| o.rows).filter(|_| self.cross());
        let plan = AttentionPlan::new(at, side_rows, self.heads);
        let (side, side_gradient): (&[f32], &mut [f32]) = match other {
            Some((o, gradient)) if plan.cross => (o.values, gradient),
            _ => (&[], &mut []),
        };
        let norm = norm(&self.norm)?;
        let backward = |layers: &[Linear]| dense(layers, Direction::Backward, precision);
        let own_layer = backward(&self.own)?;
        let other_layer = if plan.cross { Some(backward(&self.other)?) } else { None };
        let output_layer = backward(std::slice::from_ref(&self.output))?;
        let d = at.width;
        let mut dx = Buffer::take(at.numbers());
        let (mut d_own, mut d_kv) = (Buffer::take(saved.own.len()), Buffer::take(saved.other.len()));
        // Post-norm: the gradient of the sum. Pre-norm: the normalised input, computed again.
        let mut between = Buffer::take(at.numbers());
        let (rows, key_rows) = (plan.row_sizes(d), plan.key_sizes(plan.side_width()));
        let (own_rows, kv_rows) = (plan.row_sizes(plan.own_width()), plan.key_sizes(plan.other_width()));
        let parts = (
            (
                &plan.chunks,
                pieces(x, &rows),
                pieces(g, &rows),
                pieces(&saved.own, &own_rows),
                pieces(&saved.other, &kv_rows),
                pieces(&saved.probabilities, &plan.probability_sizes()),
                pieces(&saved.sum, &rows),
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
                let mut norm_sums = NormSums::zeros(&norm);
                let mut inner = Buffer::take(x.len());
                if self.place == NormPlace::After {
                    norm_sums.backward(&norm, sum, g, between);
                }
                let outer = if self.place == NormPlace::After { &*between } else { g };
                output_layer.apply(outer, &mut inner, Epilogue::default(), 1).map_err(Error::wrap)?;
                let mut from = 0;
                for item in items.clone() {
                    let shape = plan.shape(item);
                    let p = &p[from..from + shape.probabilities()];
                    from += shape.probabilities();
                    let (out, _) = plan.place(items, item, (d, 0));
                    let (rows, keys) = plan.place(items, item, (plan.own_width(), plan.other_width()));
                    let targets = if plan.cross {
                        ProjectionGradients::Separate(&mut d_own[rows], &mut d_kv[keys])
                    } else {
                        ProjectionGradients::Fused(&mut d_own[rows])
                    };
                    shape.backward(plan.projections(items, item, own, kv), p, &inner[out], targets);
                }
                if let Some(layer) = &other_layer {
                    let add = Epilogue { add: Add::Output, ..Epilogue::default() };
                    layer.apply(d_kv, side_gradient, add, 1).map_err(Error::wrap)?;
                }
                let out_bias = column_sums(outer, d);
                if self.place == NormPlace::After {
                    own_layer.apply(d_own, dx, residual(between, d)?, 1).map_err(Error::wrap)?;
                } else {
                    own_layer.apply(d_own, &mut inner, Epilogue::default(), 1).map_err(Error::wrap)?;
                    norm_sums.backward(&norm, x, &inner, dx);
                    add_assign(dx, g);
                    norm.forward(x, between);
                }
                let kv_bias = if plan.cross { column_sums(d_kv, 2 * d) } else { Vec::new() };
                let own_bias = column_sums(d_own, plan.own_width());
                Ok(vec![norm_sums.weight, norm_sums.bias, own_bias, kv_bias, out_bias])
            });
        let mut all = total(sums.collect::<Result<_>>()?);
        let biases = all.split_off(2);
        let (input, outer) = if self.place == NormPlace::Before { (&between[..], g) } else { (x, &between[..]) };
        all.extend(gradients(&self.own, &d_own, input, &biases[0], precision)?);
        if plan.cross {
            all.extend(gradients(&self.other, &d_kv, side, &biases[1], precision)?);
        }
        all.extend(gradients(std::slice::from_ref(&self.output), outer, &saved.context, &biases[2], precision)?);
        Ok(Gradients { input: dx, parameters: all })
    }
}
