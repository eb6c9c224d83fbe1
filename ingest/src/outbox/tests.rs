//! The publisher against a broker that comes and goes.

use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use sightline_bus::placement::Verdict;
use sightline_core::message::Origin;
use sightline_core::{Progress, Timestamp, TrackEnd, TrackId};

use super::*;
use crate::node::report::tests::report;

const SOON: Duration = Duration::from_secs(5);
const T0: Timestamp = Timestamp::from_micros(0);

/// A broker in memory: accepts records while it is up, and withholds acknowledgements while `hold`
/// is set.
#[derive(Default)]
struct Broker {
    up: AtomicBool,
    hold: AtomicBool,
    held: Mutex<Vec<DeliveryCallback>>,
    got: Mutex<Vec<String>>,
    reports: AtomicUsize,
    /// Crops of the newest report.
    reported: AtomicU64,
    refuse: Mutex<Option<DeliveryError>>,
}

impl Broker {
    fn new(up: bool) -> Arc<Self> {
        Arc::new(Self { up: AtomicBool::new(up), ..Self::default() })
    }

    fn set(&self, up: bool) {
        self.up.store(up, Ordering::SeqCst);
    }

    fn got(&self) -> Vec<String> {
        lock(&self.got).clone()
    }

    fn release(&self, newest_first: bool) {
        let mut held = std::mem::take(&mut *lock(&self.held));
        if newest_first {
            held.reverse();
        }
        for done in held {
            done(Ok(()));
        }
    }
}

fn label(event: &CameraEvent) -> String {
    match event {
        CameraEvent::Crop(c) => format!("{} crop {}", c.camera, c.origin.seq),
        CameraEvent::TrackEnd(e) => format!("{} end {}", e.camera, e.origin.seq),
        CameraEvent::Progress(p) => format!("{} progress {}", p.camera, p.origin.seq),
        CameraEvent::Report(r) => format!("{} report {} dropped {}", r.camera, r.origin.seq, r.crops_dropped),
    }
}

impl Carrier for Broker {
    fn try_send(&self, camera: &str, payload: Bytes, done: DeliveryCallback) -> bool {
        if !self.up.load(Ordering::SeqCst) {
            return false;
        }
        let event = wire::decode_camera_event(payload).expect("a message");
        assert_eq!(camera, event.camera().as_str());
        if let Some(why) = lock(&self.refuse).take() {
            done(Err(why));
            return true;
        }
        if let CameraEvent::Report(report) = &event {
            self.reports.fetch_add(1, Ordering::SeqCst);
            self.reported.store(report.crops, Ordering::SeqCst);
        }
        lock(&self.got).push(label(&event));
        if self.hold.load(Ordering::SeqCst) {
            lock(&self.held).push(done);
        } else {
            done(Ok(()));
        }
        true
    }

    fn fault(&self) -> Option<String> {
        (!self.up.load(Ordering::SeqCst)).then(|| "broker not reachable".into())
    }
}

fn crop(camera: &str, seq: u64, bytes: usize) -> CameraEvent {
    crate::outlet::tests::crop(camera, seq, T0, bytes)
}

fn end(camera: &str, seq: u64) -> CameraEvent {
    let (origin, camera) = (Origin::new("t", seq), camera.parse().expect("valid"));
    let track = TrackId { born: T0, ordinal: 0 };
    CameraEvent::TrackEnd(TrackEnd { origin, camera, track, first_seen: T0, last_seen: T0, ended: true })
}

fn progress(camera: &str, seq: u64) -> CameraEvent {
    let (origin, camera) = (Origin::new("t", seq), camera.parse().expect("valid"));
    CameraEvent::Progress(Progress { origin, camera, connection: 0, analysed_through: T0, ended: false })
}

fn start(folder: &Path, limit: u64, broker: &Arc<Broker>) -> Publisher {
    let carrier = Arc::clone(broker) as Arc<dyn Carrier>;
    Publisher::start(folder, &folder.join("former"), limit, carrier, || true).expect("starts")
}

