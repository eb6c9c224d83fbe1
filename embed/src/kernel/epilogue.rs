//! Epilogues: the bias, GELU and addition that follow a product, applied while a block is in the
//! cache.

use super::simd::multiversion;
use super::{KernelError, Mat, MatMut, expect_shape};

/// Addend of the product, after bias and activation.
#[derive(Clone, Copy, Debug, Default)]
pub enum Add<'a> {
    /// Nothing: the output is overwritten.
    #[default]
    Nothing,
    /// The output's former content: gradients that accumulate, a residual stream in place.
    Output,
    /// Another matrix of the output's shape: a residual.
    Matrix(Mat<'a>),
}

/// `c = add + activation(product + bias)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// One number a column, added to every row.
    pub bias: Option<&'a [f32]>,
    /// Whether [`gelu`] follows the bias.
    pub gelu: bool,
    /// Addend, after the activation.
    pub add: Add<'a>,
}

impl<'a> Epilogue<'a> {
    /// Overwrites the output with product + bias.
    #[must_use]
    pub fn bias(bias: Option<&'a [f32]>) -> Self {
        Self { bias, ..Self::default() }
    }

    /// Adds the product to the output.
    #[must_use]
    pub fn accumulate() -> Self {
        Self { add: Add::Output, ..Self::default() }
    }

    pub(super) fn check(&self, m: usize, n: usize) -> Result<(), KernelError> {
        if let Some(bias) = self.bias {
            expect_shape("the bias", (1, bias.len()), (1, n))?;
        }
        if let Add::Matrix(other) = self.add {
            expect_shape("the matrix to add", (other.rows(), other.cols()), (m, n))?;
        }
        Ok(())
    }

    /// The part of the epilogue that concerns rows `i..` and columns `j..` of the output, `cols` of
    /// them.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(super) fn window(self, i: usize, rows: usize, j: usize, cols: usize) -> Self {
        let add = match self.add {
            Add::Matrix(other) => Add::Matrix(other.window(i, rows, j, cols)),
            other => other,
        };
        Self { bias: self.bias.map(|bias| &bias[j..j + cols]), add, ..self }
    }

    /// `c = epilogue(c)`, row by row, for a `c` that holds the product; `add` must not be
    /// [`Add::Output`].
    pub(super) fn apply(&self, c: &mut MatMut<'_>) {
        for i in 0..c.rows() {
            let row = c.row(i);
            if let Some(bias) = self.bias {
                add_to(row, bias);
            }
            if self.gelu {
                gelu(row);
            }
            if let Add::Matrix(other) = self.add {
                other.add_row_to(i, row);
            }
        }
    }
}

fn add_to(row: &mut [f32], other: &[f32]) {
    row.iter_mut().zip(other).for_each(|(x, y)| *x += y);
}

impl Mat<'_> {
    /// `row += self[i]`
    pub(super) fn add_row_to(&self, i: usize, row: &mut [f32]) {
        if let Some(own) = self.row(i) {
            add_to(row, own);
        } else {
            row.iter_mut().enumerate().for_each(|(j, x)| *x += self.at(i, j));
        }
    }
}

multiversion! {
    /// Gaussian error linear unit in place, `x Φ(x)` with the error function (not the tanh form):
    /// absolute error below 5e-7 of max(1, |x|). The error function is Abramowitz and Stegun
    /// 7.1.26.
    pub fn gelu[fma](values: &mut [f32]) {
        for x in values.iter_mut() {
            *x = gelu_by(*x, fma);
        }
    }
}

multiversion! {
    /// `h = gelu(u)`, of one length.
    pub fn gelu_into[fma](u: &[f32], h: &mut [f32]) {
        for (u, h) in u.iter().zip(h) {
            *h = gelu_by(*u, fma);
        }
    }
}

multiversion! {
    /// `g` becomes the gradient of `u` where it was that of `gelu(u)`, and `h` becomes `gelu(u)`;
    /// all of one length.
    pub fn gelu_grad[fma](u: &[f32], g: &mut [f32], h: &mut [f32]) {
        const DENSITY_AT_0: f32 = 0.398_942_3;
        for ((u, g), h) in u.iter().zip(g).zip(h) {
            let (cdf, bell) = cdf_and_bell(*u, fma);
            *h = *u * cdf;
            *g *= fma(*u * DENSITY_AT_0, bell, cdf);
        }
    }
}

#[inline(always)]
fn gelu_by(x: f32, fma: impl Fn(f32, f32, f32) -> f32 + Copy) -> f32 {
    x * cdf_and_bell(x, fma).0
}

/// `Φ(x)` and `e^(-x²/2)` of one number, without branches, so that a loop becomes vector code.
/// `fma` is that of [`multiversion!`].
#[inline(always)]
fn cdf_and_bell(x: f32, fma: impl Fn(f32, f32, f32) -> f32 + Copy) -> (f32, f32) {
    let polynomial = |x: f32, coefficients: &[f32]| coefficients.iter().fold(0.0, |sum, c| fma(sum, x, *c));
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / fma(z, 0.327_591_1, 1.0);
    let erfc = t * polynomial(t, &[1.061_405_4, -1.453_152_1, 1.421_413_8, -0.284_496_74, 0.254_829_6]);
    // e^-z² = 2^n e^r with |r| <= ln 2 / 2; adding 1.5 * 2^23 leaves n in the low bits. The
    // exponent is clamped at -80, where the result is almost 0: subnormal products would cost a
    // hundred cycles each.
    const ROUND: f32 = 12_582_912.0;
    let y = -z * z;
    let y = if y < -80.0 { -80.0 } else { y };
    let shifted = fma(y, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma(n, 2.121_944_4e-4, fma(n, -0.693_359_4, y));
    let e = polynomial(r, &[1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0]);
    let power = f32::from_bits((shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23);
    let bell = e * power;
    let tail = 0.5 * erfc * bell; // 1 - Φ(|x|)
    (if x < 0.0 { tail } else { 1.0 - tail }, bell)
}
