//! Model folder: where it is found, and its files (`config.json`, `model.safetensors`,
//! `tokenizer.json`, optionally a query bank and a word head).

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::EmbedError;
use crate::model::{ModelConfig, QueryBank, WORD_HEAD};

/// Name that stands for the model shipped with Sightline.
pub const DEFAULT_MODEL: &str = "default";

/// File name of the query bank in a model folder.
pub const QUERY_BANK: &str = "query-bank.safetensors";

/// Paths of a model folder, its configuration and its identity.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    /// Path of the folder.
    pub path: PathBuf,
    /// Parsed and checked `config.json`.
    pub config: ModelConfig,
    /// Identity of the embedding space: the first 16 hexadecimal digits of a SHA-256 over
    /// everything that changes features (weights, tokenizer, dimensions, preprocessing).
    /// Calibration, thresholds and provenance are left out, so that the index stays valid when they
    /// change.
    pub id: String,
}

impl ModelFolder {
    /// Opens the model folder `name`, which [`resolve_model_folder`] finds.
    ///
    /// # Errors
    /// No such folder, an invalid configuration, or missing weights or tokenizer.
    pub fn open(name: &Path) -> Result<Self, EmbedError> {
        let path = resolve_model_folder(name)?;
        let config = ModelConfig::read(&path.join("config.json"))?;
        let mut folder = Self { path, config, id: String::new() };
        folder.id = folder.identity()?;
        Ok(folder)
    }

    /// Path of `model.safetensors`.
    pub fn weights(&self) -> PathBuf {
        self.path.join("model.safetensors")
    }

    /// Path of `tokenizer.json`.
    pub fn tokenizer(&self) -> PathBuf {
        self.path.join("tokenizer.json")
    }

    /// Path of `selftest.safetensors`, which may be absent.
    pub fn self_test(&self) -> PathBuf {
        self.path.join("selftest.safetensors")
    }

    /// Path of `query-bank.safetensors`, which exists if the calibration uses hubness.
    pub fn query_bank(&self) -> PathBuf {
        self.path.join(QUERY_BANK)
    }

    /// Loads the query bank if the calibration uses hubness.
    ///
    /// # Errors
    /// A missing or unreadable file, or one of another width.
    pub fn bank(&self) -> Result<Option<QueryBank>, EmbedError> {
        if self.config.calibration.hubness == 0.0 {
            return Ok(None);
        }
        QueryBank::load(&self.query_bank(), self.config.architecture.embed_dim).map(Some)
    }

    /// Path of `word-head.safetensors`, which exists if `config.json` has a `word_head`.
    pub fn word_head(&self) -> PathBuf {
        self.path.join(WORD_HEAD)
    }

    fn identity(&self) -> Result<String, EmbedError> {
        let mut hash = Sha256::new();
        let moving = serde_json::json!([self.config.architecture, self.config.preprocess]);
        hash.update(moving.to_string());
        for path in [self.weights(), self.tokenizer()] {
            let mut file = std::fs::File::open(&path).map_err(EmbedError::io(&path))?;
            let bytes = std::io::copy(&mut file, &mut hash).map_err(EmbedError::io(&path))?;
            hash.update(bytes.to_le_bytes());
        }
        Ok(hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect())
    }
}

/// Finds the model folder `name` and logs the choice. A path is taken as it is, relative to the
/// working folder. [`DEFAULT_MODEL`] names the program's own model: the search begins beside the
/// executable and in every folder above it, as `share/sightline/models/default` (installed) and
/// `embed/models/default` (source tree). `models/default` and `embed/models/default` of the working
/// folder come last, because anyone may have put them there.
///
/// # Errors
/// [`EmbedError::NoModel`] with all places that were tried.
pub fn resolve_model_folder(name: &Path) -> Result<PathBuf, EmbedError> {
    let executable = std::env::current_exe().ok();
    let candidates = candidates(name, executable.as_deref());
    match first_model(&candidates) {
        Some(found) => {
            tracing::info!(name = %name.display(), folder = %found.display(), "model folder");
            Ok(found.clone())
        }
        None => Err(EmbedError::NoModel { name: name.to_owned(), tried: candidates }),
    }
}

fn first_model(candidates: &[PathBuf]) -> Option<&PathBuf> {
    candidates.iter().find(|c| c.join("config.json").is_file())
}

fn candidates(name: &Path, executable: Option<&Path>) -> Vec<PathBuf> {
    if name != Path::new(DEFAULT_MODEL) {
        return vec![name.to_owned()];
    }
    let mut all = Vec::new();
    for above in executable.iter().flat_map(|e| e.ancestors().skip(1)) {
        all.push(above.join("share/sightline/models/default"));
        all.push(above.join("embed/models/default"));
    }
    all.extend([PathBuf::from("models/default"), PathBuf::from("embed/models/default")]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_looked_for_around_the_executable() {
        let all = candidates(Path::new("default"), Some(Path::new("/opt/sightline/bin/sightline")));
        assert!(all.contains(&PathBuf::from("/opt/sightline/share/sightline/models/default")));
        assert!(all.contains(&PathBuf::from("/opt/sightline/embed/models/default")));
        assert_eq!(candidates(Path::new("m/x"), None), [PathBuf::from("m/x")]);
    }

    /// The program's own model comes before a model of the same name in the working folder.
    #[test]
    fn the_programs_own_model_comes_before_the_working_folders() {
        let dir = tempfile::tempdir().expect("a folder");
        let executable = dir.path().join("bin/sightline");
        let own = dir.path().join("share/sightline/models/default");
        std::fs::create_dir_all(&own).expect("a folder");
        std::fs::write(own.join("config.json"), "{}").expect("a file");
        // Tests run in the crate's folder, where models/default is the model of the source tree.
        assert!(Path::new("models/default/config.json").is_file());
        assert_eq!(first_model(&candidates(Path::new(DEFAULT_MODEL), Some(&executable))), Some(&own));
        let elsewhere = candidates(Path::new(DEFAULT_MODEL), Some(Path::new("/nowhere/bin/sightline")));
        assert_eq!(first_model(&elsewhere), Some(&PathBuf::from("models/default")));
    }

    #[test]
    fn an_absent_model_names_the_places() {
        let e = resolve_model_folder(Path::new("no/such/model")).expect_err("absent").to_string();
        assert!(e.contains("no/such/model") && e.contains("config.json"), "{e}");
    }
}
