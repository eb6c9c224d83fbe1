//! The paper's ablation tables as a resumable grid: train each variant with each seed, evaluate it
//! on unseen persons, and write means, standard deviations and plots.
//!
//! ```text
//! grid.json            settings of the grid; other settings need another folder
//! tokenizer.json
//! runs/HASH/           one training: its checkpoints, log and curves, then its weights
//! results.jsonl        one line per finished cell
//! tables.md, *.svg     written again after every training
//! ```
//!
//! Cells that need the same training share it: every K of Fig. 3, and the full method wherever it
//! is a row.

mod cell;
mod results;
mod summary;
mod tables;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::dataset::Dataset;
use super::recipe::Recipe;
use super::vocabulary::{self, CutVocabulary};
use super::{Result, TrainError, atomic};
use cell::Domains;
pub use results::CellResult;
use sightline_embed::text::CaptionTokenizer;
use sightline_figures::Assets;
pub use summary::{markdown, summarise};
pub use tables::{Table, Variant, variants};

/// A set of drawn persons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Persons {
    /// Number of persons.
    pub identities: u64,
    /// Pictures per person.
    pub views: u64,
    /// Seed of the corpus.
    pub seed: u64,
}

/// A domain: a kind of pictures to train and to test on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Domain {
    /// Persons drawn from simple parts.
    Drawn,
    /// Persons drawn from meshes in this folder.
    Meshes(PathBuf),
    /// An annotated dataset in this folder: split `train` for training, `test` for evaluation.
    Folder(String, PathBuf),
}

impl Domain {
    /// Name of the domain in tables.
    pub fn name(&self) -> String {
        match self {
            Self::Drawn => "drawn (level 1)".into(),
            Self::Meshes(_) => "meshes (level 2)".into(),
            Self::Folder(layout, _) => layout.clone(),
        }
    }

    fn layout(&self) -> Result<Option<(Dataset, &Path)>> {
        match self {
            Self::Folder(layout, root) => {
                Ok(Some((layout.parse::<Dataset>().map_err(TrainError::Usage)?, root.as_path())))
            }
            _ => Ok(None),
        }
    }
}

/// Settings that determine the results of all cells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The full method; variants change it.
    pub recipe: Recipe,
    /// Drawn persons for training.
    pub train: Persons,
    /// Drawn persons for evaluation, disjoint from the others.
    pub test: Persons,
    /// Drawn persons for calibration.
    pub calibration: Persons,
    /// Number of pictures per text that are re-ranked with the decoder.
    pub k: usize,
    /// Domains; every table except [`Table::Domains`] uses only the first.
    pub domains: Vec<Domain>,
}

/// A grid to start or to resume.
pub struct Grid<'a> {
    /// Folder of the grid.
    pub folder: &'a Path,
    /// Settings of its cells.
    pub settings: Settings,
    /// Tables to fill.
    pub tables: Vec<Table>,
    /// Names of the rows to fill; empty for all.
    pub rows: Vec<String>,
    /// Number of trainings per variant, with the seeds 1, 2, ...
    pub seeds: u64,
    /// Set by the caller to stop after the current step.
    pub stop: &'a AtomicBool,
}

/// How a grid ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GridOutcome {
    /// Number of finished cells in the wanted tables.
    pub cells: usize,
    /// Number of all cells in the wanted tables.
    pub of: usize,
}

/// One training and the unfinished cells that use it.
struct Job {
    /// Name of the training's folder.
    run: String,
    seed: u64,
    cells: Vec<Variant>,
}

