//! Head wear of level 2 that no surface of the body can form: ponytails, buns, brims and peaks of
//! hats, hoods that hang down the back. They are parts of level 1.

use super::math::{add, scale};
use super::rig::{BoneTransforms, Rig};
use crate::accessories::AddPart;
use crate::body::PartKind;
use crate::garments::hood_hangs;
use crate::person::{HairStyle, HatKind, Person};
use crate::raster::Vec3;
use crate::variation::{slot, variation};

/// Adds these parts; a ponytail only if `tied`, because a MakeHuman piece has its own.
pub(crate) fn add_head_wear(
    person: &Person,
    posed: &BoneTransforms,
    rig: &Rig,
    body: &[Vec3],
    tied: bool,
    add_part: &mut AddPart<'_>,
) {
    let tall = person.height;
    let joint = rig.joints_of(body)[rig.named.head];
    let r = 0.052 * tall;
    // The middle of the head at rest; `at` is in head radii left, up and forward of it.
    let middle = add(joint, [0.0, 0.035 * tall, 0.012 * tall]);
    let at = |x: f32, y: f32, z: f32| posed.transform_point(rig.named.head, add(middle, scale([x, y, z], r)));
    let hooded = matches!(person.hat, Some((HatKind::Hood, _)));
    if !hooded {
        match person.hair {
            HairStyle::Ponytail if tied => {
                let low = variation(person, slot::HAIR_HEIGHT);
                add_part(
                    at(0.0, 0.45 - 0.5 * low, -1.35),
                    at(0.0, -0.3 - 0.5 * low, -1.75),
                    [r * 0.34; 2],
                    [r * 0.42; 2],
                    1.0,
                    PartKind::Hair,
                );
                add_part(
                    at(0.0, -0.3 - 0.5 * low, -1.75),
                    at(0.0, -1.5 - 0.8 * low, -1.55),
                    [r * 0.42; 2],
                    [r * 0.2; 2],
                    1.0,
                    PartKind::Hair,
                );
            }
            HairStyle::Bun => {
                let high = variation(person, slot::HAIR_HEIGHT);
                add_part(
                    at(0.0, 0.3 + 0.8 * high, -1.25 + 0.4 * high),
                    at(0.0, 0.25 + 0.8 * high, -1.35 + 0.4 * high),
                    [r * 0.55; 2],
                    [r * 0.5; 2],
                    1.0,
                    PartKind::Hair,
                );
            }
            _ => {}
        }
    }
    match person.hat.map(|(kind, _)| kind) {
        Some(HatKind::Cap) => add_part(
            at(0.0, 0.5, 1.2),
            at(0.0, 0.42, 1.75),
            [r * 0.85, r * 0.08],
            [r * 0.7, r * 0.06],
            0.3,
            PartKind::HatBrim,
        ),
        Some(HatKind::Brimmed) => add_part(
            at(0.0, 0.55, 0.0),
            at(0.0, 0.5, 0.0),
            [r * 2.0, r * 2.2],
            [r * 2.05, r * 2.25],
            0.1,
            PartKind::HatBrim,
        ),
        Some(HatKind::HardHat) => add_part(
            at(0.0, 0.45, 0.15),
            at(0.0, 0.4, 0.2),
            [r * 1.45, r * 1.85],
            [r * 1.45, r * 1.85],
            0.1,
            PartKind::HatBrim,
        ),
        Some(_) => {}
        None => {
            if hood_hangs(person) {
                add_part(
                    at(0.0, -1.35, -0.75),
                    at(0.0, -2.1, -1.25),
                    [r * 1.3, r * 0.75],
                    [r * 0.95, r * 0.45],
                    0.8,
                    PartKind::HoodBack,
                );
            }
        }
    }
}
