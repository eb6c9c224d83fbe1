//! A recipe holds all settings that re-create a model. `train` has presets, and run.json holds the
//! recipe of a run.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ara::Ara;
use super::atp::{Atp, CrossAttentionStart};
use super::augment::Augment;
use super::objective::{Objective, Truth};
use super::run::RunConfig;
use super::schedule::Schedule;
use super::source::{DataSpec, Order};
use super::trainee::Frozen;
use sightline_embed::kernel::Precision;
use sightline_embed::model::{Architecture, Backbone, Preprocess, TextPooling};
use sightline_figures::Words;

/// Dimensions of the model, apart from its vocabulary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// Height and width of the input in pixels.
    pub image: [usize; 2],
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Convolutional backbone that replaces the linear patch embedding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backbone: Option<Backbone>,
    /// How a text's hidden states are pooled for the common space.
    #[serde(default)]
    pub text_pooling: TextPooling,
    /// Width of the vision transformer.
    pub vision_width: usize,
    /// Layers of the vision transformer.
    pub vision_layers: usize,
    /// Attention heads of the vision transformer.
    pub vision_heads: usize,
    /// Width of the text transformer.
    pub text_width: usize,
    /// Layers of the text transformer.
    pub text_layers: usize,
    /// Attention heads of the text transformer.
    pub text_heads: usize,
    /// Width of the common space.
    pub common: usize,
    /// Number of position embeddings of the text transformer, which is the longest text in tokens.
    pub positions: usize,
}

impl Shape {
    /// The shape of `arch`. Its feed-forward layers must be four times as wide as the transformer.
    pub fn of(arch: &Architecture) -> Self {
        Self {
            image: arch.image_size,
            patch: arch.patch_size,
            backbone: arch.backbone,
            text_pooling: arch.text_pooling,
            vision_width: arch.vision_width,
            vision_layers: arch.vision_depth,
            vision_heads: arch.vision_heads,
            text_width: arch.text_hidden_size,
            text_layers: arch.text_layers,
            text_heads: arch.text_heads,
            common: arch.embed_dim,
            positions: arch.max_position_embeddings,
        }
    }

    /// The architecture with `vocabulary` word pieces, the last of them `[ENC]`.
    ///
    /// # Errors
    /// Dimensions that contradict each other.
    pub fn architecture(&self, vocabulary: usize) -> Result<Architecture, String> {
        let wrong = |what: String| Err(what);
        let [h, w] = self.image;
        if self.patch == 0 || !h.is_multiple_of(self.patch) || !w.is_multiple_of(self.patch) || h * w == 0 {
            return wrong(format!("a patch of {} does not divide a picture of {h}x{w}", self.patch));
        }
        for (side, width, heads) in
            [("vision", self.vision_width, self.vision_heads), ("text", self.text_width, self.text_heads)]
        {
            if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
                return wrong(format!("a {side} width of {width} is not a multiple of {heads} heads"));
            }
        }
        if self.vision_layers == 0 || self.text_layers == 0 || self.common == 0 || vocabulary < 106 {
            return wrong("a model needs layers, a common space and a vocabulary".into());
        }
        if self.positions < 73 {
            return wrong(format!("{} positions are fewer than the 73 tokens of a text", self.positions));
        }
        Ok(Architecture {
            image_size: self.image,
            patch_size: self.patch,
            backbone: self.backbone,
            text_pooling: self.text_pooling,
            vision_width: self.vision_width,
            vision_depth: self.vision_layers,
            vision_heads: self.vision_heads,
            text_hidden_size: self.text_width,
            text_layers: self.text_layers,
            text_heads: self.text_heads,
            text_intermediate: 4 * self.text_width,
            vocab_size: vocabulary,
            max_position_embeddings: self.positions,
            enc_token_id: vocabulary as u32 - 1,
            embed_dim: self.common,
            ..Architecture::cada_base()
        })
    }
}

/// Validation data that chooses a run's best checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValidationConfig {
    /// Source of pictures and texts: `auto` (the validation split of the first dataset on disk,
    /// else drawn persons), `none`, or a source by name.
    pub on: String,
    /// Number of pictures per text that are re-ranked with the decoder.
    pub k: usize,
}

