//! The head of the audit chain, outside its table: position and hash of the newest record, in a
//! file beside the database. Whoever cuts the newest records off the table, or restores an older
//! database, is found out by it.
//!
//! The file is replaced as a whole (written beside, synced, renamed), never moved backwards, and
//! written only after the record itself is on the disk. So after a power cut it may name a record
//! a second older than the newest one, and never one that is not there.
//!
//! Who can write both files can forge both. Copy this file to another machine if that matters.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::owner_only;

/// Name of the anchor in the data folder.
pub const FILE: &str = "audit.head";

/// Position and hash of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// Position; 0: before the first record.
    pub seq: i64,
    /// SHA-256, hex.
    pub hash: String,
}

impl Head {
    pub(super) fn new(seq: i64, hash: &[u8]) -> Self {
        Self { seq, hash: hex(hash) }
    }

    /// Bytes of the hash; `None` when it is no SHA-256.
    pub(super) fn bytes(&self) -> Option<Vec<u8>> {
        let digits = self.hash.as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        if digits.len() == 64 { digits.chunks(2).map(byte).collect() } else { None }
    }
}

/// Formats bytes as hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The anchor file of a data folder.
pub(super) struct Anchor {
    path: PathBuf,
    lock: PathBuf,
}

impl Anchor {
    pub(super) fn new(folder: &Path) -> Self {
        Self { path: folder.join(FILE), lock: folder.join("audit.lock") }
    }

    /// Reads the anchored head.
    ///
    /// # Errors
    /// What is wrong with the file, a missing file included.
    pub(super) fn read(&self) -> Result<Head, String> {
        let text = match std::fs::read(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(format!("the anchor {FILE} is missing")),
            text => text.map_err(|e| format!("the anchor {FILE} cannot be read: {e}"))?,
        };
        let head: Option<Head> = serde_json::from_slice(&text).ok();
        head.filter(|h| h.bytes().is_some()).ok_or_else(|| format!("the anchor {FILE} is damaged"))
    }

    /// Anchors `head` unless a newer one is anchored already.
    ///
    /// # Errors
    /// When the file system fails.
    pub(super) fn advance(&self, head: &Head) -> std::io::Result<()> {
        // Another process (`sightline token ...`) may do the same at this moment.
        let lock = File::options().create(true).truncate(false).write(true).open(&self.lock)?;
        owner_only(&self.lock)?;
        lock.lock()?;
        if self.read().is_ok_and(|anchored| anchored.seq > head.seq) {
            return Ok(());
        }
        let temporary = self.path.with_extension("new");
        let mut file = File::create(&temporary)?;
        owner_only(&temporary)?;
        file.write_all(&serde_json::to_vec(head)?)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &self.path)?;
        // The new name must be on the disk too.
        self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_anchor_moves_forwards_only_and_damage_is_told() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let anchor = Anchor::new(dir.path());
        assert!(anchor.read().expect_err("nothing yet").contains("missing"));
        let at = |seq| Head::new(seq, &[seq as u8; 32]);
        anchor.advance(&at(5)).expect("written");
        anchor.advance(&at(3)).expect("left alone");
        assert_eq!(anchor.read(), Ok(at(5)));
        assert_eq!(at(5).bytes(), Some(vec![5; 32]));
        for damaged in ["", "{}", "{\"seq\":9,\"hash\":\"12\"}"] {
            std::fs::write(dir.path().join(FILE), damaged).expect("writable");
            assert!(anchor.read().expect_err("damaged").contains("damaged"), "{damaged}");
        }
        anchor.advance(&at(6)).expect("a damaged file is replaced");
        assert_eq!(anchor.read(), Ok(at(6)));
    }
}
