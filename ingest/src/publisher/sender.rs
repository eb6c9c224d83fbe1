//! The thread that brings records from the disk to the broker.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use metrics::counter;
use sightline_core::CameraId;
use sightline_core::spool::{Place, Spool, SpoolError};
use tracing::{error, warn};

use super::record::unpack;
use super::{Done, Shared, State, Undelivered, Window, dropped, lock};

/// Read from disk at once, in bytes: little against `bus.in_flight_bytes`, many records for one look at the disk.
const READ: usize = 1 << 20;
/// The same in records.
const READ_RECORDS: usize = 512;
/// Records on their way at most; the bytes are limited by the carrier.
const ON_THE_WAY: usize = 10_000;
/// How long the thread sleeps at most before it looks around.
const BEAT: Duration = Duration::from_millis(100);
/// Pause after a failure of the disk.
const PAUSE: Duration = Duration::from_secs(1);

/// A record that was read and not yet given to the carrier.
struct Parcel {
    place: Place,
    camera: CameraId,
    payload: Bytes,
}

/// See the module.
pub(super) struct Sender {
    shared: Arc<Shared>,
    window: Arc<Mutex<Window>>,
    read: VecDeque<Parcel>,
}

impl Sender {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, window: Arc::default(), read: VecDeque::new() }
    }

    /// Until the publisher is closed and everything has arrived, or nobody wants to wait for that any more.
    pub(super) fn run(mut self) {
        self.shared.open.store(true, Ordering::Relaxed);
        loop {
            match self.round() {
                Ok(true) => return,
                Ok(false) => self.shared.bell.wait(BEAT),
                Err(why) => {
                    self.trouble(&why);
                    if self.leaving() {
                        return;
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    fn leaving(&self) -> bool {
        self.shared.leave.load(Ordering::Relaxed)
    }

    /// Acknowledges what has arrived and sends what there is room for; whether all is done.
    fn round(&mut self) -> Result<bool, SpoolError> {
        loop {
            let broken = self.settle()?;
            if self.leaving() {
                return Ok(true);
            }
            if broken {
                std::thread::sleep(PAUSE);
            }
            if self.read.is_empty() && !self.read_on()? {
                let state = lock(&self.shared.state);
                return Ok(state.closed && state.spool.is_empty());
            }
            while let Some(parcel) = self.read.pop_front() {
                if let Some(parcel) = self.send(parcel) {
                    self.read.push_front(parcel);
                    return Ok(false);
                }
            }
        }
    }

    /// Forgets what has arrived; whether something has to be sent again.
    fn settle(&mut self) -> Result<bool, SpoolError> {
        let (place, broken) = {
            let mut window = lock(&self.window);
            (window.settle(), window.broken)
        };
        if place.is_none() && !broken {
            return Ok(false);
        }
        let mut state = lock(&self.shared.state);
        if let Some(place) = place {
            let done = state.spool.acknowledge(place);
            // The next picture shows whether there is room for it.
            state.full = false;
            self.shared.note_bytes(&state);
            self.shared.room.notify_all();
            done?;
        }
        if broken {
            // What is still on its way may arrive twice then; ids make that an overwrite.
            self.window = Arc::default();
            self.read.clear();
            state.spool.rewind();
        }
        Ok(broken)
    }

    /// Reads more from disk; whether there was anything.
    fn read_on(&mut self) -> Result<bool, SpoolError> {
        if lock(&self.window).len() >= ON_THE_WAY {
            return Ok(false);
        }
        let taken = lock(&self.shared.state).spool.take(READ_RECORDS, READ)?;
        let any = !taken.is_empty();
        for (place, record) in taken {
            match unpack(record) {
                Some((camera, payload)) => self.read.push_back(Parcel { place, camera, payload }),
                None => {
                    error!("a record of the spool is none of ours; it is left out");
                    counter!("sightline_ingest_foreign_records_total").increment(1);
                    let mut window = lock(&self.window);
                    let number = window.push(place);
                    window.done(number);
                }
            }
        }
        Ok(any)
    }

    /// Gives a record to the carrier; it comes back when there is no room.
    fn send(&self, parcel: Parcel) -> Option<Parcel> {
        let number = lock(&self.window).push(parcel.place);
        let done = self.done(number, parcel.camera.clone());
        if self.shared.carrier.try_send(parcel.camera.as_str(), parcel.payload.clone(), done) {
            return None;
        }
        lock(&self.window).take_back();
        Some(parcel)
    }

    fn done(&self, number: u64, camera: CameraId) -> Done {
        let (window, bell) = (Arc::clone(&self.window), Arc::clone(&self.shared.bell));
        let lost = Arc::clone(&self.shared.lost);
        Box::new(move |outcome| {
            match outcome {
                Ok(()) => {
                    counter!("sightline_ingest_published_records_total", "camera" => camera.to_string()).increment(1);
                    lock(&window).done(number);
                }
                Err(Undelivered::Never(why)) => {
                    error!(%camera, why, "the broker refuses a record for good; it is lost");
                    dropped(&camera, "record", "refused");
                    *lock(&lost).entry(camera).or_default() += 1;
                    lock(&window).done(number);
                }
                Err(Undelivered::Later(why)) => {
                    warn!(%camera, why, "a record has not arrived; it will be sent again");
                    lock(&window).broken = true;
                }
            }
            bell.ring();
        })
    }

    /// The disk does not do what it should. A record that was changed on disk hides those behind it in its file: opening
    /// the spool anew cuts them off, and the rest can go on.
    fn trouble(&mut self, why: &SpoolError) {
        let mut state = lock(&self.shared.state);
        self.shared.note_disk(&mut state, why);
        let changed = matches!(why, SpoolError::Io { source, .. } if source.kind() == std::io::ErrorKind::InvalidData);
        if !changed {
            return;
        }
        match Spool::open(&self.shared.folder, self.shared.limit) {
            Ok(spool) => {
                self.window = Arc::default();
                self.read.clear();
                lose(&mut state, spool);
                self.shared.note_bytes(&state);
            }
            Err(why) => self.shared.note_disk(&mut state, &why),
        }
    }
}

fn lose(state: &mut State, spool: Spool) {
    let lost = state.spool.len().saturating_sub(spool.len());
    error!(records = lost, "records of the spool cannot be read any more; they are lost");
    counter!("sightline_ingest_unreadable_records_total").increment(lost);
    state.spool = spool;
    state.disk = None;
}
