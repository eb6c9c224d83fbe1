//! One convolution layer: checked shapes, packed weights, bias and activation.

use std::sync::Arc;

use super::direct::Direct;
use super::kernel::PANEL;
use super::map::View;
use super::winograd::Winograd;
use super::{Buffer, Isa, Map};

/// The shape of a convolution with a square odd kernel and padding `kernel / 2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Side of the kernel: 1 or 3.
    pub kernel: usize,
    /// Step between outputs: 1 or 2.
    pub stride: usize,
}

impl ConvShape {
    /// Output channels rounded up to a multiple of 16: the number that the output map must have
    /// room for. The additional channels come out as zero.
    pub fn padded_outputs(&self) -> usize {
        self.outputs.next_multiple_of(PANEL)
    }

    /// Height (or width) of the output for that of the input.
    pub fn output_size(&self, input: usize) -> usize {
        input.div_ceil(self.stride)
    }
}

/// The activation after the bias.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// Nothing.
    None,
    /// `x` for positive values, else `x` times the slope (0 to 1; 0 is ReLU).
    Leaky(f32),
}

/// Method of convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Implicit matrix product; any shape.
    Direct,
    /// Minimal filtering with output tiles of 2x2; 3x3 stride 1 with inputs in groups of 16.
    Winograd2,
    /// The same with 4x4.
    Winograd4,
}

impl Method {
    /// The fastest method for a shape, measured on AVX-512 at the sizes of NanoDet (see
    /// `BENCH.md`). Wide layers work on small maps, where reading the larger transformed weights
    /// costs more than the saved multiplications.
    pub fn fastest(shape: ConvShape) -> Self {
        if !Self::Winograd4.fits(shape) {
            Self::Direct
        } else if shape.inputs * shape.outputs > 128 * 128 {
            Self::Winograd2
        } else {
            Self::Winograd4
        }
    }

    fn fits(self, shape: ConvShape) -> bool {
        self == Self::Direct || (shape.kernel == 3 && shape.stride == 1 && shape.inputs.is_multiple_of(PANEL))
    }
}

/// Why a layer cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvError {
    /// Unsupported shape.
    #[error("{0:?} is not supported{1}")]
    Shape(ConvShape, &'static str),
    /// The weights or the bias do not match the shape.
    #[error("{what} has {got} values, {shape:?} needs {expected}")]
    Length {
        /// `weight` or `bias`.
        what: &'static str,
        /// The layer.
        shape: ConvShape,
        /// Values needed.
        expected: usize,
        /// Values given.
        got: usize,
    },
}

enum Packed {
    Direct(Direct),
    Winograd(Winograd),
}

/// A convolution layer, ready to run. Cloning shares the weights.
#[derive(Clone)]
pub struct Conv {
    shape: ConvShape,
    slope: f32,
    isa: Isa,
    bias: Arc<Buffer>,
    packed: Arc<Packed>,
}

impl Conv {
    /// A layer with the fastest method on this CPU. `weight` is
    /// `[outputs][inputs][kernel][kernel]`, `bias` `[outputs]`.
    ///
    /// # Errors
    /// When the shape is not supported or the lengths do not match it.
    pub fn new(shape: ConvShape, weight: &[f32], bias: &[f32], activation: Activation) -> Result<Self, ConvError> {
        Self::with_method(shape, weight, bias, activation, Method::fastest(shape), Isa::detect())
    }

