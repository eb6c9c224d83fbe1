//! Generated sightings whose vectors are distributed like those of the shipped model, and the exact
//! answers to queries about them.
//!
//! Measured on the model with 200 drawn persons and with 64 real crops: a text and a picture of its
//! person have a cosine of 0.59 and 0.57 (standard deviation 0.04), a text and a picture of
//! somebody else 0.42 and 0.45 (0.07). So:
//!
//! - a picture is `0.70 m + 0.71 c`, a text `0.63 m' + 0.78 t`, where m and m' are one direction
//!   common to all, c and t lie in 64 directions spread over the whole width: negatives then
//!   average 0.44 with a deviation of 0.07;
//! - c comes of four parts: one of 2,000 looks (0.70; "red jacket, black bag"), the person (0.50),
//!   the track (0.35: light, distance, side) and the picture (0.36). People who share a look
//!   resemble each other, pictures of a track more so;
//! - t has 0.30 of the look and person it asks for, and is otherwise noise: positives average 0.58.
//!
//! Tracks have three pictures, persons five tracks. 100 cameras, 30 days; points are in order of
//! time. Everything is a function of seed and number, so that a stopped run can resume and the
//! truth needs no copy of the data.

use sightline_core::ids::sighting_id;
use sightline_core::{BBox, CameraId, CropQuality, SightingId, Timestamp, TrackId};
use sightline_search::{Filter, Payload, Point};
use uuid::Uuid;

/// Model id of the points.
pub const MODEL: &str = "million";
/// Number of cameras, so that one of them keeps 1 %.
const CAMERAS: u64 = 100;
/// 2026-01-01T00:00:00Z.
const START_US: i64 = 1_767_225_600_000_000;
const SPAN_US: i64 = 30 * 86_400_000_000;
const CROPS: u64 = 3;
const TRACKS_OF_A_PERSON: u64 = 5;
const LOOKS: u64 = 2_000;
/// Directions in which pictures differ.
const LATENT: usize = 64;
/// Weights of the common direction in pictures and texts.
const COMMON: (f32, f32) = (0.70, 0.63);

/// The generated data set.
pub struct People {
    points: u64,
    seed: u64,
    /// `width x (LATENT + 1)`: the latent directions and the common one.
    spread: Vec<f32>,
}

