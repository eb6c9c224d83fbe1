//! A bounded queue of records on disk: what a camera node holds back while the broker is away.
//!
//! Records are appended to segment files and read in their order. They count as gone when the reader acknowledges them;
//! a segment is deleted once all of its records are. After a restart everything in the segments that are left comes
//! again: whoever reads must bear a record twice (Sightline's ids make that an overwrite). A record that a crash cut
//! short is cut off. Writes reach the operating system at once, so a killed process loses none; a machine that loses its
//! power loses what the system had not written yet.

mod segment;

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use segment::{HEAD, count_records, path, read_record, whole_records};

/// A segment takes no more records beyond so many bytes.
const SEGMENT: u64 = 4 << 20;

/// Why the spool cannot do what it should.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// No room: the record was not taken.
    #[error("the spool is full: {bytes} of {limit} bytes")]
    Full {
        /// Bytes held.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A record was changed on disk: it and those behind it in its file are lost. Told once; reading goes on behind them.
    #[error("spool {path}: a record was changed on disk, {records} are lost")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Records that are lost.
        records: u64,
    },
    /// The disk.
    #[error("spool {path}: {source}")]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> SpoolError + '_ {
    move |source| SpoolError::Io { path: path.to_owned(), source }
}

/// Place behind a record, for [`Spool::acknowledge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    segment: u64,
    offset: u64,
}

/// One file.
#[derive(Debug)]
struct Segment {
    number: u64,
    bytes: u64,
    records: u64,
}

/// The queue. One thread at a time.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    limit: u64,
    segments: VecDeque<Segment>,
    /// The newest segment, open for appending.
    tail: Option<File>,
    /// What is read next.
    next: Place,
    /// Up to here everything is acknowledged.
    done: Place,
    /// Records behind `done`.
    waiting: u64,
    /// Records between `done` and `next`, by the place behind each.
    taken: VecDeque<Place>,
    /// Those of `taken` that have arrived, though one before them has not.
    arrived: BTreeSet<Place>,
}

