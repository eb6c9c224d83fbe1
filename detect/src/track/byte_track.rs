//! The tracker decides which detections continue which tracks, which start new ones, and which
//! tracks end.

use super::assign::assign;
use super::iou::{Aged, duplicates, fuse, iou, iou_buffered};
use super::rules::TrackRules;
use super::tracklet::{Observation, Track, TrackState};

/// The stage in which a detection was matched to its track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// High score, with tracked and lost tracks.
    High = 1,
    /// Low score, with tracks seen until just now.
    Low = 2,
    /// High score, with tracks seen only once so far.
    Unconfirmed = 3,
    /// High score, with the last observed box of a track.
    LastObservation = 4,
}

/// A detection that continues a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Association {
    /// The stage of the match.
    pub stage: Stage,
    /// Id of the track.
    pub track: u64,
    /// Index of the detection among those given to the update.
    pub observation: usize,
}

/// Result of one update.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// Continued tracks, by stage.
    pub matches: Vec<Association>,
    /// New tracks: id and index of the detection.
    pub born: Vec<(u64, usize)>,
    /// Tracks that ended: unconfirmed ones not seen again, lost ones not found in time.
    pub removed: Vec<u64>,
    /// Tracked tracks that were duplicates of others.
    pub duplicate_tracked: Vec<u64>,
    /// Lost tracks that were duplicates of others.
    pub duplicate_lost: Vec<u64>,
}

/// ByteTrack for one camera. Memory is bounded by the tracks of the last `max_lost` frames.
#[derive(Clone, Debug)]
pub struct ByteTrack {
    rules: TrackRules,
    tracked: Vec<Track>,
    lost: Vec<Track>,
    updates: u64,
    now: f64,
    last_id: u64,
}

impl ByteTrack {
    /// A tracker without tracks.
    pub fn new(rules: TrackRules) -> Self {
        Self { rules, tracked: Vec::new(), lost: Vec::new(), updates: 0, now: 0.0, last_id: 0 }
    }

    /// Tracks seen in the last update, in the order of the reference implementation, unconfirmed
    /// ones included.
    pub fn tracked(&self) -> &[Track] {
        &self.tracked
    }

    /// Tracks that are kept although the last update did not see them.
    pub fn lost(&self) -> &[Track] {
        &self.lost
    }

    /// Time since the start, in nominal frames.
    pub fn now(&self) -> f64 {
        self.now
    }

    /// Processes the detections of one picture, `dt` nominal frames after the previous one.
    /// Pictures without detections must be given too, because tracks age by them. Unusable
    /// observations (see [`Observation::is_usable`]) are ignored.
    pub fn update(&mut self, dt: f64, seen: &[Observation]) -> Update {
        let dt = if dt.is_finite() { dt.max(0.0) } else { 0.0 };
        self.updates += 1;
        self.now += dt;
        let now = self.now;
        let mut out = Update::default();
        if !self.rules.revive_expired {
            self.expire(&mut out);
        }
        let usable = |i: &usize| seen[*i].is_usable();
        let mut high: Vec<usize> = (0..seen.len()).filter(usable).collect();
        let low = high.iter().copied().filter(|&i| seen[i].score > self.rules.low && seen[i].score < self.rules.high);
        let low: Vec<usize> = low.collect();
        high.retain(|&i| seen[i].score > self.rules.high);

        // Tracked tracks come first, then lost ones: indices into `all` keep the reference's order
        // throughout.
        let mut all = std::mem::take(&mut self.tracked);
        let first_lost = all.len();
        all.append(&mut self.lost);
        let (mut pool, mut unconfirmed): (Vec<usize>, Vec<usize>) = (0..all.len()).partition(|&i| all[i].confirmed);
        pool.iter().for_each(|&i| all[i].predict(dt));
        if self.rules.predict_unconfirmed {
            unconfirmed.iter().for_each(|&i| all[i].predict(dt));
        }

        let mut matching = |stage, all: &mut Vec<Track>, rows: &mut Vec<usize>, cols: &mut Vec<usize>, limit| {
            let pairs = self.associate(stage, all, rows, cols, seen, limit);
            for &(r, c) in &pairs {
                all[r].observe(now, &seen[c]);
                out.matches.push(Association { stage, track: all[r].id, observation: c });
            }
            rows.retain(|i| pairs.iter().all(|p| p.0 != *i));
            cols.retain(|i| pairs.iter().all(|p| p.1 != *i));
        };
        matching(Stage::High, &mut all, &mut pool, &mut high, self.rules.match_cost);
        let mut recent: Vec<usize> = pool.iter().copied().filter(|&i| all[i].state == TrackState::Tracked).collect();
        matching(Stage::Low, &mut all, &mut recent, &mut low.clone(), self.rules.low_cost);
        recent.iter().for_each(|&i| all[i].state = TrackState::Lost);
        matching(Stage::Unconfirmed, &mut all, &mut unconfirmed, &mut high, self.rules.unconfirmed_cost);
        if let Some(pass) = self.rules.last_observation {
            let mut rows: Vec<usize> = (0..all.len())
                .filter(|&i| all[i].state != TrackState::Tracked || unconfirmed.contains(&i))
                .filter(|&i| now - all[i].last <= pass.max_gap)
                .collect();
            matching(Stage::LastObservation, &mut all, &mut rows, &mut high, 1.0 - pass.min_iou);
            unconfirmed.retain(|i| rows.contains(i));
        }

        for &i in &unconfirmed {
            all[i].state = TrackState::Removed;
            out.removed.push(all[i].id);
        }
        for i in high {
            if seen[i].score >= self.rules.new_track {
                self.last_id += 1;
                out.born.push((self.last_id, i));
            }
        }
        let trusted = self.rules.trust_first && self.updates == 1;
        let born: Vec<Track> = out.born.iter().map(|&(id, i)| Track::new(id, self.now, &seen[i], trusted)).collect();
        self.sort_into_lists(all, first_lost, born, &mut out);
        out
    }

