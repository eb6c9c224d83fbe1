//! One track of the tracker, and the observations it is updated with.

use super::kalman::Kalman;

/// One detection, as the tracker takes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    /// Box `[x0, y0, x1, y1]` in pixels.
    pub tlbr: [f64; 4],
    /// Detector score in 0..=1.
    pub score: f64,
}

impl Observation {
    /// Whether the filter can use it: the box is finite with a width and a height, and the score is
    /// a number.
    pub fn is_usable(&self) -> bool {
        let [x0, y0, x1, y1] = self.tlbr;
        self.tlbr.iter().all(|v| v.is_finite()) && x1 > x0 && y1 > y0 && self.score.is_finite()
    }

    /// Centre x, centre y, width / height, height.
    pub fn xyah(&self) -> [f64; 4] {
        let [x0, y0, x1, y1] = self.tlbr;
        let (w, h) = (x1 - x0, y1 - y0);
        [x0 + w / 2.0, y0 + h / 2.0, w / h, h]
    }
}

/// State of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackState {
    /// Seen in the last update.
    Tracked,
    /// Not seen, kept for a while.
    Lost,
    /// Not seen for too long. Only the published rules keep a track in this state, for one update.
    Removed,
}

/// One tracked person. Times are in frames of the nominal rate.
#[derive(Clone, Debug)]
pub struct Track {
    /// Number of the track in its tracker, from 1; never reused.
    pub id: u64,
    /// Its state.
    pub state: TrackState,
    /// Whether it was seen at least twice in a row (or in the very first update, where the rules
    /// trust that).
    pub confirmed: bool,
    /// Score of the last matched detection.
    pub score: f64,
    /// Time of the first sighting.
    pub start: f64,
    /// Time of the last sighting.
    pub last: f64,
    /// Sightings after the first one since the track was born or found again.
    pub streak: u32,
    /// The last matched detection's own box.
    pub last_box: [f64; 4],
    /// The filter.
    pub kalman: Kalman,
    /// Its lifetime has expired once: the next miss removes it.
    pub(super) expired: bool,
}

impl Track {
    pub(super) fn new(id: u64, now: f64, seen: &Observation, confirmed: bool) -> Self {
        Self {
            id,
            state: TrackState::Tracked,
            confirmed,
            score: seen.score,
            start: now,
            last: now,
            streak: 0,
            last_box: seen.tlbr,
            kalman: Kalman::initiate(seen.xyah()),
            expired: false,
        }
    }

    pub(super) fn predict(&mut self, dt: f64) {
        if self.state != TrackState::Tracked {
            self.kalman.hold_height();
        }
        self.kalman.predict(dt);
    }

    pub(super) fn observe(&mut self, now: f64, seen: &Observation) {
        self.kalman.update(seen.xyah());
        self.streak = if self.state == TrackState::Tracked { self.streak + 1 } else { 0 };
        self.state = TrackState::Tracked;
        self.confirmed = true;
        self.score = seen.score;
        self.last = now;
        self.last_box = seen.tlbr;
    }

    /// Box of the filter's mean, `[x0, y0, x1, y1]`.
    pub fn tlbr(&self) -> [f64; 4] {
        self.kalman.tlbr()
    }
}
