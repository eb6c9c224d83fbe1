//! Training and validation data of a run.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use anyhow::{Context, Result, anyhow, ensure};
use rand::Rng;
use rayon::prelude::*;
use serde_json::json;
use sha2::{Digest, Sha256};
use sightline_embed::text::CaptionTokenizer;
use sightline_figures::{Assets, Corpus};
use sightline_tune::dataset::{Dataset, Entry, hold_out};
use sightline_tune::facts::read_labels;
use sightline_tune::garments::GarmentSource;
use sightline_tune::people::{self, PeoplePart, PeopleSource};
use sightline_tune::pool::Pool;
use sightline_tune::recipe::Recipe;
use sightline_tune::source::{DataSpec, DatasetSource, MixedSource, Source};
use sightline_tune::validation::Validation;

use crate::report::Reporter;

/// Drawn persons that a run without a dataset is validated on, and the pictures of each.
const VALIDATION_PERSONS: (u64, u64) = (200, 2);
/// Added to the run's seed to draw validation persons that the run does not learn from. The value
/// is arbitrary, but it decides which checkpoint is best.
const VALIDATION_SEED_OFFSET: u64 = 14_507_757;

/// Share of the captions of drawn persons that are made of facts, when a run learns what is true.
/// The value is arbitrary, but decides the run.
const DESCRIBED: f32 = 0.7;

/// Options for reading datasets on disk.
pub struct ReadOptions {
    /// Height and width of the pictures in pixels.
    pub size: [usize; 2],
    /// Skips bad items instead of refusing the dataset.
    pub skip_bad: bool,
    /// Memory for decoded pictures, in bytes.
    pub memory: usize,
}

/// Training data of a run.
pub struct Data {
    /// All sources as one.
    pub source: Box<dyn Source + Send>,
    /// Entries held out of the first dataset on disk, when it has no validation split.
    held_out: Option<Vec<Entry>>,
    /// Meshes that drawn persons are made of.
    assets: Option<Arc<Assets>>,
    /// Digest of the files that the pictures are made of: it changes when one is replaced.
    pub files: String,
}

/// Digest of the names, sizes and times of change of files, which tells without reading them
/// whether one was replaced.
#[derive(Default)]
struct FileDigest(Sha256);

impl FileDigest {
    fn add(&mut self, path: &Path) {
        let state = fs::metadata(path).map(|file| (file.len(), file.mtime(), file.mtime_nsec())).ok();
        self.0.update(format!("{} {state:?}\n", path.display()));
    }

    /// Adds the pictures of `entries`. Identities count too, because tokens are kept by identity
    /// and number of the picture.
    fn add_entries(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.0.update(format!("{} ", entry.identity));
            self.add(&entry.path);
        }
    }

    /// Adds every file below `folder` except hidden ones.
    fn add_folder(&mut self, folder: &Path) -> Result<()> {
        let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
        let mut paths = paths.with_context(|| format!("listing {}", folder.display()))?;
        paths.sort();
        let hidden = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        for path in paths.iter().filter(|path| !hidden(path)) {
            if path.is_dir() {
                self.add_folder(path)?;
            } else {
                self.add(path);
            }
        }
        Ok(())
    }

    fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Drawn persons of `seed`, as the recipe has them.
fn corpus(recipe: &Recipe, assets: Option<&Arc<Assets>>, seed: u64) -> Corpus {
    match assets {
        Some(assets) => Corpus::with_assets(seed, Arc::clone(assets), recipe.mesh_share),
        None => Corpus::new(seed),
    }
}

