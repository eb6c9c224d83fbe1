//! Level 2 materials of body and clothes: where garments end, cloth, seams, folds.
//!
//! Head, hair, hats and shoes are in [`super::paint_head_feet`]. Surface coordinates are those of
//! [`Triangle::coords`](super::surface::Triangle).

use super::surface::BodyRegion;
use super::triangles::Material;
use crate::colour::scaled;
use crate::garments::{self, GarmentLengths, GarmentPart, garment_id};
use crate::person::{Garment, LowerKind, Person, UpperKind};
use crate::raster::{Hit, value_noise};
use crate::texture::{cloth_albedo, hair_grows, head_albedo};
use crate::variation::{slot, variation};

/// Surface of a figure that is painted, from the skin outwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    Skin,
    Shoes,
    Lower,
    Top,
    Outer,
    Skirt,
    /// The part of a coat that hangs below the hips.
    CoatSkirt,
    /// Hair that follows the skull.
    Scalp,
    /// Hanging hair cut from the base mesh's curtain of hair.
    HairCurtain,
    /// Hair that is a MakeHuman piece.
    HairPiece,
    Hat,
}

/// Height above which a garment can follow the trunk; what hangs lower is cut from the skirt.
pub(super) const CROTCH_HEIGHT: f32 = 0.455;

/// Materials of one person in one view.
pub(crate) struct Painter<'a> {
    pub person: &'a Person,
    pub lengths: GarmentLengths,
    /// Factor on the depth of the folds in this view; 1 is usual.
    pub crease_depth: f32,
}

/// A material without folds.
pub(super) fn plain(albedo: [f32; 3], gloss: f32) -> Material {
    Material { albedo, gloss, slope: [0.0; 2] }
}

