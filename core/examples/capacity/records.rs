//! Bytes of the records between processes, by encoding one of each.

use bytes::Bytes;
use sightline_core::ids::sighting_id;
use sightline_core::message::Origin;
use sightline_core::wire::{Coding, encode_camera_event, encode_index_event};
use sightline_core::{
    BBox, CameraEvent, CameraId, Crop, CropQuality, IndexEvent, PatchFeatures, Progress, Sighting, Timestamp, TrackId,
};

use crate::plan::measured;

/// Rows and width of the shipped model's patch features, and width of its vectors.
const MODEL: (u32, u32, usize) = (33, 256, 256);

pub struct Sizes {
    pub crop: f64,
    pub sighting_f16: f64,
    pub sighting_int8: f64,
    pub progress: f64,
}

/// Without keys, headers and the bus's compression, which finds next to nothing in JPEG and features.
pub fn sizes() -> Sizes {
    let camera: CameraId = "north-gate-17".parse().expect("a valid id");
    let at = Timestamp::from_micros(1_767_225_600_000_000);
    let track = TrackId { born: at, ordinal: 0 };
    let id = sighting_id(&camera, track, 0);
    let crop = Crop {
        origin: Origin::of_crop("sightline-ingest@node-17", 123_456, id),
        camera: camera.clone(),
        track,
        crop_no: 0,
        captured_at: at,
        last_seen: at,
        bbox: BBox { x0: 612.5, y0: 204.25, x1: 701.0, y1: 420.75 },
        frame_size: (1920, 1080),
        quality: CropQuality { score: 0.7, detector: 0.8, size: 0.3, sharpness: 0.5, completeness: 1.0 },
        jpeg: Bytes::from(vec![0x55; measured::JPEG as usize]),
    };
    let patches =
        PatchFeatures { rows: MODEL.0, width: MODEL.1, data: vec![0x3c; (MODEL.0 * MODEL.1 * 2) as usize].into() };
    let sighting =
        Sighting { crop: crop.clone(), model_id: "f7f77b91a22be90d".into(), feature: vec![0.0625; MODEL.2], patches };
    let sighting = IndexEvent::Sighting(Box::new(sighting));
    let origin = Origin::of_camera("sightline-ingest@node-17", 123_456, &camera);
    let progress = Progress { origin, camera, connection: 3, analysed_through: at, ended: false };
    let size = |bytes: Result<Bytes, _>| bytes.map_or(f64::NAN, |b: Bytes| b.len() as f64);
    Sizes {
        crop: size(encode_camera_event(&CameraEvent::Crop(crop))),
        sighting_f16: size(encode_index_event(&sighting, Coding::F16)),
        sighting_int8: size(encode_index_event(&sighting, Coding::Int8)),
        progress: size(encode_camera_event(&CameraEvent::Progress(progress))),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn int8_halves_the_patch_features() {
        let sizes = super::sizes();
        assert!(sizes.sighting_f16 > sizes.crop + 33.0 * 256.0 * 2.0);
        assert!(sizes.sighting_int8 < sizes.sighting_f16 - 33.0 * 250.0);
        assert!(sizes.progress < 300.0, "{}", sizes.progress);
    }
}
