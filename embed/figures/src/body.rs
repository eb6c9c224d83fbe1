//! Level 1 body: a posed person as tapered cylinders, from the proportions of the skeleton to
//! garments, hair and bags. Poses serve level 2 as well.

use rand::Rng;

use super::accessories::{add_carried, add_head};
use super::garments::GarmentLengths;
use super::person::{Person, ShoeKind};
use super::raster::{Part, Vec3, lerp3};
use crate::random::{between, chance, weighted};
use crate::variation::{slot, variation};

/// Kind of a part, which decides its texture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum PartKind {
    Skin,
    Head,
    Hair,
    Torso,
    Skirt,
    CoatSkirt,
    Sleeve { forearm: bool },
    Leg { shin: bool },
    Shoe,
    Hat,
    HatBrim,
    HoodBack,
    Bag,
    HeldItem,
}

/// Pose of a standing or walking person. Angles in radians, right side first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pose {
    /// Swing of the legs, 0 standing still.
    pub(super) stride: f32,
    /// Phase of the step, 0..2 pi.
    pub(super) phase: f32,
    /// Forward lean of the trunk, as a slope.
    pub(super) lean: f32,
    pub(super) head_yaw: f32,
    pub(super) head_nod: f32,
    pub(super) arms: [Arm; 2],
    /// Sideways lean of the trunk, as a slope.
    pub(super) sway: f32,
}

/// Angles of one arm.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arm {
    /// Upper arm forwards.
    pub(super) swing: f32,
    /// Upper arm outwards.
    pub(super) out: f32,
    /// Bend of the elbow forwards.
    pub(super) bend: f32,
    /// Forearm towards the body's middle.
    pub(super) inward: f32,
}

impl Pose {
    /// Draws a pose: three in five walk, some arms are bent, in pockets, or at a phone or table.
    pub fn sample(rng: &mut impl Rng) -> Self {
        let walking = chance(rng, 0.6);
        let stride = if walking { between(rng, 0.2, 0.6) } else { between(rng, 0.0, 0.1) };
        let phase = between(rng, 0.0, std::f32::consts::TAU);
        let mut arms = [0.0, std::f32::consts::PI].map(|offset| Arm {
            swing: -(phase + offset).sin() * stride * between(rng, 0.4, 1.1) + between(rng, -0.1, 0.1),
            out: between(rng, 0.05, 0.22),
            bend: between(rng, 0.1, 0.5),
            inward: between(rng, 0.0, 0.3),
        });
        for arm in &mut arms {
            match weighted(rng, &[0.72, 0.1, 0.08, 0.05, 0.05]) {
                1 => {
                    *arm = Arm {
                        swing: between(rng, 0.2, 0.6),
                        out: 0.12,
                        bend: between(rng, 1.4, 2.2),
                        inward: between(rng, 0.3, 0.9),
                    }
                }
                2 => {
                    *arm = Arm { swing: between(rng, -0.5, -0.2), out: 0.3, bend: between(rng, 0.7, 1.1), inward: 0.3 }
                }
                3 => *arm = Arm { swing: between(rng, 0.7, 1.3), out: 0.1, bend: between(rng, 0.2, 0.8), inward: 0.1 },
                4 => *arm = Arm { swing: between(rng, 0.3, 0.8), out: 0.2, bend: between(rng, 2.0, 2.5), inward: 0.4 },
                _ => {}
            }
        }
        // Both hands are busy in front (at a table, a shelf, a phone), or in the pockets.
        let both = if walking { weighted(rng, &[0.9, 0.03, 0.07]) } else { weighted(rng, &[0.5, 0.3, 0.2]) };
        if both > 0 {
            let arm = match both {
                1 => Arm {
                    swing: between(rng, 0.1, 0.8),
                    out: between(rng, 0.08, 0.3),
                    bend: between(rng, 0.7, 1.5),
                    inward: between(rng, 0.2, 0.8),
                },
                _ => Arm { swing: between(rng, -0.3, -0.05), out: between(rng, 0.2, 0.32), bend: 0.75, inward: 0.35 },
            };
            arms = [arm, Arm { swing: arm.swing + between(rng, -0.1, 0.1), ..arm }];
        }
        Self {
            stride,
            phase,
            lean: between(rng, -0.04, if both == 1 { 0.3 } else { 0.1 }),
            head_yaw: between(rng, -0.6, 0.6) * rng.random::<f32>(),
            head_nod: between(rng, -0.1, 0.35) * rng.random::<f32>(),
            arms,
            sway: between(rng, -0.02, 0.02),
        }
    }
}

