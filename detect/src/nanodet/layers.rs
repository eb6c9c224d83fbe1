//! The convolutions of NanoDet-g: their upstream names, their shapes, and their names in the TF.js
//! conversion of the weights.

use crate::conv::ConvShape;

/// COCO classes; class 0 is `person`.
pub const CLASSES: usize = 80;

/// Bins of the distribution of the distance to an edge: 0 to 10 strides (`reg_max` 10).
pub const DISTANCE_BINS: usize = 11;

/// Source pixels (of the canvas) per cell of the three output maps.
pub const STRIDES: [usize; 3] = [8, 16, 32];

/// Channels of an output map: classes, then the bins of left, top, right, bottom.
pub(super) const OUTPUTS: usize = CLASSES + 4 * DISTANCE_BINS;

/// Width of the pyramid and the head.
pub(super) const NECK: usize = 128;

/// Backbone stages 2 to 5: channels of the block, residual blocks, stride.
pub(super) const STAGES: [(usize, usize, usize); 4] = [(32, 1, 1), (64, 2, 2), (128, 2, 2), (256, 3, 2)];

/// One convolution.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Upstream's name; the tensors are `NAME.weight` `[out, in, k, k]` and `NAME.bias` `[out]`.
    pub name: String,
    /// Its shape.
    pub shape: ConvShape,
    /// TF.js name of the weight, `[k, k, in, out]` there.
    pub tfjs_weight: String,
    /// TF.js name of the bias.
    pub tfjs_bias: String,
}

/// All 34 layers, in the order in which they run.
pub static LAYERS: std::sync::LazyLock<Vec<Layer>> = std::sync::LazyLock::new(layers);

fn layers() -> Vec<Layer> {
    let mut all: Vec<(String, [usize; 4])> = vec![("backbone.stages.0.conv".into(), [3, 32, 3, 2])];
    let mut inputs = 32;
    for (i, (channels, blocks, stride)) in STAGES.into_iter().enumerate() {
        let stage = format!("backbone.stages.{}", i + 2);
        all.push((format!("{stage}.in_conv.conv"), [inputs, channels, 3, stride]));
        for b in 0..blocks {
            all.push((format!("{stage}.res_blocks.{b}.in_conv.conv"), [channels, channels / 2, 3, 1]));
            all.push((format!("{stage}.res_blocks.{b}.mid_conv.conv"), [channels / 2, channels / 2, 3, 1]));
        }
        all.push((format!("{stage}.res_out_conv.conv"), [channels, channels, 3, 1]));
        inputs = 2 * channels;
    }
    for (i, (channels, ..)) in STAGES.into_iter().skip(1).enumerate() {
        all.push((format!("fpn.lateral_convs.{i}.conv"), [2 * channels, NECK, 1, 1]));
    }
    for i in 0..STRIDES.len() {
        all.push((format!("head.cls_convs.{i}.0.conv"), [NECK, NECK, 3, 1]));
        all.push((format!("head.gfl_cls.{i}"), [NECK, OUTPUTS, 1, 1]));
    }
    // The converter numbered weights and biases in graph order; constants lie between the biases of
    // the head.
    const HEAD_BIAS: [usize; 6] = [60, 62, 66, 68, 70, 72];
    let first_of_head = all.len() - HEAD_BIAS.len();
    all.into_iter()
        .enumerate()
        .map(|(i, (name, [inputs, outputs, kernel, stride]))| Layer {
            name,
            shape: ConvShape { inputs, outputs, kernel, stride },
            tfjs_weight: if i == 0 { "PartitionedCall/split".into() } else { format!("PartitionedCall/split_{i}") },
            tfjs_bias: format!("unknown_{}", if i < first_of_head { 2 * i } else { HEAD_BIAS[i - first_of_head] }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_four_layers_in_graph_order() {
        assert_eq!(LAYERS.len(), 34);
        let names = |i: usize| (LAYERS[i].name.as_str(), LAYERS[i].tfjs_weight.as_str(), LAYERS[i].tfjs_bias.as_str());
        assert_eq!(names(0), ("backbone.stages.0.conv", "PartitionedCall/split", "unknown_0"));
        assert_eq!(names(24), ("backbone.stages.5.res_out_conv.conv", "PartitionedCall/split_24", "unknown_48"));
        assert_eq!(names(27), ("fpn.lateral_convs.2.conv", "PartitionedCall/split_27", "unknown_54"));
        assert_eq!(names(29), ("head.gfl_cls.0", "PartitionedCall/split_29", "unknown_62"));
        assert_eq!(names(33), ("head.gfl_cls.2", "PartitionedCall/split_33", "unknown_72"));
        assert_eq!(LAYERS[27].shape, ConvShape { inputs: 512, outputs: 128, kernel: 1, stride: 1 });
    }

    #[test]
    fn parameters_are_those_of_the_published_model() {
        let count: usize = LAYERS.iter().map(|l| l.shape.outputs * (l.shape.inputs * l.shape.kernel.pow(2) + 1)).sum();
        assert_eq!(count, 3_786_068);
    }
}