/// Slopes along `u` and `v` of a height field of long creases: ridges of warped value noise, of
/// which one crease takes about one unit. The two constants part the noises of one seed.
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

    /// Material of `layer` at a point of its surface; `None` beyond its hem, neckline or cuff.
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

    /// The point as level 1 textures see it; on arms they run down the arm as down the trunk.
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
        let tights = garments::wears_tights(self.person) && self.lengths.skirt_hem.is_some();
        if tights && matches!(region, BodyRegion::Leg | BodyRegion::Foot) {
            return Some(plain(garments::TIGHTS, 0.0));
        }
        let blush = 0.94 + 0.12 * value_noise(coords[2] * 3.0, coords[1] * 30.0, self.person.texture_seed);
        Some(plain(scaled(self.person.skin, blush), 0.025))
    }

    /// Slopes of the folds of cloth, deeper where joints bend: elbow, knee, ankle, waist, armpit.
    fn folds(&self, region: BodyRegion, coords: [f32; 4], id: u32, strength: f32) -> [f32; 2] {
        let [t, height, angle, _] = coords;
        let seed = self.person.texture_seed.wrapping_add(id * 31 + 5);
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

    /// Dress, top or outer garment with pattern, seams, pockets and folds.
    fn upper_cloth(
        &self,
        garment: &Garment<UpperKind>,
        id: u32,
        region: BodyRegion,
        coords: [f32; 4],
        part: GarmentPart,
    ) -> Material {
        use UpperKind::*;
        let person = self.person;
        let hit = Self::hit(region, coords);
        let (angle, height) = (hit.angle, hit.height);
        let mut colour = cloth_albedo(person, garment, id, angle, height, part);
        let mut gloss = 0.0;
        let mut strength = 1.0;
        let mut shade = 1.0;
        let mut rib = 0.0;
        match garment.kind {
            Puffer => {
                let at =
                    if part == GarmentPart::Sleeve { hit.along / 0.21 } else { height / 0.034 } * std::f32::consts::TAU;
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
                shade = garments::knit(person, angle, height);
                strength = 0.8;
            }
            Blazer | Coat => strength = 0.7,
            DenimJacket => {
                colour = scaled(colour, garments::denim_wash(person, angle, height));
                if part == GarmentPart::Torso && ((height - 0.735).abs() < 0.003 || (angle.abs() - 0.45).abs() < 0.02) {
                    shade = 0.7;
                }
            }
            HiVis if part == GarmentPart::Torso && garment.kind.reflective_band(angle, height) => {
                return plain(garments::REFLECTIVE_BAND, 0.2);
            }
            _ => {}
        }
        let hem = if id == garment_id::OUTER { self.lengths.outer_hem } else { self.lengths.top_hem };
        match part {
            GarmentPart::Torso => {
                if garment.kind.fastens()
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
            GarmentPart::Sleeve => {
                let end = self.sleeve_end(garment.kind);
                if (hit.along - 0.02).abs() < 0.02 || (end - hit.along) < 0.03 {
                    shade *= 0.82;
                }
            }
            GarmentPart::Leg | GarmentPart::Skirt => {}
        }
        let mut slope = self.folds(region, coords, id, strength);
        slope[1] += rib;
        Material { albedo: scaled(colour, shade), gloss, slope }
    }

    /// End of a sleeve along the arm: 0 shoulder, 1 elbow, 2 wrist.
    fn sleeve_end(&self, kind: UpperKind) -> f32 {
        let rolled = garments::rolls_sleeves(self.person);
        match kind.sleeve() {
            s if s > 1.0 && rolled && !kind.is_outer() => 1.25,
            s if s > 1.0 => 1.98,
            s if s > 0.1 => 0.5 + 0.4 * variation(self.person, slot::SHORT_SLEEVE_LENGTH),
            _ => 0.0,
        }
    }

    fn strap(&self, coords: [f32; 4]) -> Option<Material> {
        let [_, height, angle, _] = coords;
        garments::bag_strap(self.person, angle, height, 0.12).map(|albedo| plain(albedo, 0.02))
    }

    /// Height of the neckline of the inner garment at `angle`.
    fn neckline(&self, kind: UpperKind, angle: f32) -> f32 {
        let collared = matches!(kind, UpperKind::Shirt | UpperKind::Polo | UpperKind::ShortShirt);
        let round = 0.838 - 0.014 * angle.cos() + if collared { 0.014 } else { 0.0 };
        round - self.lengths.neckline_dip(angle)
    }

    fn top(&self, region: BodyRegion, coords: [f32; 4]) -> Option<Material> {
        let person = self.person;
        let (garment, hem) = (person.inner_upper(), if person.dress.is_some() { 0.5 } else { self.lengths.top_hem });
        let [t, height, angle, _] = coords;
        // An outer garment hides the inner one except at its neck, hem and cuffs.
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
                (t < self.sleeve_end(garment.kind))
                    .then(|| self.upper_cloth(garment, garment_id::INNER, region, coords, GarmentPart::Sleeve))
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
                Some(self.upper_cloth(garment, garment_id::INNER, region, coords, GarmentPart::Torso))
            }
            _ => None,
        }
    }

    /// Angle from the front at which an outer garment worn open begins; it widens downwards.
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
            BodyRegion::Arm | BodyRegion::Hand => (t < self.sleeve_end(garment.kind))
                .then(|| self.upper_cloth(garment, garment_id::OUTER, region, coords, GarmentPart::Sleeve)),
            BodyRegion::Trunk => {
                let front = angle.abs();
                let blazer = garment.kind.blazer_opening(angle, height);
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
                let mut look = self.upper_cloth(garment, garment_id::OUTER, region, coords, GarmentPart::Torso);
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
        let leg_end = garments::leg_end(person, 2.06);
        let beyond = match region {
            BodyRegion::Leg => t > leg_end,
            BodyRegion::Foot => leg_end < 2.0 || height < 0.036,
            BodyRegion::Trunk => height > 0.6,
            _ => true,
        };
        if beyond {
            return None;
        }
        if region == BodyRegion::Trunk && height > self.lengths.top_hem - 0.014 && garments::wears_belt(person) {
            return Some(plain(garments::BELT, 0.05));
        }
        let garment = &person.lower;
        let mut colour = cloth_albedo(person, garment, garment_id::LOWER, angle, height, GarmentPart::Leg);
        let mut shade = 1.0;
        let mut strength = 0.9;
        match garment.kind {
            LowerKind::Jeans => {
                (colour, shade) = garments::jeans(person, colour, angle, height);
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
        if region == BodyRegion::Leg && leg_end - t < 0.02 {
            shade *= 0.8;
        }
        Some(Material {
            albedo: scaled(colour, shade),
            gloss: 0.0,
            slope: self.folds(region, coords, garment_id::LOWER, strength),
        })
    }

    fn skirt(&self, coords: [f32; 4]) -> Option<Material> {
        let hem = self.lengths.skirt_hem?;
        let [_, height, angle, _] = coords;
        if height < hem || height > 0.61 {
            return None;
        }
        if let Some((dress, _)) = &self.person.dress {
            return Some(self.upper_cloth(dress, garment_id::INNER, BodyRegion::Trunk, coords, GarmentPart::Skirt));
        }
        let colour =
            cloth_albedo(self.person, &self.person.lower, garment_id::LOWER, angle, height, GarmentPart::Skirt);
        let edge = if height - hem < 0.008 { 0.82 } else { 1.0 };
        let slope = self.folds(BodyRegion::Trunk, [0.0, height * 0.35, angle * 2.2, 0.0], garment_id::LOWER, 1.0);
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
        Some(self.upper_cloth(garment, garment_id::OUTER, BodyRegion::Trunk, coords, GarmentPart::Skirt))
    }
}
