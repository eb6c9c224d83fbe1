//! What the surfaces of a meshed person look like: cut lines, cloth, seams, folds, face and hair.

use super::surface::BodyRegion;
use super::triangles::Material;
use crate::body::GarmentLengths;
use crate::person::{BagKind, Garment, LowerKind, Person, UpperKind};
use crate::raster::{Hit, value_noise};
use crate::texture::{cloth_albedo, hair_grows, head_albedo, mix, scaled};
use crate::variation::{slot, variation};

/// Which surface is painted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    Skin,
    Shoes,
    Lower,
    Top,
    Outer,
    Skirt,
    CoatSkirt,
    Scalp,
    HairCurtain,
    HairPiece,
    Hat,
}

/// Height to which the suit can be worn as a trunk; what hangs lower is cut from the skirt.
pub(super) const CROTCH_HEIGHT: f32 = 0.455;

/// Paints one person.
pub(crate) struct Painter<'a> {
    pub person: &'a Person,
    pub lengths: GarmentLengths,
    /// How deeply cloth is crease_depth in this view.
    pub crease_depth: f32,
}

pub(super) fn plain(albedo: [f32; 3], gloss: f32) -> Material {
    Material { albedo, gloss, slope: [0.0; 2] }
}

/// Slopes of a field of long crease_slopes at (`u`, `v`).
pub(super) fn crease_slopes(u: f32, v: f32, seed: u32) -> [f32; 2] {
    let field = |u: f32, v: f32| {
        let warp = value_noise(u * 0.7, v * 0.6, seed ^ 0x55) * 1.3;
        let one = 1.0 - (2.0 * value_noise(u + warp, v, seed) - 1.0).abs();
        let two = value_noise(u * 2.3 - 0.7 * v, v * 1.7 + warp, seed ^ 0x77);
        0.7 * one * one + 0.45 * two
    };
    let at = field(u, v);
    [(field(u + 0.12, v) - at) / 0.12, (field(u, v + 0.12) - at) / 0.12]
}

impl<'a> Painter<'a> {
    pub fn new(person: &'a Person, crease_depth: f32) -> Self {
        Self { person, lengths: GarmentLengths::of(person), crease_depth }
    }

    /// What `layer` shows at a coords; nothing where it ends.
    pub fn material_at(&self, layer: Layer, region: BodyRegion, coords: [f32; 4]) -> Option<Material> {
        match layer {
            Layer::Skin => self.skin(region, coords),
            Layer::Shoes => self.shoes(region, coords),
            Layer::Lower => self.lower(region, coords),
            Layer::Top => self.top(region, coords),
            Layer::Outer => self.outer(region, coords),
            Layer::Skirt => self.skirt(coords),
            Layer::CoatSkirt => self.coat_skirt(coords),
            Layer::Scalp => hair_grows(self.person, [coords[0], coords[1], coords[2]]).then(|| self.hair(coords)),
            Layer::HairCurtain => self.hair_curtain(coords),
            Layer::HairPiece => self.hair_piece(coords),
            Layer::Hat => self.hat(coords),
        }
    }

    fn hit(region: BodyRegion, coords: [f32; 4]) -> Hit {
        let [t, height, angle, _] = coords;
        let height = if matches!(region, BodyRegion::Arm | BodyRegion::Hand) { 0.79 - 0.16 * t } else { height };
        Hit { along: t, height, angle, local: [0.0; 3] }
    }

    fn skin(&self, region: BodyRegion, coords: [f32; 4]) -> Option<Material> {
        if region == BodyRegion::Head {
            let local = [coords[0], coords[1], coords[2]];
            let hit = Hit { along: 0.0, height: coords[3], angle: local[0].atan2(local[2]), local };
            let (albedo, gloss) = head_albedo(self.person, &hit);
            return Some(plain(albedo, gloss));
        }
        let tights = variation(self.person, slot::TIGHTS) > 0.6 && self.lengths.skirt_hem.is_some();
        if tights && matches!(region, BodyRegion::Leg | BodyRegion::Foot) {
            return Some(plain([0.02, 0.02, 0.022], 0.0));
        }
        let blush = 0.94 + 0.12 * value_noise(coords[2] * 3.0, coords[1] * 30.0, self.person.texture_seed);
        Some(plain(scaled(self.person.skin, blush), 0.025))
    }

