//! Convolution on one CPU thread, as fast as the CPU allows: the detector spends nearly all of its
//! time here, and general tensor libraries are several times slower.
//!
//! Maps lie channels-last with a border of zeros ([`Map`]), so a tap of the kernel is an offset
//! into memory and padding costs nothing. Two methods share one micro-kernel (`kernel`):
//! - `direct`: implicit matrix product, no im2col copy; any kernel and stride;
//! - `winograd`: 3x3 stride 1 by Winograd's minimal filtering (Lavin and Gray, 2016), which needs 4
//!   (or 2.25) times fewer multiplications.
//!
//! Weights are packed once at load, bias and activation are fused, scratch memory is reused, and
//! the instruction set is chosen at run time ([`Isa`]). No thread pool: cameras are the
//! parallelism, and idle spinning would take time from decoding.

// Tiles are counted by pixel and panel, and one number indexes several arrays.
#![allow(clippy::needless_range_loop)]

mod buffer;
mod direct;
mod kernel;
mod layer;
mod map;
mod simd;
mod winograd;

pub use buffer::Buffer;
pub use layer::{Activation, Conv, ConvError, ConvShape, Method};
pub use map::Map;
pub use simd::Isa;
