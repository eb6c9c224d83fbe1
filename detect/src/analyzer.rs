//! The analyzer of one camera: it turns frames and detections into events by tracking people,
//! choosing their best shots and reporting the spans of their tracks.
//!
//! It is deterministic: the same frames and detections give the same events bit for bit, because a
//! replay after a crash must overwrite what is stored, not duplicate it. Nothing here reads a
//! clock; time is the frames' capture time.

use std::collections::BTreeMap;
use std::time::Duration;

use sightline_core::config::{ShotsConfig, TrackConfig};
use sightline_core::ids::sighting_id;
use sightline_core::message::Origin;
use sightline_core::{BBox, CameraEvent, CameraId, Crop, Frame, Timestamp, TrackEnd, TrackId};

use crate::Detection;
use crate::shots::{BestShots, Candidate, Placement, encode};
use crate::track::{ByteTrack, NOMINAL_HZ, Observation, Stage, TrackRules};

/// Interval at which the span of a living track is sent again.
const SPAN_INTERVAL: Duration = Duration::from_secs(10);
/// Capture times that go back by more than this come from another clock or another connection; by
/// less, they are jitter.
const MAX_JITTER: Duration = Duration::from_secs(1);

/// A person the camera sees now.
#[derive(Clone, Debug, PartialEq)]
pub struct ActiveTrack {
    /// The track.
    pub track: TrackId,
    /// Box of the last detection, in source pixels.
    pub bbox: BBox,
    /// Its detector score.
    pub score: f32,
    /// Capture time of the first frame of the track.
    pub first_seen: Timestamp,
    /// Capture time of the last frame in which the track was seen.
    pub last_seen: Timestamp,
    /// Crops published so far, at most three.
    pub crops: usize,
}

/// One tracked person: what is known beyond the tracker's state.
struct Person {
    id: TrackId,
    last_seen: Timestamp,
    bbox: BBox,
    score: f32,
    confirmed: bool,
    shots: BestShots,
    span_sent_at: Timestamp,
}

/// Tracker and best-shot selection of one camera.
pub struct CameraAnalyzer {
    camera: CameraId,
    producer: String,
    rules: TrackRules,
    shots: ShotsConfig,
    tracker: ByteTrack,
    people: BTreeMap<u64, Person>,
    clock: Option<Timestamp>,
    births: Option<(Timestamp, u16)>,
    seq: u64,
}

impl CameraAnalyzer {
    /// An analyzer without tracks. `producer` names the process in every event's origin.
    pub fn new(camera: CameraId, producer: &str, track: &TrackConfig, shots: &ShotsConfig) -> Self {
        let rules = TrackRules::service(track);
        Self {
            camera,
            producer: producer.to_owned(),
            tracker: ByteTrack::new(rules.clone()),
            rules,
            shots: shots.clone(),
            people: BTreeMap::new(),
            clock: None,
            births: None,
            seq: 0,
        }
    }

    /// Processes one frame and the persons detected in it. Frames without detections must be given
    /// too, because tracks age by them.
    ///
    /// Returns crops as soon as they are good enough, spans of tracks with crops about every ten
    /// seconds, and the final span of tracks that ended. Frames must come in capture order; a time
    /// that jumps back by over a second ends all tracks first.
    pub fn process(&mut self, frame: &Frame, detections: &[Detection]) -> Vec<CameraEvent> {
        let mut events = Vec::new();
        let (now, dt) = match self.clock {
            Some(before) if frame.captured_at + MAX_JITTER < before => {
                tracing::warn!(camera = %self.camera, from = %before, to = %frame.captured_at, "capture time went back");
                events = self.finish();
                (frame.captured_at, 0.0)
            }
            Some(before) => {
                let now = frame.captured_at.max(before);
                (now, now.seconds_since(before) * NOMINAL_HZ)
            }
            None => (frame.captured_at, 0.0),
        };
        self.clock = Some(now);

        let seen: Vec<Observation> = detections.iter().map(observation).collect();
        let update = self.tracker.update(dt, &seen);
        let ids: Vec<(u64, usize)> =
            update.born.iter().copied().chain(update.matches.iter().map(|m| (m.track, m.observation))).collect();
        for &(id, _) in &update.born {
            let person = self.new_person(now);
            self.people.insert(id, person);
        }
        for &(id, i) in &ids {
            let Some(person) = self.people.get_mut(&id) else { continue };
            person.last_seen = now;
            person.bbox = detections[i].bbox;
            person.score = detections[i].score;
        }
        for track in self.tracker.tracked().iter().filter(|t| t.confirmed) {
            if let Some(p) = self.people.get_mut(&track.id).filter(|p| !p.confirmed) {
                p.confirmed = true;
                metrics::counter!("sightline_track_tracks_total", "camera" => self.camera.to_string()).increment(1);
            }
        }
        // A detection with a low score keeps a track alive, but usually shows a person half hidden,
        // so no picture is taken of it.
        for m in update.matches.iter().filter(|m| m.stage != Stage::Low) {
            let others: Vec<BBox> = ids.iter().filter(|o| o.1 != m.observation).map(|o| detections[o.1].bbox).collect();
            if let Some(p) = self.people.get_mut(&m.track).filter(|p| p.confirmed) {
                p.shots.offer(frame, now, p.bbox, p.score, &others);
            }
        }
        self.publish_due(now, &mut events);
        metrics::gauge!("sightline_track_active_tracks", "camera" => self.camera.to_string())
            .set(self.people.values().filter(|p| p.confirmed && p.last_seen == now).count() as f64);
        events
    }

