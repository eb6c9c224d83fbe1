//! The skeleton: joints of a shaped body, the pose's turns, and skinning.

use super::math::{IDENTITY, Mat3, add, align, apply, scale, sub, times, turn, unit};
use super::surface::{Region, Skin, along, around};
use crate::body::Pose;
use crate::raster::Vec3;

/// One bone.
#[derive(Debug, Clone)]
pub(crate) struct Bone {
    /// Name in the rig file.
    pub name: String,
    /// The bone it hangs on; always an earlier one.
    pub parent: Option<usize>,
    /// Vertices of the body whose middle is its joint.
    pub joint: Vec<u32>,
}

/// Bones of the CMU skeleton that poses move. Pairs are (right, left).
#[derive(Debug, Clone)]
pub(crate) struct Named {
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

impl Named {
    /// Finds them by name; the first that is missing is the error.
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

impl Named {
    /// The bone of the chest, which bags hang on.
    pub fn chest(&self) -> usize {
        self.spine[2]
    }

    /// The bone of a hand (0 right, 1 left).
    pub fn hand_of(&self, side: usize) -> usize {
        self.hand[side]
    }
}

/// Skeleton with the joints of the undeformed body (metres).
#[derive(Debug, Clone)]
pub(crate) struct Rig {
    pub bones: Vec<Bone>,
    pub named: Named,
    joints: Vec<Vec3>,
    regions: Vec<Region>,
    sides: Vec<usize>,
    sole: f32,
    crown: f32,
}

/// Movement of each bone: a point `p` at rest goes to `turn * p + shift`.
#[derive(Debug, Clone)]
pub(crate) struct Posed {
    pub turns: Vec<Mat3>,
    pub shifts: Vec<Vec3>,
}

impl Rig {
    /// The skeleton in `body`, which stands from `sole` to `crown`.
    pub fn new(bones: Vec<Bone>, named: Named, body: &[Vec3], sole: f32, crown: f32) -> Self {
        let mut regions = vec![Region::Trunk; bones.len()];
        let mut sides = vec![0; bones.len()];
        for at in 0..bones.len() {
            let parent = bones[at].parent;
            let above = parent.map_or(Region::Trunk, |p| regions[p]);
            let side = (0..2).find(|&s| {
                [named.arm[s], named.thigh[s], named.shoulder[s]].contains(&at)
                    || parent.is_some_and(|p| p == named.thigh[s])
            });
            sides[at] = side.unwrap_or(parent.map_or(0, |p| sides[p]));
            regions[at] = match at {
                _ if at == named.head || named.neck[1] == at => Region::Head,
                _ if named.arm.contains(&at) => Region::Arm,
                _ if named.hand.contains(&at) => Region::Hand,
                _ if named.thigh.contains(&at) => Region::Leg,
                _ if named.foot.contains(&at) => Region::Foot,
                _ => above,
            };
        }
        let mut rig = Self { bones, named, joints: Vec::new(), regions, sides, sole, crown };
        rig.joints = rig.joints_of(body);
        rig
    }

    /// Joints on a shaped body.
    pub fn joints_of(&self, body: &[Vec3]) -> Vec<Vec3> {
        self.bones
            .iter()
            .map(|bone| {
                let sum = bone.joint.iter().fold([0.0; 3], |sum, &v| add(sum, body[v as usize]));
                scale(sum, 1.0 / bone.joint.len().max(1) as f32)
            })
            .collect()
    }

    /// The region in which a vertex has most of its weight.
    pub fn region(&self, skin: &Skin) -> Region {
        use Region::*;
        let sum = |region: Region| -> f32 {
            skin.iter().filter(|w| self.regions[usize::from(w.0)] == region).map(|w| w.1).sum()
        };
        [Head, Trunk, Arm, Hand, Leg, Foot].into_iter().max_by(|&a, &b| sum(a).total_cmp(&sum(b))).unwrap_or(Trunk)
    }

    /// The region of a vertex at `point`; hips count as trunk down to where the legs part, so that hems run level there.
    pub fn region_at(&self, skin: &Skin, point: Vec3) -> Region {
        match self.region(skin) {
            Region::Leg if (point[1] - self.sole) / (self.crown - self.sole) > 0.445 => Region::Trunk,
            region => region,
        }
    }

    /// Attributes of a point of the undeformed body in `region`: see [`super::surface::Triangle`].
    pub fn place(&self, point: Vec3, skin: &Skin, region: Region) -> [f32; 4] {
        let height = (point[1] - self.sole) / (self.crown - self.sole);
        let side = skin
            .iter()
            .find(|w| self.regions[usize::from(w.0)] == region)
            .map_or(usize::from(point[0] > 0.0), |w| self.sides[usize::from(w.0)]);
        match region {
            Region::Head => {
                let tall = self.crown - self.sole;
                let centre = self.crown - 0.0745 * tall;
                [
                    point[0] / (0.0575 * tall),
                    (point[1] - centre) / (0.09 * tall),
                    (point[2] - 0.021 * tall) / (0.072 * tall),
                    height,
                ]
            }
            Region::Trunk => {
                let centre = [0.0, 0.0, 0.012];
                let far = (point[0] * point[0] + (point[2] - centre[2]).powi(2)).sqrt();
                [0.0, height, around(point, centre), far]
            }
            Region::Arm | Region::Hand => {
                let n = &self.named;
                let (t, angle, far) =
                    along(point, [n.arm[side], n.forearm[side], n.hand[side]].map(|b| self.joints[b]));
                [t, height, angle, far]
            }
            Region::Leg | Region::Foot => {
                let n = &self.named;
                let (t, angle, far) = along(point, [n.thigh[side], n.shin[side], n.foot[side]].map(|b| self.joints[b]));
                [t, height, angle, far]
            }
        }
    }

