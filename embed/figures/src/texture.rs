//! What each part of a person looks like: garment edges, patterns, folds, faces, hair.

use super::body::{GarmentLengths, PartKind};
use super::person::{BagKind, Garment, HairStyle, HatKind, HeldItem, LowerKind, Pattern, Person, ShoeKind, UpperKind};
use super::raster::{Hit, cell_noise, value_noise};
use crate::variation::{slot, variation};

type Rgb = [f32; 3];

pub(super) fn mix(a: Rgb, b: Rgb, t: f32) -> Rgb {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * t)
}

pub(super) fn scaled(a: Rgb, s: f32) -> Rgb {
    a.map(|c| c * s)
}

/// Colour of a garment's cloth at (angle, height); `part` 0 torso, 1 sleeve, 2 leg, 3 skirt.
pub(super) fn cloth_albedo<K: Copy>(
    person: &Person,
    garment: &Garment<K>,
    which: u32,
    angle: f32,
    height: f32,
    part: u8,
) -> Rgb {
    let base = garment.shade.albedo;
    let other = garment.second_shade.albedo;
    let seed = person.texture_seed.wrapping_add(which * 977);
    let u = |k: u32| variation(person, which * 31 + k);
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
            let inside = part == 0 && (angle - cx).abs() < half_w && (height - 0.71).abs() < half_h;
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
            if part == 1 || height > 0.765 + 0.03 * u(1) {
                other
            } else {
                base
            }
        }
        Pattern::SidePanels => {
            let on = if part == 2 { (angle.abs() - 1.57).abs() < 0.25 } else { (0.28..0.62).contains(&angle.abs()) };
            if on { other } else { base }
        }
    }
}

/// Light and dark of folds.
fn folds(person: &Person, which: u32, angle: f32, height: f32, strength: f32) -> f32 {
    let seed = person.texture_seed.wrapping_add(which * 31 + 5);
    let broad = value_noise(angle * 1.6 + height * 9.0, height * 22.0, seed) - 0.5;
    let fine = value_noise(angle * 4.0 - height * 12.0, height * 60.0, seed + 1) - 0.5;
    1.0 + strength * (0.5 * broad + 0.3 * fine)
}

fn upper(person: &Person, garment: &Garment<UpperKind>, which: u32, hit: &Hit, part: u8) -> (Rgb, f32) {
    use UpperKind::*;
    let (angle, height) = (hit.angle, hit.height);
    let mut colour = cloth_albedo(person, garment, which, angle, height, part);
    let mut fold = folds(person, which, angle, height, 0.55);
    let mut gloss = 0.0;
    match garment.kind {
        Puffer => {
            let rib = (height / 0.034 * std::f32::consts::TAU).sin();
            fold *= 0.9 + 0.18 * rib;
            gloss = 0.05;
        }
        LeatherJacket => gloss = 0.14,
        Sweater | Cardigan => fold *= 0.92 + 0.16 * value_noise(angle * 22.0, height * 170.0, person.texture_seed),
        DenimJacket => {
            colour = scaled(colour, 0.85 + 0.3 * value_noise(angle * 2.0, height * 14.0, person.texture_seed + 2))
        }
        HiVis if part == 0 && UpperKind::reflects(angle, height) => return ([0.5, 0.51, 0.52], 0.25),
        _ => {}
    }
    if part == 0 {
        let closed = garment.kind.fastens();
        if closed && angle.abs() < 0.05 {
            fold *= 0.7;
        }
        if matches!(garment.kind, Shirt | ShortShirt | Polo | DenimJacket | Jacket) && height > 0.80 {
            fold *= 1.12;
        }
    }
    (scaled(colour, fold), gloss)
}

