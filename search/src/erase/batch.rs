//! Journal of the batch that is being stored: the ids whose pictures may stand in the gallery
//! without a point in the store. A crash between the two writes leaves such pictures, and nobody
//! could find or erase them; the next start deletes exactly those that the journal names and the
//! store does not know. Nothing else in the gallery is ever touched by a start.
//!
//! Batches follow one another, so one file is enough, and it is overwritten in place:
//!
//! ```text
//! sightline batch 2        number of ids
//! 0a794c4f-...             one id a line
//! 0aa4592858-...
//! end 8d3f1c02             CRC-32 of everything above
//! ```
//!
//! A batch costs one write and one `fdatasync` of this file, beside the two synced files of each of
//! its pictures. The end of a batch truncates the file without a sync: should a power cut undo that,
//! the store knows all of the ids and nothing is deleted.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sightline_core::SightingId;

use crate::files::{self, FileError};

const HEAD: &str = "sightline batch ";

/// Journal of one indexer.
#[derive(Debug)]
pub(super) struct BatchJournal {
    path: PathBuf,
    file: Mutex<File>,
}

impl BatchJournal {
    /// Opens the journal at `path` and returns the ids of an interrupted batch with it. A damaged
    /// journal is set aside: deleting by it could delete anything.
    pub fn open(path: &Path) -> Result<(Self, Vec<SightingId>), FileError> {
        let ids = match files::read(path)?.as_deref().map(parse) {
            None => Vec::new(),
            Some(Ok(ids)) => ids,
            Some(Err(reason)) => {
                files::set_aside(path, &reason)?;
                Vec::new()
            }
        };
        let parent = path.parent().unwrap_or(path);
        files::create_folder(parent)?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = file.map_err(FileError::new("open", path))?;
        files::sync_folder(parent)?;
        Ok((Self { path: path.to_owned(), file: Mutex::new(file) }, ids))
    }

    /// Writes the ids of a batch whose pictures are about to be written; durable when it returns.
    pub fn begin(&self, ids: &[SightingId]) -> Result<(), FileError> {
        let mut text = format!("{HEAD}{}\n", ids.len());
        text.extend(ids.iter().map(|id| format!("{id}\n")));
        text += &format!("end {:08x}\n", crc32fast::hash(text.as_bytes()));
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let write = || {
            file.write_all_at(text.as_bytes(), 0)?;
            file.set_len(text.len() as u64)?;
            file.sync_data()
        };
        write().map_err(FileError::new("write", &self.path))
    }

    /// Empties the journal: the points of the batch are durable.
    pub fn end(&self) {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.set_len(0) {
            tracing::warn!(path = %self.path.display(), %error, "the journal of a finished batch stays");
        }
    }
}

/// Parses a journal; empty after a finished batch.
fn parse(text: &[u8]) -> Result<Vec<SightingId>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let text = std::str::from_utf8(text).map_err(|e| e.to_string())?;
    let cut = text.trim_end_matches('\n').rfind('\n').ok_or("it has one line only")? + 1;
    let (body, end) = text.split_at(cut);
    if end != format!("end {:08x}\n", crc32fast::hash(body.as_bytes())) {
        return Err("its end does not match".to_owned());
    }
    let mut lines = body.lines();
    let head = lines.next().and_then(|l| l.strip_prefix(HEAD)).and_then(|n| n.parse::<usize>().ok());
    let ids = lines.map(str::parse).collect::<Result<Vec<SightingId>, _>>().map_err(|e| e.to_string())?;
    if head == Some(ids.len()) { Ok(ids) } else { Err("it has another number of ids than it says".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(n: u128) -> Vec<SightingId> {
        (1..=n).map(SightingId::from_u128).collect()
    }

    #[test]
    fn it_names_the_batch_that_was_interrupted_and_no_other() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("journals/batch");
        let (journal, interrupted) = BatchJournal::open(&path).expect("opened");
        assert!(interrupted.is_empty());
        journal.begin(&ids(64)).expect("written");
        journal.end();
        assert!(BatchJournal::open(&path).expect("opened").1.is_empty(), "the batch was finished");
        journal.begin(&ids(9)).expect("written");
        journal.begin(&ids(3)).expect("written, shorter than the one before");
        assert_eq!(BatchJournal::open(&path).expect("opened").1, ids(3));
    }

    #[test]
    fn every_damage_is_noticed_and_set_aside() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("batch");
        BatchJournal::open(&path).expect("opened").0.begin(&ids(2)).expect("written");
        let whole = std::fs::read(&path).expect("readable");
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            assert!(parse(&flipped).is_err() && (at == 0 || parse(&whole[..at]).is_err()), "byte {at}");
        }
        std::fs::write(&path, &whole[..30]).expect("written");
        assert!(BatchJournal::open(&path).expect("it stops nothing").1.is_empty());
        assert!(dir.path().join("batch.damaged").exists());
    }
}
