//! Level 1 textures: what each part of a person looks like (garment edges, patterns, folds, face,
//! hair).
//!
//! [`cloth_albedo`], [`head_albedo`] and [`hair_grows`] serve level 2 as well.

use super::body::PartKind;
use super::colour::{Rgb, mix, scaled};
use super::garments::{self, GarmentLengths, GarmentPart, garment_id};
use super::person::{BagKind, Garment, HairStyle, HatKind, HeldItem, LowerKind, Pattern, Person, ShoeKind, UpperKind};
use super::raster::{Hit, cell_noise, value_noise};
use crate::variation::variation;

/// Albedo and strength of the highlight.
type AlbedoGloss = (Rgb, f32);

/// Albedo of a garment's cloth by its pattern, without folds, at an angle around the body or limb
/// and a height on the body. `id` is the garment's [`garment_id`].
pub(super) fn cloth_albedo<K: Copy>(
    person: &Person,
    garment: &Garment<K>,
    id: u32,
    angle: f32,
    height: f32,
    part: GarmentPart,
) -> Rgb {
    let base = garment.shade.albedo;
    let other = garment.second_shade.albedo;
    let seed = person.texture_seed.wrapping_add(id * 977);
    // Measures of the pattern, the same in every view.
    let u = |k: u32| variation(person, id * 31 + k);
    match garment.pattern {
        Pattern::Plain => base,
        Pattern::HorizontalStripes => {
            let period = 0.018 + 0.055 * u(1) * u(1);
            let duty = 0.25 + 0.4 * u(2);
            if (height / period).rem_euclid(1.0) < duty { other } else { base }
        }
        Pattern::VerticalStripes => {
            let period = 0.12 + 0.3 * u(1);
            if (angle / period).rem_euclid(1.0) < 0.35 { other } else { base }
        }
        Pattern::Checks => {
            let (px, py) = (0.22 + 0.45 * u(1), 0.018 + 0.04 * u(1));
            let a = (angle / px).rem_euclid(1.0) < 0.45;
            let b = (height / py).rem_euclid(1.0) < 0.45;
            mix(base, other, 0.45 * (f32::from(u8::from(a)) + f32::from(u8::from(b))))
        }
        Pattern::Print => {
            let (cx, half_w, half_h) = (0.25 * (u(1) - 0.5), 0.15 + 0.35 * u(2), 0.012 + 0.05 * u(3));
            let inside = part == GarmentPart::Torso && (angle - cx).abs() < half_w && (height - 0.71).abs() < half_h;
            if inside && value_noise(angle * 14.0, height * 190.0, seed) > 0.42 { other } else { base }
        }
        Pattern::Floral => {
            let n = value_noise(angle * 6.5, height * 75.0, seed);
            if n > 0.66 { other } else { base }
        }
        Pattern::Marl => {
            let n = cell_noise((angle * 60.0) as i32, (height * 420.0) as i32, seed);
            mix(base, if n > 0.5 { [0.75; 3] } else { [0.04; 3] }, 0.30 * (n - 0.5).abs() * 2.0)
        }
        Pattern::ContrastSleeves => {
            if part == GarmentPart::Sleeve || height > 0.765 + 0.03 * u(1) {
                other
            } else {
                base
            }
        }
        Pattern::SidePanels => {
            let on = if part == GarmentPart::Leg {
                (angle.abs() - 1.57).abs() < 0.25
            } else {
                (0.28..0.62).contains(&angle.abs())
            };
            if on { other } else { base }
        }
    }
}

/// Light and dark of folds, around 1.
fn folds(person: &Person, id: u32, angle: f32, height: f32, strength: f32) -> f32 {
    let seed = person.texture_seed.wrapping_add(id * 31 + 5);
    let broad = value_noise(angle * 1.6 + height * 9.0, height * 22.0, seed) - 0.5;
    let fine = value_noise(angle * 4.0 - height * 12.0, height * 60.0, seed + 1) - 0.5;
    1.0 + strength * (0.5 * broad + 0.3 * fine)
}

