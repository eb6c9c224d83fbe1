//! Trains one model of a grid and evaluates it for every cell that shares it.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::tables::PAPER_TOKENS;
use super::{AssetsByFolder, CellResult, Domain, Grid, Job, Persons, Settings};
use crate::calibrate::{Method, fit};
use crate::evaluate::{LocalScore, Ranks, Scores, ranks, score_gallery};
use crate::gallery::{Gallery, QUERY_BANK_TEXTS};
use crate::pool::Pool;
use crate::run::{Run, Trainee};
use crate::source::{DatasetSource, Source};
use crate::vocabulary::CutVocabulary;
use crate::{Result, TrainError, atomic, checkpoint, init};
use sightline_embed::kernel::Precision;
use sightline_embed::model::{Network, Preprocess, QueryBank};
use sightline_embed::preprocess::normalize_all;
use sightline_embed::text::CaptionTokenizer;
use sightline_figures::{Assets, Corpus, Words};

/// Most identities whose captions are counted for [`Domains::caption_tokens`]; more would not
/// change the median.
const MEASURED_IDENTITIES: usize = 2000;
/// Memory for decoded pictures of a dataset on disk, in bytes.
const PICTURE_CACHE_BYTES: usize = 2 << 30;

/// A gallery with its pictures decoded at the model's size, for repeated evaluation.
pub(super) struct DecodedGallery {
    entries: Gallery,
    pictures: Vec<Vec<u8>>,
}

impl DecodedGallery {
    fn new(gallery: Gallery, size: [usize; 2]) -> Result<Self> {
        let mut pictures = Vec::with_capacity(gallery.len());
        for from in (0..gallery.len()).step_by(256) {
            pictures.extend(gallery.squashed(from..(from + 256).min(gallery.len()), size)?);
        }
        Ok(Self { entries: gallery, pictures })
    }

    fn pixels(&self, range: Range<usize>) -> Result<Vec<f32>> {
        Ok(normalize_all(&self.pictures[range], &Preprocess::default()))
    }
}

/// Sources and galleries of every domain, created at their first use.
pub(super) struct Domains<'a> {
    settings: &'a Settings,
    meshes: AssetsByFolder,
    sources: HashMap<usize, Box<dyn Source + Send>>,
    tests: HashMap<(usize, Words), DecodedGallery>,
    calibrations: HashMap<usize, Option<DecodedGallery>>,
}

impl<'a> Domains<'a> {
    pub fn new(settings: &'a Settings) -> Self {
        let (sources, tests, calibrations) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { settings, meshes: AssetsByFolder::new(), sources, tests, calibrations }
    }

    fn corpus(&mut self, number: usize, seed: u64) -> Result<Corpus> {
        let Domain::Meshes(folder) = &self.settings.domains[number] else { return Ok(Corpus::new(seed)) };
        if !self.meshes.contains_key(folder) {
            let assets = Assets::load(folder).map_err(|e| TrainError::content(folder, e))?;
            self.meshes.insert(folder.clone(), Arc::new(assets));
        }
        Ok(Corpus::with_assets(seed, Arc::clone(&self.meshes[folder]), 1.0))
    }

    fn source(&mut self, number: usize) -> Result<&(dyn Source + Send)> {
        if !self.sources.contains_key(&number) {
            let (size, Persons { identities, views, seed }) = (self.settings.recipe.shape.image, self.settings.train);
            let source: Box<dyn Source + Send> = match self.settings.domains[number].layout()? {
                Some((dataset, root)) => {
                    Box::new(DatasetSource::new(dataset.read(root, "train")?, size, PICTURE_CACHE_BYTES)?)
                }
                None => {
                    let mut pool = Pool::new(self.corpus(number, seed)?, 0, identities, views, size);
                    pool.words = self.settings.recipe.words();
                    Box::new(pool)
                }
            };
            self.sources.insert(number, source);
        }
        Ok(self.sources[&number].as_ref())
    }

    /// Median length of training captions of domain `number`, in tokens without `[CLS]`: of the
    /// captions of one picture of at most [`MEASURED_IDENTITIES`] identities.
    pub fn caption_tokens(&mut self, number: usize, texts: &CaptionTokenizer) -> Result<usize> {
        let mut rng = StdRng::seed_from_u64(self.settings.train.seed);
        let source = self.source(number)?;
        let count = source.identities().min(MEASURED_IDENTITIES);
        let mut lengths = Vec::new();
        for identity in (0..count).map(|place| place * source.identities() / count) {
            for which in 0..source.captions(identity, 0) {
                let ids = texts.encode(&source.caption(identity, 0, which, &mut rng))?.ids;
                lengths.push(ids.len().saturating_sub(1));
            }
        }
        lengths.sort_unstable();
        Ok(lengths.get(lengths.len() / 2).copied().unwrap_or(PAPER_TOKENS))
    }

    fn drawn(&mut self, number: usize, persons: Persons, words: Words) -> Result<DecodedGallery> {
        let corpus = self.corpus(number, persons.seed)?;
        let gallery = Gallery::drawn(&corpus, 0..persons.identities, persons.views, words);
        DecodedGallery::new(gallery, self.settings.recipe.shape.image)
    }

