//! The outbox as its sender sees it: over restarts, damage and full disks, and against a list in
//! memory.

use super::*;
use proptest::prelude::*;

fn open(folder: &Path) -> Outbox {
    Outbox::open(folder, 1 << 30).expect("opens")
}

fn texts(outbox: &mut Outbox) -> Vec<String> {
    let taken = outbox.take(usize::MAX, usize::MAX).expect("readable").records;
    taken.into_iter().map(|r| String::from_utf8(r.payload).expect("text")).collect()
}

#[test]
fn records_are_read_in_order_and_acknowledged_in_any() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut outbox = open(folder.path());
    for text in ["a", "b", "c"] {
        outbox.push("gate", text.as_bytes(), None).expect("room");
    }
    let taken = outbox.take(2, 1000).expect("readable").records;
    assert_eq!(taken.iter().map(|r| &r.payload[..]).collect::<Vec<_>>(), [b"a", b"b"]);
    outbox.acknowledge(&[taken[1].id]).expect("forgotten");
    outbox.acknowledge(&[taken[1].id]).expect("no error twice");
    assert_eq!((outbox.len(), texts(&mut outbox)), (2, vec!["c".to_owned()]));
    outbox.rewind();
    assert_eq!(texts(&mut outbox), ["a", "c"]);
    drop(outbox);
    let mut outbox = open(folder.path());
    outbox.push("gate", b"d", None).expect("room");
    assert_eq!(texts(&mut outbox), ["a", "c", "d"]);
    assert_eq!(outbox.bytes(), 3 * (4 + 1 + ROW_BYTES));
}

#[test]
fn an_outbox_of_a_version_without_placement_opens() {
    let folder = tempfile::tempdir().expect("a folder");
    let former = Connection::open(folder.path().join(FILE)).expect("opens");
    former
        .execute_batch(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE records (
                 id INTEGER PRIMARY KEY AUTOINCREMENT, camera TEXT NOT NULL, payload BLOB NOT NULL,
                 checksum INTEGER NOT NULL
             )",
        )
        .expect("made");
    let insert = "INSERT INTO records (camera, payload, checksum) VALUES ('gate', ?1, ?2)";
    former.execute(insert, params![b"old", i64::from(crc32fast::hash(b"old"))]).expect("written");
    drop(former);
    let mut outbox = open(folder.path());
    let stamp = PlacementStamp { epoch: 7, recorded_at: Timestamp::from_micros(8) };
    outbox.push("gate", b"new", Some(stamp)).expect("room");
    drop(outbox);
    let taken = open(folder.path()).take(9, 999).expect("readable").records;
    let all: Vec<_> = taken.iter().map(|r| (&r.payload[..], r.placed)).collect();
    assert_eq!(all, [(&b"old"[..], None), (b"new", Some(stamp))]);
}

#[test]
fn a_full_outbox_refuses_and_keeps_what_it_has() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut outbox = Outbox::open(folder.path(), 200).expect("opens");
    outbox.push("a", &[1; 20], None).expect("room");
    outbox.push("a", &[2; 20], None).expect("room");
    let error = outbox.push("a", &[3; 20], None).expect_err("full").to_string();
    assert!(error.contains("170 of 200"), "{error}");
    let taken = outbox.take(9, 999).expect("readable").records;
    outbox.acknowledge(&[taken[0].id]).expect("forgotten");
    outbox.push("a", &[3; 20], None).expect("room again");
}

#[test]
fn an_empty_outbox_gives_its_space_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut outbox = open(folder.path());
    for _ in 0..64 {
        outbox.push("a", &[7; 300_000], None).expect("room");
    }
    let size = || std::fs::metadata(folder.path().join(FILE)).expect("there").len();
    let ids: Vec<i64> = outbox.take(99, usize::MAX).expect("readable").records.iter().map(|r| r.id).collect();
    outbox.acknowledge(&ids).expect("forgotten");
    assert!(size() < 1 << 20, "{} bytes", size());
}

/// Flips one byte, in the database file, of the record whose payload consists of `value`.
fn damage_payload(folder: &Path, value: u8) {
    let path = folder.join(FILE);
    let mut bytes = std::fs::read(&path).expect("readable");
    let at = bytes.windows(64).position(|window| window.iter().all(|b| *b == value)).expect("there");
    bytes[at + 32] ^= 1;
    std::fs::write(&path, bytes).expect("written");
}