/// Dress, top or outer garment with folds, seams and gloss.
fn upper(person: &Person, garment: &Garment<UpperKind>, id: u32, hit: &Hit, part: GarmentPart) -> AlbedoGloss {
    use UpperKind::*;
    let (angle, height) = (hit.angle, hit.height);
    let mut colour = cloth_albedo(person, garment, id, angle, height, part);
    let mut fold = folds(person, id, angle, height, 0.55);
    let mut gloss = 0.0;
    match garment.kind {
        Puffer => {
            let rib = (height / 0.034 * std::f32::consts::TAU).sin();
            fold *= 0.9 + 0.18 * rib;
            gloss = 0.05;
        }
        LeatherJacket => gloss = 0.14,
        Sweater | Cardigan => fold *= garments::knit(person, angle, height),
        DenimJacket => colour = scaled(colour, garments::denim_wash(person, angle, height)),
        HiVis if part == GarmentPart::Torso && garment.kind.reflective_band(angle, height) => {
            return (garments::REFLECTIVE_BAND, 0.25);
        }
        _ => {}
    }
    if part == GarmentPart::Torso {
        if garment.kind.fastens() && angle.abs() < 0.05 {
            fold *= 0.7;
        }
        if matches!(garment.kind, Shirt | ShortShirt | Polo | DenimJacket | Jacket) && height > 0.80 {
            fold *= 1.12;
        }
    }
    (scaled(colour, fold), gloss)
}

/// Trousers or a skirt with folds.
fn lower(person: &Person, hit: &Hit, part: GarmentPart) -> AlbedoGloss {
    let garment = &person.lower;
    let mut colour = cloth_albedo(person, garment, garment_id::LOWER, hit.angle, hit.height, part);
    let mut fold = folds(person, garment_id::LOWER, hit.angle, hit.height, 0.5);
    if garment.kind == LowerKind::Jeans {
        let (faded, weave) = garments::jeans(person, colour, hit.angle, hit.height);
        colour = faded;
        fold *= weave;
    }
    (scaled(colour, fold), 0.0)
}

/// Whether hair covers the head at `local`, a point on the unit sphere around it (x left of the
/// body, y up, z forward).
pub(super) fn hair_grows(person: &Person, local: [f32; 3]) -> bool {
    let [x, y, z] = local;
    match person.hair {
        HairStyle::Bald => false,
        HairStyle::Balding => z < 0.35 && y < 0.45 && y > -0.45 && (z < -0.1 || x.abs() > 0.75),
        HairStyle::Cropped => y > 0.52 || (z < 0.05 && y > -0.4),
        HairStyle::Short | HairStyle::Curly => y > 0.42 || (z < 0.15 && y > -0.5),
        HairStyle::Ponytail | HairStyle::Bun => y > 0.5 || (z < 0.1 && y > -0.45),
        _ => y > 0.45 || (z < 0.3 && (y > -0.55 || z < -0.3)) || (x.abs() > 0.78 && z < 0.6 && y > -0.6),
    }
}

/// Head without a hat: hair, eyes, mouth, glasses and beard.
pub(super) fn head_albedo(person: &Person, hit: &Hit) -> AlbedoGloss {
    let [x, y, z] = hit.local;
    let hair = person.hair_shade.albedo;
    let strand = 0.8 + 0.4 * value_noise(hit.angle * 9.0, hit.local[1] * 3.0, person.texture_seed + 4);
    if hair_grows(person, hit.local) {
        let blend = if person.hair == HairStyle::Cropped { mix(hair, person.skin, 0.12) } else { hair };
        return (scaled(blend, strand), 0.03);
    }
    let mut colour = person.skin;
    if z > 0.3 {
        let eye = (x.abs() - 0.33).abs() < 0.14 && (y - 0.06).abs() < 0.09;
        let frame = person.glasses
            && (x.abs() - 0.34).abs() < 0.26
            && (y - 0.05).abs() < 0.15
            && !((x.abs() - 0.34).abs() < 0.19 && (y - 0.05).abs() < 0.1);
        if frame {
            return ([0.02, 0.02, 0.025], 0.1);
        }
        if eye {
            colour = scaled(colour, 0.3);
        } else if (y + 0.42).abs() < 0.05 && x.abs() < 0.25 {
            colour = [colour[0] * 0.75, colour[1] * 0.5, colour[2] * 0.5];
        }
    }
    if person.beard && y < -0.28 && z > -0.15 && !((y + 0.42).abs() < 0.05 && x.abs() < 0.2) {
        colour = mix(colour, hair, 0.75);
    }
    (colour, 0.03)
}