    fn test(&mut self, number: usize, words: Words) -> Result<&DecodedGallery> {
        if !self.tests.contains_key(&(number, words)) {
            let gallery = match self.settings.domains[number].layout()? {
                Some((dataset, root)) => DecodedGallery::new(
                    Gallery::of_entries(dataset.read(root, "test")?),
                    self.settings.recipe.shape.image,
                )?,
                None => self.drawn(number, self.settings.test, words)?,
            };
            self.tests.insert((number, words), gallery);
        }
        Ok(&self.tests[&(number, words)])
    }

    /// Gallery of domain `number` to calibrate on; `None` for a dataset without a validation split.
    fn calibration(&mut self, number: usize) -> Result<Option<&DecodedGallery>> {
        if !self.calibrations.contains_key(&number) {
            let gallery = match self.settings.domains[number].layout()? {
                Some((dataset, root)) => match dataset.read_if_present(root, "val")? {
                    Some(entries) => {
                        Some(DecodedGallery::new(Gallery::of_entries(entries), self.settings.recipe.shape.image)?)
                    }
                    None => None,
                },
                None => Some(self.drawn(number, self.settings.calibration, self.settings.recipe.words())?),
            };
            self.calibrations.insert(number, gallery);
        }
        Ok(self.calibrations[&number].as_ref())
    }

    /// Texts of a query bank for domain `number`, about persons in no other gallery.
    fn query_bank_texts(&mut self, number: usize) -> Result<Vec<String>> {
        Ok(match self.settings.domains[number].layout()? {
            Some((dataset, root)) => Gallery::query_bank_texts_of(&dataset.read(root, "train")?, QUERY_BANK_TEXTS),
            None => {
                let Persons { identities, seed, .. } = self.settings.calibration;
                Gallery::query_bank_texts(
                    &self.corpus(number, seed)?,
                    identities,
                    QUERY_BANK_TEXTS as u64,
                    self.settings.recipe.words(),
                )
            }
        })
    }
}

/// A trained model and its tokenizer.
pub(super) struct Trained {
    network: Network,
    texts: CaptionTokenizer,
    /// Number of variables' values, heads of the losses included.
    parameters: usize,
}

impl Trained {
    /// The serving network of `trainee` in `precision`.
    fn new(trainee: &Trainee, texts: CaptionTokenizer, precision: Precision) -> Result<Self> {
        let parameters = trainee.variables.all_vars().iter().map(|variable| variable.elem_count()).sum();
        Ok(Self { network: precision.scope(|| trainee.network())?, texts, parameters })
    }

    fn scores(
        &self,
        gallery: &DecodedGallery,
        k: usize,
        bank: Option<&QueryBank>,
        report: &mut dyn FnMut(&Value),
    ) -> Result<Scores> {
        let texts = self.texts.ids(&gallery.entries.captions)?;
        report(&json!({"judging": {"texts": texts.len(), "images": gallery.entries.len(), "k": k}}));
        score_gallery(
            &self.network,
            &texts,
            gallery.entries.len(),
            |range| gallery.pixels(range),
            k,
            bank,
            |_, _, _| {},
        )
    }
}

