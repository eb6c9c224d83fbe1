//! Qdrant's engine in a locked folder, with the thread that builds its index. The engine itself
//! does neither: two processes in one folder would damage it, and without an index every search
//! compares all points.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use qdrant_edge::{EdgeConfig, EdgeShard};

use super::optimizer::Optimizer;
use super::{StoreError, convert};
use crate::files::{DataLock, FileError};

/// The engine with the lock of its folder. Fields are dropped in order: the lock goes last.
#[derive(Debug)]
pub(super) struct Shard {
    pub engine: EdgeShard,
    /// Held while an index is built. The engine skips what another thread is building, so without
    /// this lock a call that should wait for the index would return at once.
    building: Mutex<()>,
    _lock: DataLock,
}

impl Shard {
    pub fn optimize(&self) -> Result<bool, StoreError> {
        let _building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        self.engine.optimize().map_err(convert::engine)
    }
}

/// Qdrant's engine on disk, for code that has its own collections and payloads. Sightings are
/// stored with [`super::EdgeStore`].
#[derive(Debug)]
pub struct Engine {
    // Dropped first, so that its thread has ended before the engine closes.
    optimizer: Optimizer,
    shard: Arc<Shard>,
}

impl Engine {
    /// Opens `folder/shard` with this configuration, and creates it when it is missing. `lock` is
    /// the lock of `folder`. An index is built whenever `index_from` points wait for one.
    ///
    /// # Errors
    /// When the engine cannot open the folder, or the index thread cannot be started.
    pub fn open(folder: &Path, lock: DataLock, config: EdgeConfig, index_from: usize) -> Result<Self, StoreError> {
        let path = folder.join("shard");
        // The engine writes its configuration before its first segment: without it, nothing has
        // been stored yet.
        let engine = if path.join("edge_config.json").exists() {
            EdgeShard::load(&path, Some(config))
        } else {
            EdgeShard::new(&path, config)
        };
        let engine = engine.map_err(convert::engine)?;
        let shard = Arc::new(Shard { engine, building: Mutex::default(), _lock: lock });
        let optimizer = Optimizer::start(Arc::clone(&shard), index_from)
            .map_err(FileError::new("start the index thread of", folder))?;
        Ok(Self { optimizer, shard })
    }

    /// Returns Qdrant's own interface.
    pub fn shard(&self) -> &EdgeShard {
        &self.shard.engine
    }

    /// Lets the index thread look whether an index is due; never blocks.
    pub fn wake(&self) {
        self.optimizer.wake();
    }

    /// Builds the index that is due and waits for it; `false` when none was due.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn optimize(&self) -> Result<bool, StoreError> {
        self.shard.optimize()
    }
}