    /// Ends all tracks, because the footage or the connection is over.
    pub fn finish(&mut self) -> Vec<CameraEvent> {
        let mut events = Vec::new();
        let now = self.clock.take().unwrap_or_default();
        for (_, mut person) in std::mem::take(&mut self.people) {
            self.end(&mut person, now, &mut events);
        }
        self.tracker = ByteTrack::new(self.rules.clone());
        metrics::gauge!("sightline_track_active_tracks", "camera" => self.camera.to_string()).set(0.0);
        events
    }

    /// The people in the last frame, oldest first.
    pub fn active_tracks(&self) -> Vec<ActiveTrack> {
        let here = self.people.values().filter(|p| p.confirmed && Some(p.last_seen) == self.clock);
        here.map(|p| ActiveTrack {
            track: p.id,
            bbox: p.bbox,
            score: p.score,
            first_seen: p.id.born,
            last_seen: p.last_seen,
            crops: p.shots.len(),
        })
        .collect()
    }

    fn new_person(&mut self, now: Timestamp) -> Person {
        let ordinal = self.births.filter(|b| b.0 == now).map_or(0, |b| b.1.saturating_add(1));
        self.births = Some((now, ordinal));
        Person {
            id: TrackId { born: now, ordinal },
            last_seen: now,
            bbox: BBox::default(),
            score: 0.0,
            confirmed: false,
            shots: BestShots::new(self.shots.per_track, self.shots.min_height),
            span_sent_at: now,
        }
    }

    /// Publishes the crops and spans that are due, and ends the tracks that the tracker has
    /// dropped.
    fn publish_due(&mut self, now: Timestamp, events: &mut Vec<CameraEvent>) {
        let known: Vec<u64> = self.tracker.tracked().iter().chain(self.tracker.lost()).map(|t| t.id).collect();
        for (id, mut person) in std::mem::take(&mut self.people) {
            if !known.contains(&id) {
                self.end(&mut person, now, events);
                continue;
            }
            if let Some((placement, shot)) = person.shots.publish(now, false) {
                events.extend(self.crop(&person, placement, shot));
            }
            let due = person.last_seen >= person.span_sent_at + SPAN_INTERVAL;
            if due && !person.shots.is_empty() {
                person.span_sent_at = person.last_seen;
                events.push(self.span(&person, false));
            }
            self.people.insert(id, person);
        }
    }

    fn end(&mut self, person: &mut Person, now: Timestamp, events: &mut Vec<CameraEvent>) {
        if let Some((placement, shot)) = person.shots.publish(now, true) {
            events.extend(self.crop(person, placement, shot));
        }
        if !person.shots.is_empty() {
            events.push(self.span(person, true));
        }
    }

    fn crop(&mut self, person: &Person, placement: Placement, shot: Candidate) -> Option<CameraEvent> {
        let jpeg = match encode(&shot.image, self.shots.jpeg_quality) {
            Ok(jpeg) => jpeg.into(),
            Err(error) => {
                tracing::warn!(camera = %self.camera, track = %person.id, %error, "crop not encoded");
                metrics::counter!("sightline_shots_failed_total", "camera" => self.camera.to_string()).increment(1);
                return None;
            }
        };
        let labels = [("camera", self.camera.to_string()), ("kind", placement.name().to_owned())];
        metrics::counter!("sightline_shots_crops_total", &labels).increment(1);
        let crop_no = placement.crop_no();
        Some(CameraEvent::Crop(Crop {
            origin: self.origin(person.id, crop_no),
            camera: self.camera.clone(),
            track: person.id,
            crop_no,
            captured_at: shot.captured_at,
            last_seen: person.last_seen,
            bbox: shot.bbox,
            frame_size: shot.frame_size,
            quality: shot.quality,
            jpeg,
        }))
    }

    fn span(&mut self, person: &Person, ended: bool) -> CameraEvent {
        CameraEvent::TrackEnd(TrackEnd {
            origin: self.origin(person.id, 0),
            camera: self.camera.clone(),
            track: person.id,
            first_seen: person.id.born,
            last_seen: person.last_seen,
            ended,
        })
    }

    /// Origin of a message about the camera as a whole: the next number of its sequence.
    pub fn camera_origin(&mut self) -> Origin {
        let seq = self.next_seq();
        Origin::of_camera(self.producer.as_str(), seq, &self.camera)
    }

    fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq - 1
    }

    fn origin(&mut self, track: TrackId, crop_no: u8) -> Origin {
        let seq = self.next_seq();
        Origin::of_crop(self.producer.as_str(), seq, sighting_id(&self.camera, track, crop_no))
    }
}

fn observation(d: &Detection) -> Observation {
    let [x0, y0, x1, y1] = <[f32; 4]>::from(d.bbox).map(f64::from);
    Observation { tlbr: [x0, y0, x1, y1], score: f64::from(d.score) }
}
