//! Surface: triangles bound to the body, which follow its shape and skeleton and know where on the
//! body they lie.

use std::f32::consts::{PI, TAU};

use super::math::{add, cross, dot, length, normalize, scale, sub};
use super::parse::Binding;
use super::rig::Rig;
use crate::raster::Vec3;

/// Part of the body that a triangle lies on; decides what [`Triangle::coords`] mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyRegion {
    Head,
    Trunk,
    Arm,
    Hand,
    Leg,
    Foot,
}

/// A triangle and its place on the body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Triangle {
    pub vertices: [u32; 3],
    pub region: BodyRegion,
    /// Surface coordinates of each corner. Head: the point on a unit sphere around the head (x, y,
    /// z) and the height. Elsewhere: the position along the limb (0 shoulder or hip, 1 elbow or
    /// knee, 2 wrist or ankle; 0 on the trunk), the height (0 sole, 1 crown), the angle around
    /// trunk or limb (0 front, unwrapped within the triangle) and the distance from the axis in
    /// metres.
    pub coords: [[f32; 4]; 3],
}

/// Weights of up to four bones (index, weight), summing to 1.
pub(crate) type BoneWeights = [(u8, f32); 4];

/// A surface at rest on the undeformed body.
#[derive(Debug, Clone)]
pub(crate) struct Surface {
    /// How each vertex follows the body's shape.
    pub bindings: Vec<Binding>,
    /// See [`Clothes::scales`](super::parse::Clothes::scales).
    pub scales: [Option<(u32, u32, f32)>; 3],
    /// How each vertex follows the bones.
    pub bone_weights: Vec<BoneWeights>,
    /// Region of each vertex.
    pub regions: Vec<BodyRegion>,
    /// Surface coordinates of each vertex in its own region, as [`Triangle::coords`].
    pub coords: Vec<[f32; 4]>,
    pub triangles: Vec<Triangle>,
    /// Neighbours of vertex `i` are `edges[starts[i]..starts[i + 1]]`.
    pub starts: Vec<u32>,
    pub edges: Vec<u32>,
}

/// The four largest weights, scaled to sum to 1; bone 0 alone if there are none.
pub(crate) fn strongest_weights(mut all: Vec<(u8, f32)>) -> BoneWeights {
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(4);
    let sum: f32 = all.iter().map(|w| w.1).sum();
    let mut out = [(0, 0.0); 4];
    if sum <= 0.0 {
        out[0].1 = 1.0;
        return out;
    }
    for (slot, (bone, weight)) in out.iter_mut().zip(all) {
        *slot = (bone, weight / sum);
    }
    out
}

/// Bone weights of a bound vertex, by its shares of three body vertices.
fn mixed_weights(binding: &Binding, all_weights: &[BoneWeights]) -> BoneWeights {
    let mut all: Vec<(u8, f32)> = Vec::with_capacity(12);
    for (vertex, share) in binding.vertices.iter().zip(binding.weights) {
        for (bone, weight) in all_weights[*vertex as usize] {
            let weight = weight * share.max(0.0);
            match all.iter_mut().find(|w| w.0 == bone) {
                Some(known) => known.1 += weight,
                None if weight > 0.0 => all.push((bone, weight)),
                None => {}
            }
        }
    }
    strongest_weights(all)
}

/// Positions of bound vertices; `body` holds all vertices of the base mesh.
pub(crate) fn bound_positions(bindings: &[Binding], scales: &[Option<(u32, u32, f32)>; 3], body: &[Vec3]) -> Vec<Vec3> {
    let size: [f32; 3] = std::array::from_fn(|axis| match scales[axis] {
        Some((a, b, distance)) if distance.abs() > 1e-6 => {
            (body[a as usize][axis] - body[b as usize][axis]).abs() / distance.abs()
        }
        _ => 1.0,
    });
    bindings
        .iter()
        .map(|binding| {
            let mut at: Vec3 = std::array::from_fn(|axis| binding.offset[axis] * size[axis]);
            for (vertex, share) in binding.vertices.iter().zip(binding.weights) {
                at = add(at, scale(body[*vertex as usize], share));
            }
            at
        })
        .collect()
}

