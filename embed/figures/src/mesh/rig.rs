//! Rig: the skeleton of a shaped body, its pose, and linear blend skinning.

use super::math::{IDENTITY, Mat3, add, matmul, normalize, rotation, rotation_between, scale, sub, transform};
use super::surface::{BodyRegion, BoneWeights, angle_around, limb_coords};
use crate::body::Pose;
use crate::raster::Vec3;

/// A bone of the rig.
#[derive(Debug, Clone)]
pub(crate) struct Bone {
    /// Name in the rig file.
    pub name: String,
    /// Index of the parent, always an earlier one; `None` for the root.
    pub parent: Option<usize>,
    /// Vertices of the body whose mean is the joint.
    pub joint: Vec<u32>,
}

/// Bones of the CMU skeleton that poses move. Pairs are (right, left).
#[derive(Debug, Clone)]
pub(crate) struct NamedBones {
    hips: usize,
    spine: [usize; 3],
    neck: [usize; 2],
    pub head: usize,
    shoulder: [usize; 2],
    arm: [usize; 2],
    forearm: [usize; 2],
    hand: [usize; 2],
    thigh: [usize; 2],
    shin: [usize; 2],
    foot: [usize; 2],
}

impl NamedBones {
    /// Finds the bones by name; the error names the first that is missing.
    pub fn find(bones: &[Bone]) -> Result<Self, String> {
        let one = |name: &str| {
            bones.iter().position(|bone| bone.name == name).ok_or_else(|| format!("the rig has no bone {name:?}"))
        };
        let pair = |name: &str| Ok::<_, String>([one(&format!("Right{name}"))?, one(&format!("Left{name}"))?]);
        Ok(Self {
            hips: one("Hips")?,
            spine: [one("LowerBack")?, one("Spine")?, one("Spine1")?],
            neck: [one("Neck")?, one("Neck1")?],
            head: one("Head")?,
            shoulder: pair("Shoulder")?,
            arm: pair("Arm")?,
            forearm: pair("ForeArm")?,
            hand: pair("Hand")?,
            thigh: pair("UpLeg")?,
            shin: pair("Leg")?,
            foot: pair("Foot")?,
        })
    }
}

impl NamedBones {
    /// Bone of the chest, from which bags hang.
    pub fn chest(&self) -> usize {
        self.spine[2]
    }

    /// Bone of a hand: 0 right, 1 left.
    pub fn hand(&self, side: usize) -> usize {
        self.hand[side]
    }
}

/// Skeleton in the undeformed body; joints, sole and crown in metres.
#[derive(Debug, Clone)]
pub(crate) struct Rig {
    pub bones: Vec<Bone>,
    pub named: NamedBones,
    joints: Vec<Vec3>,
    regions: Vec<BodyRegion>,
    sides: Vec<usize>,
    sole: f32,
    crown: f32,
}

/// Transform of each bone: a point `p` at rest goes to `rotation * p + translation`.
#[derive(Debug, Clone)]
pub(crate) struct BoneTransforms {
    pub rotations: Vec<Mat3>,
    pub translations: Vec<Vec3>,
}

impl Rig {
    /// Places the skeleton in `body`, which stands from `sole` to `crown`.
    pub fn new(bones: Vec<Bone>, named: NamedBones, body: &[Vec3], sole: f32, crown: f32) -> Self {
        let mut regions = vec![BodyRegion::Trunk; bones.len()];
        let mut sides = vec![0; bones.len()];
        for at in 0..bones.len() {
            let parent = bones[at].parent;
            let above = parent.map_or(BodyRegion::Trunk, |p| regions[p]);
            let side = (0..2).find(|&s| {
                [named.arm[s], named.thigh[s], named.shoulder[s]].contains(&at)
                    || parent.is_some_and(|p| p == named.thigh[s])
            });
            sides[at] = side.unwrap_or(parent.map_or(0, |p| sides[p]));
            regions[at] = match at {
                _ if at == named.head || named.neck[1] == at => BodyRegion::Head,
                _ if named.arm.contains(&at) => BodyRegion::Arm,
                _ if named.hand.contains(&at) => BodyRegion::Hand,
                _ if named.thigh.contains(&at) => BodyRegion::Leg,
                _ if named.foot.contains(&at) => BodyRegion::Foot,
                _ => above,
            };
        }
        let mut rig = Self { bones, named, joints: Vec::new(), regions, sides, sole, crown };
        rig.joints = rig.joints_of(body);
        rig
    }