    /// Middle of a hand at rest: beyond the wrist, along the forearm.
    pub fn palm(&self, body: &[Vec3], side: usize) -> Vec3 {
        let joints = self.joints_of(body);
        let (elbow, wrist) = (joints[self.named.forearm[side]], joints[self.named.hand[side]]);
        add(wrist, scale(sub(wrist, elbow), 0.32))
    }

    /// Turns the bones of a body with these `joints` into `pose`.
    pub fn pose(&self, joints: &[Vec3], pose: &Pose) -> Posed {
        let n = &self.named;
        let count = self.bones.len();
        let mut own: Vec<Option<Mat3>> = vec![None; count];
        let mut bend: Vec<Option<Mat3>> = vec![None; count];
        let x_axis = [1.0, 0.0, 0.0];
        let y_axis = [0.0, 1.0, 0.0];
        let z_axis = [0.0, 0.0, 1.0];
        // Trunk: hips turn with the stride, shoulders against it.
        let twist = -pose.phase.sin() * pose.stride * 0.3;
        bend[n.hips] = Some(turn(y_axis, twist));
        let (lean, sway) = (pose.lean / 3.0, -pose.sway / 3.0);
        for bone in n.spine {
            let counter = turn(y_axis, -twist * 0.6);
            bend[bone] = Some(times(&times(&turn(x_axis, lean), &turn(z_axis, sway)), &counter));
        }
        for bone in n.neck.into_iter().chain([n.head]) {
            bend[bone] = Some(times(&turn(y_axis, -pose.head_yaw / 3.0), &turn(x_axis, pose.head_nod / 3.0)));
        }
        let trunk = times(&turn(y_axis, -twist * 0.8), &times(&turn(x_axis, pose.lean), &turn(z_axis, -pose.sway)));
        for (index, side) in [-1.0f32, 1.0].into_iter().enumerate() {
            let towards = |a: usize, b: usize| sub(joints[b], joints[a]);
            let arm = pose.arms[index];
            let drop = 0.12 + 0.1 * arm.swing.min(0.0);
            bend[n.shoulder[index]] = Some(turn(z_axis, -side * drop));
            let upper = [side * arm.out.sin(), -arm.swing.cos() * arm.out.cos(), arm.swing.sin()];
            let fore = arm.swing + arm.bend;
            let lower = [
                -side * arm.inward.sin() + side * arm.out.sin() * 0.3,
                -fore.cos() * arm.inward.cos(),
                fore.sin() * arm.inward.cos(),
            ];
            let upper = align(towards(n.arm[index], n.forearm[index]), apply(&trunk, upper));
            let lower = align(towards(n.forearm[index], n.hand[index]), apply(&trunk, lower));
            own[n.arm[index]] = Some(upper);
            own[n.forearm[index]] = Some(lower);
            let phase = pose.phase + index as f32 * std::f32::consts::PI;
            let swing = phase.sin() * pose.stride;
            let lift = (phase + 1.2).sin().max(0.0) * pose.stride * 1.3;
            let shin = swing - lift - 0.04;
            let apart = side * 0.03;
            let thigh_to = [apart, -swing.cos(), swing.sin()];
            let shin_to = [apart * 0.6, -shin.cos(), shin.sin()];
            let out = turn(y_axis, side * 0.12);
            let from = unit(towards(n.thigh[index], n.shin[index]));
            own[n.thigh[index]] = Some(times(&align(from, thigh_to), &out));
            own[n.shin[index]] = Some(times(&align(unit(towards(n.shin[index], n.foot[index])), shin_to), &out));
            let pitch = (-shin * 0.7).clamp(-0.5, 0.9);
            own[n.foot[index]] = Some(times(&turn(x_axis, pitch), &out));
        }
        let mut posed = Posed { turns: Vec::with_capacity(count), shifts: Vec::with_capacity(count) };
        for (at, bone) in self.bones.iter().enumerate() {
            let (base, shift) = bone.parent.map_or((IDENTITY, [0.0; 3]), |p| (posed.turns[p], posed.shifts[p]));
            let map = match (own[at], bend[at]) {
                (Some(absolute), _) => absolute,
                (None, Some(relative)) => times(&base, &relative),
                (None, None) => base,
            };
            let joint = add(apply(&base, joints[at]), shift);
            posed.shifts.push(sub(joint, apply(&map, joints[at])));
            posed.turns.push(map);
        }
        posed
    }
}

impl Posed {
    /// A point at rest that belongs to one bone.
    pub fn moved(&self, bone: usize, point: Vec3) -> Vec3 {
        add(apply(&self.turns[bone], point), self.shifts[bone])
    }

    /// Linear blend skinning of `points`.
    pub fn skinned(&self, points: &[Vec3], skin: &[Skin]) -> Vec<Vec3> {
        points
            .iter()
            .zip(skin)
            .map(|(&point, weights)| {
                let mut out = [0.0f32; 3];
                for &(bone, weight) in weights {
                    if weight > 0.0 {
                        out = add(out, scale(self.moved(usize::from(bone), point), weight));
                    }
                }
                out
            })
            .collect()
    }
}