impl Grid<'_> {
    /// Trains and evaluates unfinished cells, then writes tables and plots. `report` is called with
    /// each line of progress.
    ///
    /// # Errors
    /// A folder that holds another grid, invalid settings, or an error of training or evaluation.
    /// Finished cells stay finished.
    pub fn run(&self, mut report: impl FnMut(&Value)) -> Result<GridOutcome> {
        self.check()?;
        std::fs::create_dir_all(self.folder.join("runs")).map_err(TrainError::io(self.folder))?;
        self.check_settings()?;
        let (pieces, cut) = self.tokenizer()?;
        let mut results = results::Results::open(self.folder)?;
        let mut domains = Domains::new(&self.settings);
        let tokens = self.caption_tokens(pieces, &results.lines, &mut domains)?;
        let jobs = self.jobs(tokens)?;
        let of = jobs.iter().map(|job| job.cells.len()).sum();
        let open: Vec<Job> = jobs
            .into_iter()
            .map(|job| Job { cells: job.cells.into_iter().filter(|c| !results.has(c, job.seed)).collect(), ..job })
            .filter(|job| !job.cells.is_empty())
            .collect();
        let left = open.iter().map(|job| job.cells.len()).sum::<usize>();
        report(&json!({"cells": of, "done": of - left, "trainings": open.len()}));
        let (began, trainings) = (Instant::now(), open.len());
        for (number, job) in open.iter().enumerate() {
            let per_job = (number > 0).then(|| began.elapsed().as_secs_f64() / number as f64);
            report(&json!({
                "training": number + 1, "of": trainings, "seed": job.seed, "run": job.run,
                "rows": job.cells.iter().map(|c| format!("{}: {}", c.table, c.row)).collect::<Vec<_>>(),
                "eta_min": per_job.map(|s| s * (trainings - number) as f64 / 60.0),
            }));
            let start = Instant::now();
            let Some(trained) = self.train(job, pieces, cut.as_ref(), &mut domains, &mut report)? else {
                break;
            };
            for line in self.evaluate(job, &trained, &mut domains, start, &mut report)? {
                results.add(&line)?;
                report(&json!({"result": line}));
            }
            summarise(self.folder, &self.settings, tokens, &self.tables, &results.lines)?;
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        summarise(self.folder, &self.settings, tokens, &self.tables, &results.lines)?;
        let jobs = self.jobs(tokens)?;
        let done = jobs.iter().flat_map(|j| j.cells.iter().map(|c| results.has(c, j.seed))).filter(|d| *d).count();
        Ok(GridOutcome { cells: done, of })
    }

    fn check(&self) -> Result<()> {
        let s = &self.settings;
        let wrong = |message: &str| Err(TrainError::Usage(message.to_owned()));
        if self.tables.is_empty() || self.seeds == 0 || s.k == 0 {
            return wrong("a grid needs a table, a seed and a picture for the decoder");
        }
        if s.domains.is_empty() {
            return wrong("a grid needs a domain");
        }
        if self.tables.contains(&Table::Domains) && s.domains.len() < 2 {
            return wrong("the table across domains needs two of them: --assets DIR, or --domain LAYOUT:ROOT");
        }
        if self.tables.contains(&Table::Words) && s.recipe.all_words {
            return wrong("the table of synonyms needs a grid that is trained without them: --words seen");
        }
        let seeds = [s.train.seed, s.test.seed, s.calibration.seed];
        if seeds[0] == seeds[1] || seeds[1] == seeds[2] || seeds[0] == seeds[2] {
            return wrong("persons to learn from, to be calibrated on and to be judged on need seeds of their own");
        }
        if s.train.identities < 4 || s.test.identities < 2 || s.calibration.identities < 2 {
            return wrong("a grid needs four persons to learn from and two to be judged on");
        }
        if s.train.views.min(s.test.views).min(s.calibration.views) == 0 {
            return wrong("a person needs a picture");
        }
        Ok(())
    }

    /// Writes grid.json, or compares the settings with it.
    fn check_settings(&self) -> Result<()> {
        let path = self.folder.join("grid.json");
        let wrong = |e: serde_json::Error| TrainError::content(&path, e);
        let text = serde_json::to_vec_pretty(&self.settings).map_err(wrong)?;
        if !path.is_file() {
            return atomic::file(&path, &text);
        }
        let stored = std::fs::read(&path).map_err(TrainError::io(&path))?;
        // Both sides are parsed from text, so that equal numbers compare equal.
        let read = |text: &[u8]| serde_json::from_slice::<Settings>(text).and_then(serde_json::to_value).map_err(wrong);
        let (before, now) = (read(&stored)?, read(&text)?);
        let differences = super::record::differences(&before, &now, &[]);
        if differences.is_empty() { Ok(()) } else { Err(TrainError::OtherRun { path, differences }) }
    }

    /// Median length of the training captions of the first domain, which [`Table::Groups`] is made
    /// for; the paper's length when that table is neither wanted nor among the results `lines`.
    fn caption_tokens(&self, pieces: usize, lines: &[CellResult], domains: &mut Domains<'_>) -> Result<usize> {
        if !self.tables.contains(&Table::Groups) && lines.iter().all(|line| line.table != Table::Groups) {
            return Ok(tables::PAPER_TOKENS);
        }
        let arch = self.settings.recipe.shape.architecture(pieces).map_err(TrainError::Usage)?;
        let texts = CaptionTokenizer::load(&self.folder.join("tokenizer.json"), &arch)?;
        domains.caption_tokens(0, &texts)
    }

    /// Trainings of the wanted tables and their cells, ordered by seed. `tokens` is that of
    /// [`variants`].
    fn jobs(&self, tokens: usize) -> Result<Vec<Job>> {
        let s = &self.settings;
        let mut jobs: Vec<Job> = Vec::new();
        let mut known: HashMap<(String, u64), usize> = HashMap::new();
        let mut known_rows = BTreeSet::new();
        for seed in 1..=self.seeds {
            for table in &self.tables {
                for mut cell in variants(*table, &s.recipe, s.k, s.domains.len(), tokens) {
                    if *table == Table::Domains {
                        let [from, to] = cell.domains.map(|d| s.domains[d].name());
                        cell.row = format!("{from} -> {to}");
                    }
                    known_rows.insert(cell.row.clone());
                    if !self.rows.is_empty() && !self.rows.contains(&cell.row) {
                        continue;
                    }
                    let run = self.hash(&cell, seed)?;
                    let at = *known.entry((run.clone(), seed)).or_insert_with(|| {
                        jobs.push(Job { run, seed, cells: Vec::new() });
                        jobs.len() - 1
                    });
                    jobs[at].cells.push(cell);
                }
            }
        }
        match self.rows.iter().find(|row| !known_rows.contains(*row)) {
            Some(row) => Err(TrainError::Usage(format!(
                "no row is called {row:?}; there are: {}",
                known_rows.into_iter().collect::<Vec<_>>().join("; ")
            ))),
            None => Ok(jobs),
        }
    }

    /// Hash of everything that a training depends on, in twelve hexadecimal digits.
    fn hash(&self, cell: &Variant, seed: u64) -> Result<String> {
        use sha2::{Digest, Sha256};
        let s = &self.settings;
        let recipe = self.recipe(cell, seed);
        let domain = &s.domains[cell.domains[0]];
        let all =
            serde_json::to_vec(&json!([recipe, domain, s.train])).map_err(|e| TrainError::content(self.folder, e))?;
        Ok(Sha256::digest(all).iter().take(6).map(|b| format!("{b:02x}")).collect())
    }

    /// The recipe of one training.
    fn recipe(&self, cell: &Variant, seed: u64) -> Recipe {
        let mut recipe = self.settings.recipe.clone();
        recipe.shape = cell.shape.clone();
        recipe.run.objective = cell.objective.clone();
        recipe.run.seed = seed;
        recipe
    }

    /// Writes tokenizer.json of the grid. Returns the number of pieces, and the cut vocabulary if
    /// there is one.
    fn tokenizer(&self) -> Result<(usize, Option<CutVocabulary>)> {
        let (recipe, out) = (&self.settings.recipe, self.folder.join("tokenizer.json"));
        if let Some(folder) = &recipe.text_init {
            let corpus = sightline_figures::Corpus::new(self.settings.train.seed);
            let cut = vocabulary::cut(folder, recipe.vocabulary, (0..4000).map(|i| corpus.caption(i, 77)), &out)?;
            return Ok((cut.len(), Some(cut)));
        }
        let of_init = recipe.init_folder().map(|folder| folder.join("tokenizer.json"));
        let Some(file) = recipe.tokenizer.as_ref().or(of_init.as_ref()) else {
            return Err(TrainError::Usage(
                "a grid needs words: --tokenizer FILE, --text-init DIR or --init MODEL_FOLDER".into(),
            ));
        };
        Ok((vocabulary::copy(file, &out)?, None))
    }
}

/// Loaded meshes by folder.
type AssetsByFolder = BTreeMap<PathBuf, Arc<Assets>>;
