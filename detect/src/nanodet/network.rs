//! The network: a CSP backbone whose concatenations are free (a convolution writes straight into
//! its part of the joined map), a path-aggregation pyramid without convolutions of its own, and one
//! head per stride.

use super::layers::{LAYERS, NECK, OUTPUTS, STAGES, STRIDES};
use super::weights::Weights;
use crate::DetectError;
use crate::conv::{Activation, Buffer, Conv, Isa, Map};

/// Slope of every activation.
const LEAKY: f32 = 0.1;

/// The layers of a backbone stage: input, (input, middle) of each block, output.
#[derive(Clone)]
struct Stage {
    channels: usize,
    entry: Conv,
    blocks: Vec<(Conv, Conv)>,
    exit: Conv,
}

/// The layers of the network. Clones share the weights.
#[derive(Clone)]
pub struct Network {
    stem: Conv,
    stages: Vec<Stage>,
    lateral: Vec<Conv>,
    heads: Vec<(Conv, Conv)>,
}

/// Working memory, reused from image to image. The maps are kept while the size of the canvas stays
/// the same.
#[derive(Default)]
pub struct Workspace {
    maps: Option<Maps>,
    scratch: Buffer,
}

/// The maps between the layers for one size of canvas.
struct Maps {
    size: (usize, usize),
    stem: Map,
    pooled: Map,
    stages: [StageMaps; STAGES.len()],
    pyramid: [Map; STRIDES.len()],
    hidden: [Map; STRIDES.len()],
    outputs: [Map; STRIDES.len()],
}

struct StageMaps {
    /// Two maps, used in turn for the results of the blocks.
    blocks: [Map; 2],
    /// The output of the stage: the result of the exit, then that of the entry.
    joined: Map,
}

impl Network {
    /// Packs the weights for this CPU.
    ///
    /// # Errors
    /// When a layer does not match its shape; this cannot happen with `weights` that were loaded.
    pub fn new(weights: &Weights) -> Result<Self, DetectError> {
        let mut layers = LAYERS.iter();
        let mut next = |activation| {
            let layer = layers.next().ok_or_else(|| weights.wrong("too few layers".into()))?;
            let (weight, bias) = weights.of(layer);
            Conv::new(layer.shape, weight, bias, activation).map_err(|e| weights.wrong(format!("{}: {e}", layer.name)))
        };
        let leaky = Activation::Leaky(LEAKY);
        let stem = next(leaky)?;
        let mut stages = Vec::new();
        for (channels, blocks, _) in STAGES {
            let entry = next(leaky)?;
            let blocks = (0..blocks).map(|_| Ok((next(leaky)?, next(leaky)?))).collect::<Result<_, _>>()?;
            stages.push(Stage { channels, entry, blocks, exit: next(leaky)? });
        }
        let lateral = STRIDES.iter().map(|_| next(Activation::None)).collect::<Result<_, _>>()?;
        let heads =
            STRIDES.iter().map(|_| Ok((next(leaky)?, next(Activation::None)?))).collect::<Result<_, DetectError>>()?;
        Ok(Self { stem, stages, lateral, heads })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        Isa::detect()
    }

    /// Runs the network on a canvas of BGR pixels, normalised. Returns one map for each of
    /// [`STRIDES`]: per cell, 80 class logits, then 11 logits each for the distances to the left,
    /// top, right and bottom edge (and four unused channels).
    ///
    /// # Panics
    /// When the canvas does not have three channels and sides in multiples of 32.
    pub fn run<'w>(&self, canvas: &Map, w: &'w mut Workspace) -> &'w [Map] {
        let (height, width) = (canvas.height(), canvas.width());
        assert!(
            height.is_multiple_of(32) && width.is_multiple_of(32),
            "a canvas of {height}x{width}, not in multiples of 32"
        );
        let size = (height, width);
        let Workspace { maps, scratch } = w;
        if maps.as_ref().is_some_and(|m| m.size != size) {
            *maps = None;
        }
        let maps = maps.get_or_insert_with(|| Maps::new(height, width));
        self.stem.run(canvas, 0, &mut maps.stem, 0, scratch);
        max_pool(&maps.stem, &mut maps.pooled);
        let mut input = &maps.pooled;
        for (stage, maps) in self.stages.iter().zip(&mut maps.stages) {
            stage.run(input, maps, scratch);
            input = &maps.joined;
        }
        for ((lateral, map), stage) in self.lateral.iter().zip(&mut maps.pyramid).zip(&maps.stages[1..]) {
            lateral.run(&stage.joined, 0, map, 0, scratch);
        }
        let [p8, p16, p32] = &mut maps.pyramid;
        add_doubled(p16, p32);
        add_doubled(p8, p16);
        add_halved(p16, p8);
        add_halved(p32, p16);
        for (i, (conv, out)) in self.heads.iter().enumerate() {
            conv.run(&maps.pyramid[i], 0, &mut maps.hidden[i], 0, scratch);
            out.run(&maps.hidden[i], 0, &mut maps.outputs[i], 0, scratch);
        }
        &maps.outputs
    }
}

