//! A segment of the spool on disk: records one behind the other, each with its length and its checksum.

use std::fs::OpenOptions;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// Length and checksum before every record, 4 bytes each, little-endian.
pub(super) const HEAD: u64 = 8;

/// The file of a segment.
pub(super) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:012}.spool"))
}

/// The next record of a segment; nothing where none begins, where it is cut short, or where its checksum is wrong.
pub(super) fn read_record(file: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0u8; HEAD as usize];
    let cut = |e: io::Error| if e.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(e) };
    if let Err(e) = file.read_exact(&mut head) {
        return cut(e);
    }
    let [a, b, c, d, checksum @ ..] = head;
    let length = u64::from(u32::from_le_bytes([a, b, c, d]));
    let mut record = Vec::new();
    file.take(length).read_to_end(&mut record)?;
    let whole = record.len() as u64 == length && crc32fast::hash(&record) == u32::from_le_bytes(checksum);
    Ok(whole.then_some(record))
}

/// Bytes and number of the whole records at the front of a segment; what follows them is cut off.
pub(super) fn whole_records(path: &Path) -> io::Result<(u64, u64)> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let size = file.metadata()?.len();
    let (bytes, records) = count_records(&mut BufReader::new(&file))?;
    if bytes < size {
        file.set_len(bytes)?;
    }
    Ok((bytes, records))
}

/// Bytes and number of the whole records up to the end, or to the first that is not whole.
pub(super) fn count_records(reader: &mut impl Read) -> io::Result<(u64, u64)> {
    let (mut bytes, mut records) = (0, 0);
    while let Some(record) = read_record(reader)? {
        bytes += HEAD + record.len() as u64;
        records += 1;
    }
    Ok((bytes, records))
}