impl Spool {
    /// Opens the spool in `folder` (made if need be), which may hold `limit` bytes.
    ///
    /// # Errors
    /// A folder that cannot be read or written.
    pub fn open(folder: &Path, limit: u64) -> Result<Self, SpoolError> {
        fs::create_dir_all(folder).map_err(io_error(folder))?;
        let mut numbers = Vec::new();
        for entry in fs::read_dir(folder).map_err(io_error(folder))? {
            let name = entry.map_err(io_error(folder))?.file_name();
            numbers.extend(name.to_str().and_then(|n| n.strip_suffix(".spool")?.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        let mut segments = VecDeque::new();
        for number in numbers {
            let path = path(folder, number);
            let (bytes, records) = whole_records(&path).map_err(io_error(&path))?;
            if records == 0 {
                fs::remove_file(&path).map_err(io_error(&path))?;
            } else {
                segments.push_back(Segment { number, bytes, records });
            }
        }
        let first = segments.front().map_or(1, |s: &Segment| s.number);
        let start = Place { segment: first, offset: 0 };
        let waiting = segments.iter().map(|s| s.records).sum();
        Ok(Self {
            folder: folder.to_owned(),
            limit,
            segments,
            tail: None,
            next: start,
            done: start,
            waiting,
            taken: VecDeque::new(),
            arrived: BTreeSet::new(),
        })
    }

    /// Records that are not acknowledged yet.
    pub fn len(&self) -> u64 {
        self.waiting
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }

    /// Appends a record.
    ///
    /// # Errors
    /// [`SpoolError::Full`]: it was not taken, and what is there stays. Or the disk's error; half a record is taken back.
    pub fn push(&mut self, record: &[u8]) -> Result<(), SpoolError> {
        let (bytes, wanted) = (self.bytes(), HEAD + record.len() as u64);
        let length = u32::try_from(record.len()).ok().filter(|_| bytes + wanted <= self.limit);
        let length = length.ok_or(SpoolError::Full { bytes, limit: self.limit })?;
        if self.tail.is_none() || self.segments.back().is_none_or(|s| s.bytes >= SEGMENT) {
            self.begin_segment()?;
        }
        let (Some(file), Some(segment)) = (&mut self.tail, self.segments.back_mut()) else {
            unreachable!("a segment is open for appending")
        };
        let mut whole = Vec::with_capacity(wanted as usize);
        whole.extend(length.to_le_bytes());
        whole.extend(crc32fast::hash(record).to_le_bytes());
        whole.extend(record);
        if let Err(source) = file.write_all(&whole) {
            let path = path(&self.folder, segment.number);
            // What was written of it would hide what comes later: it is cut off, or what comes later gets a new segment.
            let cut = file.set_len(segment.bytes).and_then(|()| file.seek(SeekFrom::Start(segment.bytes)));
            if cut.is_err() {
                self.tail = None;
            }
            return Err(SpoolError::Io { path, source });
        }
        segment.bytes += wanted;
        segment.records += 1;
        self.waiting += 1;
        Ok(())
    }

    fn begin_segment(&mut self) -> Result<(), SpoolError> {
        let number = self.segments.back().map_or(self.next.segment, |s| s.number + 1);
        let path = path(&self.folder, number);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path).map_err(io_error(&path))?;
        self.tail = Some(file);
        self.segments.push_back(Segment { number, bytes: 0, records: 0 });
        Ok(())
    }

    /// The next records, oldest first, at most `most` and about `bytes` bytes (at least one if there is any), each with
    /// the place behind it. They come once, unless [`Spool::rewind`] is called.
    ///
    /// # Errors
    /// The disk's, or [`SpoolError::Damaged`].
    pub fn take(&mut self, most: usize, bytes: usize) -> Result<Vec<(Place, Vec<u8>)>, SpoolError> {
        let (mut all, mut sum) = (Vec::new(), 0);
        while all.len() < most && (all.is_empty() || sum < bytes) {
            let Some(at) = self.segments.iter().position(|s| s.number >= self.next.segment) else { break };
            let segment = &self.segments[at];
            if segment.number > self.next.segment {
                self.next = Place { segment: segment.number, offset: 0 };
            }
            if self.next.offset >= segment.bytes {
                if at + 1 == self.segments.len() {
                    break;
                }
                self.next = Place { segment: self.segments[at + 1].number, offset: 0 };
                continue;
            }
            let path = path(&self.folder, segment.number);
            let mut file = BufReader::new(File::open(&path).map_err(io_error(&path))?);
            file.seek(SeekFrom::Start(self.next.offset)).map_err(io_error(&path))?;
            while all.len() < most && (all.is_empty() || sum < bytes) && self.next.offset < segment.bytes {
                let record = read_record(&mut file).map_err(io_error(&path))?;
                let Some(record) = record else {
                    // First what is whole; the next call tells of the damage.
                    return if all.is_empty() { Err(self.cut_off(at)) } else { Ok(all) };
                };
                self.next.offset += HEAD + record.len() as u64;
                sum += record.len();
                self.taken.push_back(self.next);
                all.push((self.next, record));
            }
        }
        Ok(all)
    }

    /// Gives up what lies behind `next` in the segment at `at`: lengths there mean nothing any more.
    fn cut_off(&mut self, at: usize) -> SpoolError {
        let offset = self.next.offset;
        let segment = &mut self.segments[at];
        let path = path(&self.folder, segment.number);
        let whole = File::open(&path).and_then(|file| count_records(&mut BufReader::new(file.take(offset))));
        let whole = match whole {
            Ok((_, records)) => records,
            Err(source) => return SpoolError::Io { path, source },
        };
        let records = segment.records.saturating_sub(whole);
        if at + 1 == self.segments.len() {
            self.tail = None;
        }
        let segment = &mut self.segments[at];
        (segment.bytes, segment.records) = (offset, whole);
        self.waiting = self.waiting.saturating_sub(records);
        // Only a courtesy to the next start, which would find the same by itself.
        let _ = OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(offset));
        SpoolError::Damaged { path, records }
    }

    /// The one record before `place` has arrived where it should. Records that are sent at once to several partitions
    /// arrive in any order: what is forgotten is everything up to the first that has not.
    ///
    /// # Errors
    /// A segment that cannot be deleted.
    pub fn arrived(&mut self, place: Place) -> Result<(), SpoolError> {
        if self.taken.contains(&place) {
            self.arrived.insert(place);
        }
        let mut last = None;
        for place in &self.taken {
            if !self.arrived.remove(place) {
                break;
            }
            last = Some(*place);
        }
        last.map_or(Ok(()), |place| self.acknowledge(place))
    }

    /// Everything up to `place` has arrived where it should, and is forgotten.
    ///
    /// # Errors
    /// A segment that cannot be deleted.
    pub fn acknowledge(&mut self, place: Place) -> Result<(), SpoolError> {
        while let Some(front) = self.taken.front().copied().filter(|p| *p <= place) {
            self.taken.pop_front();
            self.arrived.remove(&front);
            self.waiting -= 1;
            self.done = place;
        }
        while let Some(first) = self.segments.front() {
            let read = Place { segment: first.number, offset: first.bytes };
            if read > self.done {
                break;
            }
            let path = path(&self.folder, first.number);
            fs::remove_file(&path).map_err(io_error(&path))?;
            let number = first.number;
            self.segments.pop_front();
            if self.segments.is_empty() {
                // The next segment has a new number, so that places stay in order.
                self.tail = None;
                self.done = Place { segment: number + 1, offset: 0 };
                self.next = self.done;
            }
        }
        Ok(())
    }

    /// What was taken and not acknowledged comes again.
    pub fn rewind(&mut self) {
        self.next = self.done;
        self.taken.clear();
        self.arrived.clear();
    }
}

#[cfg(test)]
mod tests;
