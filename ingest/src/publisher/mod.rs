//! A camera node's way to the broker: every event goes to the disk first, and from there to the topic.
//!
//! ```text
//! cameras' threads -> Spool (disk, bus.spool_bytes) -> sender thread -> Carrier (bus.in_flight_bytes) -> topic, by camera
//!                          ^---- acknowledged up to the first record that has not arrived ----'
//! ```
//!
//! A killed node therefore loses nothing it has taken, and a broker that is away costs nothing until the disk's share is
//! used up. Then pictures of live cameras are refused (the camera's thread counts them and goes on) and files wait. The
//! last part of the share is kept for what is small and matters more: the progress of live cameras, and the ends of
//! tracks, which may use it all. Reports never touch the disk: they overtake what waits there, and while one is on its
//! way for long, newer ones take its place.

mod carrier;
#[cfg(feature = "kafka")]
mod kafka;
mod record;
mod sender;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use sightline_core::spool::{Spool, SpoolError};
use sightline_core::{CameraEvent, CameraId, NodeReport, wire};
use tracing::{info, warn};

use crate::{NotTaken, Outlet};
pub use carrier::{Carrier, Done, Undelivered};
#[cfg(feature = "kafka")]
pub use kafka::KafkaCarrier;
use sender::Sender;

/// This share of the spool is kept for what is no picture.
const RESERVE: u64 = 16;

/// Reports of one camera that may be on their way at once: enough for a quick sequence of states.
const REPORTS_ON_THE_WAY: u32 = 4;

/// Why the publisher does not start.
#[derive(Debug, thiserror::Error)]
pub enum PublisherError {
    /// The disk.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// Another process sends from this folder.
    #[error("the spool {0} is in use by another process: every camera node needs a data folder of its own")]
    InUse(PathBuf),
    /// The lock file, or the thread.
    #[error("spool {path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// What waits, and what is wrong.
struct State {
    spool: Spool,
    closed: bool,
    /// What the disk said last, while it does not work.
    disk: Option<String>,
    /// Pictures of live cameras are being refused.
    full: bool,
}

/// Something to do for the sender.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits until it rings (or rang since the last call), at most so long.
    fn wait(&self, timeout: Duration) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        if !*rung {
            rung = self.changed.wait_timeout(rung, timeout).unwrap_or_else(PoisonError::into_inner).0;
        }
        *rung = false;
    }
}

struct Shared {
    folder: PathBuf,
    limit: u64,
    state: Mutex<State>,
    /// Records were acknowledged: whoever waits may try again.
    room: Condvar,
    bell: Arc<Bell>,
    carrier: Arc<dyn Carrier>,
    /// The topic is there: records may be sent.
    open: AtomicBool,
    /// No more waiting for the broker.
    leave: AtomicBool,
    bytes: AtomicU64,
    /// Taken, but refused by the broker for good; by camera.
    lost: Arc<Mutex<BTreeMap<CameraId, u64>>>,
    reports: Arc<Mutex<BTreeMap<CameraId, u32>>>,
}