    /// Pairs (index into `all`, index into `seen`), ordered by the position in `rows`.
    fn associate(
        &self,
        stage: Stage,
        all: &[Track],
        rows: &[usize],
        cols: &[usize],
        seen: &[Observation],
        limit: f64,
    ) -> Vec<(usize, usize)> {
        let mut cost = Vec::with_capacity(rows.len() * cols.len());
        for &r in rows {
            let (track, predicted) = (&all[r], all[r].tlbr());
            cost.extend(cols.iter().map(|&c| match (stage, &self.rules.last_observation) {
                (Stage::Low, _) => 1.0 - iou(predicted, seen[c].tlbr),
                (Stage::LastObservation, Some(p)) => 1.0 - iou_buffered(track.last_box, seen[c].tlbr, p.buffer),
                _ if self.rules.fuse_score => fuse(iou(predicted, seen[c].tlbr), seen[c].score),
                _ => 1.0 - iou(predicted, seen[c].tlbr),
            }));
        }
        assign(&cost, rows.len(), cols.len(), limit).into_iter().map(|(r, c)| (rows[r], cols[c])).collect()
    }

    /// Service rules: removes tracks that were not seen for too long, before anything is matched.
    fn expire(&mut self, out: &mut Update) {
        let oldest = self.now - self.rules.max_lost;
        for list in [&mut self.tracked, &mut self.lost] {
            list.retain(|t| {
                let keep = t.last >= oldest;
                if !keep {
                    out.removed.push(t.id);
                }
                keep
            });
        }
    }

    /// Builds the lists for the next update: ends expired tracks, moves lost and found tracks,
    /// removes duplicates.
    fn sort_into_lists(&mut self, mut all: Vec<Track>, first_lost: usize, born: Vec<Track>, out: &mut Update) {
        let mut ended = Vec::new();
        for t in all[first_lost..].iter_mut().filter(|t| self.now - t.last > self.rules.max_lost) {
            t.state = TrackState::Removed;
            ended.push(t.id);
        }
        let (mut found, mut newly_lost) = (Vec::new(), Vec::new());
        for (i, t) in all.into_iter().enumerate() {
            match (t.state, i < first_lost) {
                (TrackState::Tracked, true) => self.tracked.push(t),
                (TrackState::Tracked, false) => found.push(t),
                (TrackState::Lost, true) => newly_lost.push(t),
                (TrackState::Removed, true) => {}
                (_, false) => self.lost.push(t),
            }
        }
        self.tracked.extend(born);
        self.tracked.append(&mut found);
        self.lost.append(&mut newly_lost);
        // In the published order of steps, a track that expired earlier goes now, and one that
        // expires now goes at its next miss.
        self.lost.retain(|t| !t.expired);
        for t in self.lost.iter_mut().filter(|t| ended.contains(&t.id)) {
            t.expired = true;
        }
        out.removed.append(&mut ended);

        let aged = |list: &[Track]| -> Vec<Aged> {
            list.iter().map(|t| Aged { tlbr: t.tlbr(), age: t.last - t.start }).collect()
        };
        let (drop_tracked, drop_lost) = duplicates(&aged(&self.tracked), &aged(&self.lost));
        take_out(&mut self.tracked, &drop_tracked, &mut out.duplicate_tracked);
        take_out(&mut self.lost, &drop_lost, &mut out.duplicate_lost);
    }
}

fn take_out(list: &mut Vec<Track>, drop: &[bool], ids: &mut Vec<u64>) {
    let mut flags = drop.iter();
    list.retain(|t| {
        let gone = flags.next().copied().unwrap_or(false);
        if gone {
            ids.push(t.id);
        }
        !gone
    });
}