/// The trunk: strap, outer garment, top, skin above the neckline, belt, trousers below the hem.
fn torso(person: &Person, lengths: &GarmentLengths, hit: &Hit) -> Option<AlbedoGloss> {
    let front = hit.angle.abs();
    if let Some(albedo) = garments::bag_strap(person, hit.angle, hit.height, 0.1) {
        return Some((albedo, 0.0));
    }
    if let Some(outer) = &person.outer {
        let widening = (0.4 + (hit.height - 0.5) * 1.8).clamp(0.25, 1.0);
        let opening = lengths.opening_angle * if person.outer_open { widening } else { 0.0 };
        let vest_sides = matches!(outer.kind, UpperKind::HiVis) && hit.height > 0.70 && front > 1.15 && front < 2.0;
        let shirt_front = outer.kind.blazer_opening(hit.angle, hit.height);
        if hit.height > lengths.outer_hem && front >= opening && !shirt_front && !vest_sides {
            return Some(upper(person, outer, garment_id::OUTER, hit, GarmentPart::Torso));
        }
    }
    let (garment, hem) = (person.inner_upper(), if person.dress.is_some() { 0.0 } else { lengths.top_hem });
    let bare_shoulder = garment.kind == UpperKind::TankTop && hit.height > 0.775 && !(0.25..0.75).contains(&front);
    if hit.height > 0.815 - lengths.neckline_dip(hit.angle) || bare_shoulder {
        return Some((person.skin, 0.02));
    }
    if hit.height > hem {
        return Some(upper(person, garment, garment_id::INNER, hit, GarmentPart::Torso));
    }
    if hit.height > hem - 0.012 && garments::wears_belt(person) && person.dress.is_none() {
        return Some((garments::BELT, 0.05));
    }
    Some(lower(person, hit, GarmentPart::Leg))
}

/// An upper arm or forearm: sleeve of the outer garment, sleeve of the inner one, or skin.
fn sleeve(person: &Person, hit: &Hit, forearm: bool) -> AlbedoGloss {
    let along = hit.along + if forearm { 1.0 } else { 0.0 };
    let rolled = garments::rolls_sleeves(person);
    let end = |kind: UpperKind| if kind.sleeve() > 1.0 && rolled { 1.3 } else { kind.sleeve() };
    // Patterns run down the arm as they do down the trunk.
    let surface = Hit { height: 0.79 - 0.16 * along, ..*hit };
    if let Some(outer) = person.outer.as_ref().filter(|outer| along < end(outer.kind)) {
        return upper(person, outer, garment_id::OUTER, &surface, GarmentPart::Sleeve);
    }
    let garment = person.inner_upper();
    if along < end(garment.kind) {
        return upper(person, garment, garment_id::INNER, &surface, GarmentPart::Sleeve);
    }
    (person.skin, 0.02)
}

/// A thigh or shin: trousers, tights or skin.
fn leg(person: &Person, lengths: &GarmentLengths, hit: &Hit, shin: bool) -> AlbedoGloss {
    let along = hit.along + if shin { 1.0 } else { 0.0 };
    if lengths.skirt_hem.is_some() {
        return if garments::wears_tights(person) { (garments::TIGHTS, 0.0) } else { (person.skin, 0.02) };
    }
    if along < garments::leg_end(person, 2.1) { lower(person, hit, GarmentPart::Leg) } else { (person.skin, 0.02) }
}