impl Stage {
    fn run(&self, input: &Map, maps: &mut StageMaps, scratch: &mut Buffer) {
        let half = self.channels / 2;
        let StageMaps { blocks: [a, b], joined } = maps;
        self.entry.run(input, 0, joined, self.channels, scratch);
        let (mut from, mut to) = (a, b);
        for (i, (entry, middle)) in self.blocks.iter().enumerate() {
            if i == 0 {
                entry.run(joined, self.channels, to, half, scratch);
            } else {
                entry.run(from, 0, to, half, scratch);
            }
            middle.run_within(to, half, 0, scratch);
            (from, to) = (to, from);
        }
        self.exit.run(from, 0, joined, 0, scratch);
    }
}

impl Maps {
    fn new(height: usize, width: usize) -> Self {
        let map = |stride: usize, channels| Map::new(height / stride, width / stride, channels);
        let stage = |(&(channels, ..), stride): (&(usize, usize, usize), usize)| StageMaps {
            blocks: [map(stride, channels), map(stride, channels)],
            joined: map(stride, 2 * channels),
        };
        let [s2, s3, s4, s5] = &STAGES;
        Self {
            size: (height, width),
            stem: map(2, 32),
            pooled: map(4, 32),
            stages: [(s2, 4), (s3, 8), (s4, 16), (s5, 32)].map(stage),
            pyramid: STRIDES.map(|s| map(s, NECK)),
            hidden: STRIDES.map(|s| map(s, NECK)),
            outputs: STRIDES.map(|s| map(s, OUTPUTS.next_multiple_of(16))),
        }
    }
}

/// 3x3 max pooling with stride 2; pixels beyond the edge are ignored.
fn max_pool(input: &Map, output: &mut Map) {
    let channels = output.channels();
    for y in 0..output.height() {
        let rows = [(2 * y).saturating_sub(1), 2 * y, 2 * y + 1].map(|y| input.row(y));
        for (x, out) in output.row_mut(y).chunks_exact_mut(channels).enumerate() {
            let columns = [(2 * x).saturating_sub(1), 2 * x, 2 * x + 1].map(|x| x * channels);
            out.copy_from_slice(&rows[1][columns[1]..][..channels]);
            for row in rows {
                for column in columns {
                    for (o, v) in out.iter_mut().zip(&row[column..][..channels]) {
                        *o = if *v > *o { *v } else { *o };
                    }
                }
            }
        }
    }
}

/// Adds `small`, upsampled twofold by bilinear interpolation (half-pixel centres, edges repeated).
fn add_doubled(large: &mut Map, small: &Map) {
    let channels = large.channels();
    // An output pixel lies a quarter of a pixel from its nearest source pixel, so the nearest has
    // weight 3/4 and the next 1/4.
    let near_far = |i: usize, n: usize| {
        (i / 2, if i.is_multiple_of(2) { (i / 2).saturating_sub(1) } else { (i / 2 + 1).min(n - 1) })
    };
    let (height, width) = (small.height(), small.width());
    for y in 0..large.height() {
        let (near, far) = near_far(y, height);
        let (near, far) = (small.row(near), small.row(far));
        for (x, out) in large.row_mut(y).chunks_exact_mut(channels).enumerate() {
            let (l, r) = near_far(x, width);
            let (near_l, near_r) = (&near[l * channels..][..channels], &near[r * channels..][..channels]);
            let (far_l, far_r) = (&far[l * channels..][..channels], &far[r * channels..][..channels]);
            for c in 0..channels {
                out[c] += 0.5625 * near_l[c] + 0.1875 * (near_r[c] + far_l[c]) + 0.0625 * far_r[c];
            }
        }
    }
}

/// Adds `large`, downsampled twofold: bilinear interpolation at half-pixel centres is then the mean
/// of 2x2.
fn add_halved(small: &mut Map, large: &Map) {
    let channels = small.channels();
    for y in 0..small.height() {
        let (upper, lower) = (large.row(2 * y), large.row(2 * y + 1));
        for (x, out) in small.row_mut(y).chunks_exact_mut(channels).enumerate() {
            let (upper, lower) =
                (&upper[2 * x * channels..][..2 * channels], &lower[2 * x * channels..][..2 * channels]);
            for c in 0..channels {
                out[c] += 0.25 * (upper[c] + upper[channels + c] + lower[c] + lower[channels + c]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(height: usize, width: usize, values: &[f32]) -> Map {
        let mut m = Map::new(height, width, 1);
        for y in 0..height {
            m.row_mut(y).copy_from_slice(&values[y * width..][..width]);
        }
        m
    }

    #[test]
    fn pooling_ignores_the_border() {
        let input = map(
            4,
            4,
            &[-9.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.5, -9.0, -9.0, -9.0, -9.0, -9.0, -9.0, -1.0],
        );
        let mut out = Map::new(2, 2, 1);
        max_pool(&input, &mut out);
        assert_eq!((out.row(0), out.row(1)), (&[-4.0, -2.0][..], &[-1.5, -1.0][..]));
    }

    #[test]
    fn resizing_is_bilinear_at_half_pixel_centres() {
        let mut large = Map::new(2, 4, 1);
        add_doubled(&mut large, &map(1, 2, &[0.0, 4.0]));
        assert_eq!(large.row(0), [0.0, 1.0, 3.0, 4.0]);
        assert_eq!(large.row(1), [0.0, 1.0, 3.0, 4.0]);
        let mut small = map(1, 2, &[10.0, 20.0]);
        add_halved(&mut small, &large);
        assert_eq!(small.row(0), [10.5, 23.5]);
    }
}