    /// Folds of cloth: slopes at a coords, with crease_slopes where joints bend.
    fn folds(&self, region: BodyRegion, coords: [f32; 4], which: u32, strength: f32) -> [f32; 2] {
        let [t, height, angle, _] = coords;
        let seed = self.person.texture_seed.wrapping_add(which * 31 + 5);
        let (slopes, amount) = match region {
            BodyRegion::Arm | BodyRegion::Hand => {
                let elbow = (1.0 - (t - 1.0).abs() * 1.6).max(0.0);
                (crease_slopes(angle * 0.8 + t * 1.1, t * 5.5, seed), 0.45 + 0.55 * elbow)
            }
            BodyRegion::Leg | BodyRegion::Foot => {
                let knee = (1.0 - (t - 1.0).abs() * 2.2).max(0.0);
                let ankle = ((t - 1.55) * 2.0).clamp(0.0, 1.0);
                let hip = (1.0 - t * 2.5).clamp(0.0, 1.0);
                (crease_slopes(angle * 0.7 + t * 0.8, t * 5.0, seed), 0.3 + 0.5 * knee + 0.6 * ankle + 0.35 * hip)
            }
            _ => {
                let waist = (1.0 - (height - 0.6).abs() * 7.0).max(0.0);
                let arms = ((height - 0.68) * 8.0).clamp(0.0, 1.0) * (1.0 - (angle.abs() - 1.57).abs()).max(0.0);
                (crease_slopes(angle * 1.3 + height * 9.0, height * 15.0, seed), 0.35 + 0.4 * waist + 0.4 * arms)
            }
        };
        let k = 0.15 * strength * amount * self.crease_depth;
        [slopes[0] * k, slopes[1] * k]
    }

    fn upper_cloth(
        &self,
        garment: &Garment<UpperKind>,
        which: u32,
        region: BodyRegion,
        coords: [f32; 4],
        part: u8,
    ) -> Material {
        use UpperKind::*;
        let person = self.person;
        let hit = Self::hit(region, coords);
        let (angle, height) = (hit.angle, hit.height);
        let mut colour = cloth_albedo(person, garment, which, angle, height, part);
        let seed = person.texture_seed;
        let mut gloss = 0.0;
        let mut strength = 1.0;
        let mut shade = 1.0;
        let mut rib = 0.0;
        match garment.kind {
            Puffer => {
                let at = if part == 1 { hit.along / 0.21 } else { height / 0.034 } * std::f32::consts::TAU;
                rib = -0.55 * at.cos();
                shade = 0.9 + 0.1 * at.sin();
                gloss = 0.04;
                strength = 0.8;
            }
            LeatherJacket => {
                gloss = 0.1;
                strength = 1.2;
            }
            Sweater | Cardigan => {
                shade = 0.92 + 0.16 * value_noise(angle * 22.0, height * 170.0, seed);
                strength = 0.8;
            }
            Blazer | Coat => strength = 0.7,
            DenimJacket => {
                colour = scaled(colour, 0.85 + 0.3 * value_noise(angle * 2.0, height * 14.0, seed + 2));
                if part == 0 && ((height - 0.735).abs() < 0.003 || (angle.abs() - 0.45).abs() < 0.02) {
                    shade = 0.7;
                }
            }
            HiVis if part == 0 && UpperKind::reflects(angle, height) => return plain([0.5, 0.51, 0.52], 0.2),
            _ => {}
        }
        let closed = garment.kind.fastens();
        let hem = if which == 2 { self.lengths.outer_hem } else { self.lengths.top_hem };
        match part {
            0 => {
                if closed
                    && angle.abs() < 0.045
                    && (garment.kind != Hoodie || variation(person, slot::HOODIE_ZIP) > 0.5)
                {
                    shade *= 0.62;
                    if matches!(garment.kind, Shirt | ShortShirt | Cardigan | Coat)
                        && (height / 0.042).rem_euclid(1.0) < 0.16
                    {
                        shade *= 0.5;
                    }
                }
                let pocket = matches!(garment.kind, Jacket | Coat | Puffer | Blazer | Hoodie | Gilet)
                    && (height - 0.555 - 0.02 * (angle.abs() - 0.6)).abs() < 0.004
                    && (0.35..0.85).contains(&angle.abs());
                let rib_hem = matches!(garment.kind, Sweater | Hoodie | Jacket | LeatherJacket) && height - hem < 0.018;
                let yoke = (height - 0.80).abs() < 0.003;
                if pocket {
                    shade *= 0.55;
                }
                if rib_hem || yoke {
                    shade *= 0.86;
                }
                if (height - hem).abs() < 0.004 {
                    shade *= 0.8;
                }
            }
            1 => {
                let end = self.sleeve_end(garment.kind);
                if (hit.along - 0.02).abs() < 0.02 || (end - hit.along) < 0.03 {
                    shade *= 0.82;
                }
            }
            _ => {}
        }
        let mut slope = self.folds(region, coords, which, strength);
        slope[1] += rib;
        Material { albedo: scaled(colour, shade), gloss, slope }
    }