/// Takes the events of a node's cameras. Cloning shares it.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    _lock: Arc<File>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Publisher({})", self.shared.folder.display())
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Publisher {
    /// Opens the spool in `folder`, which may hold `limit` bytes, and starts sending what is left in it, then what comes.
    /// `prepare` is called first, in the sender's thread, and may take as long as it likes (the broker may be away);
    /// `false` from it means that the process stops and nothing is to be sent.
    ///
    /// # Errors
    /// A folder that cannot be used, or is used by another process.
    pub fn start(
        folder: &Path,
        limit: u64,
        carrier: Arc<dyn Carrier>,
        prepare: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<Self, PublisherError> {
        let io = |source| PublisherError::Io { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(io)?;
        let file = File::create(folder.join("lock")).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(PublisherError::InUse(folder.to_owned())),
            Err(std::fs::TryLockError::Error(source)) => return Err(io(source)),
        }
        let spool = Spool::open(folder, limit)?;
        if !spool.is_empty() {
            info!(
                records = spool.len(),
                bytes = spool.bytes(),
                "the spool holds records of an earlier run; they go first"
            );
        }
        let bytes = AtomicU64::new(spool.bytes());
        gauge!("sightline_ingest_spool_bytes").set(spool.bytes() as f64);
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            limit,
            state: Mutex::new(State { spool, closed: false, disk: None, full: false }),
            room: Condvar::new(),
            bell: Arc::default(),
            carrier,
            open: AtomicBool::new(false),
            leave: AtomicBool::new(false),
            bytes,
            lost: Arc::default(),
            reports: Arc::default(),
        });
        let sender = Sender::new(Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("publisher".into()).spawn(move || {
            if prepare() {
                sender.run();
            }
        });
        let thread = Arc::new(Mutex::new(Some(thread.map_err(io)?)));
        Ok(Self { shared, thread, _lock: Arc::new(file) })
    }

    /// Records that have not arrived at the broker.
    pub fn waiting(&self) -> u64 {
        lock(&self.shared.state).spool.len()
    }

    /// Whether the topic is there and records are sent.
    pub fn is_open(&self) -> bool {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// What is wrong, for readiness; `None` when events are taken and arrive.
    pub fn fault(&self) -> Option<String> {
        let state = lock(&self.shared.state);
        if let Some(why) = &state.disk {
            return Some(why.clone());
        }
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let (held, limit) = (megabytes(state.spool.bytes()), megabytes(self.shared.limit));
        let full = if state.full { ", pictures of live cameras are dropped" } else { "" };
        match self.shared.carrier.fault() {
            Some(why) => Some(format!("{why}; {held:.1} of {limit:.0} MB on disk{full}")),
            None if !self.shared.open.load(Ordering::Relaxed) => {
                Some(format!("the topic is not there yet; {held:.1} of {limit:.0} MB on disk{full}"))
            }
            None if state.full => Some(format!("{held:.1} of {limit:.0} MB on disk{full}")),
            None => None,
        }
    }

    /// Takes nothing more, sends what it can within `patience`, and ends. What is left stays on disk for the next start;
    /// the number of such records. Further calls do nothing.
    pub fn close(&self, patience: Duration) -> u64 {
        lock(&self.shared.state).closed = true;
        self.shared.room.notify_all();
        self.shared.bell.ring();
        let Some(thread) = lock(&self.thread).take() else { return self.waiting() };
        let until = Instant::now() + patience;
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.shared.leave.store(true, Ordering::Relaxed);
        self.shared.bell.ring();
        if self.shared.open.load(Ordering::Relaxed) {
            // A panic inside has been reported there.
            let _ = thread.join();
        }
        let left = self.waiting();
        if left > 0 {
            warn!(records = left, "the broker has not taken everything; the rest stays on disk for the next start");
        }
        left
    }
}

impl Shared {
    fn encode(event: &CameraEvent) -> Result<Vec<u8>, NotTaken> {
        match wire::encode_camera_event(event) {
            Ok(payload) => Ok(record::pack(event.camera(), &payload)),
            Err(why) => {
                dropped(event.camera(), kind(event), "too large");
                Err(NotTaken::Never(why.to_string()))
            }
        }
    }

    /// Bytes of the spool that events of this kind leave free.
    fn reserve(&self, event: &CameraEvent) -> u64 {
        match event {
            CameraEvent::Crop(_) => self.limit / RESERVE,
            CameraEvent::Progress(_) | CameraEvent::Report(_) => self.limit / RESERVE / 2,
            CameraEvent::TrackEnd(_) => 0,
        }
    }

    /// Writes a record; the error says in a word why it was not.
    fn write(&self, state: &mut State, event: &CameraEvent, record: &[u8]) -> Result<(), &'static str> {
        if state.spool.bytes() + record.len() as u64 + self.reserve(event) > self.limit {
            return Err("spool full");
        }
        match state.spool.push(record) {
            Ok(()) => {
                if state.disk.take().is_some() {
                    info!("the spool can be written again");
                }
                state.full &= !matches!(event, CameraEvent::Crop(_));
                self.note_bytes(state);
                self.bell.ring();
                Ok(())
            }
            Err(SpoolError::Full { .. }) => Err("spool full"),
            Err(why) => {
                self.note_disk(state, &why);
                Err("disk")
            }
        }
    }

    fn note_bytes(&self, state: &State) {
        let bytes = state.spool.bytes();
        self.bytes.store(bytes, Ordering::Relaxed);
        gauge!("sightline_ingest_spool_bytes").set(bytes as f64);
    }

    fn note_disk(&self, state: &mut State, why: &SpoolError) {
        let why = why.to_string();
        if state.disk.as_ref() != Some(&why) {
            tracing::error!(%why, "the spool does not work");
            state.disk = Some(why);
        }
    }
}