/// Albedo and gloss of a part at `hit`; `None` where it is open and what lies behind shows.
pub(crate) fn albedo(person: &Person, lengths: &GarmentLengths, kind: PartKind, hit: &Hit) -> Option<AlbedoGloss> {
    match kind {
        PartKind::Skin => Some((person.skin, 0.02)),
        PartKind::Head => Some(head_albedo(person, hit)),
        PartKind::Hair => {
            if hit.local[2] > 0.55 && person.hair != HairStyle::Ponytail && person.hair != HairStyle::Bun {
                return None;
            }
            let strand = 0.7 + 0.6 * value_noise(hit.angle * 11.0, hit.height * 30.0, person.texture_seed + 4);
            Some((scaled(person.hair_shade.albedo, strand), 0.05))
        }
        PartKind::Torso => torso(person, lengths, hit),
        PartKind::Skirt => match &person.dress {
            Some((dress, _)) => Some(upper(person, dress, garment_id::INNER, hit, GarmentPart::Skirt)),
            None => {
                let garment = &person.lower;
                let colour =
                    cloth_albedo(person, garment, garment_id::LOWER, hit.angle, hit.height, GarmentPart::Skirt);
                Some((scaled(colour, folds(person, garment_id::LOWER, hit.angle * 2.5, hit.height * 0.4, 0.7)), 0.0))
            }
        },
        PartKind::CoatSkirt => {
            let garment = person.outer.as_ref().unwrap_or(&person.top);
            let gap = if person.outer_open { lengths.opening_angle * 1.1 } else { 0.0 };
            (hit.angle.abs() >= gap).then(|| upper(person, garment, garment_id::OUTER, hit, GarmentPart::Skirt))
        }
        PartKind::Sleeve { forearm } => Some(sleeve(person, hit, forearm)),
        PartKind::Leg { shin } => Some(leg(person, lengths, hit, shin)),
        PartKind::Shoe => {
            let (kind, shade) = person.shoes;
            if kind == ShoeKind::Trainers && hit.local[1] < -0.35 && garments::has_white_soles(person) {
                return Some((garments::WHITE_SOLE, 0.0));
            }
            Some((shade.albedo, if kind == ShoeKind::Leather { 0.1 } else { 0.02 }))
        }
        PartKind::Hat | PartKind::HatBrim => {
            let (hat, shade) = person.hat?;
            // A hood leaves the face open.
            if hat == HatKind::Hood && hit.local[2] > 0.5 {
                return None;
            }
            let band = hat == HatKind::Brimmed && kind == PartKind::Hat && hit.along > 0.55;
            let knit = if hat == HatKind::Beanie {
                0.85 + 0.3 * value_noise(hit.angle * 12.0, hit.height * 90.0, 3)
            } else {
                1.0
            };
            Some((
                if band { [0.03, 0.03, 0.03] } else { scaled(shade.albedo, knit) },
                if hat == HatKind::HardHat { 0.25 } else { 0.0 },
            ))
        }
        PartKind::HoodBack => {
            let garment = person.outer.as_ref().filter(|_| person.top.kind != UpperKind::Hoodie).unwrap_or(&person.top);
            Some((scaled(garment.shade.albedo, 0.85), 0.0))
        }
        PartKind::Bag => {
            let (kind, shade) = person.bag?;
            let fold = folds(person, garment_id::BAG, hit.angle, hit.height, 0.4);
            let pocket = kind == BagKind::Backpack && hit.along > 0.5 && (hit.along - 0.55).abs() < 0.04;
            Some((
                scaled(shade.albedo, if pocket { 0.6 } else { fold }),
                if kind == BagKind::Suitcase { 0.08 } else { 0.03 },
            ))
        }
        PartKind::HeldItem => match person.held_item {
            Some((HeldItem::Paper, shade)) => Some((scaled(shade.albedo, 1.05), 0.0)),
            Some((_, shade)) => Some((shade.albedo, 0.02)),
            None => Some(([0.05; 3], 0.1)),
        },
    }
}
