//! The directory of all cameras, kept up to date: for the API, which lists and checks them, and for
//! the camera nodes, which share them.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::message::BorrowedMessage;
use sightline_core::CameraId;
use sightline_core::config::{BusConfig, CameraConfig};

use super::super::BusError;
use super::super::client::lock;
use super::super::compacted::{CompactedReader, Follower};

#[derive(Default)]
struct State {
    cameras: BTreeMap<CameraId, CameraConfig>,
    /// What was read since the restart, until its end is reached.
    reading: Option<BTreeMap<CameraId, CameraConfig>>,
    /// Number of changes; 1 when the topic was read to its end for the first time.
    version: u64,
    loaded: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The content of the topic of cameras.
pub struct CameraDirectory {
    shared: Arc<Shared>,
    reader: CompactedReader,
}

impl CameraDirectory {
    /// Starts to read; the broker need not be reachable yet.
    ///
    /// # Errors
    /// Settings that librdkafka does not take.
    pub fn start(config: &BusConfig, client_id: &str) -> Result<Self, BusError> {
        let shared = Arc::new(Shared::default());
        let follower = Arc::clone(&shared) as Arc<dyn Follower>;
        let reader = CompactedReader::start(config, &config.cameras_topic, client_id, follower)?;
        Ok(Self { shared, reader })
    }

    /// All cameras read so far; see [`CameraDirectory::loaded`].
    pub fn all(&self) -> BTreeMap<CameraId, CameraConfig> {
        lock(&self.shared.state).cameras.clone()
    }

    /// Waits until the topic was read once from beginning to end; returns whether that happened
    /// within `timeout`.
    pub fn loaded(&self, timeout: Duration) -> bool {
        self.wait(timeout, |state| state.loaded)
    }

    /// Waits at most `timeout` until the version differs from `seen` (0: before anything was read).
    /// Returns the present version.
    pub fn changes(&self, seen: u64, timeout: Duration) -> u64 {
        self.wait(timeout, |state| state.version != seen);
        lock(&self.shared.state).version
    }

    /// Why the cameras are unknown or out of date; `None` when all is well.
    pub fn fault(&self) -> Option<String> {
        let unread = || (!lock(&self.shared.state).loaded).then(|| "the cameras are not read yet".to_owned());
        self.reader.fault().or_else(unread)
    }

    fn wait(&self, timeout: Duration, until: impl Fn(&State) -> bool) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = lock(&self.shared.state);
        while !until(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        change(&mut state);
        state.version += 1;
        state.loaded = true;
        self.changed.notify_all();
    }
}

impl Follower for Shared {
    fn restarted(&self) {
        lock(&self.state).reading = Some(BTreeMap::new());
    }

    fn record(&self, message: &BorrowedMessage<'_>) {
        let Some((id, value)) = super::read(message) else { return };
        if let Some(reading) = &mut lock(&self.state).reading {
            put(reading, id, value);
            return;
        }
        self.change(|state| put(&mut state.cameras, id, value));
    }

    fn end_reached(&self) {
        self.change(|state| state.cameras = state.reading.take().unwrap_or_default());
    }
}

fn put(all: &mut BTreeMap<CameraId, CameraConfig>, id: CameraId, value: Option<CameraConfig>) {
    match value {
        Some(config) => all.insert(id, config),
        None => all.remove(&id),
    };
}