impl Surface {
    /// Binds triangles to the undeformed body, given by its vertices, their bone weights and the
    /// rig. Skirts and hair have a `fixed_region`, whichever bones move them.
    pub fn new(
        bindings: Vec<Binding>,
        scales: [Option<(u32, u32, f32)>; 3],
        faces: &[[u32; 3]],
        (body, all_weights, rig): (&[Vec3], &[BoneWeights], &Rig),
        fixed_region: Option<BodyRegion>,
    ) -> Self {
        let bone_weights: Vec<BoneWeights> =
            bindings.iter().map(|binding| mixed_weights(binding, all_weights)).collect();
        let points = bound_positions(&bindings, &scales, body);
        let regions: Vec<BodyRegion> = bone_weights
            .iter()
            .zip(&points)
            .map(|(s, &point)| fixed_region.unwrap_or_else(|| rig.region_at(s, point)))
            .collect();
        let coords = (0..points.len()).map(|v| rig.surface_coords(points[v], &bone_weights[v], regions[v])).collect();
        let triangles = faces
            .iter()
            .map(|corners| {
                let of = corners.map(|v| regions[v as usize]);
                let region = if of[1] == of[2] { of[1] } else { of[0] };
                let whose = corners.iter().find(|&&v| regions[v as usize] == region).unwrap_or(&corners[0]);
                let owner = bone_weights[*whose as usize];
                let mut coords = corners.map(|v| rig.surface_coords(points[v as usize], &owner, region));
                if region != BodyRegion::Head {
                    let first = coords[0][2];
                    for corner in &mut coords[1..] {
                        corner[2] -= ((corner[2] - first) / TAU).round() * TAU;
                    }
                }
                Triangle { vertices: *corners, region, coords }
            })
            .collect();
        let (starts, edges) = neighbours(points.len(), faces);
        Self { bindings, scales, bone_weights, regions, coords, triangles, starts, edges }
    }

    /// The part of the base mesh made of `faces`, with vertices numbered anew.
    pub fn from_body(
        faces: &[[u32; 3]],
        whole: (&[Vec3], &[BoneWeights], &Rig),
        fixed_region: Option<BodyRegion>,
    ) -> Self {
        let mut number = vec![u32::MAX; whole.0.len()];
        let mut bindings = Vec::new();
        let renumbered: Vec<[u32; 3]> = faces
            .iter()
            .map(|corners| {
                corners.map(|v| {
                    let slot = &mut number[v as usize];
                    if *slot == u32::MAX {
                        *slot = bindings.len() as u32;
                        bindings.push(Binding { vertices: [v; 3], weights: [1.0, 0.0, 0.0], offset: [0.0; 3] });
                    }
                    *slot
                })
            })
            .collect();
        Self::new(bindings, [None; 3], &renumbered, whole, fixed_region)
    }

    /// Connected parts of a mesh, largest first, as lists of triangles (union-find).
    pub fn connected_parts(faces: &[[u32; 3]], vertices: usize) -> Vec<Vec<[u32; 3]>> {
        let mut parent: Vec<u32> = (0..vertices as u32).collect();
        fn root(parent: &mut [u32], mut at: u32) -> u32 {
            while parent[at as usize] != at {
                parent[at as usize] = parent[parent[at as usize] as usize];
                at = parent[at as usize];
            }
            at
        }
        for [a, b, c] in faces {
            for other in [b, c] {
                let (x, y) = (root(&mut parent, *a), root(&mut parent, *other));
                parent[x as usize] = y;
            }
        }
        let mut found: std::collections::BTreeMap<u32, Vec<[u32; 3]>> = Default::default();
        for face in faces {
            found.entry(root(&mut parent, face[0])).or_default().push(*face);
        }
        let mut parts: Vec<_> = found.into_values().collect();
        parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
        parts
    }

    /// Positions of the vertices on the shaped `body`, before posing.
    pub fn at_rest(&self, body: &[Vec3]) -> Vec<Vec3> {
        bound_positions(&self.bindings, &self.scales, body)
    }

    /// Unit normals of the vertices at `points`.
    pub fn normals(&self, points: &[Vec3]) -> Vec<Vec3> {
        let mut out = vec![[0.0f32; 3]; points.len()];
        for triangle in &self.triangles {
            let [a, b, c] = triangle.vertices.map(|v| points[v as usize]);
            let normal = cross(sub(b, a), sub(c, a));
            for v in triangle.vertices {
                out[v as usize] = add(out[v as usize], normal);
            }
        }
        out.into_iter().map(normalize).collect()
    }

