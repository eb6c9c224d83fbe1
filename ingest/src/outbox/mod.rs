//! The publisher of a camera node: it writes every event to the outbox on disk and sends it to the
//! topic from there.
//!
//! ```text
//! cameras' threads -> Outbox (disk, bus.spool_bytes) -> sender thread
//!                  -> Carrier (bus.in_flight_bytes) -> topic, keyed by camera
//!                  -> acknowledged: deleted from the outbox
//! ```
//!
//! A killed node therefore loses no event that it has accepted, and a broker outage costs nothing
//! until the outbox is full. Then pictures of live cameras are refused (the camera's thread counts
//! them and goes on) and files wait. The last part of the outbox is reserved for small events that
//! matter more: half of the reserve for the progress of live cameras, all of it for the ends of
//! tracks. Records of cameras that the placement gave to this node carry its epoch and wait for the
//! [`PlacementFence`]: what another node covered while this one was cut off is dropped and counted.
//! Reports never touch the disk: they overtake the records that wait there, and while
//! several reports of a camera are in flight, newer ones are dropped.

mod carrier;
mod fence;
#[cfg(feature = "kafka")]
mod kafka;
mod old_spool;
mod sender;
mod store;
#[cfg(test)]
mod tests;
mod volume;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use metrics::{counter, gauge};
use sightline_bus::wire;
use sightline_core::{CameraEvent, CameraId, NodeReport, Timestamp};
use tracing::{info, warn};

use crate::{Outlet, SendError};
pub use carrier::{Carrier, DeliveryCallback, DeliveryError};
pub use fence::PlacementFence;
#[cfg(feature = "kafka")]
pub use kafka::KafkaCarrier;
use sender::Sender;
pub use store::OutboxError;
use store::{Outbox, PlacementStamp};
use volume::Claim;

/// Fraction of the outbox (one part in so many) that is reserved for events other than pictures.
const RESERVE: u64 = 16;

/// Reports of one camera that may be in flight at once: enough for a quick sequence of states.
const MAX_REPORTS_IN_FLIGHT: u32 = 4;

