//! Takes over the records of an earlier version, which kept them in segment files, one record after
//! the other, each with its length and checksum.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use tracing::info;

use super::store::{Outbox, OutboxError, io_error};

/// Bytes of the header of a record: length and checksum, 4 each, little-endian.
const HEAD: usize = 8;

/// What comes next in a segment.
enum Next {
    Record(Vec<u8>),
    /// The end of the segment, or a record that a crash cut short.
    End,
    /// A record whose checksum is wrong; the lengths after it cannot be trusted.
    Damaged,
}

fn next(file: &mut impl Read) -> io::Result<Next> {
    let mut head = [0u8; HEAD];
    match file.read_exact(&mut head) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(Next::End),
        read => read?,
    }
    let [a, b, c, d, checksum @ ..] = head;
    let length = u64::from(u32::from_le_bytes([a, b, c, d]));
    let mut record = Vec::new();
    file.take(length).read_to_end(&mut record)?;
    if (record.len() as u64) < length {
        return Ok(Next::End);
    }
    let sound = crc32fast::hash(&record) == u32::from_le_bytes(checksum);
    Ok(if sound { Next::Record(record) } else { Next::Damaged })
}

/// Splits a record (length of the camera's id, id, message) into camera and message.
fn parts(record: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = record.split_first()?;
    let (id, message) = rest.split_at_checked(usize::from(*length))?;
    Some((std::str::from_utf8(id).ok()?, message))
}

/// Moves the records in `folder` to `outbox`, oldest first, and deletes each segment once its
/// records are stored. Damaged records are counted as lost. Does nothing when the folder is missing
/// or another process uses it.
///
/// # Errors
/// A segment that cannot be read or deleted, or an error of the outbox.
pub fn take_over(folder: &Path, outbox: &mut Outbox) -> Result<(), OutboxError> {
    // A process of the earlier version holds this lock.
    let Ok(lock) = File::open(folder.join("lock")) else { return Ok(()) };
    if lock.try_lock().is_err() {
        return Ok(());
    }
    let mut segments: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_error(folder))? {
        let path = entry.map_err(io_error(folder))?.path();
        if path.extension().is_some_and(|extension| extension == "spool") {
            segments.push(path);
        }
    }
    segments.sort();
    let (mut records, mut lost) = (0u64, 0u64);
    for path in &segments {
        let mut file = BufReader::new(File::open(path).map_err(io_error(path))?);
        loop {
            match next(&mut file).map_err(io_error(path))? {
                Next::Record(record) => match parts(&record) {
                    Some((camera, message)) => {
                        outbox.push_beyond_limit(camera, message, None)?;
                        records += 1;
                    }
                    None => lost += 1,
                },
                Next::Damaged => {
                    lost += 1;
                    break;
                }
                Next::End => break,
            }
        }
        fs::remove_file(path).map_err(io_error(path))?;
    }
    outbox.note_lost(lost);
    if !segments.is_empty() {
        info!(records, lost, folder = %folder.display(), "took over the records of a former version");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record as the earlier version wrote it.
    fn old_record(camera: &str, message: &[u8]) -> Vec<u8> {
        let mut record = vec![camera.len() as u8];
        record.extend(camera.as_bytes());
        record.extend(message);
        let mut all = (record.len() as u32).to_le_bytes().to_vec();
        all.extend(crc32fast::hash(&record).to_le_bytes());
        all.extend(record);
        all
    }

    #[test]
    fn a_former_versions_records_come_over_once_and_damage_is_counted() {
        let (former, own) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let mut outbox = Outbox::open(own.path(), 1 << 20).expect("opens");
        take_over(former.path(), &mut outbox).expect("nothing is there");
        fs::write(former.path().join("lock"), b"").expect("written");
        let first = [old_record("gate", b"one"), old_record("yard", b"two")].concat();
        let mut second =
            [old_record("gate", b"three"), old_record("gate", b"four"), old_record("gate", b"five")].concat();
        let at = old_record("gate", b"three").len() + HEAD + 7;
        second[at] ^= 1;
        fs::write(former.path().join("000000000001.spool"), first).expect("written");
        fs::write(former.path().join("000000000002.spool"), second).expect("written");
        // Cut short by a crash: not counted as damage, because it was never acknowledged to
        // anybody.
        let cut = old_record("gate", b"six");
        fs::write(former.path().join("000000000003.spool"), &cut[..cut.len() - 1]).expect("written");
        take_over(former.path(), &mut outbox).expect("taken over");
        take_over(former.path(), &mut outbox).expect("nothing is left");
        let taken = outbox.take(99, 1 << 20).expect("readable").records;
        let texts: Vec<_> = taken.iter().map(|r| (r.camera.as_str(), &r.payload[..])).collect();
        assert_eq!(texts, [("gate", &b"one"[..]), ("yard", b"two"), ("gate", b"three")]);
        assert_eq!(outbox.take_lost(), 1);
    }
}