    /// Laplacian smoothing: moves each `movable` vertex towards the mean of its neighbours,
    /// `rounds` times.
    pub fn smooth(&self, points: &mut [Vec3], rounds: usize, strength: f32, movable: impl Fn(usize) -> bool) {
        for _ in 0..rounds {
            let before = points.to_vec();
            for (v, point) in points.iter_mut().enumerate() {
                let around = &self.edges[self.starts[v] as usize..self.starts[v + 1] as usize];
                if around.is_empty() || !movable(v) {
                    continue;
                }
                let sum = around.iter().fold([0.0; 3], |sum, &n| add(sum, before[n as usize]));
                let middle = scale(sum, 1.0 / around.len() as f32);
                *point = add(*point, scale(sub(middle, *point), strength));
            }
        }
    }
}

/// Adjacency of the vertices; see [`Surface::starts`].
fn neighbours(vertices: usize, faces: &[[u32; 3]]) -> (Vec<u32>, Vec<u32>) {
    let mut pairs: Vec<(u32, u32)> = faces
        .iter()
        .flat_map(|&[a, b, c]| [(a, b), (b, a), (b, c), (c, b), (a, c), (c, a)])
        .filter(|(a, b)| a != b)
        .collect();
    pairs.sort_unstable();
    pairs.dedup();
    let mut starts = vec![0u32; vertices + 1];
    for (a, _) in &pairs {
        starts[*a as usize + 1] += 1;
    }
    for v in 0..vertices {
        starts[v + 1] += starts[v];
    }
    (starts, pairs.into_iter().map(|(_, b)| b).collect())
}

/// Angle of `point` around the vertical axis through `centre`: 0 in front, positive on the body's
/// left.
pub(crate) fn angle_around(point: Vec3, centre: Vec3) -> f32 {
    (point[0] - centre[0]).atan2(point[2] - centre[2])
}

/// Position of `point` along the limb with these `joints` (0, 1, 2 at the joints, negative before
/// the first), its angle around the limb and its distance from the axis.
pub(crate) fn limb_coords(point: Vec3, joints: [Vec3; 3]) -> (f32, f32, f32) {
    let mut best = (f32::MAX, 0.0, 0.0);
    for part in 0..2 {
        let (a, b) = (joints[part], joints[part + 1]);
        let axis = sub(b, a);
        let t = dot(sub(point, a), axis) / dot(axis, axis).max(1e-9);
        let held = if part == 0 { t.min(1.0) } else { t.max(0.0) };
        let out = sub(point, add(a, scale(axis, held)));
        let far = length(out);
        if far < best.0 {
            // Angle 0 is where the body faces, seen along the limb.
            let down = normalize(axis);
            let front = normalize(sub([0.0, 0.0, 1.0], scale(down, down[2])));
            let left = cross(front, down);
            best = (far, part as f32 + held, dot(out, left).atan2(dot(out, front)));
        }
    }
    (best.1, if best.2.is_finite() { best.2.clamp(-PI, PI) } else { 0.0 }, best.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_apart() {
        let parts = Surface::connected_parts(&[[0, 1, 2], [3, 4, 5], [2, 1, 6]], 7);
        assert_eq!(parts, vec![vec![[0, 1, 2], [2, 1, 6]], vec![[3, 4, 5]]]);
    }

    #[test]
    fn limbs_are_measured_along_and_around() {
        let joints = [[0.0, 2.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]];
        let (t, angle, far) = limb_coords([0.0, 0.5, 0.3], joints);
        assert!((t - 1.5).abs() < 1e-5 && angle.abs() < 1e-5 && (far - 0.3).abs() < 1e-5);
        let (t, angle, _) = limb_coords([0.2, 1.75, 0.0], joints);
        assert!((t - 0.25).abs() < 1e-5 && (angle.abs() - PI / 2.0).abs() < 1e-5);
        assert!(limb_coords([0.0, 2.5, 0.1], joints).0 < 0.0);
    }

    #[test]
    fn weights_keep_the_strongest_and_sum_to_one() {
        let bone_weights = strongest_weights(vec![(1, 0.1), (2, 0.5), (3, 0.2), (4, 0.15), (5, 0.05)]);
        assert_eq!(bone_weights[0].0, 2);
        assert!((bone_weights.iter().map(|w| w.1).sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!(strongest_weights(Vec::new())[0].1, 1.0);
    }
}
