//! Where tombstones are kept: in files of one process, on a server that several share, or nowhere.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::files::{self, FileError};
use crate::reserve::with_reserve;
use crate::store::{Scope, StoreError};

/// Mark that pictures of these scopes are erased.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Id of the erasure job; a camera that is removed again and again has one id.
    pub id: Uuid,
    /// Pictures that are erased; never empty.
    pub scopes: Vec<Scope>,
    /// Whether the erasure is unfinished, so that searches must pass over stored pictures.
    pub open: bool,
}

/// Durable set of tombstones.
pub trait TombstoneLedger: Send + Sync {
    /// Returns all tombstones.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn all(&self) -> Result<Vec<Tombstone>, StoreError>;

    /// Writes a tombstone over the one of the same id; durable when it returns.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    fn put(&self, tombstone: &Tombstone) -> Result<(), StoreError>;

    /// Removes a tombstone; durable when it returns.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    fn remove(&self, id: Uuid) -> Result<(), StoreError>;
}

/// Ledger of one process: a file per tombstone.
#[derive(Debug)]
pub(super) struct Files {
    pub folder: PathBuf,
}

impl Files {
    fn path(&self, id: Uuid) -> PathBuf {
        self.folder.join(format!("{id}.tombstone"))
    }
}

impl TombstoneLedger for Files {
    fn all(&self) -> Result<Vec<Tombstone>, StoreError> {
        let mut tombstones = Vec::new();
        for path in files::list(&self.folder)?.into_iter().filter(|p| p.extension().is_some_and(|e| e == "tombstone")) {
            match serde_json::from_slice(&files::read(&path)?.unwrap_or_default()) {
                Ok(tombstone) => tombstones.push(tombstone),
                Err(error) => files::set_aside(&path, &error.to_string())?,
            }
        }
        Ok(tombstones)
    }

    fn put(&self, tombstone: &Tombstone) -> Result<(), StoreError> {
        let text = serde_json::to_vec(tombstone).map_err(|e| StoreError::Engine(e.to_string()))?;
        let path = self.path(tombstone.id);
        let data = self.folder.parent().unwrap_or(&self.folder);
        Ok(with_reserve(data, FileError::is_disk_full, || {
            files::create_folder(&self.folder)?;
            files::write_whole(&path.with_extension("new"), &path, &[&text])?;
            files::sync_folder(&self.folder)
        })?)
    }

    fn remove(&self, id: Uuid) -> Result<(), StoreError> {
        if files::remove(&self.path(id))? {
            files::sync_folder(&self.folder)?;
        }
        Ok(())
    }
}

/// Ledger that forgets: for tests and indexes in memory.
#[derive(Debug, Default)]
pub(super) struct Memory;

impl TombstoneLedger for Memory {
    fn all(&self) -> Result<Vec<Tombstone>, StoreError> {
        Ok(Vec::new())
    }

    fn put(&self, _: &Tombstone) -> Result<(), StoreError> {
        Ok(())
    }

    fn remove(&self, _: Uuid) -> Result<(), StoreError> {
        Ok(())
    }
}
