//! Cloth: how garments sit on the body at rest, by distance from the skin, smoothing over hollows,
//! hanging from what stands out, and skirts.
//!
//! A few geometric rules stand for a simulation: a crop shows the silhouette of a garment, and
//! little more.

use super::math::{add, dot, scale, sub};
use super::surface::{BodyRegion, Surface};
use crate::garments::garment_id;
use crate::person::{Garment, LowerKind, Person, UpperKind};
use crate::raster::{Vec3, value_noise};
use crate::variation::{slot, variation};

/// Thickness of an upper garment with what is usually worn below it, metres.
fn thickness(kind: UpperKind) -> f32 {
    use UpperKind::*;
    match kind {
        TankTop => 0.003,
        TShirt | Polo | LongSleeve | Blouse => 0.006,
        Shirt | ShortShirt => 0.008,
        Sweater | Cardigan => 0.013,
        Hoodie => 0.017,
        DenimJacket | LeatherJacket | Blazer | HiVis => 0.019,
        Jacket | Gilet => 0.024,
        Coat => 0.026,
        Puffer => 0.031,
    }
}

/// A garment being fitted: the points of `surface` on the body at rest, moved outwards step by
/// step.
struct Fit<'a> {
    surface: &'a Surface,
    points: Vec<Vec3>,
    normals: Vec<Vec3>,
    /// Body height relative to 1.75 m, for which distances are given.
    size: f32,
}

impl<'a> Fit<'a> {
    fn new(surface: &'a Surface, body: &[Vec3], person: &Person) -> Self {
        let points = surface.at_rest(body);
        let normals = surface.normals(&points);
        Self { surface, points, normals, size: person.height / 1.75 }
    }

    /// Moves every vertex along its normal by `off(region, coords)` metres.
    fn inflate(&mut self, off: impl Fn(BodyRegion, &[f32; 4]) -> f32) {
        for (v, point) in self.points.iter_mut().enumerate() {
            let by = off(self.surface.regions[v], &self.surface.coords[v]) * self.size;
            *point = add(*point, scale(self.normals[v], by));
        }
    }

    /// Smooths the cloth of the trunk over hollows; no vertex sinks inwards.
    fn smooth_hollows(&mut self, rounds: usize, strength: f32) {
        let before = self.points.clone();
        self.surface.smooth(&mut self.points, rounds, strength, |v| self.surface.regions[v] == BodyRegion::Trunk);
        for (v, point) in self.points.iter_mut().enumerate() {
            let sunk = dot(sub(*point, before[v]), self.normals[v]).min(0.0);
            *point = sub(*point, scale(self.normals[v], sunk));
        }
    }

    /// Hangs the cloth of the trunk from shoulders, chest and belly: downwards it draws in by at
    /// most `fall` metres per metre.
    fn hang_from_widest(&mut self, fall: f32, tall: f32) {
        const BINS: usize = 32;
        let mut order: Vec<usize> = (0..self.points.len())
            .filter(|&v| self.surface.regions[v] == BodyRegion::Trunk && self.surface.coords[v][1] < 0.79)
            .collect();
        order.sort_by(|&a, &b| self.points[b][1].total_cmp(&self.points[a][1]).then(a.cmp(&b)));
        let mut widest = [(0.0f32, tall); BINS];
        for v in order {
            let point = self.points[v];
            let centre = 0.012 * self.size;
            let (x, z) = (point[0], point[2] - centre);
            let far = (x * x + z * z).sqrt().max(1e-4);
            let turn = x.atan2(z) / std::f32::consts::TAU + 0.5;
            let bin = ((turn * BINS as f32) as usize).min(BINS - 1);
            let held = |bin: usize| widest[bin].0 - fall * (widest[bin].1 - point[1]);
            // Below the hips the cloth follows the trousers.
            let held = |bin: usize| if self.surface.coords[v][1] < 0.53 { 0.0 } else { held(bin) };
            let wanted = far.max(held(bin)).max(0.5 * (held((bin + 1) % BINS) + held((bin + BINS - 1) % BINS)));
            widest[bin] = (wanted, point[1]);
            self.points[v] = [x * wanted / far, point[1], z * wanted / far + centre];
        }
    }
}