#[test]
fn a_record_changed_on_disk_costs_itself_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut outbox = open(folder.path());
    for value in 1..=5 {
        outbox.push("a", &[value; 10_000], None).expect("room");
    }
    // Closing the last connection writes the log into the database.
    drop(outbox);
    damage_payload(folder.path(), 3);
    let mut outbox = open(folder.path());
    let taken = outbox.take(9, usize::MAX).expect("readable");
    assert_eq!(taken.records.iter().map(|r| r.payload[0]).collect::<Vec<_>>(), [1, 2, 4, 5]);
    assert_eq!((taken.damaged, outbox.len()), (1, 4));
}

#[test]
fn a_destroyed_database_is_set_aside_and_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut outbox = open(folder.path());
    outbox.push("a", b"hello", None).expect("room");
    drop(outbox);
    std::fs::write(folder.path().join(FILE), vec![9; 8192]).expect("written");
    let mut outbox = open(folder.path());
    assert_eq!((outbox.len(), outbox.take_lost(), outbox.take_lost()), (0, 1, 0));
    outbox.push("a", b"goes on", None).expect("room");
    let aside = std::fs::read_dir(folder.path()).expect("a folder").filter_map(Result::ok);
    assert!(aside.map(|e| e.file_name()).any(|name| name.to_string_lossy().starts_with("damaged-")));
}

#[test]
fn records_of_another_outbox_are_taken_over_whatever_the_limit() {
    let (own, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let mut abandoned = open(other.path());
    for text in ["x", "y"] {
        abandoned.push("gate", text.as_bytes(), None).expect("room");
    }
    let mut outbox = Outbox::open(own.path(), 80).expect("opens");
    outbox.push("yard", b"a", None).expect("room");
    assert_eq!(outbox.take_over(abandoned).expect("taken"), 2);
    assert_eq!(texts(&mut outbox), ["a", "x", "y"]);
    assert!(open(other.path()).is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Push(Vec<u8>),
    Take(usize),
    Acknowledge(usize),
    Rewind,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..50).prop_map(Step::Push),
        (1usize..5).prop_map(Step::Take),
        any::<usize>().prop_map(Step::Acknowledge),
        Just(Step::Rewind),
        Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Model test against a list in memory: in any sequence of steps no record is lost, none
    /// comes out of order, and no acknowledged record comes again.
    #[test]
    fn the_outbox_behaves_like_a_durable_list(steps in prop::collection::vec(step(), 1..60)) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut outbox = open(folder.path());
        let (mut model, mut read, mut taken) = (Vec::<Vec<u8>>::new(), 0usize, Vec::<(i64, Vec<u8>)>::new());
        for step in steps {
            match step {
                Step::Push(payload) => {
                    outbox.push("gate", &payload, None).expect("room");
                    model.push(payload);
                }
                Step::Take(most) => {
                    let records = outbox.take(most, usize::MAX).expect("readable").records;
                    let want: Vec<_> = model[read..].iter().take(most).cloned().collect();
                    prop_assert_eq!(records.iter().map(|r| r.payload.clone()).collect::<Vec<_>>(), want);
                    read += records.len();
                    taken.extend(records.into_iter().map(|r| (r.id, r.payload)));
                }
                Step::Acknowledge(which) if !taken.is_empty() => {
                    // `taken` is the part of the model that was read, in its order.
                    let at = which % taken.len();
                    let (id, payload) = taken.remove(at);
                    outbox.acknowledge(&[id]).expect("forgotten");
                    prop_assert_eq!(model.remove(at), payload);
                    read -= 1;
                }
                Step::Acknowledge(_) => {}
                Step::Rewind | Step::Reopen => {
                    if matches!(step, Step::Reopen) {
                        drop(outbox);
                        outbox = open(folder.path());
                    }
                    outbox.rewind();
                    taken.clear();
                    read = 0;
                }
            }
            prop_assert_eq!(outbox.len(), model.len() as u64);
            let bytes: u64 = model.iter().map(|payload| record_bytes("gate", payload)).sum();
            prop_assert_eq!(outbox.bytes(), bytes);
        }
    }
}
