//! Chooses and locks the outbox of this node on a volume.
//!
//! Several nodes may share a volume, as replicas of a container do. Each locks a sub-folder of its
//! own; the lock is released when the process ends, however it ends. An unlocked sub-folder belongs
//! to a dead node: the next node that starts takes over its records.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::old_spool;
use super::store::{Outbox, OutboxError, io_error};

/// Name of the lock file in a sub-folder.
const LOCK: &str = "lock";
/// Prefix of a sub-folder's name; a number follows.
const PREFIX: &str = "node-";
/// Largest number of sub-folders that are tried.
const MAX_OUTBOXES: u32 = 10_000;

/// A lock on an outbox folder, held while this value lives.
#[derive(Debug)]
pub struct Claim {
    /// Its folder.
    pub folder: PathBuf,
    _lock: File,
}

/// Locks `folder`, which is created if missing; `None` when another process holds the lock.
fn lock(folder: PathBuf) -> Result<Option<Claim>, OutboxError> {
    std::fs::create_dir_all(&folder).map_err(io_error(&folder))?;
    let path = folder.join(LOCK);
    let file = File::create(&path).map_err(io_error(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Claim { folder, _lock: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(io_error(&path)(source)),
    }
}

/// Opens an outbox of `volume` for this process, limited to `limit` bytes, and moves the records of
/// abandoned outboxes into it. `former` is the folder where an earlier version kept its records.
///
/// # Errors
/// A volume that cannot be read or written.
pub fn open(volume: &Path, limit: u64, former: &Path) -> Result<(Claim, Outbox), OutboxError> {
    std::fs::create_dir_all(volume).map_err(io_error(volume))?;
    let mut own = None;
    for number in 0..MAX_OUTBOXES {
        let folder = volume.join(format!("{PREFIX}{number:04}"));
        let is_there = folder.exists();
        if own.is_some() && !is_there {
            break;
        }
        let Some(claim) = lock(folder)? else { continue };
        match &mut own {
            None => {
                let outbox = Outbox::open(&claim.folder, limit)?;
                own = Some((claim, outbox));
            }
            Some((_, outbox)) => take_over(&claim, outbox),
        }
    }
    let full = || std::io::Error::other(format!("{MAX_OUTBOXES} outboxes are in use"));
    let (claim, mut outbox) = own.ok_or_else(|| io_error(volume)(full()))?;
    old_spool::take_over(former, &mut outbox)?;
    Ok((claim, outbox))
}

/// Moves the records of an abandoned outbox into `own`. A failure leaves them for the next start
/// and does not keep this node from sending its own.
fn take_over(abandoned: &Claim, own: &mut Outbox) {
    let folder = &abandoned.folder;
    let moved = Outbox::open(folder, u64::MAX).and_then(|other| own.take_over(other));
    match moved.and_then(|records| Outbox::delete_files(folder).map(|()| records)) {
        Ok(0) => {}
        Ok(records) => info!(records, folder = %folder.display(), "took over an outbox whose node is gone"),
        Err(error) => warn!(%error, folder = %folder.display(), "an abandoned outbox cannot be taken over"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(volume: &Path) -> (Claim, Outbox) {
        open(volume, 1 << 20, &volume.join("former")).expect("opens")
    }

    fn texts(outbox: &mut Outbox) -> Vec<String> {
        let taken = outbox.take(99, 1 << 20).expect("readable").records;
        taken.into_iter().map(|r| String::from_utf8(r.payload).expect("text")).collect()
    }

    #[test]
    fn each_node_has_an_outbox_of_its_own_and_inherits_abandoned_ones() {
        let volume = tempfile::tempdir().expect("a folder");
        let (first, mut one) = start(volume.path());
        let (second, mut two) = start(volume.path());
        assert_ne!(first.folder, second.folder);
        one.push("gate", b"of the first", None).expect("room");
        two.push("yard", b"of the second", None).expect("room");
        // The first node dies; the second runs on and keeps its own records.
        drop((first, one));
        let (third, mut three) = start(volume.path());
        assert_eq!(texts(&mut three), ["of the first"]);
        assert_eq!(texts(&mut two), ["of the second"]);
        // Both die; one start takes over all records.
        drop((second, two, third, three));
        let (_claim, mut outbox) = start(volume.path());
        assert_eq!(texts(&mut outbox), ["of the first", "of the second"]);
    }
}