/// An upper garment cut from the suit, over `below` metres of other clothes. `id` is its
/// [`garment_id`].
pub(crate) fn upper(
    surface: &Surface,
    body: &[Vec3],
    person: &Person,
    garment: &Garment<UpperKind>,
    id: u32,
    below: f32,
) -> Vec<Vec3> {
    use UpperKind::*;
    let mut fit = Fit::new(surface, body, person);
    let base = thickness(garment.kind) + below;
    // An outer garment is at least as wide as the inner one.
    let inner = person.inner_upper();
    let loose = if id == garment_id::OUTER { garment.looseness.max(inner.looseness) } else { garment.looseness };
    let slack = (loose - 1.0).max(0.0);
    let seed = person.texture_seed.wrapping_add(id * 613);
    let padded = garment.kind == Puffer;
    let gathered = matches!(garment.kind, Jacket | Hoodie | LeatherJacket | DenimJacket | Sweater | Puffer | Polo);
    fit.smooth_hollows(3, 0.5);
    fit.inflate(|region, coords| {
        let [t, height, angle, _] = *coords;
        let wave = value_noise(angle * 1.3 + height * 6.0, height * 17.0 + t * 4.0, seed) - 0.5;
        match region {
            BodyRegion::Trunk => {
                let low = ((0.8 - height) / 0.18).clamp(0.0, 1.0);
                let rib = if padded { 0.006 * (height / 0.034 * std::f32::consts::TAU).sin() } else { 0.0 };
                let trousers = if height < 0.6 { 0.008 + 0.018 * (person.lower.looseness - 1.0).max(0.0) } else { 0.0 };
                // Ribbed and belted hems draw in over the hips.
                let hips = if gathered { 1.0 - 0.7 * ((0.57 - height) / 0.06).clamp(0.0, 1.0) } else { 1.0 };
                base * (0.4 + 0.6 * hips)
                    + trousers
                    + slack * 0.045 * (0.2 + 0.8 * low) * hips
                    + rib
                    + slack * 0.035 * wave * low
            }
            BodyRegion::Arm | BodyRegion::Hand => {
                let low = (t / 1.6).clamp(0.0, 1.0);
                let elbow = 1.0 - (t - 1.0).abs().min(1.0);
                let rib = if padded { 0.005 * (t / 0.21 * std::f32::consts::TAU).sin() } else { 0.0 };
                base * 0.8 + slack * (0.02 + 0.045 * low) + rib + (0.003 + slack * 0.03) * wave * (0.5 + elbow)
            }
            _ => base + slack * 0.05,
        }
    });
    let falls = |kind: UpperKind| -> f32 {
        match kind {
            TankTop => 0.5,
            LongSleeve | Polo => 0.35,
            LeatherJacket | DenimJacket => 0.25,
            _ => 0.12,
        }
    };
    let fall = if id == garment_id::OUTER { falls(garment.kind).min(falls(inner.kind)) } else { falls(garment.kind) };
    let fall = fall / (0.4 + 2.5 * slack);
    fit.hang_from_widest(fall, person.height);
    fit.smooth_hollows(2, 0.4);
    fit.points
}

/// A MakeHuman piece, which has a cut of its own, moved out by `more` metres.
pub(crate) fn piece(surface: &Surface, body: &[Vec3], person: &Person, more: f32) -> Vec<Vec3> {
    let mut fit = Fit::new(surface, body, person);
    if more > 0.0 {
        fit.inflate(|_, _| more);
    }
    fit.points
}

