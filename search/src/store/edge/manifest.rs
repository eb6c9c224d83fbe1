//! `store.json`: what a store's folder holds. Read before the engine opens anything, so that a wrong model is told in
//! our words and nothing is touched.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files;
use crate::store::StoreError;

/// Version of the folder's layout and of the payload's fields.
const LAYOUT: u32 = 1;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Manifest {
    layout: u32,
    model_id: String,
    width: usize,
    distance: String,
}

impl std::fmt::Display for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { layout, model_id, width, distance } = self;
        write!(f, "model {model_id:?} with {width} values by {distance} (layout {layout})")
    }
}

/// Ids of the models whose vectors lie below `root`, sorted.
pub(super) fn models(root: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let manifests = entries.filter_map(|entry| files::read(&entry.ok()?.path().join("store.json")).ok().flatten());
    let mut ids: Vec<String> =
        manifests.filter_map(|text| Some(serde_json::from_slice::<Manifest>(&text).ok()?.model_id)).collect();
    ids.sort();
    ids
}

/// Checks that the folder was made for this model and width; writes that into a new folder.
pub(super) fn claim(folder: &Path, model_id: &str, width: usize) -> Result<(), StoreError> {
    let wanted = Manifest { layout: LAYOUT, model_id: model_id.to_owned(), width, distance: "cosine".to_owned() };
    let path = folder.join("store.json");
    let Some(text) = files::read(&path)? else {
        let text = serde_json::to_vec_pretty(&wanted)
            .map_err(|e| StoreError::Damaged { path: path.clone(), reason: e.to_string() })?;
        files::write_whole(&folder.join("store.json.new"), &path, &[&text])?;
        return Ok(files::sync_folder(folder)?);
    };
    let found: Manifest =
        serde_json::from_slice(&text).map_err(|e| StoreError::Damaged { path, reason: e.to_string() })?;
    if found == wanted {
        Ok(())
    } else {
        let (found, wanted) = (found.to_string(), wanted.to_string());
        Err(StoreError::OtherFolder { folder: folder.to_path_buf(), found, wanted })
    }
}
