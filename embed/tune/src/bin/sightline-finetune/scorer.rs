//! Shared by `eval` and `calibrate`: flags for the device and the data, and models that score a
//! gallery.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use clap::{Args, ValueEnum};
use sightline_core::config::EmbedPrecision;
use sightline_embed::model::{ModelConfig, Network, QueryBank};
use sightline_embed::net::WeightFile;
use sightline_embed::text::CaptionTokenizer;
use sightline_embed::{Model, ModelFolder, choose_precision, open_device, resolve_model_folder};
use sightline_figures::{Assets, Corpus, Words};
use sightline_tune::baseline::{self, Baseline};
use sightline_tune::dataset::Dataset;
use sightline_tune::evaluate::{Scores, score_gallery};
use sightline_tune::facts::read_labels;
use sightline_tune::gallery::Gallery;
use sightline_tune::people::{LABELS, PeoplePart};
use sightline_tune::separation::Truths;

use crate::report::staged;

/// Flags for device and precision.
#[derive(Args)]
pub struct MachineArgs {
    /// Device to compute on: cpu, or cuda:N in a build with the feature cuda.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Precision of CADA's arithmetic: f32 as in the reference, bf16 (several times faster on CPUs
    /// that support it), f16 (GPUs), or auto.
    #[arg(long, value_enum, default_value_t = Arithmetic::F32)]
    precision: Arithmetic,
}

#[derive(Clone, Copy, ValueEnum)]
enum Arithmetic {
    F32,
    Bf16,
    F16,
    Auto,
}

impl MachineArgs {
    /// The requested precision.
    fn precision(&self) -> EmbedPrecision {
        match self.precision {
            Arithmetic::F32 => EmbedPrecision::F32,
            Arithmetic::Bf16 => EmbedPrecision::Bf16,
            Arithmetic::F16 => EmbedPrecision::F16,
            Arithmetic::Auto => EmbedPrecision::Auto,
        }
    }

    /// Loads a model folder as for serving.
    pub fn model(&self, folder: &Path) -> Result<Model> {
        sightline_embed::keep_large_buffers();
        Ok(Model::load_as(&ModelFolder::open(folder)?, &self.device, self.precision())?)
    }
}

/// Flags for the gallery.
#[derive(Args)]
pub struct DataArgs {
    /// Dataset: cuhk-pedes, icfg-pedes or rstpreid in its own layout below --root; people-stop or
    /// people-calibrate, the labelled people below --root that no model trains on; or synth,
    /// persons drawn on the fly.
    #[arg(long)]
    pub dataset: Option<String>,
    /// Folder with imgs/ and the annotation file.
    #[arg(long)]
    root: Option<PathBuf>,
    /// Split of the dataset.
    #[arg(long)]
    split: Option<String>,
    /// With --dataset synth: number of persons.
    #[arg(long)]
    identities: Option<u64>,
    /// With --dataset synth: pictures per person.
    #[arg(long, default_value_t = 2)]
    views: u64,
    /// With --dataset synth: seed of the persons, which must differ from the seed of the training.
    #[arg(long)]
    pub seed: Option<u64>,
    /// With --dataset synth: words in the captions. held-out uses a synonym that is held out from
    /// training wherever there is one.
    #[arg(long, value_enum, default_value_t = CaptionWords::All)]
    words: CaptionWords,
    /// With --dataset synth: folder of body and clothes meshes, as for `synth --assets`.
    #[arg(long)]
    assets: Option<PathBuf>,
    /// With --assets: share of the pictures drawn from meshes.
    #[arg(long, default_value_t = 1.0)]
    level2_share: f32,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum CaptionWords {
    Seen,
    HeldOut,
    All,
}

impl CaptionWords {
    fn words(self) -> Words {
        match self {
            Self::Seen => Words::Seen,
            Self::HeldOut => Words::HeldOut,
            Self::All => Words::All,
        }
    }
}

/// A set of drawn persons.
pub struct Drawn {
    pub corpus: Corpus,
    /// Number of persons, counted from the first of the corpus.
    pub identities: u64,
    /// Pictures per person.
    pub views: u64,
}

/// Defaults of [`DataArgs`], which differ between commands.
pub struct Defaults {
    pub dataset: &'static str,
    pub split: &'static str,
    pub identities: u64,
    pub seed: u64,
}

impl DataArgs {
    /// Opens the gallery; returns it and its name.
    pub fn gallery(&self, or: &Defaults) -> Result<(Gallery, String)> {
        let dataset = self.dataset.as_deref().unwrap_or(or.dataset);
        if dataset == "synth" {
            let (Drawn { corpus, identities, views }, name) = self.drawn(or)?;
            return Ok((Gallery::drawn(&corpus, 0..identities, views, self.words.words()), name));
        }
        let root = self.root.as_ref().with_context(|| format!("--dataset {dataset} needs --root"))?;
        if self.identities.is_some() || self.seed.is_some() || self.assets.is_some() || self.words != CaptionWords::All
        {
            bail!("--identities, --seed, --words and --assets are for --dataset synth");
        }
        if let Some(part) = [PeoplePart::Stop, PeoplePart::Calibrate].into_iter().find(|part| part.name() == dataset) {
            ensure!(self.split.is_none(), "--dataset {part} is a part of the people already: no --split");
            return Ok((Gallery::of_entries(part.read(root)?), part.to_string()));
        }
        let layout: Dataset =
            dataset.parse().map_err(|e| anyhow::anyhow!("--dataset: {e}, people-stop, people-calibrate or synth"))?;
        let split = self.split.as_deref().unwrap_or(or.split);
        Ok((Gallery::of_entries(layout.read(root, split)?), format!("{dataset}-{split}")))
    }