/// A query with its filter.
pub struct Question {
    pub name: &'static str,
    pub filter: Filter,
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Returns a nearly normal direction of unit length: the sums of four uniform numbers.
fn direction(key: u64, n: usize) -> Vec<f32> {
    let one = |i: u64| {
        let bits = mix(key.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        (0..4).map(|k| ((bits >> (16 * k)) & 0xffff) as f32 / 65_536.0 - 0.5).sum::<f32>()
    };
    unit((0..n as u64).map(one).collect())
}

fn unit(v: Vec<f32>) -> Vec<f32> {
    let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
    v.into_iter().map(|x| x / norm).collect()
}

fn weighted(parts: &[(f32, Vec<f32>)]) -> Vec<f32> {
    unit((0..LATENT).map(|i| parts.iter().map(|(w, v)| w * v[i]).sum()).collect())
}

impl People {
    pub fn new(points: u64, width: usize, seed: u64) -> Self {
        // Random directions in a space much wider than their number are nearly orthogonal.
        let columns: Vec<Vec<f32>> =
            (0..=LATENT as u64).map(|c| direction(mix(seed ^ 0x5eed ^ (c << 32)), width)).collect();
        let spread = (0..width).flat_map(|row| columns.iter().map(move |c| c[row])).collect();
        Self { points, seed, spread }
    }

    fn part(&self, kind: u64, number: u64) -> Vec<f32> {
        direction(mix(self.seed.wrapping_add(kind << 56).wrapping_add(number)), LATENT)
    }

    /// Combines `latent` and the common direction with these weights, over the whole width.
    fn vector(&self, latent: &[f32], common: f32) -> Vec<f32> {
        let rest = (1.0 - common * common).sqrt();
        let row = |r: &[f32]| rest * r.iter().zip(latent).map(|(a, b)| a * b).sum::<f32>() + common * r[LATENT];
        unit(self.spread.chunks_exact(LATENT + 1).map(row).collect())
    }

    /// The order of persons is mixed, as in life: a track's person is drawn from all of them.
    fn person_of(&self, track: u64) -> u64 {
        let persons = (self.points / CROPS / TRACKS_OF_A_PERSON).max(1);
        mix(self.seed ^ 0x0123 ^ track) % persons
    }

    fn look_of(&self, person: u64) -> u64 {
        mix(self.seed ^ 0x4567 ^ person) % LOOKS
    }

    fn time_of(&self, point: u64) -> Timestamp {
        Timestamp::from_micros(START_US + (SPAN_US as i128 * i128::from(point) / i128::from(self.points)) as i64)
    }

    pub fn feature(&self, point: u64) -> Vec<f32> {
        let track = point / CROPS;
        let person = self.person_of(track);
        let parts = [
            (0.70, self.part(1, self.look_of(person))),
            (0.50, self.part(2, person)),
            (0.35, self.part(3, track)),
            (0.36, self.part(4, point)),
        ];
        self.vector(&weighted(&parts), COMMON.0)
    }

    /// Returns a text about a person in the data set.
    pub fn text(&self, number: u64) -> Vec<f32> {
        let person = self.person_of(mix(self.seed ^ 0x89ab ^ number) % (self.points / CROPS).max(1));
        let wanted = weighted(&[(0.70, self.part(1, self.look_of(person))), (0.50, self.part(2, person))]);
        let parts = [(0.30, wanted), (0.954, self.part(5, number))];
        self.vector(&weighted(&parts), COMMON.1)
    }

    /// Returns camera, track and slot of a point.
    fn place(&self, point: u64) -> (CameraId, TrackId, u8) {
        let number = point / CROPS;
        let track = TrackId { born: self.time_of(number * CROPS), ordinal: 0 };
        (camera(mix(self.seed ^ 0xcdef ^ number) % CAMERAS), track, (point % CROPS) as u8)
    }

    pub fn id(&self, point: u64) -> SightingId {
        let (camera, track, crop_no) = self.place(point);
        sighting_id(&camera, track, crop_no)
    }

    pub fn payload(&self, point: u64) -> Payload {
        let (camera, track, crop_no) = self.place(point);
        let bits = mix(self.seed ^ 0x00fe ^ point);
        let share = |k: u64| ((bits >> (8 * k)) & 0xff) as f32 / 255.0;
        let (x0, y0, height) = (share(0) * 1700.0, share(1) * 700.0, 60.0 + share(2) * 300.0);
        Payload {
            camera,
            track,
            crop_no,
            captured_at: self.time_of(point),
            first_seen: track.born,
            last_seen: self.time_of(point / CROPS * CROPS + CROPS - 1),
            ended: true,
            bbox: BBox { x0, y0, x1: x0 + height * 0.4, y1: y0 + height },
            frame_size: (1920, 1080),
            quality: CropQuality {
                score: share(3),
                detector: 0.6 + 0.4 * share(4),
                size: share(5),
                sharpness: share(6),
                completeness: share(7),
            },
            model_id: MODEL.to_owned(),
            trace: Uuid::from_u64_pair(mix(bits), mix(bits ^ 1)),
            crop: None,
        }
    }

    pub fn point(&self, point: u64) -> Point {
        Point { id: self.id(point), vector: self.feature(point), payload: self.payload(point) }
    }

    /// Returns the filters, from none to one that keeps 0.01 %.
    pub fn questions(&self) -> Vec<Question> {
        let cameras = |n: u64| Some((0..n).map(camera).collect::<Vec<_>>());
        let part = |from: f64, share: f64| {
            let at = |f: f64| Some(Timestamp::from_micros(START_US + (SPAN_US as f64 * f) as i64));
            (at(from), at(from + share))
        };
        let window = |from: f64, share: f64, cameras: Option<Vec<CameraId>>| {
            let (from, to) = part(from, share);
            Filter { cameras, from, to, ..Filter::default() }
        };
        let only = |cameras: Option<Vec<CameraId>>| Filter { cameras, ..Filter::default() };
        [
            ("none", Filter::default()),
            ("50 %: fifty cameras", only(cameras(50))),
            ("30 %: thirty cameras", only(cameras(30))),
            ("10 %: ten cameras", only(cameras(10))),
            ("10 %: three days", window(0.45, 0.1, None)),
            ("1 %: one camera", only(cameras(1))),
            ("1 %: seven hours", window(0.62, 0.01, None)),
            ("0.1 %: one camera, three days", window(0.45, 0.1, cameras(1))),
            ("0.01 %: one camera, seven hours", window(0.62, 0.01, cameras(1))),
        ]
        .map(|(name, filter)| Question { name, filter })
        .into()
    }

    /// Returns the ids of the `nearest` points for every query and text, by comparing all points.
    pub fn truth(&self, texts: &[Vec<f32>], questions: &[Question], nearest: usize) -> Vec<Vec<Vec<SightingId>>> {
        let mut best: Vec<Vec<Vec<(f32, u64)>>> = vec![vec![Vec::new(); texts.len()]; questions.len()];
        for point in 0..self.points {
            let (id, payload, feature) = (Uuid::nil(), self.payload(point), self.feature(point));
            let under: Vec<usize> =
                (0..questions.len()).filter(|q| questions[*q].filter.matches(id, &payload)).collect();
            for (t, text) in texts.iter().enumerate() {
                let cosine = dot(text, &feature);
                for q in &under {
                    let list = &mut best[*q][t];
                    if list.len() < nearest || list.last().is_some_and(|l| l.0 < cosine) {
                        let at = list.partition_point(|l| l.0 >= cosine);
                        list.insert(at, (cosine, point));
                        list.truncate(nearest);
                    }
                }
            }
        }
        let ids = |list: Vec<(f32, u64)>| list.into_iter().map(|(_, point)| self.id(point)).collect();
        best.into_iter().map(|of_question| of_question.into_iter().map(ids).collect()).collect()
    }
}

fn camera(number: u64) -> CameraId {
    match format!("camera-{number:03}").parse() {
        Ok(id) => id,
        Err(e) => unreachable!("{e}"),
    }
}

/// Sixteen sums side by side, so that the compiler uses wide registers.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a16, ar), (b16, br)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut sums = [0f32; 16];
    for (a, b) in a16.iter().zip(b16) {
        (0..16).for_each(|i| sums[i] += a[i] * b[i]);
    }
    sums.iter().sum::<f32>() + ar.iter().zip(br).map(|(a, b)| a * b).sum::<f32>()
}