    /// Joints of a shaped body.
    pub fn joints_of(&self, body: &[Vec3]) -> Vec<Vec3> {
        self.bones
            .iter()
            .map(|bone| {
                let sum = bone.joint.iter().fold([0.0; 3], |sum, &v| add(sum, body[v as usize]));
                scale(sum, 1.0 / bone.joint.len().max(1) as f32)
            })
            .collect()
    }

    /// Region of a vertex: the one with most of its weight.
    pub fn region(&self, weights: &BoneWeights) -> BodyRegion {
        use BodyRegion::*;
        let sum = |region: BodyRegion| -> f32 {
            weights.iter().filter(|w| self.regions[usize::from(w.0)] == region).map(|w| w.1).sum()
        };
        [Head, Trunk, Arm, Hand, Leg, Foot].into_iter().max_by(|&a, &b| sum(a).total_cmp(&sum(b))).unwrap_or(Trunk)
    }

    /// Region of a vertex at `point`. Hips belong to the trunk down to where the legs part, so that
    /// hems run level there.
    pub fn region_at(&self, weights: &BoneWeights, point: Vec3) -> BodyRegion {
        match self.region(weights) {
            BodyRegion::Leg if (point[1] - self.sole) / (self.crown - self.sole) > 0.445 => BodyRegion::Trunk,
            region => region,
        }
    }

    /// Surface coordinates of a point of the undeformed body in `region`; see
    /// [`Triangle::coords`](super::surface::Triangle).
    pub fn surface_coords(&self, point: Vec3, weights: &BoneWeights, region: BodyRegion) -> [f32; 4] {
        let height = (point[1] - self.sole) / (self.crown - self.sole);
        let side = weights
            .iter()
            .find(|w| self.regions[usize::from(w.0)] == region)
            .map_or(usize::from(point[0] > 0.0), |w| self.sides[usize::from(w.0)]);
        match region {
            BodyRegion::Head => {
                let tall = self.crown - self.sole;
                let centre = self.crown - 0.0745 * tall;
                [
                    point[0] / (0.0575 * tall),
                    (point[1] - centre) / (0.09 * tall),
                    (point[2] - 0.021 * tall) / (0.072 * tall),
                    height,
                ]
            }
            BodyRegion::Trunk => {
                let centre = [0.0, 0.0, 0.012];
                let far = (point[0] * point[0] + (point[2] - centre[2]).powi(2)).sqrt();
                [0.0, height, angle_around(point, centre), far]
            }
            BodyRegion::Arm | BodyRegion::Hand => {
                let n = &self.named;
                let (t, angle, far) =
                    limb_coords(point, [n.arm[side], n.forearm[side], n.hand[side]].map(|b| self.joints[b]));
                [t, height, angle, far]
            }
            BodyRegion::Leg | BodyRegion::Foot => {
                let n = &self.named;
                let (t, angle, far) =
                    limb_coords(point, [n.thigh[side], n.shin[side], n.foot[side]].map(|b| self.joints[b]));
                [t, height, angle, far]
            }
        }
    }

    /// Middle of a hand at rest: past the wrist, in the direction of the forearm.
    pub fn palm(&self, body: &[Vec3], side: usize) -> Vec3 {
        let joints = self.joints_of(body);
        let (elbow, wrist) = (joints[self.named.forearm[side]], joints[self.named.hand[side]]);
        add(wrist, scale(sub(wrist, elbow), 0.32))
    }