    /// The persons that --dataset synth draws, and the name of their gallery.
    pub fn drawn(&self, or: &Defaults) -> Result<(Drawn, String)> {
        let dataset = self.dataset.as_deref().unwrap_or(or.dataset);
        ensure!(dataset == "synth", "--dataset {dataset} has no drawn persons: --dataset synth");
        ensure!(self.root.is_none() && self.split.is_none(), "--dataset synth draws persons: no --root, no --split");
        let (identities, seed) = (self.identities.unwrap_or(or.identities), self.seed.unwrap_or(or.seed));
        ensure!(identities > 1 && self.views > 0, "--identities must be above 1 and --views above 0");
        ensure!((0.0..=1.0).contains(&self.level2_share), "--level2-share {} is not within 0..1", self.level2_share);
        let (corpus, level) = match &self.assets {
            Some(dir) => (Corpus::with_assets(seed, Arc::new(Assets::load(dir)?), self.level2_share), "synth2"),
            None => (Corpus::new(seed), "synth"),
        };
        let suffix = match self.words {
            CaptionWords::Seen => "-seen-words",
            CaptionWords::HeldOut => "-held-out-words",
            CaptionWords::All => "",
        };
        let drawn = Drawn { corpus, identities, views: self.views };
        Ok((drawn, format!("{level}-seed{seed}-n{identities}{suffix}")))
    }

    /// Truth of the yardstick's phrases about the pictures in `gallery`, which are labelled or
    /// drawn.
    pub fn truths(&self, gallery: &Gallery) -> Result<Truths> {
        let Some(root) = &self.root else {
            return Ok(Truths::of_facts(&gallery.image_ids, &gallery.drawn_facts()));
        };
        let labels = read_labels(&root.join(LABELS)).context("phrases need labels")?;
        Ok(Truths::of_labels(&gallery.image_ids, &labels)?)
    }

    /// Texts of a query bank for the gallery, at most `count`, about other persons: drawn ones, or
    /// those of the dataset's split `train`; none without such a split.
    pub fn query_bank_texts(&self, or: &Defaults, count: usize) -> Result<Vec<String>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        if let Some(layout) = self.layout(or) {
            let split = self.split.as_deref().unwrap_or(or.split);
            ensure!(split != "train", "the query bank is made of the split train: --bank 0, or another --split");
            let root = self.root.as_deref().unwrap_or(Path::new(""));
            let entries = layout.read_if_present(root, "train")?.unwrap_or_default();
            return Ok(Gallery::query_bank_texts_of(&entries, count));
        }
        if let Some(root) = self.root.as_deref() {
            // Labelled people: the texts come from the training part.
            return Ok(Gallery::query_bank_texts_of(&PeoplePart::Train.read(root)?, count));
        }
        let corpus = Corpus::new(self.seed.unwrap_or(or.seed));
        let identities = self.identities.unwrap_or(or.identities);
        Ok(Gallery::query_bank_texts(&corpus, identities, count as u64, self.words.words()))
    }

    /// Layout of a published dataset; `None` for other data.
    pub fn layout(&self, or: &Defaults) -> Option<Dataset> {
        self.dataset.as_deref().unwrap_or(or.dataset).parse().ok()
    }
}

