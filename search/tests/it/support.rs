//! Sightings, vectors and an encoder that the tests can foresee.

use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sightline_core::ids::sighting_id;
use sightline_core::message::Origin;
use sightline_core::{
    BBox, CameraId, Crop, CropQuality, PatchFeatures, Progress, RgbImage, Sighting, Timestamp, TrackId,
};
use sightline_search::{
    EdgeOptions, EdgeStore, EncodeError, EncodedText, Exhibit, MatchScore, Payload, Point, QueryEncoder,
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

/// The `axis`-th unit vector, turned by `angle` towards the next one.
pub fn turned(axis: usize, angle: f32) -> Vec<f32> {
    let mut v = vec![0.0; WIDTH];
    v[axis % WIDTH] = angle.cos();
    v[(axis + 1) % WIDTH] = angle.sin();
    v
}

/// A random vector of any width with a normal-like distribution.
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
    };
    Point { id: sighting_id(&camera, track, crop_no), vector, payload }
}

/// Patch features whose first value is `match_logit`, for [`Double`].
pub fn patches(match_logit: f32) -> PatchFeatures {
    let mut data = vec![0u8; (ROWS * PATCH_WIDTH * 2) as usize];
    data[..2].copy_from_slice(&half::f16::from_f32(match_logit).to_le_bytes());
    PatchFeatures { rows: ROWS, width: PATCH_WIDTH, data: data.into() }
}

pub fn exhibit(p: &Point, match_logit: f32) -> Exhibit {
    Exhibit { id: p.id, jpeg: Bytes::from(format!("jpeg of {}", p.id)), patches: patches(match_logit) }
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

/// A model one can foresee: the text `axis N` has the N-th unit vector, a picture's feature is the unit vector named by
/// its first byte, and a picture's match logit is the first value of its patch features.
pub struct Double {
    pub model_id: String,
    /// Among how many its probabilities hold.
    pub persons: Option<f32>,
}

impl Double {
    pub fn shared() -> Arc<Self> {
        Arc::new(Self { model_id: MODEL.to_owned(), persons: None })
    }
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

    fn encode_text(&self, text: &str) -> Result<EncodedText, EncodeError> {
        let axis = text.split_whitespace().nth(1).and_then(|n| n.parse().ok()).ok_or(EncodeError::EmptyQuery)?;
        let truncated = text.len() > 100;
        Ok(EncodedText { feature: turned(axis, 0.0), text: text.to_owned(), truncated, inner: Arc::new(axis) })
    }

    fn embed_image(&self, image: &RgbImage) -> Result<Vec<f32>, EncodeError> {
        Ok(turned(usize::from(image.data()[0]), 0.0))
    }

    fn match_scores(
        &self,
        _: &EncodedText,
        pictures: Vec<PatchFeatures>,
    ) -> Result<Vec<Option<MatchScore>>, EncodeError> {
        let score = |p: &PatchFeatures| {
            let logit = half::f16::from_le_bytes([p.data[0], p.data[1]]).to_f32();
            let score = MatchScore { logit, hubness: Some(logit / 8.0), probability: 1.0 / (1.0 + (-logit).exp()) };
            logit.is_finite().then_some(score)
        };
        Ok(pictures.iter().map(score).collect())
    }
}
