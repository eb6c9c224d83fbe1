//! Annotated pictures on disk: CUHK-PEDES layout (`imgs/` and `reid_raw.json`).

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Result, TrainError};

/// One annotated picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The picture.
    pub path: PathBuf,
    /// Identity as the file numbers it.
    pub identity: u32,
    /// Captions; the protocol uses the first two.
    pub captions: Vec<String>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    split: String,
    captions: Vec<String>,
    file_path: String,
    id: u32,
}

/// Reads `root`/reid_raw.json and keeps `split`.
///
/// # Errors
/// A missing or malformed annotation file, a missing picture, an empty caption, an unknown split: each by name.
pub fn cuhk_pedes(root: &Path, split: &str) -> Result<Vec<Entry>> {
    let file = root.join("reid_raw.json");
    let text = fs::read_to_string(&file).map_err(TrainError::io(&file))?;
    let wrong = |message: String| TrainError::content(&file, message);
    let raw: Vec<Raw> =
        serde_json::from_str(&text).map_err(|e| wrong(format!("not a CUHK-PEDES annotation file: {e}")))?;
    let splits: std::collections::BTreeSet<&str> = raw.iter().map(|r| r.split.as_str()).collect();
    if !splits.contains(split) {
        return Err(wrong(format!("there is no split {split:?}, only {splits:?}")));
    }
    let mut entries = Vec::new();
    for item in raw.iter().filter(|r| r.split == split) {
        let path = root.join("imgs").join(&item.file_path);
        if !path.is_file() {
            return Err(wrong(format!("the picture {} is missing", path.display())));
        }
        if item.captions.is_empty() || item.captions.iter().any(|c| c.trim().is_empty()) {
            return Err(wrong(format!("{} has an empty caption, or none", item.file_path)));
        }
        entries.push(Entry { path, identity: item.id, captions: item.captions.iter().take(2).cloned().collect() });
    }
    Ok(entries)
}
