//! Vectors and rotations of three dimensions.

use crate::raster::V3;

/// Rotation (or any linear map), row-major.
pub(crate) type M3 = [[f32; 3]; 3];

/// The map that changes nothing.
pub(crate) const IDENTITY: M3 = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];

pub(crate) fn add(a: V3, b: V3) -> V3 {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

pub(crate) fn sub(a: V3, b: V3) -> V3 {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

pub(crate) fn scale(a: V3, s: f32) -> V3 {
    [a[0] * s, a[1] * s, a[2] * s]
}

pub(crate) fn dot(a: V3, b: V3) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

pub(crate) fn cross(a: V3, b: V3) -> V3 {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

pub(crate) fn length(a: V3) -> f32 {
    dot(a, a).sqrt()
}

/// Unit vector along `a`; straight up where `a` has no length.
pub(crate) fn unit(a: V3) -> V3 {
    let l = length(a);
    if l > 1e-9 { scale(a, 1.0 / l) } else { [0.0, 1.0, 0.0] }
}

pub(crate) fn apply(m: &M3, v: V3) -> V3 {
    [dot(m[0], v), dot(m[1], v), dot(m[2], v)]
}

pub(crate) fn times(a: &M3, b: &M3) -> M3 {
    std::array::from_fn(|r| std::array::from_fn(|c| (0..3).map(|k| a[r][k] * b[k][c]).sum()))
}

/// Right-handed turn by `angle` about the unit vector `axis` (Rodrigues' formula).
pub(crate) fn turn(axis: V3, angle: f32) -> M3 {
    let (s, c) = angle.sin_cos();
    let [x, y, z] = axis;
    let k = 1.0 - c;
    [
        [c + x * x * k, x * y * k - z * s, x * z * k + y * s],
        [y * x * k + z * s, c + y * y * k, y * z * k - x * s],
        [z * x * k - y * s, z * y * k + x * s, c + z * z * k],
    ]
}

/// The shortest turn that takes direction `from` to direction `to`.
pub(crate) fn align(from: V3, to: V3) -> M3 {
    let (from, to) = (unit(from), unit(to));
    let axis = cross(from, to);
    let (s, c) = (length(axis), dot(from, to));
    if s < 1e-6 {
        if c > 0.0 {
            return IDENTITY;
        }
        let other = if from[0].abs() < 0.9 { [1.0, 0.0, 0.0] } else { [0.0, 1.0, 0.0] };
        return turn(unit(cross(from, other)), std::f32::consts::PI);
    }
    turn(scale(axis, 1.0 / s), s.atan2(c))
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
            let got = apply(&align(from, to), unit(from));
            assert!(length(sub(got, unit(to))) < 1e-5, "{from:?} {to:?} {got:?}");
        }
    }
}