/// All settings of a model: dimensions, data, initial weights and run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Name of the preset that the recipe started from.
    pub preset: String,
    /// Dimensions.
    pub shape: Shape,
    /// Number of word pieces to keep of the text encoder's vocabulary; 0 keeps all.
    pub vocabulary: usize,
    /// Folder of a text encoder in BERT layout: vocabulary, word embeddings, and layers where they
    /// fit.
    pub text_init: Option<PathBuf>,
    /// tokenizer.json to use unchanged.
    pub tokenizer: Option<PathBuf>,
    /// Published weights of the backbone (`.pth`).
    #[serde(default)]
    pub backbone_init: Option<PathBuf>,
    /// Checkpoint or model folder to start from.
    pub init: Option<PathBuf>,
    /// Training data.
    pub data: Vec<DataSpec>,
    /// Relative weight of each source; empty for equal weights.
    pub weights: Vec<f64>,
    /// Folder with body and clothes meshes for drawn persons.
    pub assets: Option<PathBuf>,
    /// Share of the pictures that are drawn from meshes, if there are `assets`.
    pub mesh_share: f32,
    /// Captions of drawn persons use every word; otherwise synonyms that are held out for testing
    /// are left out.
    pub all_words: bool,
    /// Validation that chooses the best checkpoint.
    #[serde(rename = "judge")]
    pub validation: ValidationConfig,
    /// Passes over all pairs; `None` if the number of steps is set directly.
    pub epochs: Option<usize>,
    /// Computes matrix products in single precision instead of bfloat16 factors with
    /// single-precision sums.
    pub f32: bool,
    /// Settings of the run.
    pub run: RunConfig,
}

impl Recipe {
    /// Names of the presets.
    pub const PRESETS: [&str; 4] = ["default", "backbone", "reference", "quick"];

    /// The preset `name`; `None` if there is none of that name.
    pub fn preset(name: &str) -> Option<Self> {
        match name {
            "default" => Some(Self::small()),
            "backbone" => Some(Self::with_backbone()),
            "quick" => Some(Self::quick()),
            "reference" => Some(Self::reference()),
            _ => None,
        }
    }

    /// The recipe with paths reduced to their last component, for a model folder that is published.
    pub fn without_paths(&self) -> Self {
        let last = |path: &PathBuf| path.file_name().map(PathBuf::from).unwrap_or_default();
        let data = self.data.iter().map(|spec| match spec {
            DataSpec::Folder(dataset, root) => DataSpec::Folder(*dataset, last(root)),
            DataSpec::People(part, root) => DataSpec::People(*part, last(root)),
            DataSpec::Garments(root) => DataSpec::Garments(last(root)),
            DataSpec::Synth { .. } => spec.clone(),
        });
        Self {
            text_init: self.text_init.as_ref().map(last),
            backbone_init: self.backbone_init.as_ref().map(last),
            tokenizer: self.tokenizer.as_ref().map(last),
            init: self.init.as_ref().map(last),
            assets: self.assets.as_ref().map(last),
            data: data.collect(),
            ..self.clone()
        }
    }

    /// The model folder that `init` names; `None` if it names a checkpoint file or nothing.
    pub fn init_folder(&self) -> Option<&Path> {
        self.init.as_deref().filter(|path| path.is_dir())
    }

    /// Vocabulary of the captions of drawn persons.
    pub fn words(&self) -> Words {
        if self.all_words { Words::All } else { Words::Seen }
    }

    /// Variables that the run does not change.
    pub fn frozen(&self) -> Frozen {
        Frozen { text_layers: self.run.frozen_text_layers }
    }

