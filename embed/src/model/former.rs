//! Which model answers over data that an earlier version left behind.
//!
//! Features of two models cannot be compared, so whoever was indexed by the former model is found by the former model alone.
//! A release that brings a new model keeps the former one in a folder beside it; over data of the former model that one goes
//! on, until everybody has been embedded anew (`sightline reindex`). Nobody opens their data after an upgrade and reads that
//! there is nothing.

use std::path::Path;

use super::ModelFolder;
use crate::EmbedError;

/// Opens the model `name`, or the one beside it that the data belongs to: `indexed` are the ids of the models that stored
/// pictures were embedded with, each of which has an index with everybody in it; a half-done one does not count. The model of
/// `name` is taken when the data knows it, when there is no data, and when the data's model is not beside it, which is logged
/// as an error.
///
/// # Errors
/// As [`ModelFolder::open`].
pub fn model_of_data(name: &Path, indexed: &[String]) -> Result<ModelFolder, EmbedError> {
    let own = ModelFolder::open(name)?;
    let Some(last) = indexed.last().filter(|_| !indexed.contains(&own.id)) else { return Ok(own) };
    let beside = own.path.parent().map(folders).unwrap_or_default();
    let former = beside.into_iter().filter_map(|path| ModelFolder::open(&path).ok());
    match former.into_iter().find(|folder| indexed.contains(&folder.id)) {
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
                "the stored people were indexed by another model, which is not here: nobody of before will be found, until \
                 `sightline reindex` has embedded them anew"
            );
            Ok(own)
        }
    }
}

/// The folders in `parent`, by name.
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

    /// A folder that has an id; its weights are of no use.
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
}
