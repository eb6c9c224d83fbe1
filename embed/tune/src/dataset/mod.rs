//! Annotated pictures on disk: CUHK-PEDES, ICFG-PEDES and RSTPReid in their own layouts.
//!
//! | | annotation file | picture | captions |
//! |---|---|---|---|
//! | CUHK-PEDES | `reid_raw.json` | `file_path` | the first two |
//! | ICFG-PEDES | `ICFG-PEDES.json` (or `ICFG_PEDES.json`) | `file_path` | one |
//! | RSTPReid | `data_captions.json` | `img_path` | two |
//!
//! The file is a list of items with `split`, `captions`, `id` and the picture's path below `imgs/`,
//! or such a list per split. All items and pictures are checked first, and all problems are
//! reported together: a run must not find after hours that a file is missing or cut short.

pub(crate) mod annotations;
mod picture;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rayon::prelude::*;

use super::{Result, TrainError};
use sightline_embed::preprocess::{Filter, resize};

/// Layout of an annotated dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dataset {
    /// CUHK-PEDES: 40,206 pictures of 13,003 persons; also the layout that `synth` writes.
    CuhkPedes,
    /// ICFG-PEDES: 54,522 pictures of 4,102 persons; it has no validation split.
    IcfgPedes,
    /// RSTPReid: 20,505 pictures of 4,101 persons.
    RstpReid,
}

impl Dataset {
    /// All layouts.
    pub const ALL: [Self; 3] = [Self::CuhkPedes, Self::IcfgPedes, Self::RstpReid];

    /// Name of the layout on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::CuhkPedes => "cuhk-pedes",
            Self::IcfgPedes => "icfg-pedes",
            Self::RstpReid => "rstpreid",
        }
    }

    /// Possible names of the annotation file, the usual one first.
    pub fn annotation_files(self) -> &'static [&'static str] {
        match self {
            Self::CuhkPedes => &["reid_raw.json"],
            Self::IcfgPedes => &["ICFG-PEDES.json", "ICFG_PEDES.json"],
            Self::RstpReid => &["data_captions.json"],
        }
    }

    /// Number of captions per picture that the protocol uses.
    pub fn captions(self) -> usize {
        match self {
            Self::CuhkPedes | Self::RstpReid => 2,
            Self::IcfgPedes => 1,
        }
    }

    /// Reads every picture of `split` below `root`, with its captions.
    ///
    /// # Errors
    /// No annotation file, a file in another layout, an unknown split, or bad items; the error
    /// names up to twenty of them and how many there are.
    pub fn read(self, root: &Path, split: &str) -> Result<Vec<Entry>> {
        self.survey(root, split)?.strict()
    }

    /// Reads like [`Dataset::read`]; `None` if the annotation file has no such split.
    ///
    /// # Errors
    /// Those of [`Dataset::read`] except an unknown split.
    pub fn read_if_present(self, root: &Path, split: &str) -> Result<Option<Vec<Entry>>> {
        match self.read(root, split) {
            Ok(entries) => Ok(Some(entries)),
            Err(TrainError::NoSplit { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Reads like [`Dataset::read`], but lists bad items instead of failing.
    ///
    /// # Errors
    /// No annotation file, a file in another layout, an unknown split, or no good item at all.
    pub fn survey(self, root: &Path, split: &str) -> Result<Survey> {
        let found = self.annotation_files().iter().map(|name| root.join(name)).find(|path| path.is_file());
        let file = found.unwrap_or_else(|| root.join(self.annotation_files()[0]));
        let text = std::fs::read_to_string(&file).map_err(TrainError::io(&file))?;
        let wrong = |message: String| TrainError::content(&file, message);
        let all = annotations::parse(&text)
            .map_err(|e| wrong(format!("not an annotation file in {} layout: {e}", self.name())))?;
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        all.iter().for_each(|item| *counts.entry(&item.split).or_default() += 1);
        if !counts.contains_key(split) {
            let there: Vec<String> = counts.iter().map(|(name, n)| format!("{name:?} ({n} items)")).collect();
            return Err(TrainError::NoSplit { path: file, split: split.to_owned(), present: list(&there) });
        }
        let of_split: Vec<&annotations::Item> = all.iter().filter(|item| item.split == split).collect();
        let checked: Vec<std::result::Result<Entry, Problem>> =
            of_split.par_iter().map(|item| item.check(root, self.captions())).collect();
        let mut survey = Survey { file, items: of_split.len(), entries: Vec::new(), problems: Vec::new() };
        for item in checked {
            match item {
                Ok(entry) => survey.entries.push(entry),
                Err(problem) => survey.problems.push(problem),
            }
        }
        if survey.entries.is_empty() { Err(survey.refusal()) } else { Ok(survey) }
    }
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Dataset {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|d| d.name() == name);
        found.ok_or_else(|| format!("there is no dataset layout {name:?}: it is {}", list(&Self::ALL.map(Self::name))))
    }
}

/// One annotated picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path of the picture.
    pub path: PathBuf,
    /// Identity as the file numbers it.
    pub identity: u32,
    /// Captions: at least one, and at most as many as the protocol uses.
    pub captions: Vec<String>,
}

impl Entry {
    /// Decodes the picture and squashes it to `[height, width]`: RGB bytes, row-major, as in the
    /// model's preprocessing.
    ///
    /// # Errors
    /// A file that is missing, cut short, or neither JPEG nor PNG; the error names it.
    pub fn pixels(&self, [height, width]: [usize; 2]) -> Result<Vec<u8>> {
        let bytes = std::fs::read(&self.path).map_err(TrainError::io(&self.path))?;
        picture::check(&bytes).map_err(|message| TrainError::content(&self.path, message))?;
        let picture = sightline_embed::decode_image(&bytes).map_err(|e| TrainError::content(&self.path, e))?;
        resize(&picture, width, height, Filter::Bilinear).map_err(|e| TrainError::content(&self.path, e))
    }
}

/// One item that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Index of the item in the file, from 0.
    pub item: usize,
    /// Path of the picture as in the file; empty if the item names none.
    pub picture: String,
    /// Description of the problem.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { item, picture, message } = self;
        if picture.is_empty() {
            write!(f, "item {item}: {message}")
        } else {
            write!(f, "item {item} ({picture}): {message}")
        }
    }
}

