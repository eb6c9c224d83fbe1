//! Sightings, vectors and an encoder with predictable values, for all tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sightline_core::ids::sighting_id;
use sightline_core::message::Origin;
use sightline_core::{
    BBox, CameraId, Crop, CropQuality, PatchFeatures, Progress, RgbImage, Sighting, Timestamp, TrackId,
};
use sightline_embed::text::{NotUnderstood, Reason};
use sightline_search::{
    EdgeOptions, EdgeStore, EncodeError, EncodedText, GalleryEntry, MatchScore, Payload, PhraseAsked, Point,
    QueryEncoder,
};
use uuid::Uuid;

pub const MODEL: &str = "test-model";
pub const WIDTH: usize = 8;
pub const ROWS: u32 = 3;
pub const PATCH_WIDTH: u32 = 4;

pub fn camera(name: &str) -> CameraId {
    name.parse().unwrap()
}

pub fn at(us: i64) -> Timestamp {
    Timestamp::from_micros(us)
}

pub fn track(born: i64) -> TrackId {
    TrackId { born: at(born), ordinal: 0 }
}

/// Returns the `axis`-th unit vector, turned by `angle` towards the next one.
pub fn turned(axis: usize, angle: f32) -> Vec<f32> {
    let mut v = vec![0.0; WIDTH];
    v[axis % WIDTH] = angle.cos();
    v[(axis + 1) % WIDTH] = angle.sin();
    v
}

/// Returns a random vector of any width with a normal-like distribution.
pub fn random(rng: &mut StdRng, width: usize) -> Vec<f32> {
    (0..width).map(|_| (0..4).map(|_| rng.random_range(-1.0f32..1.0)).sum()).collect()
}

pub fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

pub fn point(camera_name: &str, born: i64, crop_no: u8, captured: i64, vector: Vec<f32>) -> Point {
    let (camera, track) = (camera(camera_name), track(born));
    let payload = Payload {
        camera: camera.clone(),
        track,
        crop_no,
        captured_at: at(captured),
        first_seen: at(born.min(captured)),
        last_seen: at(captured),
        ended: false,
        bbox: BBox { x0: 1.25, y0: 2.0, x1: 30.1, y1: 80.7 },
        frame_size: (640, 480),
        quality: CropQuality { score: 0.7, detector: 0.9, size: 0.1, sharpness: 0.3, completeness: 1.0 },
        model_id: MODEL.to_owned(),
        trace: Uuid::from_u128(7),
        crop: None,
    };
    Point { id: sighting_id(&camera, track, crop_no), vector, payload }
}

/// Returns patch features whose first value is `match_logit`, for [`Double`].
pub fn patches(match_logit: f32) -> PatchFeatures {
    judged_patches(&[match_logit])
}

/// Returns patch features of the match logit and the log-odds of each phrase, for [`Double`].
pub fn judged_patches(values: &[f32]) -> PatchFeatures {
    let mut data = vec![0u8; (ROWS * PATCH_WIDTH * 2) as usize];
    for (bytes, value) in data.chunks_exact_mut(2).zip(values) {
        bytes.copy_from_slice(&half::f16::from_f32(*value).to_le_bytes());
    }
    PatchFeatures { rows: ROWS, width: PATCH_WIDTH, data: data.into() }
}

pub fn gallery_entry(p: &Point, match_logit: f32) -> GalleryEntry {
    judged_gallery_entry(p, &[match_logit])
}

pub fn judged_gallery_entry(p: &Point, values: &[f32]) -> GalleryEntry {
    GalleryEntry { key: p.key(), jpeg: Bytes::from(format!("jpeg of {}", p.id)), patches: judged_patches(values) }
}

pub fn sighting(camera_name: &str, born: i64, crop_no: u8, captured: i64, feature: Vec<f32>) -> Sighting {
    let (camera, track) = (camera(camera_name), track(born));
    let id = sighting_id(&camera, track, crop_no);
    let crop = Crop {
        origin: Origin::of_crop("test", captured as u64, id),
        camera,
        track,
        crop_no,
        captured_at: at(captured),
        last_seen: at(captured),
        bbox: BBox::default(),
        frame_size: (640, 480),
        quality: CropQuality::default(),
        jpeg: Bytes::from(format!("jpeg of {id} at {captured}")),
    };
    Sighting { crop, model_id: MODEL.to_owned(), feature, patches: patches(1.0) }
}

