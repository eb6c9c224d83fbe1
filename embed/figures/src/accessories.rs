//! Level 1 head and accessories: skull, hair, hats, hoods, bags and held items as tapered
//! cylinders. Level 2 uses the bags and held items.

use super::body::PartKind;
use super::body::Pose;
use super::garments::{bag_side, hood_hangs};
use super::person::{BagKind, HairStyle, HatKind, HeldItem, Person};
use super::raster::Vec3;
use crate::variation::{slot, variation};

/// Adds a part: ends `a` and `b`, radii (lateral, front to back) at each, roundness of the ends,
/// kind.
pub(crate) type AddPart<'a> = dyn FnMut(Vec3, Vec3, [f32; 2], [f32; 2], f32, PartKind) + 'a;

/// Adds skull, hair, hat and hood. `at` gives a point of the leaning trunk in fractions of `tall`,
/// the body height in metres.
pub(super) fn add_head(
    person: &Person,
    pose: &Pose,
    tall: f32,
    at: &dyn Fn(f32, f32, f32) -> Vec3,
    add: &mut AddPart<'_>,
) {
    let nod = pose.head_nod * 0.06;
    let turn = pose.head_yaw * 0.02;
    let r = 0.051 * tall;
    let top = at(turn, 0.948, 0.008 + nod);
    let chin = at(turn, 0.908, 0.014 + nod * 0.8);
    add(top, chin, [r, r * 1.15], [r * 0.8, r * 0.95], 1.0, PartKind::Head);
    let behind = |x: f32, y: f32, z: f32| at(x + turn, y, z);
    use HairStyle::*;
    let covered = matches!(person.hat, Some((HatKind::Hood, _)));
    if !covered {
        match person.hair {
            Chin => add(
                behind(0.0, 0.95, -0.004),
                behind(0.0, 0.895, -0.014),
                [r * 1.14, r * 1.1],
                [r * 1.2, r * 0.9],
                0.8,
                PartKind::Hair,
            ),
            Shoulder => add(
                behind(0.0, 0.95, -0.006),
                behind(0.0, 0.84, -0.03),
                [r * 1.14, r * 1.1],
                [r * 1.3, r * 0.62],
                0.6,
                PartKind::Hair,
            ),
            Long => {
                let end = 0.80 - 0.14 * variation(person, slot::HAIR_HEIGHT);
                add(
                    behind(0.0, 0.95, -0.006),
                    behind(0.0, 0.85, -0.034),
                    [r * 1.14, r * 1.1],
                    [r * 1.3, r * 0.62],
                    0.6,
                    PartKind::Hair,
                );
                add(
                    behind(0.0, 0.86, -0.04),
                    behind(0.0, end, -0.062),
                    [r * 1.28, r * 0.55],
                    [r * 0.95, r * 0.4],
                    0.8,
                    PartKind::Hair,
                );
            }
            Ponytail => {
                add(
                    behind(0.0, 0.95, -0.035),
                    behind(0.0, 0.81 - 0.04 * variation(person, slot::HAIR_HEIGHT), -0.07),
                    [r * 0.4; 2],
                    [r * 0.33; 2],
                    1.0,
                    PartKind::Hair,
                );
            }
            Bun => {
                let y = 0.955 + 0.035 * variation(person, slot::HAIR_HEIGHT);
                add(
                    behind(0.0, y, -0.035),
                    behind(0.0, y - 0.006, -0.037),
                    [r * 0.55; 2],
                    [r * 0.55; 2],
                    1.0,
                    PartKind::Hair,
                );
            }
            Curly => add(
                behind(0.0, 0.955, -0.01),
                behind(0.0, 0.9, -0.014),
                [r * 1.45, r * 1.35],
                [r * 1.35, r * 1.1],
                0.95,
                PartKind::Hair,
            ),
            _ => {}
        }
    }
    match person.hat {
        Some((HatKind::Cap, _)) => {
            add(
                behind(0.0, 0.968, 0.002),
                behind(0.0, 0.95, 0.002),
                [r * 1.08, r * 1.2],
                [r * 1.1, r * 1.22],
                0.8,
                PartKind::Hat,
            );
            add(
                behind(0.0, 0.952, 0.03),
                behind(0.0, 0.948, 0.066),
                [r * 0.8, r * 0.12],
                [r * 0.7, r * 0.12],
                0.4,
                PartKind::HatBrim,
            );
        }
        Some((HatKind::Beanie, _)) => add(
            behind(0.0, 0.975, 0.0),
            behind(0.0, 0.945, 0.0),
            [r * 1.1, r * 1.2],
            [r * 1.14, r * 1.26],
            0.9,
            PartKind::Hat,
        ),
        Some((HatKind::Brimmed, _)) => {
            add(
                behind(0.0, 0.985, 0.0),
                behind(0.0, 0.955, 0.0),
                [r * 1.0, r * 1.1],
                [r * 1.12, r * 1.22],
                0.45,
                PartKind::Hat,
            );
            add(
                behind(0.0, 0.957, 0.0),
                behind(0.0, 0.951, 0.0),
                [r * 1.8, r * 1.9],
                [r * 1.85, r * 1.95],
                0.1,
                PartKind::HatBrim,
            );
        }
        Some((HatKind::HardHat, _)) => {
            add(
                behind(0.0, 0.975, 0.0),
                behind(0.0, 0.953, 0.0),
                [r * 1.2, r * 1.35],
                [r * 1.28, r * 1.42],
                0.95,
                PartKind::Hat,
            );
            add(
                behind(0.0, 0.952, 0.008),
                behind(0.0, 0.948, 0.01),
                [r * 1.4, r * 1.7],
                [r * 1.4, r * 1.7],
                0.1,
                PartKind::HatBrim,
            );
        }
        Some((HatKind::Hood, _)) => {
            add(
                behind(0.0, 0.962, -0.012),
                behind(0.0, 0.87, -0.02),
                [r * 1.28, r * 1.3],
                [r * 1.35, r * 1.1],
                0.95,
                PartKind::Hat,
            );
        }
        None => {
            if hood_hangs(person) {
                add(
                    behind(0.0, 0.845, -0.035),
                    behind(0.0, 0.80, -0.05),
                    [r * 1.35, r * 0.75],
                    [r * 0.9, r * 0.5],
                    0.8,
                    PartKind::HoodBack,
                );
            }
        }
    }
}

