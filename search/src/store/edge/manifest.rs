//! `store.json`: the manifest of a store's folder. It is read before the engine opens anything, so
//! that a wrong model gives a clear message and nothing is modified.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files;
use crate::store::StoreError;

/// Version of the folder layout and of the payload fields.
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

/// Lists ids and widths of the stores below `root`, each in a folder named after its model, sorted
/// by id; a folder without a manifest is not a store.
pub(super) fn stores(root: &Path) -> Result<Vec<(String, usize)>, StoreError> {
    let mut stores = Vec::new();
    for folder in files::list(root)? {
        let Some(name) = folder.file_name().and_then(|n| n.to_str()).filter(|_| folder.is_dir()) else { continue };
        let path = folder.join("store.json");
        let Some(text) = files::read(&path)? else { continue };
        let found = parse(&text, path)?;
        // A folder under another name was set aside.
        if found.model_id == name {
            stores.push((found.model_id, found.width));
        }
    }
    stores.sort();
    Ok(stores)
}

fn parse(text: &[u8], path: PathBuf) -> Result<Manifest, StoreError> {
    serde_json::from_slice(text).map_err(|e| StoreError::Damaged { path, reason: e.to_string() })
}

/// Checks that the folder was created for this model and width; writes a manifest into a new
/// folder.
pub(super) fn claim(folder: &Path, model_id: &str, width: usize) -> Result<(), StoreError> {
    let wanted = Manifest { layout: LAYOUT, model_id: model_id.to_owned(), width, distance: "cosine".to_owned() };
    let path = folder.join("store.json");
    let Some(text) = files::read(&path)? else {
        let text = serde_json::to_vec_pretty(&wanted)
            .map_err(|e| StoreError::Damaged { path: path.clone(), reason: e.to_string() })?;
        files::write_whole(&folder.join("store.json.new"), &path, &[&text])?;
        return Ok(files::sync_folder(folder)?);
    };
    let found = parse(&text, path)?;
    if found == wanted {
        Ok(())
    } else {
        let (found, wanted) = (found.to_string(), wanted.to_string());
        Err(StoreError::OtherFolder { folder: folder.to_path_buf(), found, wanted })
    }
}
