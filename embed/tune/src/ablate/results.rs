//! Results of finished cells on disk: one JSON line per cell, appended and synced.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Table, Variant};
use crate::evaluate::Ranks;
use crate::{Result, TrainError, atomic};

/// Result of one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellResult {
    /// Table of the cell.
    pub table: Table,
    /// Name of the cell's row.
    pub row: String,
    /// Seed of the training.
    pub seed: u64,
    /// Name of the training's folder.
    pub run: String,
    /// Number of trained parameters, heads of the losses included; `None` in results older than the
    /// count.
    #[serde(default)]
    pub parameters: Option<usize>,
    /// Number of pictures per text that were re-ranked with the decoder.
    pub k: usize,
    /// Number of texts.
    pub texts: usize,
    /// Number of pictures in the gallery.
    pub images: usize,
    /// Ranks by cosine.
    pub global: Ranks,
    /// Ranks by cosine minus the picture's hubness; `None` in results older than query banks.
    #[serde(default)]
    pub bank: Option<Ranks>,
    /// Ranks by cosine + raw match logit, as in the authors' code; `None` if the method does not
    /// train matching.
    pub local: Option<Ranks>,
    /// Ranks by match probability of logit, cosine and hubness, calibrated on other persons.
    pub calibrated: Option<Ranks>,
    /// Seconds of training and evaluation, for all cells of the training together.
    pub seconds: f64,
}

/// Results of a grid, and the file that stores them.
pub(super) struct Results {
    path: PathBuf,
    file: File,
    /// Results in the order in which their cells finished.
    pub lines: Vec<CellResult>,
}

impl Results {
    /// Reads the results; a line that a kill cut short is dropped.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("results.jsonl");
        let mut lines: Vec<CellResult> = Vec::new();
        if path.is_file() {
            let bytes = std::fs::read(&path).map_err(TrainError::io(&path))?;
            let mut text = String::new();
            for line in String::from_utf8_lossy(&bytes).lines() {
                if let Ok(parsed) = serde_json::from_str(line) {
                    lines.push(parsed);
                    text += &format!("{line}\n");
                }
            }
            if text.as_bytes() != bytes {
                atomic::file(&path, text.as_bytes())?;
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(TrainError::io(&path))?;
        Ok(Self { path, file, lines })
    }

    /// Whether `cell` has a result for `seed`.
    pub fn has(&self, cell: &Variant, seed: u64) -> bool {
        self.lines.iter().any(|l| (l.table, l.row.as_str(), l.seed) == (cell.table, cell.row.as_str(), seed))
    }

    /// Appends a result to the file and syncs it.
    pub fn add(&mut self, line: &CellResult) -> Result<()> {
        let text = serde_json::to_string(line).map_err(|e| TrainError::content(&self.path, e))? + "\n";
        self.file.write_all(text.as_bytes()).map_err(TrainError::io(&self.path))?;
        self.file.sync_data().map_err(TrainError::io(&self.path))?;
        self.lines.push(line.clone());
        Ok(())
    }
}