/// Why the publisher cannot start.
#[derive(Debug, thiserror::Error)]
pub enum PublisherError {
    /// The outbox on disk cannot be opened.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The sender thread cannot be started.
    #[error("no thread to send from the outbox: {0}")]
    Thread(#[source] std::io::Error),
}

/// The outbox and its faults, under one lock.
struct State {
    outbox: Outbox,
    closed: bool,
    /// The last error of the disk, while it does not work.
    disk: Option<String>,
    /// Pictures of live cameras are being refused.
    full: bool,
}

/// Wakes the sender thread when there is something to send or to acknowledge.
#[derive(Default)]
struct WakeSignal {
    notified: Mutex<bool>,
    changed: Condvar,
}

impl WakeSignal {
    fn notify(&self) {
        *self.notified.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits for a notification (also one given since the last call), at most `timeout`.
    fn wait(&self, timeout: Duration) {
        let mut notified = self.notified.lock().unwrap_or_else(PoisonError::into_inner);
        if !*notified {
            notified = self.changed.wait_timeout(notified, timeout).unwrap_or_else(PoisonError::into_inner).0;
        }
        *notified = false;
    }
}

struct Shared {
    claim: Claim,
    limit: u64,
    state: Mutex<State>,
    /// Notified when records were acknowledged and there may be room again.
    room: Condvar,
    wake: Arc<WakeSignal>,
    carrier: Arc<dyn Carrier>,
    /// Set once the node takes part in the placement; until then records of placed cameras wait.
    fence: OnceLock<Arc<dyn PlacementFence>>,
    /// The topic exists, so records may be sent.
    open: AtomicBool,
    /// The sender stops now, whatever is left.
    stop_now: AtomicBool,
    bytes: AtomicU64,
    /// Crops that were accepted here and then refused by the broker for good, by camera.
    refused_crops: Arc<Mutex<BTreeMap<CameraId, u64>>>,
    reports: Arc<Mutex<BTreeMap<CameraId, u32>>>,
}

/// Accepts the events of a node's cameras and sends them. Clones share one outbox.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Publisher({})", self.shared.claim.folder.display())
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Publisher {
    /// Opens an outbox of its own below `volume`, limited to `limit` bytes, and starts to send:
    /// first the records left in it, then new ones. Several nodes may share a volume; records that
    /// dead nodes left there are sent too, and so are those that an earlier version left in
    /// `former`. The sender thread first calls `prepare`, which may block as long as it likes (the
    /// broker may be away); `false` means that the process stops and nothing is sent.
    ///
    /// # Errors
    /// A volume that cannot be used.
    pub fn start(
        volume: &Path,
        former: &Path,
        limit: u64,
        carrier: Arc<dyn Carrier>,
        prepare: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<Self, PublisherError> {
        let (claim, mut outbox) = volume::open(volume, limit, former)?;
        if !outbox.is_empty() {
            let (records, bytes) = (outbox.len(), outbox.bytes());
            info!(records, bytes, "the outbox holds records of an earlier run; they go first");
        }
        counter!("sightline_ingest_unreadable_records_total").increment(outbox.take_lost());
        let bytes = AtomicU64::new(outbox.bytes());
        gauge!("sightline_ingest_spool_bytes").set(outbox.bytes() as f64);
        let shared = Arc::new(Shared {
            claim,
            limit,
            state: Mutex::new(State { outbox, closed: false, disk: None, full: false }),
            room: Condvar::new(),
            wake: Arc::default(),
            carrier,
            fence: OnceLock::new(),
            open: AtomicBool::new(false),
            stop_now: AtomicBool::new(false),
            bytes,
            refused_crops: Arc::default(),
            reports: Arc::default(),
        });
        let sender = Sender::new(Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("publisher".into()).spawn(move || {
            if prepare() {
                sender.run();
            }
        });
        let thread = Arc::new(Mutex::new(Some(thread.map_err(PublisherError::Thread)?)));
        Ok(Self { shared, thread })
    }

    /// Asks `fence` about the records of placed cameras from now on. Only the first call counts.
    pub fn set_fence(&self, fence: Arc<dyn PlacementFence>) {
        let _ = self.shared.fence.set(fence);
        self.shared.wake.notify();
    }

    /// Number of records that the broker has not acknowledged.
    pub fn waiting(&self) -> u64 {
        lock(&self.shared.state).outbox.len()
    }

    /// Whether the topic exists and records are being sent.
    pub fn is_open(&self) -> bool {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// The fault to show in `/readyz`; `None` when events are accepted and arrive.
    pub fn fault(&self) -> Option<String> {
        let state = lock(&self.shared.state);
        if let Some(why) = &state.disk {
            return Some(why.clone());
        }
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let (held, limit) = (megabytes(state.outbox.bytes()), megabytes(self.shared.limit));
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

    /// Stops accepting events, sends what it can within `timeout`, and ends. Returns the number of
    /// records that stay on disk for the next start. Further calls do nothing.
    pub fn close(&self, timeout: Duration) -> u64 {
        lock(&self.shared.state).closed = true;
        self.shared.room.notify_all();
        self.shared.wake.notify();
        let Some(thread) = lock(&self.thread).take() else { return self.waiting() };
        let until = Instant::now() + timeout;
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.shared.stop_now.store(true, Ordering::Relaxed);
        self.shared.wake.notify();
        if self.shared.open.load(Ordering::Relaxed) {
            // The thread has logged its own panic.
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
    fn encode(event: &CameraEvent) -> Result<Bytes, SendError> {
        wire::encode_camera_event(event).map_err(|why| {
            dropped(event.camera(), kind(event), "too large");
            SendError::Permanent(why.to_string())
        })
    }

    /// Bytes of the outbox that events of this kind must leave free.
    fn reserve(&self, event: &CameraEvent) -> u64 {
        match event {
            CameraEvent::Crop(_) => self.limit / RESERVE,
            CameraEvent::Progress(_) | CameraEvent::Report(_) => self.limit / RESERVE / 2,
            CameraEvent::TrackEnd(_) => 0,
        }
    }

    /// Writes a record; the error is the metric label that says why it was not written.
    fn write(&self, state: &mut State, event: &CameraEvent, payload: &[u8]) -> Result<(), &'static str> {
        if state.outbox.bytes() + payload.len() as u64 + self.reserve(event) > self.limit {
            return Err("outbox full");
        }
        let epoch = self.fence.get().and_then(|fence| fence.epoch(event.camera()));
        let placed = epoch.map(|epoch| PlacementStamp { epoch, recorded_at: Timestamp::now() });
        match state.outbox.push(event.camera().as_str(), payload, placed) {
            Ok(()) => {
                if state.disk.take().is_some() {
                    info!("the outbox can be written again");
                }
                state.full &= !matches!(event, CameraEvent::Crop(_));
                self.note_bytes(state);
                self.wake.notify();
                Ok(())
            }
            Err(OutboxError::Full { .. }) => Err("outbox full"),
            Err(why) => {
                self.note_disk(state, &why);
                Err("disk")
            }
        }
    }

    fn note_bytes(&self, state: &State) {
        let bytes = state.outbox.bytes();
        self.bytes.store(bytes, Ordering::Relaxed);
        gauge!("sightline_ingest_spool_bytes").set(bytes as f64);
    }

    fn note_disk(&self, state: &mut State, why: &OutboxError) {
        let why = why.to_string();
        if state.disk.as_ref() != Some(&why) {
            tracing::error!(%why, "the outbox does not work");
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

/// Counts a record that this node could not keep.
fn dropped(camera: &CameraId, kind: &'static str, why: &'static str) {
    let labels = [("camera", camera.to_string()), ("kind", kind.into()), ("reason", why.into())];
    counter!("sightline_ingest_dropped_records_total", &labels).increment(1);
}

impl Outlet for Publisher {
    fn send_live(&self, event: CameraEvent, _: &dyn Fn(&CameraId) -> bool) -> Result<Option<CameraEvent>, SendError> {
        let payload = Shared::encode(&event)?;
        let mut state = lock(&self.shared.state);
        if state.closed {
            return Err(SendError::Closed);
        }
        let Err(why) = self.shared.write(&mut state, &event, &payload) else { return Ok(None) };
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
            // Progress is sent again with the next frame.
            CameraEvent::Progress(_) | CameraEvent::Report(_) => {}
        }
        Err(SendError::Full(Box::new(event)))
    }

    fn send_waiting(&self, event: CameraEvent, timeout: Duration) -> Result<(), SendError> {
        let payload = Shared::encode(&event)?;
        let until = Instant::now() + timeout;
        let mut state = lock(&self.shared.state);
        loop {
            if state.closed {
                return Err(SendError::Closed);
            }
            if self.shared.write(&mut state, &event, &payload).is_ok() {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(SendError::Full(Box::new(event)));
            }
            state = self.shared.room.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn report(&self, mut report: NodeReport) {
        if !self.shared.open.load(Ordering::Relaxed) {
            return;
        }
        // They count as dropped, no longer as published; those of an earlier run were never counted.
        let refused = lock(&self.shared.refused_crops).get(&report.camera).copied().unwrap_or(0);
        report.crops = report.crops.saturating_sub(refused);
        report.crops_dropped += refused;
        let camera = report.camera.clone();
        let Ok(payload) = wire::encode_camera_event(&CameraEvent::Report(report)) else { return };
        {
            let mut reports = lock(&self.shared.reports);
            let in_flight = reports.entry(camera.clone()).or_default();
            if *in_flight >= MAX_REPORTS_IN_FLIGHT {
                return;
            }
            *in_flight += 1;
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