    /// Where a sleeve ends: 0 shoulder, 1 elbow, 2 wrist.
    fn sleeve_end(&self, kind: UpperKind) -> f32 {
        let rolled = variation(self.person, slot::ROLLED_SLEEVES) > 0.82;
        match kind.sleeve() {
            s if s > 1.0 && rolled && !kind.is_outer() => 1.25,
            s if s > 1.0 => 1.98,
            s if s > 0.1 => 0.5 + 0.4 * variation(self.person, slot::SHORT_SLEEVE_LENGTH),
            _ => 0.0,
        }
    }

    fn strap(&self, coords: [f32; 4]) -> Option<Material> {
        let person = self.person;
        let (kind, shade) = person.bag?;
        let [_, height, angle, _] = coords;
        let front = angle.abs();
        let side = if variation(person, slot::BAG_SIDE) > 0.5 { 1.0 } else { -1.0 };
        let on = match kind {
            BagKind::Backpack => height > 0.655 && (front - 0.62).abs() < 0.12,
            BagKind::Shoulder => {
                let line = (0.80 - height) / 0.26;
                let x = angle.sin() * side;
                let wanted = if variation(person, slot::STRAP_ACROSS) > 0.35 { -0.7 + 1.6 * line } else { 0.85 };
                (x - wanted).abs() < 0.065 && height > 0.54
            }
            _ => false,
        };
        on.then(|| plain(scaled(shade.albedo, 0.9), 0.02))
    }

    /// Height of the neckline of the inner garment at `angle`.
    fn neckline(&self, kind: UpperKind, angle: f32) -> f32 {
        let collared = matches!(kind, UpperKind::Shirt | UpperKind::Polo | UpperKind::ShortShirt);
        let round = 0.838 - 0.014 * angle.cos() + if collared { 0.014 } else { 0.0 };
        round - self.lengths.neckline_depth * (1.0 - angle.abs() / 0.7).max(0.0)
    }

    fn top(&self, region: BodyRegion, coords: [f32; 4]) -> Option<Material> {
        let person = self.person;
        let (garment, hem) = match &person.dress {
            Some((dress, _)) => (dress, 0.5),
            None => (&person.top, self.lengths.top_hem),
        };
        let [t, height, angle, _] = coords;
        // A closed garment hides the one below it but for its neck, hem and cuffs.
        if let Some(outer) = person.outer.as_ref().filter(|outer| outer.kind.sleeve() > 1.0) {
            let inside = match region {
                BodyRegion::Trunk => {
                    let neck = if outer.kind == UpperKind::Blazer { 0.7 } else { 0.8 };
                    (!person.outer_open || angle.abs() > 1.7) && height > self.lengths.outer_hem + 0.02 && height < neck
                }
                _ => t < self.sleeve_end(outer.kind) - 0.06,
            };
            if inside {
                return None;
            }
        }
        match region {
            BodyRegion::Arm | BodyRegion::Hand => {
                if garment.kind == UpperKind::TankTop && (t > 0.02 || angle.abs() > 2.4) {
                    return None;
                }
                (t < self.sleeve_end(garment.kind)).then(|| self.upper_cloth(garment, 1, region, coords, 1))
            }
            BodyRegion::Trunk => {
                let bare = garment.kind == UpperKind::TankTop && height > 0.79 && (1.15..1.95).contains(&angle.abs());
                if height > self.neckline(garment.kind, angle) || height < hem || bare {
                    return None;
                }
                if person.outer.is_none()
                    && let Some(strap) = self.strap(coords)
                {
                    return Some(strap);
                }
                Some(self.upper_cloth(garment, 1, region, coords, 0))
            }
            _ => None,
        }
    }

    fn opening(&self, height: f32) -> f32 {
        if !self.person.outer_open {
            return 0.0;
        }
        self.lengths.opening_angle * (0.55 + (0.72 - height).max(0.0) * 1.6).clamp(0.4, 1.3)
    }

    fn outer(&self, region: BodyRegion, coords: [f32; 4]) -> Option<Material> {
        let person = self.person;
        let garment = person.outer.as_ref()?;
        let [t, height, angle, _] = coords;
        match region {
            BodyRegion::Arm | BodyRegion::Hand => {
                (t < self.sleeve_end(garment.kind)).then(|| self.upper_cloth(garment, 2, region, coords, 1))
            }
            BodyRegion::Trunk => {
                let front = angle.abs();
                let blazer = garment.kind == UpperKind::Blazer && height > 0.72 && front < (height - 0.72) * 6.0;
                let sides =
                    garment.kind == UpperKind::HiVis && height > 0.70 && height < 0.8 && (1.2..1.95).contains(&front);
                let collar = 0.852 - 0.012 * angle.cos();
                if height < self.lengths.outer_hem.max(CROTCH_HEIGHT)
                    || height > collar
                    || blazer
                    || sides
                    || front < self.opening(height)
                {
                    return None;
                }
                if let Some(strap) = self.strap(coords) {
                    return Some(strap);
                }
                let mut look = self.upper_cloth(garment, 2, region, coords, 0);
                let edge = front - self.opening(height);
                let lapel = matches!(garment.kind, UpperKind::Blazer | UpperKind::Coat)
                    && height > 0.7
                    && (edge - 0.28 - (height - 0.7)).abs() < 0.03;
                if lapel || (person.outer_open && edge < 0.04) {
                    look.albedo = scaled(look.albedo, 0.75);
                }
                Some(look)
            }
            _ => None,
        }
    }

