//! Shape: the body of one person, mixed from MakeHuman's macro targets by sex, age, build and
//! origin, and scaled to the person's height.

use super::assets::{Assets, height_span};
use crate::person::Person;
use crate::raster::Vec3;
use crate::variation::{slot, variation};

/// Shares of the targets "min", "average" and "max" for a slider at 0 (min) to 1 (max).
fn shares(at: f32) -> [(&'static str, f32); 3] {
    let at = at.clamp(0.0, 1.0);
    let (low, high) = ((1.0 - 2.0 * at).max(0.0), (2.0 * at - 1.0).max(0.0));
    [("min", low), ("average", 1.0 - low - high), ("max", high)]
}

/// Vertices of the base mesh for `person`, in metres, soles at y = 0.
pub(crate) fn shape(assets: &Assets, person: &Person) -> Vec<Vec3> {
    let mut points = assets.base_vertices.clone();
    let sex = if person.woman { "female" } else { "male" };
    let old = [0.0, 0.3, 0.8][usize::from(person.age.min(2))];
    let brightness = person.skin.iter().sum::<f32>() / 3.0;
    let african = (1.0 - (brightness / 0.28)).clamp(0.0, 1.0);
    let asian = (1.0 - african) * if variation(person, slot::ORIGIN) > 0.75 { 0.8 } else { 0.0 };
    let races = [("african", african), ("asian", asian), ("caucasian", 1.0 - african - asian)];
    let fit = variation(person, slot::MUSCLE);
    let muscle = if person.woman { 0.3 + 0.3 * fit } else { 0.42 + 0.38 * fit };
    let weight = if person.girth < 1.0 { 0.5 + (person.girth - 1.0) * 1.9 } else { 0.5 + (person.girth - 1.0) * 0.8 };
    for (age, part) in [("young", 1.0 - old), ("old", old)] {
        for (race, share) in races {
            add_target(assets, &mut points, &format!("{race}-{sex}-{age}"), part * share);
        }
        for (m, share_m) in shares(muscle) {
            for (w, share_w) in shares(weight) {
                let name = format!("universal-{sex}-{age}-{m}muscle-{w}weight");
                add_target(assets, &mut points, &name, part * share_m * share_w);
            }
        }
    }
    let (sole, crown) = height_span(&points, &assets.visible_vertices);
    let factor = person.height / (crown - sole).max(1e-3);
    for point in &mut points {
        *point = [point[0] * factor, (point[1] - sole) * factor, point[2] * factor];
    }
    points
}

/// Adds `share` of the target `name`.
fn add_target(assets: &Assets, points: &mut [Vec3], name: &str, share: f32) {
    if share < 1e-3 {
        return;
    }
    for &(vertex, delta) in assets.targets.get(name).map_or(&[][..], Vec::as_slice) {
        let point = &mut points[vertex as usize];
        for axis in 0..3 {
            point[axis] += share * delta[axis];
        }
    }
}