fn kind(event: &CameraEvent) -> &'static str {
    match event {
        CameraEvent::Crop(_) => "crop",
        CameraEvent::TrackEnd(_) => "track_end",
        CameraEvent::Progress(_) => "progress",
        CameraEvent::Report(_) => "report",
    }
}

/// Counts a record that nobody will ever see.
fn dropped(camera: &CameraId, kind: &'static str, why: &'static str) {
    let labels = [("camera", camera.to_string()), ("kind", kind.into()), ("reason", why.into())];
    counter!("sightline_ingest_dropped_records_total", &labels).increment(1);
}

impl Outlet for Publisher {
    fn send_live(&self, event: CameraEvent, _: &dyn Fn(&CameraId) -> bool) -> Result<Option<CameraEvent>, NotTaken> {
        let record = Shared::encode(&event)?;
        let mut state = lock(&self.shared.state);
        if state.closed {
            return Err(NotTaken::Closed);
        }
        let Err(why) = self.shared.write(&mut state, &event, &record) else { return Ok(None) };
        match &event {
            CameraEvent::Crop(crop) => {
                state.full = true;
                dropped(&crop.camera, "crop", why);
            }
            // A live camera's thread cannot wait for a broker that may be away for days.
            CameraEvent::TrackEnd(end) => {
                warn!(camera = %end.camera, track = %end.track, why, "no room left for the end of a track");
                dropped(&end.camera, "track_end", why);
                return Ok(None);
            }
            // Told again with the next frame.
            CameraEvent::Progress(_) | CameraEvent::Report(_) => {}
        }
        Err(NotTaken::Full(Box::new(event)))
    }

    fn send_waiting(&self, event: CameraEvent, timeout: Duration) -> Result<(), NotTaken> {
        let record = Shared::encode(&event)?;
        let until = Instant::now() + timeout;
        let mut state = lock(&self.shared.state);
        loop {
            if state.closed {
                return Err(NotTaken::Closed);
            }
            if self.shared.write(&mut state, &event, &record).is_ok() {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NotTaken::Full(Box::new(event)));
            }
            state = self.shared.room.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn report(&self, mut report: NodeReport) {
        if !self.shared.open.load(Ordering::Relaxed) {
            return;
        }
        report.crops_dropped += lock(&self.shared.lost).get(&report.camera).copied().unwrap_or(0);
        let camera = report.camera.clone();
        let Ok(payload) = wire::encode_camera_event(&CameraEvent::Report(report)) else { return };
        {
            let mut reports = lock(&self.shared.reports);
            let on_the_way = reports.entry(camera.clone()).or_default();
            if *on_the_way >= REPORTS_ON_THE_WAY {
                return;
            }
            *on_the_way += 1;
        }
        let (reports, of) = (Arc::clone(&self.shared.reports), camera.clone());
        let back = move || {
            if let Some(n) = lock(&reports).get_mut(&of) {
                *n = n.saturating_sub(1);
            }
        };
        let arrived = back.clone();
        if !self.shared.carrier.try_send(camera.as_str(), payload, Box::new(move |_| arrived())) {
            back();
        }
    }

    fn spooled_bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}
