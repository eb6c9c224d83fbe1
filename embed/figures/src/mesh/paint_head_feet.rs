//! Level 2 materials of head and feet: hair, hats and hoods, shoes.

use super::paint::{Painter, crease_slopes, plain};
use super::surface::BodyRegion;
use super::triangles::Material;
use crate::colour::{mix, scaled};
use crate::garments;
use crate::person::{HairStyle, HatKind, ShoeKind};
use crate::raster::{cell_noise, value_noise};
use crate::variation::{slot, variation};

impl Painter<'_> {
    pub(super) fn shoes(&self, region: BodyRegion, coords: [f32; 4]) -> Option<Material> {
        let (kind, shade) = self.person.shoes;
        let [t, height, ..] = coords;
        let top = match kind {
            ShoeKind::Boots => 1.62 + 0.2 * variation(self.person, slot::BOOT_HEIGHT),
            ShoeKind::Trainers => 1.99,
            ShoeKind::Leather => 2.0,
            ShoeKind::Flats => 2.05,
        };
        let here = match region {
            BodyRegion::Foot => kind != ShoeKind::Flats || height < 0.03,
            BodyRegion::Leg => t > top,
            _ => false,
        };
        if !here {
            return None;
        }
        if kind == ShoeKind::Trainers && height < 0.011 && garments::has_white_soles(self.person) {
            return Some(plain(garments::WHITE_SOLE, 0.0));
        }
        if height < 0.008 {
            return Some(plain(scaled(shade.albedo, 0.45), 0.0));
        }
        let stripe = kind == ShoeKind::Trainers
            && variation(self.person, slot::TRAINER_STRIPE) > 0.5
            && value_noise(coords[2] * 4.0, height * 90.0, self.person.texture_seed) > 0.68;
        let albedo = if stripe { mix(shade.albedo, [0.75; 3], 0.7) } else { shade.albedo };
        Some(plain(albedo, if kind == ShoeKind::Leather { 0.1 } else { 0.02 }))
    }

    pub(super) fn hair(&self, coords: [f32; 4]) -> Material {
        let [x, y, z, _] = coords;
        let seed = self.person.texture_seed + 4;
        let angle = x.atan2(z);
        let curly = self.person.hair == HairStyle::Curly;
        let (fu, fv) = if curly { (9.0, 8.0) } else { (13.0, 1.1) };
        let at = value_noise(angle * fu, y * fv + value_noise(angle * 2.0, y, seed), seed);
        let fine = cell_noise((angle * 40.0) as i32, (y * if curly { 20.0 } else { 2.0 }) as i32, seed);
        let next = value_noise((angle + 0.05) * fu, y * fv + value_noise(angle * 2.0, y, seed), seed);
        // The tips of hair are often lighter than the roots.
        let tip = ((0.2 - y) * 0.25 * variation(self.person, slot::LIGHT_HAIR_TIPS)).clamp(0.0, 0.5);
        let albedo = scaled(self.person.hair_shade.albedo, (0.62 + 0.6 * at + 0.15 * fine) * (1.0 + tip));
        Material { albedo, gloss: 0.05, slope: [(next - at) * 4.0, 0.0] }
    }

    /// Height on the body at which hanging hair ends, with uneven tips.
    fn tips(&self, coords: [f32; 4]) -> f32 {
        let end = match self.person.hair {
            HairStyle::Chin => 0.865,
            HairStyle::Shoulder => 0.82,
            HairStyle::Long => 0.79 - 0.12 * variation(self.person, slot::HAIR_HEIGHT),
            _ => 0.0,
        };
        end + 0.02 * (value_noise(coords[0].atan2(coords[2]) * 7.0, 0.0, self.person.texture_seed) - 0.5)
    }

    /// Hair that is a MakeHuman piece, cut to length.
    pub(super) fn hair_piece(&self, coords: [f32; 4]) -> Option<Material> {
        (coords[3] > self.tips(coords)).then(|| self.hair(coords))
    }

    /// Hair cut from the curtain: it leaves the face free and ends at its length.
    pub(super) fn hair_curtain(&self, coords: [f32; 4]) -> Option<Material> {
        let [x, y, z, height] = coords;
        let side = 0.2 + 0.5 * variation(self.person, slot::HAIR_IN_FRONT_SHARE);
        let fringe = variation(self.person, slot::FRINGE) > 0.6;
        let face = z > 0.25 && x.abs() < 0.95 && y < if fringe { 0.4 } else { 0.62 };
        let front = z > 0.1 && height < 0.86 && variation(self.person, slot::HAIR_IN_FRONT) > 0.35 * side;
        (!face && !front && height > self.tips(coords)).then(|| self.hair(coords))
    }

    pub(super) fn hat(&self, coords: [f32; 4]) -> Option<Material> {
        let (kind, shade) = self.person.hat?;
        let [x, y, z, _] = coords;
        let angle = x.atan2(z);
        let edge = match kind {
            HatKind::Cap | HatKind::Brimmed => 0.36,
            HatKind::Beanie => 0.22 + 0.14 * z,
            HatKind::HardHat => 0.3,
            HatKind::Hood => {
                return (z < 0.42 && y > -1.2).then(|| {
                    let slope = crease_slopes(angle * 1.5, y * 2.0, self.person.texture_seed);
                    Material { albedo: scaled(shade.albedo, 0.95), gloss: 0.0, slope: slope.map(|s| s * 0.15) }
                });
            }
        };
        if y < edge {
            return None;
        }
        let band = kind == HatKind::Brimmed && y < edge + 0.16;
        if band {
            return Some(plain([0.03; 3], 0.02));
        }
        let (shade_by, slope) = match kind {
            HatKind::Beanie => {
                let rib = (angle * 26.0).sin();
                (if y < edge + 0.14 { 0.85 } else { 1.0 } + 0.06 * rib, [0.25 * rib, 0.0])
            }
            HatKind::Cap => (if (angle / 1.047).rem_euclid(1.0) < 0.05 { 0.8 } else { 1.0 }, [0.0; 2]),
            HatKind::HardHat => (if x.abs() < 0.12 { 1.1 } else { 1.0 }, [0.0; 2]),
            _ => (1.0, [0.0; 2]),
        };
        let gloss = if kind == HatKind::HardHat { 0.22 } else { 0.0 };
        Some(Material { albedo: scaled(shade.albedo, shade_by), gloss, slope })
    }
}