/// Reads `split` of a dataset. Bad items are an error, or are skipped and reported.
fn read(dataset: Dataset, root: &Path, split: &str, options: &ReadOptions, reporter: &Reporter) -> Result<Vec<Entry>> {
    let survey = dataset.survey(root, split)?;
    let lone = survey.lone();
    if let Some(first) = lone.first() {
        reporter.note(&format!(
            "{}: {} of the identities of {split} have one picture only (for example {first}); they are used with it",
            survey.file.display(),
            lone.len()
        ));
    }
    if !options.skip_bad {
        return Ok(survey.strict()?);
    }
    let mut skipped: Vec<String> = survey.problems.iter().map(ToString::to_string).collect();
    // Damage inside a picture shows only when it is decoded; a run that may leave pictures out
    // looks for it first.
    let mut good = Vec::with_capacity(survey.entries.len());
    for entry in survey.entries {
        match entry.pixels(options.size) {
            Ok(_) => good.push(entry),
            Err(e) => skipped.push(e.to_string()),
        }
    }
    for problem in &skipped {
        reporter.note(&format!("skipped {}: {problem}", survey.file.display()));
    }
    if !skipped.is_empty() {
        reporter.value(&json!({"skipped": skipped.len(), "of": survey.items, "file": survey.file}));
        reporter.note(&format!("{} of {} items skipped", skipped.len(), survey.items));
    }
    ensure!(!good.is_empty(), "{}: no item of {split} can be used", survey.file.display());
    Ok(good)
}

/// Opens every source of the recipe.
pub fn sources(recipe: &Recipe, options: &ReadOptions, reporter: &Reporter) -> Result<Data> {
    let weights = match recipe.weights.len() {
        0 => vec![1.0; recipe.data.len()],
        n if n == recipe.data.len() => recipe.weights.clone(),
        n => return Err(anyhow!("--weights has {n} numbers for {} sources", recipe.data.len())),
    };
    let drawn = recipe.data.iter().any(|spec| matches!(spec, DataSpec::Synth { .. }));
    let mut files = FileDigest::default();
    let assets = match recipe.assets.as_ref().filter(|_| drawn) {
        Some(folder) => {
            files.add_folder(folder)?;
            Some(Arc::new(Assets::load(folder)?))
        }
        None => None,
    };
    let (mut parts, mut held_out): (Vec<(Box<dyn Source + Send>, f64)>, _) = (Vec::new(), None);
    for (index, (spec, weight)) in recipe.data.iter().zip(weights).enumerate() {
        let part: Box<dyn Source + Send> = match spec {
            DataSpec::Synth { identities, views } => {
                let corpus = corpus(recipe, assets.as_ref(), recipe.run.seed.wrapping_add(index as u64));
                let mut pool = Pool::new(corpus, 0, *identities, *views, options.size);
                pool.words = recipe.words();
                if recipe.run.objective.truth.is_some() {
                    pool.described = DESCRIBED;
                }
                Box::new(pool)
            }
            DataSpec::Folder(dataset, root) => {
                let mut entries = read(*dataset, root, "train", options, reporter)?;
                if *dataset == Dataset::IcfgPedes && held_out.is_none() && recipe.validation.on == "auto" {
                    let (rest, taken) = hold_out(entries);
                    (entries, held_out) = (rest, Some(taken));
                }
                files.add_entries(&entries);
                Box::new(DatasetSource::new(entries, options.size, options.memory)?)
            }
            DataSpec::People(PeoplePart::Train, root) => {
                let labels = read_labels(&root.join(people::LABELS))?;
                let all = read(people::LAYOUT, root, people::SPLIT, options, reporter)?;
                let entries = PeoplePart::Train.of(all, &labels, root)?;
                files.add_entries(&entries);
                reporter.note(&format!("{}: {} pictures of people to learn from", root.display(), entries.len()));
                Box::new(PeopleSource::new(entries, &labels, options.size, options.memory)?)
            }
            DataSpec::People(part, _) => {
                return Err(anyhow!("{spec}: the persons of {part} are held out; people:ROOT has those to learn from"));
            }
            DataSpec::Garments(root) => {
                let garments = GarmentSource::open(root, options.size, options.memory)?;
                for (path, garment) in garments.files() {
                    files.0.update(garment.label());
                    files.add(path);
                }
                reporter.note(&format!("{}: {} photographs of garments", root.display(), garments.identities()));
                Box::new(garments)
            }
        };
        parts.push((part, weight));
    }
    let source: Box<dyn Source + Send> = match parts.len() {
        1 => parts.remove(0).0,
        _ => Box::new(MixedSource::new(parts)?),
    };
    Ok(Data { source, held_out, assets, files: files.finish() })
}