    /// As [`Conv::new`], with a given method and instruction set, for tests and benchmarks.
    ///
    /// # Errors
    /// As [`Conv::new`], and when the method does not fit the shape or the CPU lacks the
    /// instruction set.
    pub fn with_method(
        shape: ConvShape,
        weight: &[f32],
        bias: &[f32],
        activation: Activation,
        method: Method,
        isa: Isa,
    ) -> Result<Self, ConvError> {
        let ConvShape { inputs, outputs, kernel, stride } = shape;
        if inputs == 0 || outputs == 0 || !matches!(kernel, 1 | 3) || !matches!(stride, 1 | 2) {
            return Err(ConvError::Shape(shape, ""));
        }
        if !method.fits(shape) {
            return Err(ConvError::Shape(shape, " by this method"));
        }
        if !Isa::available().any(|i| i == isa) {
            return Err(ConvError::Shape(shape, " with an instruction set this CPU lacks"));
        }
        for (what, got, expected) in
            [("weight", weight.len(), outputs * inputs * kernel * kernel), ("bias", bias.len(), outputs)]
        {
            if got != expected {
                return Err(ConvError::Length { what, shape, expected, got });
            }
        }
        let packed = match method {
            Method::Direct => Packed::Direct(Direct::pack(shape, weight)),
            Method::Winograd2 => Packed::Winograd(Winograd::pack(shape, weight, 2)),
            Method::Winograd4 => Packed::Winograd(Winograd::pack(shape, weight, 4)),
        };
        let mut padded = Buffer::zeros(shape.padded_outputs());
        padded.as_mut_slice()[..outputs].copy_from_slice(bias);
        let slope = match activation {
            Activation::None => 1.0,
            Activation::Leaky(slope) => slope,
        };
        Ok(Self { shape, slope, isa, bias: Arc::new(padded), packed: Arc::new(packed) })
    }

    /// Its shape.
    pub fn shape(&self) -> ConvShape {
        self.shape
    }

    /// Convolves the channels of `input` from `in_first` on into those of `output` from `out_first`
    /// on, [`ConvShape::padded_outputs`] of them. `scratch` may be any buffer; it grows as needed
    /// and should be reused.
    ///
    /// # Panics
    /// When the maps have too few channels, or the output's size does not follow from the input's.
    pub fn run(&self, input: &Map, in_first: usize, output: &mut Map, out_first: usize, scratch: &mut Buffer) {
        self.check(input, in_first, output, out_first);
        // SAFETY: checked above, and the maps are two.
        unsafe { self.call(input.view_to_read(in_first), output.view(out_first), scratch) }
    }

    /// As [`Conv::run`], from some channels of a map to others of the same map. The layer must have
    /// stride 1.
    ///
    /// # Panics
    /// As [`Conv::run`], and when the channels overlap.
    pub fn run_within(&self, map: &mut Map, in_first: usize, out_first: usize, scratch: &mut Buffer) {
        self.check(map, in_first, map, out_first);
        let (inputs, outputs) = (self.shape.inputs, self.shape.padded_outputs());
        assert!(in_first + inputs <= out_first || out_first + outputs <= in_first, "the channels overlap");
        let all = map.view(0);
        // SAFETY: checked above; the channels do not overlap.
        unsafe {
            let input = View { origin: all.origin.add(in_first), ..all };
            let output = View { origin: all.origin.add(out_first), ..all };
            self.call(input, output, scratch);
        }
    }

    fn check(&self, input: &Map, in_first: usize, output: &Map, out_first: usize) {
        let s = self.shape;
        assert!(in_first + s.inputs <= input.channels(), "{s:?}: input map of {} channels", input.channels());
        assert!(out_first + s.padded_outputs() <= output.channels(), "{s:?}: output of {} channels", output.channels());
        let expected = (s.output_size(input.height()), s.output_size(input.width()));
        assert_eq!((output.height(), output.width()), expected, "{s:?}: size of the output map");
    }

    /// # Safety
    /// The views satisfy [`Conv::check`], and the channels read are not those written.
    unsafe fn call(&self, input: View, output: View, scratch: &mut Buffer) {
        if output.height == 0 || output.width == 0 {
            return;
        }
        let bias = self.bias.as_slice();
        // SAFETY: the caller's promise; maps have the border both methods need (see `Map::new`).
        unsafe {
            match &*self.packed {
                Packed::Direct(d) => d.run(self.shape, bias, self.slope, self.isa, input, output),
                Packed::Winograd(w) => w.run(self.shape, bias, self.slope, self.isa, input, output, scratch),
            }
        }
    }
}
