//! The feed-forward sublayer: `x + W2 gelu(W1 norm(x))`, or `norm(x + W2 gelu(W1 x))`.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::super::buffer::Buffer;
use super::super::{LayerNorm, Linear};
use super::dense::{Dense, Direction, dims, gradients, parameters};
use super::rows::{Norm, add, column_sums};
use super::{CHUNK_ROWS, Gradients, Place, Rows, Saved, Sums, total};
use crate::kernel::{Add, Epilogue, Mat, Precision, gelu_grad, gelu_into};

/// Two linear layers with GELU between them, residual and norm.
#[derive(Clone, Debug)]
pub struct Feed {
    /// Where the norm is.
    pub place: Place,
    /// The norm.
    pub norm: LayerNorm,
    /// To the hidden width.
    pub first: Linear,
    /// And back.
    pub second: Linear,
}

/// The sum with `x` as an epilogue.
pub(super) fn plus(x: &[f32], width: usize) -> Result<Epilogue<'_>> {
    let x = Mat::new(x, x.len() / width.max(1), width).map_err(candle_core::Error::wrap)?;
    Ok(Epilogue { add: Add::Matrix(x), ..Epilogue::default() })
}

impl Feed {
    pub(super) fn parameters(&self) -> Vec<&Tensor> {
        let linear = [&self.first, &self.second].into_iter().flat_map(|l| parameters(std::slice::from_ref(l)));
        self.norm.parameters().into_iter().chain(linear).collect()
    }

    pub(super) fn check(&self, own: usize) -> Result<()> {
        let [(hidden, width), (out, back)] = [self.first.weight().dims2()?, self.second.weight().dims2()?];
        if [width, out] != [own; 2] || hidden != back {
            bail!("a feed-forward layer {width} -> {hidden}, {back} -> {out} was given rows of {own}");
        }
        self.norm.check(own)
    }

    fn read(&self, direction: Direction, precision: Precision) -> Result<[Dense; 2]> {
        let read = |l| Dense::read(std::slice::from_ref(l), direction, precision);
        Ok([read(&self.first)?, read(&self.second)?])
    }

    fn hidden(&self) -> Result<usize> {
        dims(std::slice::from_ref(&self.first)).map(|d| d.0)
    }

    /// Saves the hidden values before GELU and, with the norm after, the sum.
    pub(super) fn run(&self, at: &Rows, x: &[f32], precision: Precision) -> Result<(Buffer, Saved)> {
        let (norm, [first, second]) = (Norm::read(&self.norm)?, self.read(Direction::Forward, precision)?);
        let (d, hidden) = (at.width, self.hidden()?);
        let after = self.place == Place::After;
        let mut y = Buffer::take(at.len());
        let mut u = Buffer::take(at.len() / d * hidden);
        let mut sum = Buffer::take(if after { at.len() } else { 0 });
        let work = |x: &[f32], u: &mut [f32], sum: Option<&mut [f32]>, y: &mut [f32]| -> Result<()> {
            let mut h = Buffer::take(u.len());
            match sum {
                None => {
                    let mut normed = Buffer::take(x.len());
                    norm.forward(x, &mut normed);
                    first.apply(&normed, u, first.bias())?;
                    gelu_into(u, &mut h);
                    second.apply(&h, y, Epilogue { add: plus(x, d)?.add, ..second.bias() })
                }
                Some(sum) => {
                    first.apply(x, u, first.bias())?;
                    gelu_into(u, &mut h);
                    second.apply(&h, sum, Epilogue { add: plus(x, d)?.add, ..second.bias() })?;
                    norm.forward(sum, y);
                    Ok(())
                }
            }
        };
        let (wide, tall) = (CHUNK_ROWS * d, CHUNK_ROWS * hidden);
        if after {
            (x.par_chunks(wide), u.par_chunks_mut(tall), sum.par_chunks_mut(wide), y.par_chunks_mut(wide))
                .into_par_iter()
                .with_max_len(1)
                .try_for_each(|(x, u, sum, y)| work(x, u, Some(sum), y))?;
        } else {
            (x.par_chunks(wide), u.par_chunks_mut(tall), y.par_chunks_mut(wide))
                .into_par_iter()
                .with_max_len(1)
                .try_for_each(|(x, u, y)| work(x, u, None, y))?;
        }
        Ok((y, Saved(vec![u, sum])))
    }

    pub(super) fn run_back(
        &self,
        at: &Rows,
        (x, saved): (&[f32], &Saved),
        g: &[f32],
        precision: Precision,
    ) -> Result<Gradients> {
        let [u, sum] = &saved.0[..] else { bail!("a feed-forward layer has nothing saved") };
        let (norm, [first, second]) = (Norm::read(&self.norm)?, self.read(Direction::Backward, precision)?);
        let (d, hidden) = (at.width, self.hidden()?);
        let (wide, tall) = (CHUNK_ROWS * d, CHUNK_ROWS * hidden);
        let (mut dx, mut du, mut h) = (Buffer::take(at.len()), Buffer::take(u.len()), Buffer::take(u.len()));
        // With the norm after: the gradient of the sum. With the norm before: the normed input once more.
        let mut between = Buffer::take(at.len());
        let parts = (
            (x.par_chunks(wide), g.par_chunks(wide), u.par_chunks(tall)),
            (dx.par_chunks_mut(wide), du.par_chunks_mut(tall), h.par_chunks_mut(tall), between.par_chunks_mut(wide)),
        );
        let chunks = (parts.0.into_par_iter(), parts.1.into_par_iter()).into_par_iter().with_max_len(1).enumerate();
        let sums = chunks.map(|(i, ((x, g, u), (dx, du, h, between)))| -> Result<Sums> {
            let mut norm_sums = norm.zeros();
            let last_bias = match self.place {
                Place::Before => {
                    second.apply(g, du, Epilogue::default())?;
                    gelu_grad(u, du, h);
                    norm.forward(x, between);
                    let mut inner = Buffer::take(x.len());
                    first.apply(du, &mut inner, Epilogue::default())?;
                    norm.backward(x, &inner, dx, &mut norm_sums);
                    add(dx, g);
                    column_sums(g, d)
                }
                Place::After => {
                    norm.backward(&sum[i * wide..][..x.len()], g, between, &mut norm_sums);
                    second.apply(between, du, Epilogue::default())?;
                    gelu_grad(u, du, h);
                    first.apply(du, dx, plus(between, d)?)?;
                    column_sums(between, d)
                }
            };
            let [dw, db] = norm_sums;
            Ok(vec![dw, db, column_sums(du, hidden), last_bias])
        });
        let mut parameters = total(sums.collect::<Result<_>>()?);
        let biases = parameters.split_off(2);
        let (input, outer) = if self.place == Place::Before { (&between[..], g) } else { (x, &between[..]) };
        parameters.extend(gradients(std::slice::from_ref(&self.first), &du, input, &biases[0], precision)?);
        parameters.extend(gradients(std::slice::from_ref(&self.second), outer, &h, &biases[1], precision)?);
        Ok(Gradients { input: dx, parameters })
    }
}
