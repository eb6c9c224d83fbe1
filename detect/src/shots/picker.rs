//! The slots of one track: which crops are published, which replace or join others, and when.

use std::time::Duration;

use sightline_core::message::CropQuality;
use sightline_core::{BBox, Frame, RgbImage, Timestamp};

use super::appearance::Appearance;
use super::jpeg::widen;
use super::quality::{assess, sharpness};

/// Smallest quality of a published crop: below it are slivers at the edge and people almost
/// covered.
const MIN_QUALITY: f32 = 0.35;
/// A crop replaces another one when its quality is higher by this factor. With qualities between
/// [`MIN_QUALITY`] and 1, a slot changes at most seven times in the life of a track.
const REPLACE_FACTOR: f32 = 1.15;
/// A crop joins the others as another view when its quality is at least this share of the best
/// one's.
const JOIN_FACTOR: f32 = 0.85;
/// Shortest interval between two publications of one track.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);
/// Crops nearer in time than this count as the same view unless their appearances differ strongly.
const NEW_VIEW_SECONDS: f64 = 1.5;
/// Distance of appearances that by itself makes another view, and the smaller one that does so
/// together with [`NEW_VIEW_SECONDS`].
const NEW_VIEW_DISTANCE: f32 = 0.35;
const NEW_VIEW_DISTANCE_LATER: f32 = 0.2;
/// Movement in body heights, and change of scale, that make another view together with
/// [`NEW_VIEW_SECONDS`].
const MOVED: f32 = 0.5;
const SCALED: f32 = 1.25;

/// A crop that may be published.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Capture time.
    pub captured_at: Timestamp,
    /// The person's box in source pixels, without margin, inside the frame.
    pub bbox: BBox,
    /// Width and height of the source frame.
    pub frame_size: (u32, u32),
    /// The pixels, with margin.
    pub image: RgbImage,
    /// Quality: how well they show the person.
    pub quality: CropQuality,
    appearance: Appearance,
}

/// Relation of a published crop to the others of its track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The first one.
    First,
    /// One more view.
    Joined(u8),
    /// Better than the crop that the slot held.
    Replaced(u8),
}

impl Placement {
    /// The slot, which is the crop number.
    pub fn crop_no(self) -> u8 {
        match self {
            Self::First => 0,
            Self::Joined(k) | Self::Replaced(k) => k,
        }
    }

    /// Label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Joined(_) => "joined",
            Self::Replaced(_) => "replaced",
        }
    }
}

#[derive(Clone, Debug)]
struct Slot {
    captured_at: Timestamp,
    bbox: BBox,
    score: f32,
    appearance: Appearance,
}

impl Slot {
    /// Whether `c` is another view of the person than this slot.
    fn differs(&self, c: &Candidate) -> bool {
        let appearance = self.appearance.distance(&c.appearance);
        let (a, b) = (self.bbox, c.bbox);
        let (dx, dy) = ((a.x0 + a.x1 - b.x0 - b.x1) / 2.0, (a.y0 + a.y1 - b.y0 - b.y1) / 2.0);
        let height = a.height().max(b.height()).max(1.0);
        let scale = height / a.height().min(b.height()).max(1.0);
        let changed = appearance >= NEW_VIEW_DISTANCE_LATER || dx.hypot(dy) >= MOVED * height || scale >= SCALED;
        let later = c.captured_at.seconds_since(self.captured_at).abs() >= NEW_VIEW_SECONDS;
        appearance >= NEW_VIEW_DISTANCE || (later && changed)
    }
}

/// The best shots of one track so far. Only the best waiting crop keeps its pixels.
#[derive(Clone, Debug)]
pub struct BestShots {
    per_track: usize,
    min_height: f32,
    slots: Vec<Slot>,
    waiting: Option<Candidate>,
    published_at: Option<Timestamp>,
}

