//! Vectors and matrices of three dimensions.
//!
//! Written here because a linear algebra crate may order its sums otherwise, and pictures are
//! pinned to the byte.

use crate::raster::Vec3;

/// Row-major 3x3 matrix.
pub(crate) type Mat3 = [[f32; 3]; 3];

pub(crate) const IDENTITY: Mat3 = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];

pub(crate) fn add(a: Vec3, b: Vec3) -> Vec3 {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

pub(crate) fn sub(a: Vec3, b: Vec3) -> Vec3 {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

pub(crate) fn scale(a: Vec3, s: f32) -> Vec3 {
    [a[0] * s, a[1] * s, a[2] * s]
}

pub(crate) fn dot(a: Vec3, b: Vec3) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

pub(crate) fn cross(a: Vec3, b: Vec3) -> Vec3 {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

pub(crate) fn length(a: Vec3) -> f32 {
    dot(a, a).sqrt()
}

/// Unit vector along `a`; straight up if `a` has no length.
pub(crate) fn normalize(a: Vec3) -> Vec3 {
    let l = length(a);
    if l > 1e-9 { scale(a, 1.0 / l) } else { [0.0, 1.0, 0.0] }
}

pub(crate) fn transform(m: &Mat3, v: Vec3) -> Vec3 {
    [dot(m[0], v), dot(m[1], v), dot(m[2], v)]
}

pub(crate) fn matmul(a: &Mat3, b: &Mat3) -> Mat3 {
    std::array::from_fn(|r| std::array::from_fn(|c| (0..3).map(|k| a[r][k] * b[k][c]).sum()))
}

/// Right-handed rotation by `angle` about the unit vector `axis` (Rodrigues' formula).
pub(crate) fn rotation(axis: Vec3, angle: f32) -> Mat3 {
    let (s, c) = angle.sin_cos();
    let [x, y, z] = axis;
    let k = 1.0 - c;
    [
        [c + x * x * k, x * y * k - z * s, x * z * k + y * s],
        [y * x * k + z * s, c + y * y * k, y * z * k - x * s],
        [z * x * k - y * s, z * y * k + x * s, c + z * z * k],
    ]
}

/// Shortest rotation that takes direction `from` to direction `to`.
pub(crate) fn rotation_between(from: Vec3, to: Vec3) -> Mat3 {
    let (from, to) = (normalize(from), normalize(to));
    let axis = cross(from, to);
    let (s, c) = (length(axis), dot(from, to));
    if s < 1e-6 {
        if c > 0.0 {
            return IDENTITY;
        }
        let other = if from[0].abs() < 0.9 { [1.0, 0.0, 0.0] } else { [0.0, 1.0, 0.0] };
        return rotation(normalize(cross(from, other)), std::f32::consts::PI);
    }
    rotation(scale(axis, 1.0 / s), s.atan2(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn align_takes_one_direction_to_the_other() {
        for (from, to) in [
            ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]),
            ([0.0, 0.0, 2.0], [0.0, 0.0, -1.0]),
            ([1.0, 2.0, 3.0], [-2.0, 0.5, 1.0]),
            ([0.0, 1.0, 0.0], [0.0, 1.0, 0.0]),
        ] {
            let got = transform(&rotation_between(from, to), normalize(from));
            assert!(length(sub(got, normalize(to))) < 1e-5, "{from:?} {to:?} {got:?}");
        }
    }
}
