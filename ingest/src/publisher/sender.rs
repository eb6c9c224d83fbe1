//! The thread that brings records from the disk to the broker.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use metrics::counter;
use sightline_core::CameraId;
use sightline_core::spool::{Place, SpoolError};
use tracing::{error, warn};

use super::record::unpack;
use super::{Done, Shared, Undelivered, dropped, lock};

/// Read from disk at once, in bytes: little against `bus.in_flight_bytes`, many records for one look at the disk.
const READ: usize = 1 << 20;
/// The same in records.
const READ_RECORDS: usize = 512;
/// Records on their way at most; the bytes are limited by the carrier.
const ON_THE_WAY: usize = 10_000;
/// How long the thread sleeps at most before it looks around.
const BEAT: Duration = Duration::from_millis(100);
/// Pause after a failure of the disk or the carrier.
const PAUSE: Duration = Duration::from_secs(1);

/// A record that was read and not yet given to the carrier.
struct Parcel {
    place: Place,
    camera: CameraId,
    payload: Bytes,
}

/// What the carrier has said since the thread looked last, and what it has not said yet.
#[derive(Default)]
struct Fate {
    on_the_way: usize,
    arrived: Vec<Place>,
    /// A record came back without having been refused for good: what has not arrived is sent again.
    back: bool,
}

/// See the module.
pub(super) struct Sender {
    shared: Arc<Shared>,
    fate: Arc<Mutex<Fate>>,
    read: VecDeque<Parcel>,
}

impl Sender {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, fate: Arc::default(), read: VecDeque::new() }
    }

    /// Until the publisher is closed and everything has arrived, or nobody wants to wait for that any more.
    pub(super) fn run(mut self) {
        self.shared.open.store(true, Ordering::Relaxed);
        loop {
            match self.round() {
                Ok(true) => return,
                Ok(false) => self.shared.bell.wait(BEAT),
                Err(SpoolError::Damaged { path, records }) => {
                    error!(path = %path.display(), records, "records of the spool were changed on disk; they are lost");
                    counter!("sightline_ingest_unreadable_records_total").increment(records);
                }
                Err(why) => {
                    self.shared.note_disk(&mut lock(&self.shared.state), &why);
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

    /// Forgets what has arrived and sends what there is room for; whether all is done.
    fn round(&mut self) -> Result<bool, SpoolError> {
        loop {
            let again = self.settle()?;
            if self.leaving() {
                return Ok(true);
            }
            if again {
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
        let (arrived, back) = {
            let mut fate = lock(&self.fate);
            (std::mem::take(&mut fate.arrived), std::mem::take(&mut fate.back))
        };
        if arrived.is_empty() && !back {
            return Ok(false);
        }
        let mut state = lock(&self.shared.state);
        let done = arrived.into_iter().try_for_each(|place| state.spool.arrived(place));
        // The next picture shows whether there is room for it.
        state.full = false;
        self.shared.note_bytes(&state);
        self.shared.room.notify_all();
        if back {
            // What is still on its way may arrive twice then; ids make that an overwrite.
            self.read.clear();
            state.spool.rewind();
        }
        done.map(|()| back)
    }

    /// Reads more from disk; whether there was anything.
    fn read_on(&mut self) -> Result<bool, SpoolError> {
        if lock(&self.fate).on_the_way >= ON_THE_WAY {
            return Ok(false);
        }
        let mut state = lock(&self.shared.state);
        let taken = state.spool.take(READ_RECORDS, READ)?;
        let any = !taken.is_empty();
        for (place, record) in taken {
            match unpack(record) {
                Some((camera, payload)) => self.read.push_back(Parcel { place, camera, payload }),
                None => {
                    error!("a record of the spool is none of ours; it is left out");
                    counter!("sightline_ingest_foreign_records_total").increment(1);
                    state.spool.arrived(place)?;
                }
            }
        }
        Ok(any)
    }

    /// Gives a record to the carrier; it comes back when there is no room.
    fn send(&self, parcel: Parcel) -> Option<Parcel> {
        lock(&self.fate).on_the_way += 1;
        let done = self.done(parcel.place, parcel.camera.clone());
        if self.shared.carrier.try_send(parcel.camera.as_str(), parcel.payload.clone(), done) {
            return None;
        }
        lock(&self.fate).on_the_way -= 1;
        Some(parcel)
    }

    fn done(&self, place: Place, camera: CameraId) -> Done {
        let (fate, bell) = (Arc::clone(&self.fate), Arc::clone(&self.shared.bell));
        let lost = Arc::clone(&self.shared.lost);
        Box::new(move |outcome| {
            let mut fate = lock(&fate);
            fate.on_the_way = fate.on_the_way.saturating_sub(1);
            match outcome {
                Ok(()) => {
                    counter!("sightline_ingest_published_records_total", "camera" => camera.to_string()).increment(1);
                    fate.arrived.push(place);
                }
                Err(Undelivered::Never(why)) => {
                    error!(%camera, why, "the broker refuses a record for good; it is lost");
                    dropped(&camera, "record", "refused");
                    *lock(&lost).entry(camera).or_default() += 1;
                    fate.arrived.push(place);
                }
                Err(Undelivered::Later(why)) => {
                    warn!(%camera, why, "a record has not arrived; it will be sent again");
                    fate.back = true;
                }
            }
            drop(fate);
            bell.ring();
        })
    }
}