fn live(publisher: &Publisher, event: CameraEvent) -> bool {
    publisher.send_live(event, &|_| true).is_ok()
}

#[track_caller]
fn until(what: &str, wanted: impl Fn() -> bool) {
    sightline_testing::until(SOON, what, wanted);
}

#[test]
fn events_arrive_in_order_and_each_stays_on_disk_until_it_has_arrived() {
    let folder = tempfile::tempdir().expect("a folder");
    let broker = Broker::new(true);
    broker.hold.store(true, Ordering::SeqCst);
    let publisher = start(folder.path(), 1 << 20, &broker);
    for event in [crop("a", 0, 10), progress("b", 0), crop("a", 1, 10), end("a", 2)] {
        publisher.send_waiting(event, SOON).expect("room");
    }
    until("sent", || broker.got().len() == 4);
    assert_eq!(broker.got(), ["a crop 0", "b progress 0", "a crop 1", "a end 2"]);
    let first = lock(&broker.held).remove(0);
    broker.release(true);
    until("the others are forgotten", || publisher.waiting() == 1);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(publisher.waiting(), 1, "the first has not arrived");
    first(Ok(()));
    until("forgotten", || publisher.waiting() == 0);
    assert_eq!((publisher.fault(), publisher.spooled_bytes()), (None, 0));
    assert_eq!(publisher.close(SOON), 0);
    assert!(matches!(publisher.send_live(crop("a", 9, 1), &|_| true), Err(SendError::Closed)));
}

#[test]
fn with_the_broker_away_live_pictures_are_dropped_files_wait_and_ends_still_fit() {
    let folder = tempfile::tempdir().expect("a folder");
    let broker = Broker::new(false);
    let publisher = start(folder.path(), 160_000, &broker);
    let mut want: Vec<String> = Vec::new();
    let mut taken = 0;
    while live(&publisher, crop("live", taken, 10_000)) {
        want.push(format!("live crop {taken}"));
        taken += 1;
    }
    assert_eq!(taken, 14, "a sixteenth is kept free");
    for n in 0..20 {
        assert!(live(&publisher, end("live", 100 + n)) && live(&publisher, progress("live", 200 + n)));
        want.extend([format!("live end {}", 100 + n), format!("live progress {}", 200 + n)]);
    }
    let fault = publisher.fault().expect("away");
    assert!(fault.contains("not reachable") && fault.contains("live cameras are dropped"), "{fault}");
    let waiting = publisher.send_waiting(crop("file", 0, 10_000), Duration::from_millis(30));
    assert!(matches!(waiting, Err(SendError::Full(_))));
    let file = publisher.clone();
    let thread = std::thread::spawn(move || file.send_waiting(crop("file", 1, 10_000), SOON).is_ok());
    std::thread::sleep(Duration::from_millis(30));
    broker.set(true);
    assert!(thread.join().expect("no panic"), "the file's picture finds room");
    until("sent", || publisher.waiting() == 0);
    want.push("file crop 1".into());
    assert_eq!((broker.got(), publisher.fault()), (want, None));
    assert!(live(&publisher, crop("live", 999, 10_000)));
}

#[test]
fn a_full_disk_share_never_holds_a_live_camera_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let broker = Broker::new(false);
    let publisher = start(folder.path(), 4_000, &broker);
    let begun = Instant::now();
    let ends = (0..200).filter(|n| live(&publisher, end("live", *n))).count();
    assert_eq!(ends, 200, "taken or counted as lost, but never given back to a thread that would wait");
    assert!(publisher.spooled_bytes() <= 4_000 && begun.elapsed() < Duration::from_secs(2));
    assert!(!live(&publisher, progress("live", 1)), "told again with the next frame");
}

