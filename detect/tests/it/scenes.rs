//! Painted scenes: people as textured figures on a plain ground, with the detections of a perfect
//! detector.

use sightline_core::config::{Config, ShotsConfig, TrackConfig};
use sightline_core::{BBox, Frame, RgbImage, Timestamp};
use sightline_detect::Detection;

/// Size of the painted frames.
pub const SIZE: (u32, u32) = (640, 360);

/// An arbitrary moment, in microseconds.
pub const START: i64 = 1_750_000_000_000_000;

/// A person to paint.
#[derive(Clone, Copy)]
pub struct Figure {
    pub bbox: BBox,
    pub score: f32,
    pub top: [u8; 3],
    pub bottom: [u8; 3],
    /// Amplitude of the texture: what makes a picture sharp.
    pub texture: u8,
}

/// A standing person of the usual proportions: left edge, top edge, height.
pub fn person(x: f32, y: f32, h: f32) -> Figure {
    let bbox = BBox { x0: x, y0: y, x1: x + 0.4 * h, y1: y + h };
    Figure { bbox, score: 0.8, top: [170, 40, 40], bottom: [40, 40, 120], texture: 40 }
}

/// `seconds` after [`START`].
pub fn at(seconds: f64) -> Timestamp {
    Timestamp::from_micros(START + (seconds * 1e6).round() as i64)
}

/// Paints the figures, later ones over earlier ones.
pub fn paint(seconds: f64, figures: &[Figure]) -> (Frame, Vec<Detection>) {
    let (w, h) = SIZE;
    let mut data = vec![100u8; (w * h * 3) as usize];
    for f in figures {
        let b = f.bbox.clip(w, h);
        for y in b.y0 as u32..b.y1 as u32 {
            for x in b.x0 as u32..b.x1 as u32 {
                let (dx, dy) = (x as i64 - f.bbox.x0 as i64, y as i64 - f.bbox.y0 as i64);
                let cloth = if (dy as f32) < f.bbox.height() / 2.0 { f.top } else { f.bottom };
                let grain = ((dx / 2 * 7919 + dy / 2 * 104_729) % 17 - 8) * i64::from(f.texture) / 8;
                for (c, v) in cloth.into_iter().enumerate() {
                    data[((y * w + x) * 3) as usize + c] = (i64::from(v) + grain).clamp(0, 255) as u8;
                }
            }
        }
    }
    let frame = Frame {
        camera: "gate".parse().expect("a valid id"),
        captured_at: at(seconds),
        seq: 0,
        image: RgbImage::new(w, h, data).expect("3 bytes a pixel"),
    };
    (frame, figures.iter().map(|f| Detection { bbox: f.bbox.clip(w, h), score: f.score }).collect())
}

/// The sections of the compiled-in configuration.
pub fn config() -> (TrackConfig, ShotsConfig) {
    let c = Config::layered(None, []).expect("the compiled-in default is valid");
    (c.track, c.shots)
}