/// Trousers, shorts or leggings cut from the suit.
pub(crate) fn lower(surface: &Surface, body: &[Vec3], person: &Person) -> Vec<Vec3> {
    use LowerKind::*;
    let mut fit = Fit::new(surface, body, person);
    let slack = (person.lower.looseness - 1.0).max(0.0);
    let tight = matches!(person.lower.kind, Leggings | Capri);
    let flare = if variation(person, slot::FLARED_LEGS) > 0.85 && !tight { 0.02 } else { 0.0 };
    let seed = person.texture_seed.wrapping_add(garment_id::LOWER * 613);
    let base = if tight { 0.002 } else { 0.006 };
    fit.surface.smooth(&mut fit.points, 2, 0.4, |v| fit.surface.coords[v][0] < 0.5);
    fit.inflate(|region, coords| {
        let [t, height, angle, _] = *coords;
        let wave = value_noise(angle * 1.2, t * 4.5 + height * 20.0, seed) - 0.5;
        match region {
            BodyRegion::Leg | BodyRegion::Foot if !tight => {
                let low = (t / 2.0).clamp(0.0, 1.0);
                let stack = if t > 1.75 { 1.8 } else { 1.0 };
                base + 0.009 * low
                    + slack * (0.012 + 0.045 * low)
                    + flare * ((t - 1.0).max(0.0)).powi(2)
                    + (0.004 + 0.02 * slack) * wave * stack
            }
            _ => base + slack * 0.018,
        }
    });
    fit.points
}

/// A skirt cut from the wide one of the base mesh: `width` 0 follows the legs, 1 is a bell; `off`
/// is its distance from the body in metres.
pub(crate) fn skirt(surface: &Surface, body: &[Vec3], person: &Person, width: f32, off: f32, id: u32) -> Vec<Vec3> {
    let mut fit = Fit::new(surface, body, person);
    let seed = person.texture_seed.wrapping_add(id * 613);
    let pleats = (5.0 + 9.0 * variation(person, slot::PLEAT_COUNT + id)).round();
    let depth = 0.02 * variation(person, slot::PLEAT_DEPTH + id);
    fit.inflate(|_, coords| {
        let [_, height, angle, _] = *coords;
        let low = ((0.56 - height) / 0.4).clamp(0.0, 1.0);
        let pleat = (angle * pleats + 3.0 * value_noise(angle * 2.0, 1.0, seed)).sin();
        off + low * (depth * pleat + 0.03 * (value_noise(angle * 1.5, height * 6.0, seed) - 0.5))
    });
    for (v, point) in fit.points.iter_mut().enumerate() {
        let low = ((0.53 - fit.surface.coords[v][1]) / 0.45).clamp(0.0, 1.0);
        let narrow = 1.0 - (1.0 - width) * 0.62 * low.sqrt();
        point[0] *= narrow;
        point[2] = 0.012 * fit.size + (point[2] - 0.012 * fit.size) * (0.3 + 0.7 * narrow);
    }
    fit.points
}

/// Shoes over the feet and, for boots, the shins.
pub(crate) fn shoes(surface: &Surface, body: &[Vec3], person: &Person) -> Vec<Vec3> {
    let mut fit = Fit::new(surface, body, person);
    fit.surface.smooth(&mut fit.points, 2, 0.4, |v| fit.surface.regions[v] == BodyRegion::Foot);
    fit.inflate(|region, coords| if region == BodyRegion::Foot || coords[0] > 1.5 { 0.009 } else { 0.005 });
    fit.points
}

/// The surface of the head raised by `off(coords)` metres: hair with volume, knitted hats, helmets.
pub(crate) fn scalp(surface: &Surface, body: &[Vec3], person: &Person, off: impl Fn(&[f32; 4]) -> f32) -> Vec<Vec3> {
    let mut fit = Fit::new(surface, body, person);
    // The direction from the middle of the skull, not the normals, so that ears stay below.
    for (v, normal) in fit.normals.iter_mut().enumerate() {
        let [x, y, z, _] = fit.surface.coords[v];
        if fit.surface.regions[v] == BodyRegion::Head {
            *normal = super::math::normalize([x, y.max(-0.2), z]);
        }
    }
    fit.inflate(|region, coords| if region == BodyRegion::Head { off(coords) } else { 0.0 });
    fit.points
}