/// A loaded CADA model folder.
pub struct LoadedModel {
    pub path: PathBuf,
    pub id: String,
    pub config: ModelConfig,
    /// The folder's query bank, if its calibration uses hubness.
    pub bank: Option<QueryBank>,
    network: Network,
    texts: CaptionTokenizer,
}

impl LoadedModel {
    pub fn open(folder: &Path, machine: &MachineArgs) -> Result<Self> {
        let folder = ModelFolder::open(folder)?;
        sightline_embed::keep_large_buffers();
        let device = open_device(&machine.device)?;
        let precision = choose_precision(machine.precision(), &device)?;
        let bank = folder.bank()?;
        let file = WeightFile::read(&folder.weights())?;
        let ModelFolder { path, config, id } = folder;
        let network = Network::load(file, &config.architecture, &device, precision)?;
        let texts = CaptionTokenizer::load(&path.join("tokenizer.json"), &config.architecture)?;
        Ok(Self { path, id, config, bank, network, texts })
    }

    pub fn scores(&self, gallery: &Gallery, k: usize) -> Result<Scores> {
        let texts = self.texts.ids(&gallery.captions)?;
        let (size, prep) = (self.config.architecture.image_size, &self.config.preprocess);
        let pixels = |range| gallery.pixels(range, size, prep);
        Ok(score_gallery(&self.network, &texts, gallery.len(), pixels, k, self.bank.as_ref(), staged())?)
    }

    /// Replaces the query bank with one of `texts`, or removes it without texts.
    pub fn take_bank(&mut self, texts: &[String]) -> Result<()> {
        let ids = self.texts.ids(texts)?;
        self.bank = QueryBank::of(&self.network, &ids)?;
        Ok(())
    }
}

/// A model that `eval` can score a gallery with.
pub enum Scorer {
    Cada(Box<LoadedModel>),
    Baseline(Box<Baseline>, Device),
}

impl Scorer {
    pub fn open(folder: &Path, machine: &MachineArgs) -> Result<Self> {
        let path = resolve_model_folder(folder)?;
        if baseline::kind(&path).is_none() {
            return Ok(Self::Cada(Box::new(LoadedModel::open(folder, machine)?)));
        }
        let device = open_device(&machine.device)?.candle();
        let open = Baseline::open(&path, &device)?;
        Ok(Self::Baseline(Box::new(open), device))
    }

    pub fn id(&self) -> &str {
        match self {
            Self::Cada(m) => &m.id,
            Self::Baseline(m, _) => &m.id,
        }
    }

    pub fn scores(&self, gallery: &Gallery, k: usize) -> Result<Scores> {
        match self {
            Self::Cada(m) => m.scores(gallery, k),
            Self::Baseline(m, device) => {
                let size = [m.image_size; 2];
                let pixels = |range: std::ops::Range<usize>| {
                    let (n, values) = (range.len(), gallery.pixels(range, size, &m.preprocess)?);
                    Ok(Tensor::from_vec(values, (n, 3, size[0], size[1]), device)?)
                };
                Ok(m.score_gallery(&gallery.captions, gallery.len(), pixels, staged())?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_a_missing_split_leaves_a_query_bank_empty() {
        let root = tempfile::tempdir().unwrap();
        sightline_figures::write_dataset(root.path(), &Corpus::new(4), 20, 1, |_| {}).unwrap();
        let data = DataArgs {
            dataset: Some("cuhk-pedes".into()),
            root: Some(root.path().to_owned()),
            split: None,
            identities: None,
            views: 1,
            seed: None,
            words: CaptionWords::All,
            assets: None,
            level2_share: 1.0,
        };
        let or = Defaults { dataset: "cuhk-pedes", split: "test", identities: 2, seed: 1 };
        let texts = || data.query_bank_texts(&or, 4);
        assert_eq!(texts().unwrap().len(), 4);
        let file = root.path().join("reid_raw.json");
        let all: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let picture = all.iter().find(|item| item["split"] == "train").unwrap()["file_path"].as_str().unwrap();
        std::fs::remove_file(root.path().join("imgs").join(picture)).unwrap();
        assert!(texts().unwrap_err().to_string().contains("cannot be used"), "a picture is missing");
        let others: Vec<_> = all.iter().filter(|item| item["split"] != "train").collect();
        std::fs::write(&file, serde_json::to_vec(&others).unwrap()).unwrap();
        assert!(texts().unwrap().is_empty(), "there is no split to make a bank of");
    }
}