/// Adds the bag and the held item; `chest` is the half width and half depth of the chest in metres.
pub(crate) fn add_carried(
    person: &Person,
    tall: f32,
    at: &dyn Fn(f32, f32, f32) -> Vec3,
    hands: &[Vec3; 2],
    chest: [f32; 2],
    add: &mut AddPart<'_>,
) {
    let side = bag_side(person);
    let hand = hands[usize::from(side > 0.0)];
    let free = hands[usize::from(side < 0.0)];
    let size = 0.8 + 0.45 * variation(person, slot::BAG_SIZE);
    match person.bag.map(|(kind, _)| kind) {
        Some(BagKind::Backpack) => {
            let back = chest[1] / tall + 0.03;
            add(
                at(0.0, 0.775, -back),
                at(0.0, 0.60 - 0.02 * size, -back - 0.01),
                [0.075 * tall * size, 0.05 * tall * size],
                [0.085 * tall * size, 0.06 * tall * size],
                0.35,
                PartKind::Bag,
            );
        }
        Some(BagKind::Shoulder) => {
            let x = side * (chest[0] / tall + 0.005);
            let drop = 0.06 * variation(person, slot::SHOULDER_BAG_DROP);
            add(
                at(x, 0.555 - drop, -0.01),
                at(x, 0.47 - drop, -0.01),
                [0.035 * tall, 0.075 * tall * size],
                [0.038 * tall, 0.085 * tall * size],
                0.2,
                PartKind::Bag,
            );
        }
        Some(BagKind::Handbag) => {
            let [x, y, z] = hand;
            add(
                [x, y - 0.06 * tall, z],
                [x, y - (0.06 + 0.1 * size) * tall, z],
                [0.03 * tall, 0.075 * tall * size],
                [0.034 * tall, 0.09 * tall * size],
                0.15,
                PartKind::Bag,
            );
            add(
                [x, y, z],
                [x, y - 0.07 * tall, z],
                [0.006 * tall, 0.05 * tall],
                [0.006 * tall, 0.06 * tall],
                0.5,
                PartKind::Bag,
            );
        }
        Some(BagKind::Suitcase) => {
            let (x, z) = (side * (0.15 + 0.04 * size) * tall, -0.12 * tall);
            add(
                [x, (0.14 + 0.2 * size) * tall, z],
                [x, 0.03 * tall, z],
                [0.07 * tall * size, 0.05 * tall],
                [0.07 * tall * size, 0.05 * tall],
                0.1,
                PartKind::Bag,
            );
            add(
                [x * 0.95, 0.48 * tall, z],
                [x, 0.3 * tall, z],
                [0.007 * tall; 2],
                [0.007 * tall; 2],
                0.5,
                PartKind::HeldItem,
            );
        }
        None => {}
    }
    let [x, y, z] = free;
    match person.held_item.map(|(kind, _)| kind) {
        Some(HeldItem::Paper) => add(
            [x, y + 0.045 * tall, z + 0.02 * tall],
            [x, y - 0.045 * tall, z + 0.03 * tall],
            [0.05 * tall, 0.012 * tall],
            [0.05 * tall, 0.012 * tall],
            0.05,
            PartKind::HeldItem,
        ),
        Some(HeldItem::Phone) => add(
            [x, y + 0.03 * tall, z + 0.01 * tall],
            [x, y - 0.01 * tall, z + 0.02 * tall],
            [0.016 * tall, 0.006 * tall],
            [0.016 * tall, 0.006 * tall],
            0.1,
            PartKind::HeldItem,
        ),
        Some(HeldItem::Shopping) => add(
            [x, y - 0.04 * tall, z],
            [x, y - (0.1 + 0.1 * size) * tall, z],
            [0.045 * tall, 0.06 * tall],
            [0.06 * tall * size, 0.075 * tall * size],
            0.15,
            PartKind::HeldItem,
        ),
        Some(HeldItem::Box) => add(
            [x * 0.6, y + 0.07 * tall, z + 0.06 * tall],
            [x * 0.6, y - 0.05 * tall, z + 0.06 * tall],
            [0.11 * tall * size, 0.08 * tall],
            [0.11 * tall * size, 0.08 * tall],
            0.05,
            PartKind::HeldItem,
        ),
        Some(HeldItem::Cup) => add(
            [x, y + 0.04 * tall, z + 0.02 * tall],
            [x, y - 0.015 * tall, z + 0.02 * tall],
            [0.018 * tall; 2],
            [0.014 * tall; 2],
            0.1,
            PartKind::HeldItem,
        ),
        None => {}
    }
}
