//! Choice of the model for data that an earlier version has indexed.
//!
//! Features of two models cannot be compared: people indexed by the former model can be found by
//! the former model alone. A release with a new model therefore keeps the former one in a folder
//! beside it, and data of the former model is searched with the former model until
//! `sightline reindex` has embedded all people anew. Without this rule, a search after an upgrade
//! would find none of them.

use std::path::Path;

use super::ModelFolder;
use crate::EmbedError;

/// Opens the model `name`, or the model beside it that the stored data was indexed by. `indexed`
/// holds the ids of the models that have a complete index of the stored people, the model that
/// indexed last at the end; half-done indexes do not count. Of several indexed models beside
/// `name`, the last one in `indexed` is opened. The model `name` is opened if `indexed` has its id,
/// if `indexed` is empty, and if no indexed model is beside it, which is logged as an error.
///
/// # Errors
/// As [`ModelFolder::open`].
pub fn model_of_data(name: &Path, indexed: &[String]) -> Result<ModelFolder, EmbedError> {
    let own = ModelFolder::open(name)?;
    let Some(last) = indexed.last().filter(|_| !indexed.contains(&own.id)) else { return Ok(own) };
    let beside = own.path.parent().map(folders).unwrap_or_default();
    let mut beside: Vec<ModelFolder> = beside.iter().filter_map(|path| ModelFolder::open(path).ok()).collect();
    let former = indexed.iter().rev().find_map(|id| beside.iter().position(|folder| folder.id == *id));
    match former.map(|at| beside.swap_remove(at)) {
        Some(former) => {
            tracing::warn!(
                model = %former.id, folder = %former.path.display(), configured = %own.id,
                "the stored people were indexed by the former model, which goes on until `sightline reindex` has embedded them anew"
            );
            Ok(former)
        }
        None => {
            tracing::error!(
                configured = %own.id, indexed = %last,
                "the stored people were indexed by another model, which is not here: none of them will be found until \
                 `sightline reindex` has embedded them anew"
            );
            Ok(own)
        }
    }
}

/// Folders in `parent`, sorted by name.
fn folders(parent: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut all: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Architecture, ModelConfig};

    /// Makes a model folder without usable weights; returns its id.
    fn folder(path: &Path, weights: &str) -> String {
        std::fs::create_dir_all(path).expect("a folder");
        let config = ModelConfig::new("x", Architecture::cada_base());
        std::fs::write(path.join("config.json"), serde_json::to_string(&config).expect("json")).expect("written");
        std::fs::write(path.join("model.safetensors"), weights).expect("written");
        std::fs::write(path.join("tokenizer.json"), "{}").expect("written");
        ModelFolder::open(path).expect("a model").id
    }

    #[test]
    fn data_keeps_the_model_that_it_was_indexed_by() {
        let models = tempfile::tempdir().expect("a folder");
        let path = models.path().join("default");
        let (new, former) = (folder(&path, "new"), folder(&models.path().join("former"), "former"));
        std::fs::create_dir(models.path().join("notes")).expect("a folder without a model");
        let chosen = |indexed: &[&String]| {
            let indexed: Vec<String> = indexed.iter().map(|id| (*id).clone()).collect();
            model_of_data(&path, &indexed).expect("a model").id
        };
        assert_eq!(chosen(&[]), new, "no data");
        assert_eq!(chosen(&[&new]), new);
        assert_eq!(chosen(&[&former]), former, "data of before");
        assert_eq!(chosen(&[&former, &new]), new, "embedded anew");
        assert_eq!(chosen(&[&"0123456789abcdef".to_owned()]), new, "a model that is nowhere");
    }

    #[test]
    fn of_several_former_models_the_last_that_indexed_is_opened() {
        let models = tempfile::tempdir().expect("a folder");
        let path = models.path().join("default");
        let new = folder(&path, "new");
        let (a, z) = (folder(&models.path().join("a"), "a"), folder(&models.path().join("z"), "z"));
        let chosen = |indexed: [&str; 3]| model_of_data(&path, &indexed.map(str::to_owned)).expect("a model").id;
        let gone = "0123456789abcdef";
        assert_eq!(chosen([gone, &a, &z]), z);
        assert_eq!(chosen([gone, &z, &a]), a);
        assert_eq!(chosen([&a, &z, gone]), z, "the last that is here");
        assert_eq!(chosen([&new, &a, &z]), new, "the configured model comes first");
    }
}