impl Grid<'_> {
    /// Trains the model of `job`, resumes its training, or loads its weights. `None` if `stop` was
    /// set.
    pub(super) fn train(
        &self,
        job: &Job,
        pieces: usize,
        cut: Option<&CutVocabulary>,
        domains: &mut Domains<'_>,
        report: &mut dyn FnMut(&Value),
    ) -> Result<Option<Trained>> {
        let Some(cell) = job.cells.first() else { return Err(TrainError::Stopped) };
        let (recipe, folder) = (self.recipe(cell, job.seed), self.folder.join("runs").join(&job.run));
        std::fs::create_dir_all(&folder).map_err(TrainError::io(&folder))?;
        let arch = recipe.shape.architecture(pieces).map_err(TrainError::Usage)?;
        let texts = CaptionTokenizer::load(&self.folder.join("tokenizer.json"), &arch)?;
        let trainee = Trainee::with_frozen(&arch, recipe.run.objective.decoder(), job.seed, recipe.frozen())?;
        let weights = folder.join("weights.safetensors");
        if weights.is_file() {
            checkpoint::variables(&weights, &trainee.variables)?;
            return Trained::new(&trainee, texts, recipe.precision()).map(Some);
        }
        if checkpoint::step(&folder).is_none() {
            if let (Some(encoder), Some(cut)) = (&recipe.text_init, cut) {
                init::from_text_encoder(&trainee, encoder, cut)?;
            }
            if let Some(path) = &recipe.init {
                init::from_checkpoint(&trainee, path)?;
            }
        }
        let text = serde_json::to_vec_pretty(&recipe).map_err(|e| TrainError::content(&folder, e))?;
        atomic::file(&folder.join("recipe.json"), &text)?;
        let source = domains.source(cell.domains[0])?;
        let run = Run {
            stop: self.stop,
            checkpoint_every: Duration::from_secs(120),
            ..Run::new(&folder, recipe.run.clone(), &trainee, source, &texts)
        };
        let outcome = recipe.precision().scope(|| run.train(report))?;
        if outcome.stopped {
            return Ok(None);
        }
        keep_weights_only(&folder, &weights, &trainee)?;
        Trained::new(&trainee, texts, recipe.precision()).map(Some)
    }

    /// Evaluates every cell of `job`.
    pub(super) fn evaluate(
        &self,
        job: &Job,
        trained: &Trained,
        domains: &mut Domains<'_>,
        start: Instant,
        report: &mut dyn FnMut(&Value),
    ) -> Result<Vec<CellResult>> {
        let Some(first) = job.cells.first() else { return Ok(Vec::new()) };
        let matches = first.objective.atp.as_ref().is_some_and(|atp| atp.global);
        let texts = trained.texts.ids(&domains.query_bank_texts(first.domains[0])?)?;
        let bank = QueryBank::of(&trained.network, &texts)?;
        let bank = bank.as_ref();
        let mut calibrated = None;
        if matches && let Some(gallery) = domains.calibration(first.domains[0])? {
            let scores = trained.scores(gallery, self.settings.k, bank, report)?;
            let pairs = scores.pairs(&gallery.entries.text_ids, &gallery.entries.image_ids);
            calibrated = fit(&pairs, Method::Platt).map(LocalScore::Sightline);
        }
        let mut tests: Vec<(usize, Words)> = job.cells.iter().map(|c| (c.domains[1], c.words)).collect();
        tests.sort_unstable();
        tests.dedup();
        let mut lines = Vec::new();
        for test in tests {
            let gallery = domains.test(test.0, test.1)?;
            let cells = || job.cells.iter().filter(|c| (c.domains[1], c.words) == test);
            let k = if matches { cells().map(|c| c.k).max().unwrap_or_default() } else { 0 };
            let scores = trained.scores(gallery, k, bank, report)?;
            let (text_ids, image_ids) = (&gallery.entries.text_ids, &gallery.entries.image_ids);
            let global = ranks(&scores.cosine, text_ids, image_ids);
            let global_bank = scores.bank_ranks(text_ids, image_ids).map(|texts| Ranks::of(&texts));
            for cell in cells() {
                // The top k of a cell are the first k of the larger top K that was scored.
                let by = |calibrated: &LocalScore| scores.ranks_top(calibrated, cell.k, text_ids, image_ids);
                lines.push(CellResult {
                    table: cell.table,
                    row: cell.row.clone(),
                    seed: job.seed,
                    run: job.run.clone(),
                    parameters: Some(trained.parameters),
                    k: cell.k,
                    texts: gallery.entries.captions.len(),
                    images: gallery.entries.len(),
                    global,
                    bank: global_bank,
                    local: matches.then(|| by(&LocalScore::Reference)),
                    calibrated: calibrated.as_ref().map(by),
                    seconds: start.elapsed().as_secs_f64(),
                });
            }
        }
        Ok(lines)
    }
}

/// Replaces the checkpoint of a finished run with its weights alone.
fn keep_weights_only(folder: &Path, weights: &Path, trainee: &Trainee) -> Result<()> {
    atomic::with(weights, |part| trainee.variables.save(part).map_err(|e| TrainError::content(weights, e)))?;
    for name in ["checkpoint", "checkpoint.last", "best"] {
        let _ = std::fs::remove_dir_all(folder.join(name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Recipe;

    #[test]
    fn only_a_missing_split_leaves_a_grid_without_calibration() {
        let root = tempfile::tempdir().expect("a folder");
        sightline_figures::write_dataset(root.path(), &Corpus::new(4), 20, 1, |_| {}).expect("written");
        let persons = |seed| Persons { identities: 4, views: 1, seed };
        let settings = Settings {
            recipe: Recipe::preset("quick").expect("a preset"),
            train: persons(1),
            test: persons(2),
            calibration: persons(3),
            k: 4,
            domains: vec![Domain::Folder("cuhk-pedes".into(), root.path().to_owned())],
        };
        let calibration = || Domains::new(&settings).calibration(0).map(|gallery| gallery.is_some());
        assert!(calibration().expect("a good dataset"));
        let file = root.path().join("reid_raw.json");
        let all: Vec<Value> = serde_json::from_slice(&std::fs::read(&file).expect("written")).expect("JSON");
        let picture = all.iter().find(|item| item["split"] == "val").and_then(|item| item["file_path"].as_str());
        std::fs::remove_file(root.path().join("imgs").join(picture.expect("named"))).expect("removed");
        let e = calibration().expect_err("a picture is missing").to_string();
        assert!(e.contains("the picture is missing"), "{e}");
        let others: Vec<&Value> = all.iter().filter(|item| item["split"] != "val").collect();
        std::fs::write(&file, serde_json::to_vec(&others).expect("serialises")).expect("written");
        assert!(!calibration().expect("no split to calibrate on"));
    }
}