#[test]
fn records_of_an_earlier_run_are_sent_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let broker = Broker::new(true);
    broker.hold.store(true, Ordering::SeqCst);
    let publisher = start(folder.path(), 1 << 20, &broker);
    for n in 0..3 {
        assert!(live(&publisher, crop("a", n, 100)));
    }
    until("sent", || broker.got().len() == 3);
    let other = Broker::new(true);
    let second = start(folder.path(), 1 << 20, &other);
    assert_eq!((second.waiting(), second.close(SOON)), (0, 0), "what a running node holds is its own");
    drop(second);
    assert_eq!(publisher.close(Duration::from_millis(20)), 3, "sent, but nobody said that they arrived");
    drop(publisher);
    let broker = Broker::new(true);
    let publisher = start(folder.path(), 1 << 20, &broker);
    assert!(live(&publisher, crop("a", 3, 100)));
    until("sent", || publisher.waiting() == 0);
    assert_eq!(broker.got(), ["a crop 0", "a crop 1", "a crop 2", "a crop 3"]);
}

#[test]
fn reports_overtake_the_disk_and_never_pile_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let broker = Broker::new(true);
    broker.hold.store(true, Ordering::SeqCst);
    let publisher = start(folder.path(), 1 << 20, &broker);
    until("open", || publisher.shared.open.load(Ordering::Relaxed));
    for n in 0..9 {
        publisher.report(report("a", n));
    }
    publisher.report(report("b", 0));
    assert_eq!(broker.reports.load(Ordering::SeqCst), 4 + 1);
    assert_eq!(publisher.spooled_bytes(), 0);
    broker.release(false);
    publisher.report(report("a", 10));
    assert_eq!(broker.reports.load(Ordering::SeqCst), 6);
    broker.release(false);
    broker.set(false);
    for n in 0..9 {
        publisher.report(report("a", 20 + n));
    }
    broker.set(true);
    publisher.report(report("a", 30));
    assert_eq!(broker.got().last().map(String::as_str), Some("a report 30 dropped 0"));
}

#[test]
fn what_the_broker_refuses_for_good_is_counted_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let broker = Broker::new(true);
    *lock(&broker.refuse) = Some(DeliveryError::Permanent("too large".into()));
    let publisher = start(folder.path(), 1 << 20, &broker);
    assert!(live(&publisher, crop("a", 0, 100)) && live(&publisher, crop("a", 1, 100)));
    until("sent", || publisher.waiting() == 0);
    publisher.report(report("a", 0));
    assert_eq!(broker.got(), ["a crop 1", "a report 0 dropped 1"]);
    *lock(&broker.refuse) = Some(DeliveryError::Retryable("closed".into()));
    assert!(live(&publisher, crop("a", 2, 100)));
    until("sent again", || publisher.waiting() == 0);
    assert_eq!(broker.got().last().map(String::as_str), Some("a crop 2"));
    // The end of a track is no picture: it is refused without a word in the report.
    *lock(&broker.refuse) = Some(DeliveryError::Permanent("too large".into()));
    assert!(live(&publisher, end("a", 3)));
    until("refused", || publisher.waiting() == 0 && lock(&broker.refuse).is_none());
    let counted = NodeReport { crops: 9, crops_dropped: 4, ..report("a", 1) };
    publisher.report(counted);
    assert_eq!(broker.got().last().map(String::as_str), Some("a report 1 dropped 5"));
    assert_eq!(broker.reported.load(Ordering::SeqCst), 8, "of nine published pictures one was refused");
    // Larger than any record may be.
    assert!(matches!(publisher.send_waiting(crop("a", 3, 2_000_000), SOON), Err(SendError::Permanent(_))));
}

/// A placement in which another node covered everything between two moments.
#[derive(Default)]
struct Placed {
    epoch: AtomicUsize,
    current: AtomicBool,
    covered: Mutex<Option<(Timestamp, Timestamp)>>,
}

impl PlacementFence for Placed {
    fn epoch(&self, camera: &CameraId) -> Option<i64> {
        (camera.as_str() == "placed").then(|| self.epoch.load(Ordering::SeqCst) as i64)
    }

