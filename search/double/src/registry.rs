//! Collections and aliases of a folder.
//!
//! ```text
//! lock
//! aliases.json              alias -> collection
//! collections/NAME/         lock, request.pb (the call that made it), shard/ (the engine's own files)
//! ```

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use prost::Message;
use qdrant_client::qdrant::CreateCollection;
use qdrant_edge::EdgeShard;
use sightline_search::files;
use sightline_search::store::Engine;
use sightline_search::{DataLock, EdgeOptions, FileError, StoreError};
use tonic::Status;
use uuid::Uuid;

use crate::convert;

#[derive(Debug)]
pub(crate) struct Collection {
    pub request: CreateCollection,
    engine: Engine,
    folder: PathBuf,
}

impl Collection {
    fn open(folder: PathBuf, request: CreateCollection, options: &EdgeOptions) -> Result<Self, StoreError> {
        let lock = DataLock::acquire(&folder)?;
        let config = convert::engine_config(&request, options);
        let config = config.map_err(|s| StoreError::Engine(s.message().to_owned()))?;
        let engine = Engine::open(&folder, lock, config, options.index_from)?;
        engine.wake();
        Ok(Self { request, engine, folder })
    }

    pub fn engine(&self) -> &EdgeShard {
        self.engine.shard()
    }

    /// Flushes all changes to the disk.
    pub fn flush(&self) -> Result<(), Status> {
        self.engine().flush().map_err(convert::failed)?;
        self.engine.wake();
        Ok(())
    }
}

/// Collections and aliases of one folder.
#[derive(Debug)]
pub(crate) struct Registry {
    folder: PathBuf,
    options: EdgeOptions,
    collections: RwLock<BTreeMap<String, Arc<Collection>>>,
    aliases: RwLock<HashMap<String, String>>,
    /// Held while a collection or alias is created, deleted or renamed.
    changing: Mutex<()>,
    _lock: DataLock,
}

impl Registry {
    /// Opens all collections in `folder`.
    pub fn open(folder: &Path, options: EdgeOptions) -> Result<Self, StoreError> {
        let lock = DataLock::acquire(folder)?;
        let all = folder.join("collections");
        files::create_folder(&all)?;
        let mut collections = BTreeMap::new();
        for entry in std::fs::read_dir(&all).map_err(FileError::new("read", &all))? {
            let path = entry.map_err(FileError::new("read", &all))?.path();
            let request = files::read(&path.join("request.pb"))?;
            let (Some(name), Some(request)) = (path.file_name().and_then(|n| n.to_str()), request) else {
                // Never finished, or being deleted.
                std::fs::remove_dir_all(&path).map_err(FileError::new("delete", &path))?;
                continue;
            };
            let damaged = |e: prost::DecodeError| StoreError::Damaged { path: path.clone(), reason: e.to_string() };
            let request = CreateCollection::decode(request.as_slice()).map_err(damaged)?;
            let name = name.to_owned();
            collections.insert(name, Arc::new(Collection::open(path.clone(), request, &options)?));
        }
        let path = folder.join("aliases.json");
        let aliases = match files::read(&path)? {
            None => HashMap::new(),
            Some(text) => serde_json::from_slice(&text)
                .map_err(|e| StoreError::Damaged { path: path.clone(), reason: e.to_string() })?,
        };
        Ok(Self {
            folder: folder.to_owned(),
            options,
            collections: RwLock::new(collections),
            aliases: RwLock::new(aliases),
            changing: Mutex::default(),
            _lock: lock,
        })
    }

    pub fn collections(&self) -> RwLockReadGuard<'_, BTreeMap<String, Arc<Collection>>> {
        self.collections.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn collections_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Arc<Collection>>> {
        self.collections.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn aliases(&self) -> HashMap<String, String> {
        self.aliases.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Finds a collection by its name or an alias.
    pub fn find(&self, name: &str) -> Result<Arc<Collection>, Status> {
        let real = self.aliases().get(name).cloned().unwrap_or_else(|| name.to_owned());
        let found = self.collections().get(&real).cloned();
        found.ok_or_else(|| Status::not_found(format!("Not found: Collection `{name}` doesn't exist!")))
    }

    /// Creates a collection; durable when it returns.
    pub fn create(&self, request: CreateCollection) -> Result<(), Status> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let name = request.collection_name.clone();
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if name.is_empty() || name.len() > 255 || name.starts_with('.') || !name.chars().all(good) {
            return Err(Status::invalid_argument(format!("Wrong input: collection name {name:?}")));
        }
        if self.collections().contains_key(&name) || self.aliases().contains_key(&name) {
            return Err(Status::already_exists(format!("Wrong input: Collection `{name}` already exists!")));
        }
        convert::engine_config(&request, &self.options)?;
        let made = (|| {
            let folder = self.folder.join("collections").join(&name);
            files::create_folder(&folder)?;
            let bytes = request.encode_to_vec();
            files::write_whole(&folder.join("request.new"), &folder.join("request.pb"), &[&bytes])?;
            files::sync_folder(&folder)?;
            let collection = Collection::open(folder, request, &self.options)?;
            collection.engine().flush().map_err(|e| StoreError::Engine(e.to_string()))?;
            Ok::<_, StoreError>(collection)
        })();
        let collection = made.map_err(|e| Status::internal(e.to_string()))?;
        self.collections_mut().insert(name, Arc::new(collection));
        Ok(())
    }

    /// Deletes a collection and its aliases; `false` when it does not exist.
    pub fn delete(&self, name: &str) -> Result<bool, Status> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(gone) = self.collections_mut().remove(name) else { return Ok(false) };
        self.set_aliases(|aliases| {
            aliases.retain(|_, collection| collection != name);
            Ok(())
        })?;
        // Calls in flight may still have it open; their writes vanish with the folder.
        let folder = gone.folder.clone();
        drop(gone);
        let failed = |e: std::io::Error| Status::internal(format!("cannot delete {}: {e}", folder.display()));
        let doomed = folder.with_file_name(format!("{}.deleted", Uuid::new_v4()));
        std::fs::remove_file(folder.join("request.pb")).map_err(failed)?;
        std::fs::rename(&folder, &doomed).map_err(failed)?;
        std::fs::remove_dir_all(&doomed).map_err(failed)?;
        Ok(true)
    }

    /// Changes all of these aliases or none; durable when it returns.
    pub fn change_aliases(
        &self,
        change: impl FnOnce(&mut HashMap<String, String>) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.set_aliases(change)
    }

    fn set_aliases(
        &self,
        change: impl FnOnce(&mut HashMap<String, String>) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let mut aliases = self.aliases();
        change(&mut aliases)?;
        let text = serde_json::to_vec_pretty(&aliases).map_err(|e| Status::internal(e.to_string()))?;
        let path = self.folder.join("aliases.json");
        files::write_whole(&path.with_extension("new"), &path, &[&text])
            .and_then(|()| files::sync_folder(&self.folder))
            .map_err(|e| Status::internal(e.to_string()))?;
        *self.aliases.write().unwrap_or_else(PoisonError::into_inner) = aliases;
        Ok(())
    }
}
