//! A bounded queue of records on disk: what a camera node holds back while the broker is away.
//!
//! Records are appended to segment files and read in their order. They count as gone when the reader acknowledges them;
//! a segment is deleted once all of its records are. After a restart everything in the segments that are left comes
//! again: whoever reads must bear a record twice (Sightline's ids make that an overwrite). A record that a crash cut
//! short is cut off. Writes reach the operating system at once, so a killed process loses none; a machine that loses its
//! power loses what the system had not written yet.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A segment takes no more records beyond so many bytes.
const SEGMENT: u64 = 4 << 20;
/// Length and checksum before every record, 4 bytes each, little-endian.
const HEAD: u64 = 8;

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

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:012}.spool"))
}

/// The next record of a segment; nothing where none begins, where it is cut short, or where its checksum is wrong.
fn read_record(file: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
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
fn whole_records(path: &Path) -> io::Result<(u64, u64)> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let size = file.metadata()?.len();
    let (bytes, records) = count_records(&mut BufReader::new(&file))?;
    if bytes < size {
        file.set_len(bytes)?;
    }
    Ok((bytes, records))
}

/// Bytes and number of the whole records up to the end, or to the first that is not whole.
fn count_records(reader: &mut impl Read) -> io::Result<(u64, u64)> {
    let (mut bytes, mut records) = (0, 0);
    while let Some(record) = read_record(reader)? {
        bytes += HEAD + record.len() as u64;
        records += 1;
    }
    Ok((bytes, records))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(taken: Vec<(Place, Vec<u8>)>) -> Vec<String> {
        taken.into_iter().map(|(_, r)| String::from_utf8(r).expect("text")).collect()
    }

    #[test]
    fn first_in_first_out_over_restarts() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = Spool::open(folder.path(), 1 << 20).expect("opens");
        for text in ["a", "b", "c"] {
            spool.push(text.as_bytes()).expect("room");
        }
        let taken = spool.take(2, 1000).expect("read");
        spool.acknowledge(taken[0].0).expect("done");
        assert_eq!((texts(taken), spool.len()), (vec!["a".into(), "b".into()], 2));
        spool.rewind();
        assert_eq!(texts(spool.take(9, 1000).expect("read")), ["b", "c"]);
        // A restart knows nothing of what was acknowledged within a segment.
        let mut spool = Spool::open(folder.path(), 1 << 20).expect("opens");
        spool.push(b"d").expect("room");
        let taken = spool.take(9, 1000).expect("read");
        let last = taken[3].0;
        assert_eq!(texts(taken), ["a", "b", "c", "d"]);
        spool.acknowledge(last).expect("done");
        assert_eq!((spool.len(), spool.bytes()), (0, 0));
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
        assert!(spool.take(9, 9).expect("read").is_empty());
        spool.push(b"e").expect("room");
        assert_eq!(texts(spool.take(9, 9).expect("read")), ["e"]);
    }

    #[test]
    fn a_full_spool_refuses_and_keeps_what_it_has() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = Spool::open(folder.path(), 40).expect("opens");
        spool.push(&[1; 20]).expect("room");
        let e = spool.push(&[2; 20]).expect_err("full").to_string();
        assert!(e.contains("28 of 40"), "{e}");
        spool.push(&[3; 4]).expect("room");
        let taken = spool.take(9, 999).expect("read");
        assert_eq!(taken.iter().map(|t| t.1.len()).collect::<Vec<_>>(), [20, 4]);
        spool.acknowledge(taken[1].0).expect("done");
        spool.push(&[2; 20]).expect("room again");
    }

    #[test]
    fn a_record_cut_short_or_changed_is_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = Spool::open(folder.path(), 1 << 20).expect("opens");
        for text in ["one", "two", "three"] {
            spool.push(text.as_bytes()).expect("room");
        }
        let file = path(folder.path(), 1);
        let bytes = fs::read(&file).expect("a segment");
        fs::write(&file, &bytes[..bytes.len() - 2]).expect("written");
        let mut spool = Spool::open(folder.path(), 1 << 20).expect("opens");
        spool.push(b"four").expect("room");
        assert_eq!(texts(spool.take(9, 999).expect("read")), ["one", "two", "four"]);
        let mut spool = Spool::open(folder.path(), 1 << 20).expect("opens");
        let mut bytes = fs::read(&file).expect("a segment");
        bytes[9] ^= 1;
        fs::write(&file, &bytes).expect("written");
        let e = spool.take(9, 999).expect_err("changed").to_string();
        assert!(e.contains("changed on disk, 2 are lost"), "{e}");
        assert_eq!((texts(spool.take(9, 999).expect("the other file")), spool.len()), (vec!["four".to_owned()], 1));
    }

    #[test]
    fn a_record_changed_while_it_waits_does_not_stop_the_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = Spool::open(folder.path(), 1 << 20).expect("opens");
        for text in ["one", "two", "three", "four"] {
            spool.push(text.as_bytes()).expect("room");
        }
        let file = path(folder.path(), 1);
        let mut bytes = fs::read(&file).expect("a segment");
        bytes[11 + 11 + 9] ^= 1;
        fs::write(&file, &bytes).expect("written");
        assert_eq!(texts(spool.take(1, 999).expect("read")), ["one"]);
        assert_eq!(texts(spool.take(9, 999).expect("read")), ["two"], "first what is whole");
        let e = spool.take(9, 999).expect_err("three is changed").to_string();
        assert!(e.contains("changed on disk, 2 are lost"), "{e}");
        assert!(spool.take(9, 999).expect("told once").is_empty());
        spool.push(b"five").expect("room");
        assert_eq!(spool.len(), 3);
        let taken = spool.take(9, 999).expect("read");
        spool.acknowledge(taken[0].0).expect("done");
        assert_eq!((texts(taken), spool.len(), spool.bytes()), (vec!["five".to_owned()], 0, 0));
    }

    #[test]
    fn after_a_failed_write_there_is_a_new_segment() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = Spool::open(folder.path(), 1 << 20).expect("opens");
        spool.push(b"one").expect("room");
        // Half a record reaches the disk, and nothing can be taken back.
        let half = [&fs::read(path(folder.path(), 1)).expect("a segment")[..], &[9, 0, 0, 0, 1]].concat();
        fs::write(path(folder.path(), 1), half).expect("written");
        spool.tail = Some(File::open(path(folder.path(), 1)).expect("for reading only"));
        spool.push(b"lost").expect_err("cannot be written");
        spool.push(b"two").expect("a new segment");
        assert_eq!((spool.len(), spool.segments.len()), (2, 2));
        assert_eq!(texts(spool.take(9, 999).expect("read")), ["one", "two"]);
        let mut spool = Spool::open(folder.path(), 1 << 20).expect("opens");
        assert_eq!(texts(spool.take(9, 999).expect("read")), ["one", "two"]);
        // The same with nothing in the segment yet.
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = Spool::open(folder.path(), 1 << 20).expect("opens");
        spool.begin_segment().expect("a segment");
        spool.tail = Some(File::open(path(folder.path(), 1)).expect("for reading only"));
        spool.push(b"lost").expect_err("cannot be written");
        spool.push(b"one").expect("a new segment");
        let taken = spool.take(9, 999).expect("read");
        spool.acknowledge(taken[0].0).expect("done");
        assert_eq!((texts(taken), spool.len(), spool.bytes()), (vec!["one".to_owned()], 0, 0));
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn records_may_arrive_in_any_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = Spool::open(folder.path(), 1 << 20).expect("opens");
        for text in ["a", "b", "c", "d"] {
            spool.push(text.as_bytes()).expect("room");
        }
        let places: Vec<_> = spool.take(9, 999).expect("read").into_iter().map(|t| t.0).collect();
        spool.arrived(places[2]).expect("done");
        spool.arrived(places[1]).expect("done");
        assert_eq!(spool.len(), 4, "the first is on its way");
        spool.arrived(places[0]).expect("done");
        spool.arrived(places[0]).expect("twice is nothing");
        assert_eq!(spool.len(), 1);
        spool.rewind();
        spool.arrived(places[3]).expect("from before");
        assert_eq!(spool.len(), 1);
        let taken = spool.take(9, 999).expect("read");
        spool.arrived(taken[0].0).expect("done");
        assert_eq!((texts(taken), spool.len(), spool.bytes()), (vec!["d".to_owned()], 0, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        /// Whatever is pushed, taken, rewound, acknowledged and reopened in whatever order: records come in their order,
        /// none is lost, and none comes again once it was acknowledged and its segment is gone.
        #[test]
        fn nothing_is_lost(steps in prop::collection::vec((0u8..6, 1usize..900_000), 1..60)) {
            let folder = tempfile::tempdir().expect("a folder");
            let mut spool = Spool::open(folder.path(), 1 << 30).expect("opens");
            let (mut pushed, mut read, mut done) = (0u64, 0u64, 0u64);
            let mut places = Vec::new();
            for (what, size) in steps {
                match what {
                    0..=2 => {
                        let mut record = vec![7; size];
                        record.splice(0..0, pushed.to_le_bytes());
                        spool.push(&record).expect("room");
                        pushed += 1;
                    }
                    3 => for (place, record) in spool.take(size % 7 + 1, size).expect("read") {
                        let number = u64::from_le_bytes(record[..8].try_into().expect("8 bytes"));
                        prop_assert_eq!(number, read);
                        read += 1;
                        places.push((number, place));
                    },
                    4 => if let Some((number, place)) = places.last() {
                        spool.acknowledge(*place).expect("done");
                        done = done.max(number + 1);
                    },
                    _ => {
                        if size % 2 == 0 {
                            spool.rewind();
                            read = done;
                        } else {
                            spool = Spool::open(folder.path(), 1 << 30).expect("opens");
                            prop_assert!(spool.len() >= pushed - done);
                            let first = spool.take(1, 1).expect("read");
                            read = first.first().map_or(pushed, |(_, r)| u64::from_le_bytes(r[..8].try_into().expect("8")));
                            prop_assert!(read <= done || first.is_empty());
                            spool.rewind();
                            done = read;
                        }
                        places.clear();
                    }
                }
                prop_assert!(spool.len() >= pushed - done);
            }
            let rest: usize = std::iter::from_fn(|| {
                let some = spool.take(5, 1 << 20).expect("read");
                (!some.is_empty()).then_some(some.len())
            }).sum();
            prop_assert_eq!(read + rest as u64, pushed);
        }
    }
}