impl BestShots {
    /// Starts without shots. Keeps at most `per_track` (clamped to 1..=3) crops of people who are
    /// at least `min_height` source pixels high.
    pub fn new(per_track: u8, min_height: u32) -> Self {
        Self {
            per_track: usize::from(per_track.clamp(1, 3)),
            min_height: min_height as f32,
            slots: Vec::new(),
            waiting: None,
            published_at: None,
        }
    }

    /// Number of crops published, replacements not counted.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Nothing has been published.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Considers the person at `bbox` of `frame`, captured `at`, as a shot; `others` are the other
    /// people in the frame. Pixels are read only when the crop could be of use.
    pub fn offer(&mut self, frame: &Frame, at: Timestamp, bbox: BBox, detector: f32, others: &[BBox]) {
        let size = (frame.image.width(), frame.image.height());
        let bbox = bbox.clip(size.0, size.1);
        if bbox.height() < self.min_height {
            return;
        }
        let bound = assess(bbox, detector, others, size, None).score;
        let weakest = self.slots.iter().map(|s| s.score).fold(f32::INFINITY, f32::min);
        let hopeless = self.slots.len() == self.per_track && bound <= REPLACE_FACTOR * weakest;
        if bound < MIN_QUALITY || hopeless || self.waiting.as_ref().is_some_and(|w| bound <= w.quality.score) {
            return;
        }
        let (Some(inner), Some(image)) = (frame.image.crop(bbox), frame.image.crop(widen(bbox, size))) else { return };
        let quality = assess(bbox, detector, others, size, Some(sharpness(&inner)));
        let candidate =
            Candidate { captured_at: at, bbox, frame_size: size, image, quality, appearance: Appearance::of(&inner) };
        let better = self.waiting.as_ref().is_none_or(|w| quality.score > w.quality.score);
        if better && self.place(&candidate).is_some() {
            self.waiting = Some(candidate);
        }
    }

    /// The crop to publish now, if any: the first at once, later ones after `PUBLISH_INTERVAL`,
    /// and the waiting one when the track is `ending`.
    pub fn publish(&mut self, now: Timestamp, ending: bool) -> Option<(Placement, Candidate)> {
        if !ending && self.published_at.is_some_and(|t| now < t + PUBLISH_INTERVAL) {
            return None;
        }
        let candidate = self.waiting.take()?;
        let placement = self.place(&candidate)?;
        let slot = Slot {
            captured_at: candidate.captured_at,
            bbox: candidate.bbox,
            score: candidate.quality.score,
            appearance: candidate.appearance.clone(),
        };
        match self.slots.get_mut(usize::from(placement.crop_no())) {
            Some(s) => *s = slot,
            None => self.slots.push(slot),
        }
        self.published_at = Some(now);
        Some((placement, candidate))
    }

    /// The slot that a candidate would take, if any.
    fn place(&self, c: &Candidate) -> Option<Placement> {
        let score = c.quality.score;
        if score < MIN_QUALITY {
            return None;
        }
        let by = |f: fn(f32, f32) -> bool, set: &[usize], key: &dyn Fn(&Slot) -> f32| {
            set.iter().copied().reduce(|a, b| if f(key(&self.slots[b]), key(&self.slots[a])) { b } else { a })
        };
        let every: Vec<usize> = (0..self.slots.len()).collect();
        let Some(best) = by(|b, a| b > a, &every, &|s| s.score) else { return Some(Placement::First) };
        let alike: Vec<usize> = every.iter().copied().filter(|&k| !self.slots[k].differs(c)).collect();
        if alike.is_empty() && self.slots.len() < self.per_track {
            let joins = score >= JOIN_FACTOR * self.slots[best].score;
            return joins.then_some(Placement::Joined(self.slots.len() as u8));
        }
        // Another view replaces the weakest crop; a similar one replaces the crop it resembles
        // most.
        let slot = if alike.is_empty() {
            by(|b, a| b < a, &every, &|s| s.score)
        } else {
            by(|b, a| b < a, &alike, &|s| s.appearance.distance(&c.appearance))
        }?;
        (score > REPLACE_FACTOR * self.slots[slot].score).then_some(Placement::Replaced(slot as u8))
    }
}
