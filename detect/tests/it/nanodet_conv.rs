//! Fast convolution compared with the definition, over random shapes, on every instruction set of
//! this CPU.

use proptest::prelude::*;
use sightline_detect::conv::{Activation, Buffer, Conv, ConvError, ConvShape, Isa, Map, Method};

/// A reproducible sequence in [-1, 1).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn take(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

fn fill(map: &mut Map, noise: &mut Noise) {
    for y in 0..map.height() {
        map.row_mut(y).fill_with(|| noise.next());
    }
}

/// The definition, in `f64`, with a leaky ReLU of slope 0.1.
fn naive(s: ConvShape, weight: &[f32], bias: &[f32], input: &Map, first: usize, (y, x): (usize, usize)) -> Vec<f64> {
    let pad = s.kernel / 2;
    (0..s.outputs)
        .map(|o| {
            let mut sum = f64::from(bias[o]);
            for ky in 0..s.kernel {
                for kx in 0..s.kernel {
                    let (iy, ix) = ((y * s.stride + ky).wrapping_sub(pad), (x * s.stride + kx).wrapping_sub(pad));
                    if iy < input.height() && ix < input.width() {
                        for c in 0..s.inputs {
                            let w = weight[((o * s.inputs + c) * s.kernel + ky) * s.kernel + kx];
                            sum += f64::from(w) * f64::from(input.pixel(iy, ix)[first + c]);
                        }
                    }
                }
            }
            if sum < 0.0 { sum * 0.1 } else { sum }
        })
        .collect()
}

fn check(s: ConvShape, height: usize, width: usize, in_first: usize, out_first: usize, method: Method, seed: u64) {
    let mut noise = Noise(seed);
    let mut input = Map::new(height, width, in_first + s.inputs + usize::from(in_first > 0) * 16);
    fill(&mut input, &mut noise);
    let (weight, bias) = (noise.take(s.outputs * s.inputs * s.kernel * s.kernel), noise.take(s.outputs));
    // Weights of the size of trained ones, so that outputs stay near 1 and the tolerance means the
    // same at every depth.
    let scale = 1.0 / ((s.inputs * s.kernel * s.kernel) as f32).sqrt();
    let weight: Vec<f32> = weight.into_iter().map(|w| w * scale).collect();
    for isa in Isa::available() {
        let conv = Conv::with_method(s, &weight, &bias, Activation::Leaky(0.1), method, isa).unwrap();
        let channels = out_first + s.padded_outputs() + 3;
        let mut output = Map::new(s.output_size(height), s.output_size(width), channels);
        fill(&mut output, &mut Noise(1));
        let before = output.clone();
        let mut scratch = Buffer::default();
        conv.run(&input, in_first, &mut output, out_first, &mut scratch);
        for y in 0..output.height() {
            for x in 0..output.width() {
                let got = output.pixel(y, x);
                let want = naive(s, &weight, &bias, &input, in_first, (y, x));
                for (o, want) in want.iter().enumerate() {
                    let error = (f64::from(got[out_first + o]) - want).abs();
                    assert!(error < 1e-4, "{s:?} {method:?} {isa:?}: ({y}, {x}) channel {o}: off by {error}");
                }
                assert_eq!(
                    got[..out_first],
                    before.pixel(y, x)[..out_first],
                    "channels before the output were touched"
                );
                let end = out_first + s.padded_outputs();
                assert_eq!(got[end..], before.pixel(y, x)[end..], "channels after the output were touched");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn direct_is_the_definition(
        inputs in 1usize..70, outputs in 1usize..140, kernel in prop::sample::select(vec![1, 3]), stride in 1usize..3,
        height in 1usize..10, width in 1usize..20, in_first in 0usize..3, out_first in 0usize..3, seed: u64,
    ) {
        check(ConvShape { inputs, outputs, kernel, stride }, height, width, in_first, out_first, Method::Direct, seed);
    }

    #[test]
    fn winograd_is_the_definition(
        inputs in 1usize..5, outputs in 1usize..100, height in 1usize..14, width in 1usize..18,
        in_first in 0usize..3, out_first in 0usize..3, large: bool, seed: u64,
    ) {
        let method = if large { Method::Winograd4 } else { Method::Winograd2 };
        let shape = ConvShape { inputs: inputs * 16, outputs, kernel: 3, stride: 1 };
        check(shape, height, width, in_first, out_first, method, seed);
    }
}

/// More channels and pixels than fit one pass, block or chunk.
#[test]
fn large_shapes_are_cut_without_a_seam() {
    let shape = |inputs, outputs, kernel, stride| ConvShape { inputs, outputs, kernel, stride };
    check(shape(160, 80, 3, 2), 30, 46, 0, 0, Method::Direct, 1);
    check(shape(16, 16, 3, 1), 90, 130, 0, 0, Method::Direct, 2);
    check(shape(208, 144, 3, 1), 13, 17, 0, 0, Method::Winograd2, 3);
    check(shape(64, 64, 3, 1), 40, 40, 0, 0, Method::Winograd4, 4);
}

#[test]
fn runs_from_channel_to_channel_of_one_map() {
    let s = ConvShape { inputs: 16, outputs: 16, kernel: 3, stride: 1 };
    let mut noise = Noise(7);
    let (weight, bias) = (noise.take(16 * 16 * 9), noise.take(16));
    for method in [Method::Direct, Method::Winograd2, Method::Winograd4] {
        let conv = Conv::with_method(s, &weight, &bias, Activation::None, method, Isa::detect()).unwrap();
        let mut map = Map::new(9, 11, 32);
        fill(&mut map, &mut noise);
        let mut apart = Map::new(9, 11, 16);
        let mut scratch = Buffer::default();
        conv.run(&map, 16, &mut apart, 0, &mut scratch);
        conv.run_within(&mut map, 16, 0, &mut scratch);
        for y in 0..9 {
            for x in 0..11 {
                assert_eq!(map.pixel(y, x)[..16], apart.pixel(y, x)[..]);
            }
        }
    }
}

#[test]
#[should_panic(expected = "the channels overlap")]
fn overlapping_channels_are_refused() {
    let s = ConvShape { inputs: 16, outputs: 16, kernel: 1, stride: 1 };
    let conv = Conv::new(s, &[0.0; 256], &[0.0; 16], Activation::None).unwrap();
    conv.run_within(&mut Map::new(2, 2, 32), 0, 8, &mut Buffer::default());
}

#[test]
fn wrong_layers_are_refused() {
    let s = ConvShape { inputs: 3, outputs: 16, kernel: 3, stride: 2 };
    let error = Conv::new(s, &[0.0; 431], &[0.0; 16], Activation::None).err();
    assert_eq!(error, Some(ConvError::Length { what: "weight", shape: s, expected: 432, got: 431 }));
    let error = Conv::new(ConvShape { kernel: 5, ..s }, &[], &[], Activation::None).err();
    assert!(matches!(error, Some(ConvError::Shape(..))));
    let isa = Isa::detect();
    let error = Conv::with_method(s, &[0.0; 432], &[0.0; 16], Activation::None, Method::Winograd4, isa).err();
    assert!(matches!(error, Some(ConvError::Shape(..))));
}