fn lower(person: &Person, hit: &Hit, part: u8) -> (Rgb, f32) {
    let garment = &person.lower;
    let mut colour = cloth_albedo(person, garment, 3, hit.angle, hit.height, part);
    let mut fold = folds(person, 3, hit.angle, hit.height, 0.5);
    if garment.kind == LowerKind::Jeans {
        let fade = variation(person, slot::JEANS_FADE)
            * (1.0 - ((hit.height - 0.38) / 0.12).powi(2)).max(0.0)
            * hit.angle.cos().max(0.0);
        colour = mix(colour, [0.45, 0.52, 0.62], 0.28 * fade);
        fold *= 0.93 + 0.14 * value_noise(hit.angle * 12.0, hit.height * 120.0, person.texture_seed + 9);
    }
    (scaled(colour, fold), 0.0)
}

/// Whether hair covers the head at `local`, a point on a sphere around it.
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

pub(super) fn head_albedo(person: &Person, hit: &Hit) -> (Rgb, f32) {
    let [x, y, z] = hit.local;
    let hair = person.hair_shade.albedo;
    let strand = 0.8 + 0.4 * value_noise(hit.angle * 9.0, hit.local[1] * 3.0, person.texture_seed + 4);
    let hair_here = hair_grows(person, hit.local);
    if hair_here {
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

fn torso(person: &Person, lengths: &GarmentLengths, hit: &Hit) -> Option<(Rgb, f32)> {
    let front = hit.angle.abs();
    if let Some((kind, shade)) = person.bag {
        let side = if variation(person, slot::BAG_SIDE) > 0.5 { 1.0 } else { -1.0 };
        let strap = match kind {
            BagKind::Backpack => hit.height > 0.655 && (front - 0.62).abs() < 0.1,
            BagKind::Shoulder => {
                let line = (0.80 - hit.height) / 0.26;
                let across = variation(person, slot::STRAP_ACROSS) > 0.35;
                let x = hit.angle.sin() * side;
                let wanted = if across { -0.7 + 1.6 * line } else { 0.85 };
                (x - wanted).abs() < 0.065 && hit.height > 0.54
            }
            _ => false,
        };
        if strap {
            return Some((scaled(shade.albedo, 0.9), 0.0));
        }
    }
    if let Some(outer) = &person.outer {
        let lapel = lengths.opening_angle
            * if person.outer_open { (0.4 + (hit.height - 0.5) * 1.8).clamp(0.25, 1.0) } else { 0.0 };
        let blazer_v = outer.kind == UpperKind::Blazer && hit.height > 0.72 && front < (hit.height - 0.72) * 6.0;
        let vest_sides = matches!(outer.kind, UpperKind::HiVis) && hit.height > 0.70 && front > 1.15 && front < 2.0;
        if hit.height > lengths.outer_hem && front >= lapel && !blazer_v && !vest_sides {
            return Some(upper(person, outer, 2, hit, 0));
        }
    }
    let neckline = 0.815 - lengths.neckline_depth * (1.0 - front / 0.7).max(0.0);
    let (garment, hem) = match &person.dress {
        Some((dress, _)) => (dress, 0.0),
        None => (&person.top, lengths.top_hem),
    };
    if hit.height > neckline
        || (garment.kind == UpperKind::TankTop && hit.height > 0.775 && !(0.25..0.75).contains(&front))
    {
        return Some((person.skin, 0.02));
    }
    if hit.height > hem {
        return Some(upper(person, garment, 1, hit, 0));
    }
    if hit.height > hem - 0.012 && variation(person, slot::BELT) > 0.6 && person.dress.is_none() {
        return Some(([0.03, 0.025, 0.02], 0.05));
    }
    Some(lower(person, hit, 2))
}

fn sleeve(person: &Person, hit: &Hit, fore: bool) -> (Rgb, f32) {
    let at = hit.along + if fore { 1.0 } else { 0.0 };
    let rolled = variation(person, slot::ROLLED_SLEEVES) > 0.82;
    let reach = |kind: UpperKind| if kind.sleeve() > 1.0 && rolled { 1.3 } else { kind.sleeve() };
    let surface = Hit { height: 0.79 - 0.16 * at, ..*hit };
    if let Some(outer) = person.outer.as_ref().filter(|outer| at < reach(outer.kind)) {
        return upper(person, outer, 2, &surface, 1);
    }
    let garment = person.dress.as_ref().map_or(&person.top, |(g, _)| g);
    if at < reach(garment.kind) {
        return upper(person, garment, 1, &surface, 1);
    }
    (person.skin, 0.02)
}

fn leg(person: &Person, lengths: &GarmentLengths, hit: &Hit, shin: bool) -> (Rgb, f32) {
    let at = hit.along + if shin { 1.0 } else { 0.0 };
    let tights = variation(person, slot::TIGHTS);
    if lengths.skirt_hem.is_some() {
        return if tights > 0.6 { ([0.02, 0.02, 0.022], 0.0) } else { (person.skin, 0.02) };
    }
    let reach = match person.lower.kind {
        LowerKind::Shorts => 0.65 + 0.45 * variation(person, slot::LEG_LENGTH),
        LowerKind::Capri => 1.35,
        LowerKind::Leggings | LowerKind::Jeans => 1.86 + 0.2 * variation(person, slot::LEG_LENGTH),
        _ => 2.1,
    };
    if at < reach { lower(person, hit, 2) } else { (person.skin, 0.02) }
}

/// Albedo and gloss of `paint` at `hit`; nothing where an open garment lets the one below be seen.
pub(crate) fn albedo(person: &Person, lengths: &GarmentLengths, paint: PartKind, hit: &Hit) -> Option<(Rgb, f32)> {
    match paint {
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
            Some((dress, _)) => Some(upper(person, dress, 1, hit, 3)),
            None => {
                let garment = &person.lower;
                let colour = cloth_albedo(person, garment, 3, hit.angle, hit.height, 3);
                Some((scaled(colour, folds(person, 3, hit.angle * 2.5, hit.height * 0.4, 0.7)), 0.0))
            }
        },
        PartKind::CoatSkirt => {
            let garment = person.outer.as_ref().unwrap_or(&person.top);
            let gap = if person.outer_open { lengths.opening_angle * 1.1 } else { 0.0 };
            (hit.angle.abs() >= gap).then(|| upper(person, garment, 2, hit, 3))
        }
        PartKind::Sleeve { fore } => Some(sleeve(person, hit, fore)),
        PartKind::Leg { shin } => Some(leg(person, lengths, hit, shin)),
        PartKind::Shoe => {
            let (kind, shade) = person.shoes;
            if kind == ShoeKind::Trainers && hit.local[1] < -0.35 && variation(person, slot::WHITE_SOLES) > 0.3 {
                return Some(([0.72, 0.72, 0.70], 0.0));
            }
            Some((shade.albedo, if kind == ShoeKind::Leather { 0.1 } else { 0.02 }))
        }
        PartKind::Hat | PartKind::HatBrim => {
            let (kind, shade) = person.hat?;
            if kind == HatKind::Hood && hit.local[2] > 0.5 {
                return None;
            }
            let band = kind == HatKind::Brimmed && paint == PartKind::Hat && hit.along > 0.55;
            let knit = if kind == HatKind::Beanie {
                0.85 + 0.3 * value_noise(hit.angle * 12.0, hit.height * 90.0, 3)
            } else {
                1.0
            };
            Some((
                if band { [0.03, 0.03, 0.03] } else { scaled(shade.albedo, knit) },
                if kind == HatKind::HardHat { 0.25 } else { 0.0 },
            ))
        }
        PartKind::HoodBack => {
            let garment = person.outer.as_ref().filter(|_| person.top.kind != UpperKind::Hoodie).unwrap_or(&person.top);
            Some((scaled(garment.shade.albedo, 0.85), 0.0))
        }
        PartKind::Bag => {
            let (kind, shade) = person.bag?;
            let fold = folds(person, 7, hit.angle, hit.height, 0.4);
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