/// Pictures that the numbers of a backbone's tokens are standardised by.
const SAMPLE: usize = 512;
/// Number of the random stream of [`sample`]; the value is arbitrary, but decides the run.
const SAMPLE_STREAM: u64 = 1_618_033_988;

/// Normalised pixels of varied training pictures, as the run will see them: every source by its
/// weight.
pub fn sample(recipe: &Recipe, source: &dyn Source) -> Result<Vec<f32>> {
    let [h, w] = source.size();
    let mut rng = sightline_figures::stream(recipe.run.seed, SAMPLE_STREAM, 0);
    let chosen: Vec<(usize, u64)> = (0..SAMPLE).map(|_| (source.draw(&mut rng), rng.random())).collect();
    let mut pixels = vec![0f32; SAMPLE * 3 * h * w];
    let rows = chosen.par_iter().zip(pixels.par_chunks_mut(3 * h * w));
    rows.try_for_each(|((identity, seed), out)| -> Result<()> {
        let picture = source.picture(*identity, 0)?;
        let mut rng = sightline_figures::stream(*seed, SAMPLE_STREAM, 1);
        recipe.run.augment.apply(&picture, [h, w], &recipe.preprocess(), out, &mut rng);
        Ok(())
    })?;
    Ok(pixels)
}

/// Captions whose words a cut vocabulary must keep.
pub fn examples(source: &dyn Source, seed: u64) -> impl Iterator<Item = String> + '_ {
    use rand::SeedableRng;
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed ^ 77);
    let all = (0..source.identities().min(4000))
        .flat_map(|identity| (0..source.captions(identity, 0)).map(move |which| (identity, which)));
    all.map(move |(identity, which)| source.caption(identity, 0, which, &mut rng))
}

impl Data {
    /// Validation data that chooses the best checkpoint; `None` for `--validate none`.
    pub fn validation(
        &self,
        recipe: &Recipe,
        texts: &CaptionTokenizer,
        options: &ReadOptions,
        reporter: &Reporter,
    ) -> Result<Option<Validation>> {
        let on_disk = recipe.data.iter().find(|spec| matches!(spec, DataSpec::Folder(..) | DataSpec::People(..)));
        let spec = match (recipe.validation.on.as_str(), on_disk) {
            ("none", _) => return Ok(None),
            ("auto", Some(DataSpec::People(_, root))) => DataSpec::People(PeoplePart::Stop, root.clone()),
            ("auto", Some(spec)) => spec.clone(),
            ("auto", None) => DataSpec::Synth { identities: VALIDATION_PERSONS.0, views: VALIDATION_PERSONS.1 },
            (name, _) => name.parse().map_err(|e| anyhow!("--validate {name}: {e}"))?,
        };
        let k = recipe.validation.k.max(1);
        let validation = match &spec {
            DataSpec::Synth { identities, views } => {
                let corpus = corpus(recipe, self.assets.as_ref(), recipe.run.seed.wrapping_add(VALIDATION_SEED_OFFSET));
                Validation::of_drawn(&Pool::new(corpus, 0, *identities, *views, options.size), texts, k)?
            }
            DataSpec::Folder(dataset, root) => {
                let held_out = match (&self.held_out, dataset) {
                    (Some(entries), Dataset::IcfgPedes) => entries.clone(),
                    _ => read(*dataset, root, "val", options, reporter)?,
                };
                Validation::of_entries(&held_out, options.size, texts, k)
                    .with_context(|| format!("validating on {spec}"))?
            }
            DataSpec::People(PeoplePart::Train, _) => {
                return Err(anyhow!(
                    "--validate {spec}: these persons are learned from; people-stop:ROOT is kept back"
                ));
            }
            DataSpec::Garments(_) => {
                return Err(anyhow!("--validate {spec}: garments are no persons to find"));
            }
            DataSpec::People(part, root) => {
                let labels = read_labels(&root.join(people::LABELS))?;
                let all = read(people::LAYOUT, root, people::SPLIT, options, reporter)?;
                Validation::of_entries(&part.of(all, &labels, root)?, options.size, texts, k)?
            }
        };
        let (pictures, captions) = validation.len();
        reporter.note(&format!("validation on {spec}: {captions} texts, {pictures} pictures"));
        Ok(Some(validation))
    }
}