/// Parts of `person` in `pose`: body space, metres, feet near y = 0.
pub(crate) fn build_parts(person: &Person, pose: &Pose) -> Vec<Part<PartKind>> {
    let tall = person.height;
    let girth = person.girth;
    let lengths = GarmentLengths::of(person);
    let mut parts: Vec<Part<PartKind>> = Vec::with_capacity(40);
    let leaned = |p: Vec3| -> Vec3 {
        let above = (p[1] - 0.52 * tall).max(0.0);
        [p[0] + pose.sway * above, p[1], p[2] + pose.lean * above]
    };
    let mut add = |a: Vec3, b: Vec3, radii_a: [f32; 2], radii_b: [f32; 2], cap: f32, kind: PartKind| {
        parts.push(Part { a, b, radii_a, radii_b, cap, height_a: a[1] / tall, height_b: b[1] / tall, kind });
    };
    let (shoulder_half, hip_half) = if person.woman { (0.1, 0.098) } else { (0.117, 0.09) };
    let wear = person.visible_upper().looseness;
    let bulk = (0.6 + 0.4 * girth) * (0.72 + 0.28 * wear);
    let chest_deep = if person.woman { 0.068 } else { 0.07 } * (0.3 + 0.7 * girth) * (0.6 + 0.4 * wear);
    let belly = if girth > 1.15 { 1.22 } else { 1.0 };
    let waist_half = (if person.woman { 0.078 } else { 0.092 }) * girth * (0.5 + 0.5 * wear);
    let at = |x: f32, y: f32, z: f32| leaned([x * tall, y * tall, z * tall]);
    // Torso: shoulders to waist to hips.
    let chest = [shoulder_half * bulk * tall, chest_deep * tall];
    let waist = [waist_half * tall, chest_deep * belly * tall];
    let hips = [hip_half * (0.45 + 0.55 * girth) * (0.8 + 0.2 * wear) * tall, (0.07 * (0.4 + 0.6 * girth)) * tall];
    add(at(0.0, 0.80, 0.0), at(0.0, 0.635, 0.0), chest, waist, 0.5, PartKind::Torso);
    add(at(0.0, 0.645, 0.0), at(0.0, 0.50, 0.0), waist, hips, 0.25, PartKind::Torso);
    if person.woman {
        for side in [-1.0, 1.0] {
            add(
                at(side * 0.038, 0.735, 0.042),
                at(side * 0.038, 0.72, 0.045),
                [0.036 * tall * bulk; 2],
                [0.036 * tall * bulk; 2],
                1.0,
                PartKind::Torso,
            );
        }
    }
    add(at(0.0, 0.87, -0.005), at(0.0, 0.80, -0.01), [0.031 * tall; 2], [0.04 * tall; 2], 0.4, PartKind::Skin);
    // Legs.
    let lower = person.lower.looseness;
    let trousered = lengths.skirt_hem.is_none();
    for (index, side) in [-1.0f32, 1.0].into_iter().enumerate() {
        let swing = (pose.phase + index as f32 * std::f32::consts::PI).sin() * pose.stride;
        let lift = (pose.phase + index as f32 * std::f32::consts::PI + 1.2).sin().max(0.0) * pose.stride * 1.3;
        let hip = [side * 0.048 * tall * girth.sqrt(), 0.5 * tall, 0.0];
        let knee = [hip[0] * 0.95, hip[1] - 0.235 * tall * swing.cos(), 0.235 * tall * swing.sin()];
        let shin_angle = swing - lift - 0.04;
        let ankle =
            [hip[0] * 0.85, knee[1] - 0.235 * tall * shin_angle.cos(), knee[2] + 0.235 * tall * shin_angle.sin()];
        let wide = if trousered { 0.85 + 0.15 * lower } else { 1.0 };
        let loose = if trousered { lower } else { 1.0 };
        let thigh = 0.047 * tall * (0.4 + 0.6 * girth) * wide;
        let knee_r = 0.032 * tall * (0.6 + 0.4 * girth) * loose.sqrt();
        let ankle_r = 0.021 * tall * loose;
        add(hip, knee, [thigh, thigh * 1.1], [knee_r; 2], 0.8, PartKind::Leg { shin: false });
        let flare = if variation(person, slot::FLARED_LEGS) > 0.85 { 1.5 } else { 1.0 };
        add(knee, ankle, [knee_r * 1.03; 2], [ankle_r * flare; 2], 0.5, PartKind::Leg { shin: true });
        let pitch = (shin_angle * 0.7).clamp(-0.9, 0.5);
        let heel = [ankle[0], (ankle[1] - 0.012 * tall).max(0.018 * tall), ankle[2] - 0.02 * tall];
        let toe = [
            ankle[0] + side * 0.012 * tall,
            heel[1] - 0.006 * tall + 0.1 * tall * pitch.min(0.0).sin().abs() * -0.4,
            heel[2] + 0.105 * tall * pitch.cos(),
        ];
        add(heel, toe, [0.024 * tall, 0.024 * tall], [0.021 * tall, 0.02 * tall], 1.0, PartKind::Shoe);
        if person.shoes.0 == ShoeKind::Boots {
            add(
                lerp3(knee, ankle, 0.62),
                ankle,
                [ankle_r.max(0.026 * tall) * 1.12; 2],
                [0.027 * tall; 2],
                0.2,
                PartKind::Shoe,
            );
        }
    }
    // Skirts, dresses, long coats.
    let spread = pose.stride * 0.05;
    if let Some(hem) = lengths.skirt_hem {
        let flare = 0.095 + 0.05 * variation(person, slot::SKIRT_WIDTH) * (1.0 + (0.5 - hem)) + spread;
        add(
            [0.0, 0.56 * tall, 0.0],
            [0.0, hem * tall, 0.0],
            [hips[0] * 0.97, hips[1]],
            [flare * girth.sqrt() * tall, (flare * 0.8 + spread) * tall],
            0.06,
            PartKind::Skirt,
        );
    }
    if lengths.outer_hem < 0.485 {
        let fall = (0.5 - lengths.outer_hem) * 0.12;
        let half = hips[0] * 1.05 + fall * tall + spread * 0.5 * tall;
        add(
            [0.0, 0.58 * tall, 0.0],
            [0.0, lengths.outer_hem * tall, 0.0],
            [hips[0] * 1.06, hips[1] * 1.12],
            [half, hips[1] * 1.15 + fall * tall + spread * tall],
            0.06,
            PartKind::CoatSkirt,
        );
    }
    // Arms.
    let sleeve = person.visible_upper().kind.sleeve();
    let mut hands = [[0.0; 3]; 2];
    for (index, side) in [-1.0f32, 1.0].into_iter().enumerate() {
        let arm = pose.arms[index];
        let shoulder = at(side * shoulder_half * bulk.max(0.95) * 0.93, 0.795, 0.0);
        let upper_len = 0.165 * tall;
        let elbow = [
            shoulder[0] + side * upper_len * arm.out.sin(),
            shoulder[1] - upper_len * arm.swing.cos() * arm.out.cos(),
            shoulder[2] + upper_len * arm.swing.sin(),
        ];
        let fore = arm.swing + arm.bend;
        let fore_len = 0.15 * tall;
        let wrist = [
            elbow[0] - side * fore_len * arm.inward.sin() + side * fore_len * arm.out.sin() * 0.3,
            elbow[1] - fore_len * fore.cos() * arm.inward.cos(),
            elbow[2] + fore_len * fore.sin() * arm.inward.cos(),
        ];
        let thick = if sleeve > 0.1 { 0.75 + 0.25 * wear } else { 0.85 }
            * (0.5 + 0.5 * girth)
            * if person.woman { 0.88 } else { 1.0 };
        let upper_r = 0.034 * tall * thick;
        let fore_r = 0.027 * tall * if sleeve > 1.0 { thick } else { 0.85 };
        let wrist_r = if sleeve > 1.0 { 0.024 * tall * thick } else { 0.017 * tall };
        add(shoulder, elbow, [upper_r * 1.1; 2], [fore_r; 2], 0.9, PartKind::Sleeve { forearm: false });
        add(elbow, wrist, [fore_r; 2], [wrist_r; 2], 0.7, PartKind::Sleeve { forearm: true });
        let hand = lerp3(elbow, wrist, 1.2);
        add(lerp3(elbow, wrist, 1.06), hand, [0.02 * tall; 2], [0.018 * tall; 2], 1.0, PartKind::Skin);
        hands[index] = hand;
    }
    add_head(person, pose, tall, &at, &mut add);
    add_carried(person, tall, &at, &hands, chest, &mut add);
    parts
}