    /// Transforms of the bones of a body with these `joints` in `pose`.
    pub fn pose(&self, joints: &[Vec3], pose: &Pose) -> BoneTransforms {
        let n = &self.named;
        let count = self.bones.len();
        let mut absolute_of: Vec<Option<Mat3>> = vec![None; count];
        let mut relative_of: Vec<Option<Mat3>> = vec![None; count];
        let x_axis = [1.0, 0.0, 0.0];
        let y_axis = [0.0, 1.0, 0.0];
        let z_axis = [0.0, 0.0, 1.0];
        // Trunk: hips turn with the stride, shoulders against it.
        let twist = -pose.phase.sin() * pose.stride * 0.3;
        relative_of[n.hips] = Some(rotation(y_axis, twist));
        let (lean, sway) = (pose.lean / 3.0, -pose.sway / 3.0);
        for bone in n.spine {
            let counter = rotation(y_axis, -twist * 0.6);
            relative_of[bone] = Some(matmul(&matmul(&rotation(x_axis, lean), &rotation(z_axis, sway)), &counter));
        }
        for bone in n.neck.into_iter().chain([n.head]) {
            relative_of[bone] =
                Some(matmul(&rotation(y_axis, -pose.head_yaw / 3.0), &rotation(x_axis, pose.head_nod / 3.0)));
        }
        let trunk = matmul(
            &rotation(y_axis, -twist * 0.8),
            &matmul(&rotation(x_axis, pose.lean), &rotation(z_axis, -pose.sway)),
        );
        for (index, side) in [-1.0f32, 1.0].into_iter().enumerate() {
            let towards = |a: usize, b: usize| sub(joints[b], joints[a]);
            let arm = pose.arms[index];
            let drop = 0.12 + 0.1 * arm.swing.min(0.0);
            relative_of[n.shoulder[index]] = Some(rotation(z_axis, -side * drop));
            let upper = [side * arm.out.sin(), -arm.swing.cos() * arm.out.cos(), arm.swing.sin()];
            let fore = arm.swing + arm.bend;
            let lower = [
                -side * arm.inward.sin() + side * arm.out.sin() * 0.3,
                -fore.cos() * arm.inward.cos(),
                fore.sin() * arm.inward.cos(),
            ];
            let upper = rotation_between(towards(n.arm[index], n.forearm[index]), transform(&trunk, upper));
            let lower = rotation_between(towards(n.forearm[index], n.hand[index]), transform(&trunk, lower));
            absolute_of[n.arm[index]] = Some(upper);
            absolute_of[n.forearm[index]] = Some(lower);
            let phase = pose.phase + index as f32 * std::f32::consts::PI;
            let swing = phase.sin() * pose.stride;
            let lift = (phase + 1.2).sin().max(0.0) * pose.stride * 1.3;
            let shin = swing - lift - 0.04;
            let apart = side * 0.03;
            let thigh_to = [apart, -swing.cos(), swing.sin()];
            let shin_to = [apart * 0.6, -shin.cos(), shin.sin()];
            let out = rotation(y_axis, side * 0.12);
            let from = normalize(towards(n.thigh[index], n.shin[index]));
            absolute_of[n.thigh[index]] = Some(matmul(&rotation_between(from, thigh_to), &out));
            absolute_of[n.shin[index]] =
                Some(matmul(&rotation_between(normalize(towards(n.shin[index], n.foot[index])), shin_to), &out));
            let pitch = (-shin * 0.7).clamp(-0.5, 0.9);
            absolute_of[n.foot[index]] = Some(matmul(&rotation(x_axis, pitch), &out));
        }
        let mut posed =
            BoneTransforms { rotations: Vec::with_capacity(count), translations: Vec::with_capacity(count) };
        for (at, bone) in self.bones.iter().enumerate() {
            let (base, shift) =
                bone.parent.map_or((IDENTITY, [0.0; 3]), |p| (posed.rotations[p], posed.translations[p]));
            let map = match (absolute_of[at], relative_of[at]) {
                (Some(absolute), _) => absolute,
                (None, Some(relative)) => matmul(&base, &relative),
                (None, None) => base,
            };
            let joint = add(transform(&base, joints[at]), shift);
            posed.translations.push(sub(joint, transform(&map, joints[at])));
            posed.rotations.push(map);
        }
        posed
    }
}

impl BoneTransforms {
    /// Moves a point that belongs to one bone from rest to the pose.
    pub fn transform_point(&self, bone: usize, point: Vec3) -> Vec3 {
        add(transform(&self.rotations[bone], point), self.translations[bone])
    }

    /// Linear blend skinning of `points`.
    pub fn skin_points(&self, points: &[Vec3], bone_weights: &[BoneWeights]) -> Vec<Vec3> {
        points
            .iter()
            .zip(bone_weights)
            .map(|(&point, weights)| {
                let mut out = [0.0f32; 3];
                for &(bone, weight) in weights {
                    if weight > 0.0 {
                        out = add(out, scale(self.transform_point(usize::from(bone), point), weight));
                    }
                }
                out
            })
            .collect()
    }
}