    /// Preprocessing of pictures for the model: the backbone's normalisation (ImageNet's) if there
    /// is a backbone, otherwise the reference's.
    pub fn preprocess(&self) -> Preprocess {
        match self.shape.backbone {
            None => Preprocess::default(),
            Some(_) => Preprocess { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], ..Preprocess::default() },
        }
    }

    /// Precision of matrix products.
    pub fn precision(&self) -> Precision {
        if self.f32 { Precision::F32 } else { Precision::Bf16 }
    }

    /// The model that will ship next: a backbone pre-trained on ImageNet, a pre-trained text
    /// encoder, drawn persons and labelled people, and phrases whose truth is known.
    fn with_backbone() -> Self {
        let scratch = Objective::scratch();
        let objective = Objective {
            atp: scratch.atp.clone().map(|atp| Atp {
                from: 700,
                pairs: Some(32),
                start: CrossAttentionStart::Faint,
                ..atp
            }),
            ara: scratch.ara.clone().map(|ara| Ara { from: 700, ..ara }),
            attributes: 0.3,
            truth: Some(Truth { phrases: 128, weight: 1.0, targets: true }),
            ..scratch
        };
        Self {
            preset: "backbone".into(),
            shape: Shape {
                image: [256, 128],
                patch: Backbone::TOKEN,
                backbone: Some(Backbone::EfficientNetLite2),
                text_pooling: TextPooling::Mean,
                text_width: 384,
                text_layers: 6,
                text_heads: 12,
                ..Self::small().shape
            },
            vocabulary: 0,
            data: Vec::new(),
            run: RunConfig {
                schedule: Schedule::Fall { warmup: 150, fall: 600 },
                frozen_text_layers: 3,
                text_rate: 0.2,
                token_drop: 0.5,
                variants: vec![1, 24],
                augment: Augment::Strong,
                validate_every: 250,
                ..RunConfig::new(1, 128, 2500, objective)
            },
            ..Self::small()
        }
    }

    /// The model that ships with Sightline.
    fn small() -> Self {
        Self {
            preset: "default".into(),
            shape: Shape {
                image: [192, 96],
                patch: 24,
                backbone: None,
                text_pooling: TextPooling::Class,
                vision_width: 256,
                vision_layers: 4,
                vision_heads: 4,
                text_width: 256,
                text_layers: 3,
                text_heads: 4,
                common: 256,
                positions: 73,
            },
            vocabulary: 7000,
            text_init: None,
            backbone_init: None,
            tokenizer: None,
            init: None,
            data: vec![DataSpec::Synth { identities: 16_000, views: 2 }],
            weights: Vec::new(),
            assets: None,
            mesh_share: 0.8,
            all_words: true,
            validation: ValidationConfig { on: "auto".into(), k: 32 },
            epochs: None,
            f32: false,
            run: RunConfig {
                schedule: Schedule::Fall { warmup: 150, fall: 1200 },
                words_from: 2000,
                validate_every: 0,
                ..RunConfig::new(1, 64, 4200, Objective::scratch())
            },
        }
    }

    /// A small model that trains in minutes, to see every part work.
    fn quick() -> Self {
        let mut recipe = Self::small();
        recipe.preset = "quick".into();
        recipe.shape = Shape {
            image: [96, 48],
            patch: 16,
            backbone: None,
            text_pooling: TextPooling::Class,
            vision_width: 64,
            vision_layers: 2,
            vision_heads: 2,
            text_width: 64,
            text_layers: 2,
            text_heads: 2,
            common: 64,
            positions: 73,
        };
        recipe.vocabulary = 2500;
        recipe.data = vec![DataSpec::Synth { identities: 1000, views: 2 }];
        recipe.validation.k = 16;
        recipe.run.steps = 600;
        recipe.run.batch = 32;
        recipe.run.schedule = Schedule::Fall { warmup: 50, fall: 200 };
        recipe.run.words_from = 0;
        recipe.run.validate_every = 200;
        if let Some(atp) = &mut recipe.run.objective.atp {
            (atp.from, atp.pairs) = (200, Some(16));
        }
        if let Some(ara) = &mut recipe.run.objective.ara {
            (ara.from, ara.pairs) = (200, Some(8));
        }
        recipe
    }

    /// The authors' code: full size, their losses, augmentation and schedule, for their datasets
    /// and BLIP's weights.
    fn reference() -> Self {
        Self {
            preset: "reference".into(),
            shape: Shape {
                image: [224, 224],
                patch: 16,
                backbone: None,
                text_pooling: TextPooling::Class,
                vision_width: 768,
                vision_layers: 12,
                vision_heads: 12,
                text_width: 768,
                text_layers: 12,
                text_heads: 12,
                common: 256,
                positions: 512,
            },
            vocabulary: 0,
            data: Vec::new(),
            epochs: Some(40),
            f32: true,
            run: RunConfig {
                schedule: Schedule::Cosine { epoch: 0 },
                lr: 1e-5,
                clip: None,
                late_warmup: 0,
                words_from: 0,
                order: Order::Epochs,
                augment: Augment::Reference,
                validate_every: 0,
                ..RunConfig::new(1, 96, 1, Objective::reference())
            },
            ..Self::small()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_sound_and_come_back_from_json() {
        for name in Recipe::PRESETS {
            let recipe = Recipe::preset(name).expect(name);
            assert_eq!(recipe.preset, name);
            let arch = recipe.shape.architecture(30_524).expect("sound dimensions");
            assert_eq!(Shape::of(&arch), recipe.shape);
            let text = serde_json::to_string(&recipe).expect("serialises");
            assert_eq!(serde_json::from_str::<Recipe>(&text).expect("read back"), recipe);
        }
        assert!(Recipe::preset("big").is_none());
        let reference = Recipe::preset("reference").expect("there").shape.architecture(30_524).expect("sound");
        assert_eq!(reference, Architecture::cada_base());
    }

    #[test]
    fn contradictions_are_named() {
        let shape = Recipe::small().shape;
        let said = |shape: Shape| shape.architecture(7000).expect_err("refused");
        assert!(said(Shape { patch: 25, ..shape.clone() }).contains("25"));
        assert!(said(Shape { text_heads: 7, ..shape.clone() }).contains("text width"));
        assert!(said(Shape { positions: 10, ..shape }).contains("73"));
    }
}