    fn lower(&self, region: BodyRegion, coords: [f32; 4]) -> Option<Material> {
        let person = self.person;
        let [t, height, angle, _] = coords;
        let reach = match person.lower.kind {
            LowerKind::Shorts => 0.65 + 0.45 * variation(person, slot::LEG_LENGTH),
            LowerKind::Capri => 1.35,
            LowerKind::Leggings | LowerKind::Jeans => 1.86 + 0.2 * variation(person, slot::LEG_LENGTH),
            _ => 2.06,
        };
        let ends = match region {
            BodyRegion::Leg => t > reach,
            BodyRegion::Foot => reach < 2.0 || height < 0.036,
            BodyRegion::Trunk => height > 0.6,
            _ => true,
        };
        if ends {
            return None;
        }
        if region == BodyRegion::Trunk && height > self.lengths.top_hem - 0.014 && variation(person, slot::BELT) > 0.6 {
            return Some(plain([0.03, 0.025, 0.02], 0.05));
        }
        let garment = &person.lower;
        let mut colour = cloth_albedo(person, garment, 3, angle, height, 2);
        let mut shade = 1.0;
        let mut strength = 0.9;
        match garment.kind {
            LowerKind::Jeans => {
                let fade = variation(person, slot::JEANS_FADE)
                    * (1.0 - ((height - 0.38) / 0.12).powi(2)).max(0.0)
                    * angle.cos().max(0.0);
                colour = mix(colour, [0.45, 0.52, 0.62], 0.28 * fade);
                shade = 0.93 + 0.14 * value_noise(angle * 12.0, height * 120.0, person.texture_seed + 9);
                let back = (angle.abs() - std::f32::consts::PI).abs();
                if region != BodyRegion::Trunk && (angle.abs() - 1.57).abs() < 0.05
                    || (height - 0.53).abs() < 0.003 && back < 1.2
                {
                    shade *= 0.78;
                }
            }
            LowerKind::Leggings | LowerKind::Capri => strength = 0.25,
            LowerKind::Trousers
                if region == BodyRegion::Leg && angle.abs() < 0.06 && variation(person, slot::TROUSER_CREASE) > 0.5 =>
            {
                shade = 1.18
            }
            _ => {}
        }
        if region == BodyRegion::Leg && reach - t < 0.02 {
            shade *= 0.8;
        }
        Some(Material { albedo: scaled(colour, shade), gloss: 0.0, slope: self.folds(region, coords, 3, strength) })
    }

    fn skirt(&self, coords: [f32; 4]) -> Option<Material> {
        let hem = self.lengths.skirt_hem?;
        let [_, height, angle, _] = coords;
        if height < hem || height > 0.61 {
            return None;
        }
        if let Some((dress, _)) = &self.person.dress {
            return Some(self.upper_cloth(dress, 1, BodyRegion::Trunk, coords, 3));
        }
        let colour = cloth_albedo(self.person, &self.person.lower, 3, angle, height, 3);
        let edge = if height - hem < 0.008 { 0.82 } else { 1.0 };
        let slope = self.folds(BodyRegion::Trunk, [0.0, height * 0.35, angle * 2.2, 0.0], 3, 1.0);
        Some(Material { albedo: scaled(colour, edge), gloss: 0.0, slope })
    }

    fn coat_skirt(&self, coords: [f32; 4]) -> Option<Material> {
        let garment = self.person.outer.as_ref().filter(|_| self.lengths.outer_hem < CROTCH_HEIGHT)?;
        let hem = self.lengths.outer_hem;
        let [_, height, angle, _] = coords;
        let gap = self.opening(height);
        let slit =
            garment.kind == UpperKind::Coat && height < 0.42 && (angle.abs() - std::f32::consts::PI).abs() < 0.03;
        if height < hem || height > 0.545 || angle.abs() < gap || slit {
            return None;
        }
        Some(self.upper_cloth(garment, 2, BodyRegion::Trunk, coords, 3))
    }
}