    fn verdict(&self, _: &CameraId, epoch: i64, at: Timestamp) -> Verdict {
        if !self.current.load(Ordering::SeqCst) {
            return Verdict::Wait;
        }
        let covered = lock(&self.covered).is_some_and(|(from, until)| epoch < 9 && from <= at && at < until);
        if covered { Verdict::Superseded } else { Verdict::Send }
    }
}

#[test]
fn what_another_node_covered_is_dropped_after_the_cut_and_over_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let broker = Broker::new(true);
    let publisher = start(folder.path(), 1 << 20, &broker);
    let placed = Arc::new(Placed { epoch: AtomicUsize::new(5), ..Placed::default() });
    publisher.set_fence(Arc::clone(&placed) as Arc<dyn PlacementFence>);
    placed.current.store(true, Ordering::SeqCst);
    assert!(live(&publisher, crop("placed", 0, 10)));
    until("sent", || publisher.waiting() == 0);
    // Cut off: the node records on, and nothing of it is sent.
    placed.current.store(false, Ordering::SeqCst);
    assert!(live(&publisher, crop("placed", 1, 10)));
    std::thread::sleep(Duration::from_millis(5));
    let from = Timestamp::now();
    for n in 2..5 {
        assert!(live(&publisher, crop("placed", n, 10)));
    }
    std::thread::sleep(Duration::from_millis(5));
    let until_then = Timestamp::now();
    assert!(live(&publisher, crop("placed", 5, 10)) && live(&publisher, crop("own", 0, 10)));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!((broker.got().len(), publisher.waiting()), (1, 6));
    // It is restarted before it comes back; the disk knows when each record was written.
    publisher.close(Duration::from_millis(20));
    drop(publisher);
    let publisher = start(folder.path(), 1 << 20, &broker);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(publisher.waiting(), 6, "who knows no placement yet sends nothing of placed cameras");
    *lock(&placed.covered) = Some((from, until_then));
    placed.epoch.store(9, Ordering::SeqCst);
    placed.current.store(true, Ordering::SeqCst);
    publisher.set_fence(placed);
    assert!(live(&publisher, crop("placed", 6, 10)));
    until("sent or dropped", || publisher.waiting() == 0);
    let rest = ["placed crop 0", "placed crop 1", "placed crop 5", "own crop 0", "placed crop 6"];
    assert_eq!(broker.got(), rest);
}

#[test]
fn records_that_were_changed_on_disk_are_left_out_and_the_rest_arrives() {
    let folder = tempfile::tempdir().expect("a folder");
    let publisher = start(folder.path(), 64 << 20, &Broker::new(false));
    for n in 0..12 {
        assert!(live(&publisher, crop("a", n, 50_000 + n as usize)));
    }
    let database = publisher.shared.claim.folder.join("outbox.db");
    assert_eq!(publisher.close(Duration::from_millis(20)), 12);
    // The database is closed only when the sender thread is gone too.
    let shared = Arc::downgrade(&publisher.shared);
    drop(publisher);
    until("closed", || shared.strong_count() == 0);
    let mut bytes = std::fs::read(&database).expect("readable");
    // Not at the start of a page, which holds SQLite's structure.
    let at = bytes.len() / 2 + 1000;
    bytes[at..at + 4].iter_mut().for_each(|byte| *byte ^= 0x55);
    std::fs::write(&database, &bytes).expect("written");
    let broker = Broker::new(true);
    let publisher = start(folder.path(), 64 << 20, &broker);
    until("sent", || publisher.waiting() == 0);
    assert_eq!(broker.got().len(), 11, "{:?}", broker.got());
    assert!(live(&publisher, crop("a", 12, 100)));
    until("sent", || publisher.waiting() == 0);
    assert_eq!((broker.got().last().map(String::as_str), publisher.fault()), (Some("a crop 12"), None));
}
