//! Convolutional backbones that replace ViT's patch embedding: networks pretrained on ImageNet.
//!
//! A backbone turns a picture into one row of numbers per token of 16 x 16 pixels. The row holds
//! the feature map at stride 16, the feature map at stride 32 (each cell serves four tokens) and
//! the token's own pixels as 4 x 4 means. The map at stride 32 knows what a garment is, the map at
//! stride 16 where it is; neither knows the colours of small areas, hence the pixels. A linear
//! layer projects the rows to the transformer's width, as it projects flattened patches without a
//! backbone.

use serde::{Deserialize, Serialize};

/// EfficientNet-Lite (Tan and Le 2019, without squeeze-and-excitation and with ReLU6), without its
/// classifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backbone {
    /// The smallest: 2.9 million parameters.
    #[serde(rename = "efficientnet-lite0")]
    EfficientNetLite0,
    /// Width 1.1, depth 1.2: 4.3 million parameters.
    #[serde(rename = "efficientnet-lite2")]
    EfficientNetLite2,
}

/// One inverted residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockShape {
    /// Input channels.
    pub inputs: usize,
    /// Channels between the two 1 x 1 convolutions; equal to `inputs` when the first one is left
    /// out.
    pub expanded: usize,
    /// Side of the depthwise filter.
    pub side: usize,
    /// Stride of the depthwise filter.
    pub stride: usize,
    /// Output channels.
    pub outputs: usize,
    /// Whether the input is added to the output.
    pub residual: bool,
}

/// Expansion, filter side, stride, channels and repeats of each stage of EfficientNet-B0.
const STAGES: [(usize, usize, usize, usize, usize); 7] = [
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
];

/// Index of the stage whose output is the map at stride 16.
const FINE_STAGE: usize = 4;

impl Backbone {
    /// Side of a token in pixels.
    pub const TOKEN: usize = 16;
    /// Side in pixels of a cell of the coarse map (stride 32); the sides of a picture must be
    /// multiples of it.
    pub const CELL: usize = 32;
    /// Numbers in a token's pixel means: 4 x 4 cells of three colours.
    pub const PIXELS: usize = 4 * 4 * 3;
    /// Channels after the first convolution, the same in every size.
    pub const STEM: usize = 32;

    /// All backbones.
    pub const ALL: [Self; 2] = [Self::EfficientNetLite0, Self::EfficientNetLite2];

    /// Name in `config.json` and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EfficientNetLite0 => "efficientnet-lite0",
            Self::EfficientNetLite2 => "efficientnet-lite2",
        }
    }

    fn scales(self) -> (f64, f64) {
        match self {
            Self::EfficientNetLite0 => (1.0, 1.0),
            Self::EfficientNetLite2 => (1.1, 1.2),
        }
    }

    /// Channels of stage `stage`: scaled by the width factor, then rounded to a multiple of eight
    /// that is at least 90 % of the scaled number.
    fn channels(self, stage: usize) -> usize {
        let scaled = STAGES[stage].3 as f64 * self.scales().0;
        let rounded = ((scaled + 4.0) as usize / 8 * 8).max(8);
        if (rounded as f64) < 0.9 * scaled { rounded + 8 } else { rounded }
    }

    /// Blocks of stage `stage`: the depth factor applies to all stages but the first and the last.
    fn repeats(self, stage: usize) -> usize {
        let repeats = STAGES[stage].4;
        if stage == 0 || stage == STAGES.len() - 1 {
            repeats
        } else {
            (repeats as f64 * self.scales().1).ceil() as usize
        }
    }

    /// Blocks, first to last.
    #[must_use]
    pub fn blocks(self) -> Vec<BlockShape> {
        let (mut inputs, mut blocks) = (Self::STEM, Vec::new());
        for (stage, (expand, side, stride, ..)) in STAGES.into_iter().enumerate() {
            let outputs = self.channels(stage);
            for repeat in 0..self.repeats(stage) {
                let stride = if repeat == 0 { stride } else { 1 };
                blocks.push(BlockShape {
                    inputs,
                    expanded: inputs * expand,
                    side,
                    stride,
                    outputs,
                    residual: repeat > 0,
                });
                inputs = outputs;
            }
        }
        blocks
    }

    /// Index of the block whose output is the map at stride 16.
    #[must_use]
    pub fn fine_block(self) -> usize {
        (0..=FINE_STAGE).map(|stage| self.repeats(stage)).sum::<usize>() - 1
    }

    /// Channels of the map at stride 16 and of the map at stride 32.
    #[must_use]
    pub fn map_channels(self) -> [usize; 2] {
        [self.channels(FINE_STAGE), self.channels(STAGES.len() - 1)]
    }

    /// Width of a token's row: the channels of both maps and the pixel means.
    #[must_use]
    pub fn token_width(self) -> usize {
        self.map_channels().iter().sum::<usize>() + Self::PIXELS
    }
}

impl std::fmt::Display for Backbone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Backbone {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|backbone| backbone.name() == name);
        found.ok_or_else(|| format!("there is no backbone {name:?}: it is {}", Self::ALL.map(Self::name).join(" or ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_those_of_the_published_weights() {
        let lite0 = Backbone::EfficientNetLite0;
        assert_eq!((lite0.blocks().len(), lite0.fine_block(), lite0.map_channels()), (16, 10, [112, 320]));
        let lite2 = Backbone::EfficientNetLite2;
        let blocks = lite2.blocks();
        assert_eq!((blocks.len(), lite2.fine_block(), lite2.map_channels()), (21, 14, [120, 352]));
        let outputs: Vec<usize> = blocks.iter().map(|b| b.outputs).collect();
        let expected = [16, 24, 24, 24, 48, 48, 48, 88, 88, 88, 88, 120, 120, 120, 120, 208, 208, 208, 208, 208, 352];
        assert_eq!(outputs, expected);
        assert_eq!(
            blocks[20],
            BlockShape { inputs: 208, expanded: 1248, side: 3, stride: 1, outputs: 352, residual: false }
        );
        assert_eq!(lite2.token_width(), 520);
    }

    #[test]
    fn names_are_read_back() {
        for backbone in Backbone::ALL {
            assert_eq!(backbone.name().parse(), Ok(backbone));
            assert_eq!(serde_json::to_value(backbone).expect("serialises"), backbone.name());
        }
        assert!("resnet".parse::<Backbone>().expect_err("refused").contains("efficientnet-lite2"));
    }
}