/// Result of [`Dataset::survey`].
#[derive(Debug)]
pub struct Survey {
    /// The annotation file.
    pub file: PathBuf,
    /// Number of items in the split.
    pub items: usize,
    /// Items that can be used, in the order of the file.
    pub entries: Vec<Entry>,
    /// Items that cannot be used.
    pub problems: Vec<Problem>,
}

impl Survey {
    /// The entries, if there are no problems.
    ///
    /// # Errors
    /// [`TrainError::Dataset`] with the first twenty problems and their number.
    pub fn strict(self) -> Result<Vec<Entry>> {
        if self.problems.is_empty() { Ok(self.entries) } else { Err(self.refusal()) }
    }

    /// Identities with only one picture (CUHK-PEDES itself has four): usable, but without a second
    /// view to learn from.
    pub fn lone(&self) -> Vec<u32> {
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        self.entries.iter().for_each(|entry| *counts.entry(entry.identity).or_default() += 1);
        counts.into_iter().filter(|(_, n)| *n == 1).map(|(identity, _)| identity).collect()
    }

    fn refusal(&self) -> TrainError {
        TrainError::Dataset {
            path: self.file.clone(),
            items: self.items,
            problems: self.problems.iter().map(Problem::to_string).collect(),
        }
    }
}

/// Takes every tenth identity out of `entries` for validation, for datasets without a validation
/// split. Returns the entries that are left and those that were taken.
pub fn hold_out(entries: Vec<Entry>) -> (Vec<Entry>, Vec<Entry>) {
    let mut numbers: Vec<u32> = entries.iter().map(|entry| entry.identity).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let taken = |entry: &Entry| numbers.binary_search(&entry.identity).is_ok_and(|place| place % 10 == 9);
    entries.into_iter().partition(|entry| !taken(entry))
}

fn list<T: fmt::Display>(names: &[T]) -> String {
    names.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