pub fn progress(camera_name: &str, connection: u64, through: i64, ended: bool) -> Progress {
    let camera = camera(camera_name);
    let origin = Origin::of_camera("test", through as u64, &camera);
    Progress { origin, camera, connection, analysed_through: at(through), ended }
}

pub fn open(root: &std::path::Path) -> EdgeStore {
    EdgeStore::open(root, MODEL, WIDTH, &EdgeOptions::default()).unwrap()
}

/// A predictable model: the text `axis N` has the N-th unit vector, a picture's feature is the unit
/// vector named by its first byte, and a picture's match logit is the first value of its patch
/// features.
///
/// If it judges phrases, the text continues with them: `axis N, red jacket, no bag, ?young`. A
/// question mark marks a word that it does not understand; the next values of the patch features
/// are the log-odds of the phrases.
pub struct Double {
    pub model_id: String,
    /// Number of persons for which its probabilities are calibrated.
    pub persons: Option<f32>,
    /// Whether it judges phrases.
    pub phrases: bool,
    /// Number of requests to match pictures.
    pub match_questions: Arc<AtomicUsize>,
    /// Time that the encoding of a text takes.
    pub encoding_takes: Duration,
}

impl Double {
    /// Creates a model that judges no phrases.
    pub fn new() -> Self {
        let (match_questions, encoding_takes) = (Arc::default(), Duration::ZERO);
        Self { model_id: MODEL.to_owned(), persons: None, phrases: false, match_questions, encoding_takes }
    }

    pub fn shared() -> Arc<Self> {
        Arc::new(Self::new())
    }
}

/// Returns the phrases behind the axis of a text of [`Double`], and the words that it does not
/// understand.
fn parts(text: &str) -> (Vec<PhraseAsked>, Vec<NotUnderstood>) {
    let (mut phrases, mut lost) = (Vec::new(), Vec::new());
    for part in text.split(',').skip(1).map(str::trim) {
        if let Some(word) = part.strip_prefix('?') {
            lost.push(NotUnderstood { text: word.to_owned(), range: 0..0, why: Reason::Unknown });
        } else {
            let (text, negated) = part.strip_prefix("no ").map_or((part, false), |named| (named, true));
            phrases.push(PhraseAsked { text: text.to_owned(), negated });
        }
    }
    (phrases, lost)
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

impl QueryEncoder for Double {
    fn model_id(&self) -> &str {
        &self.model_id
    }

    fn width(&self) -> usize {
        WIDTH
    }

    fn patch_shape(&self) -> (u32, u32) {
        (ROWS, PATCH_WIDTH)
    }

    fn persons(&self) -> Option<f32> {
        self.persons
    }

    fn judges_phrases(&self) -> bool {
        self.phrases
    }

    fn encode_text(&self, text: &str) -> Result<EncodedText, EncodeError> {
        std::thread::sleep(self.encoding_takes);
        let axis = text.split([' ', ',']).nth(1).and_then(|n| n.parse().ok()).ok_or(EncodeError::EmptyQuery)?;
        let truncated = text.len() > 100;
        let (phrases, not_understood) = if self.phrases { parts(text) } else { Default::default() };
        let (feature, text) = (turned(axis, 0.0), text.to_owned());
        Ok(EncodedText { feature, text, truncated, phrases, not_understood, inner: Arc::new(axis) })
    }

    fn embed_image(&self, image: &RgbImage) -> Result<Vec<f32>, EncodeError> {
        Ok(turned(usize::from(image.data()[0]), 0.0))
    }

    fn match_scores(
        &self,
        text: &EncodedText,
        pictures: Vec<PatchFeatures>,
    ) -> Result<Vec<Option<MatchScore>>, EncodeError> {
        self.match_questions.fetch_add(1, Ordering::Relaxed);
        let score = |p: &PatchFeatures| {
            let value = |i: usize| half::f16::from_le_bytes([p.data[2 * i], p.data[2 * i + 1]]).to_f32();
            let holds = |(i, phrase): (usize, &PhraseAsked)| {
                let odds = value(i + 1);
                sigmoid(if phrase.negated { -odds } else { odds })
            };
            let (logit, phrases) = (value(0), text.phrases.iter().enumerate().map(holds).collect());
            let score = MatchScore { logit, hubness: Some(logit / 8.0), probability: sigmoid(logit), phrases };
            logit.is_finite().then_some(score)
        };
        Ok(pictures.iter().map(score).collect())
    }
}
