//! The queue as its user sees it, over restarts, damage and full disks.

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
