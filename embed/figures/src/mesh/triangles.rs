//! Rasteriser of level 2: triangles with depth buffer, interpolated coordinates and normals,
//! shading, cast shadows and ambient occlusion.

use std::ops::RangeInclusive;

use super::math::{add, cross, dot, normalize, scale};
use super::surface::{BodyRegion, Triangle};
use crate::raster::{Canvas, Light, Vec3, View};

/// Material of a surface at a point.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Material {
    /// Linear RGB, 0..1.
    pub albedo: [f32; 3],
    /// Strength of the highlight, added to the light.
    pub gloss: f32,
    /// Slopes of the folds around and up the body, which tilt the normal.
    pub slope: [f32; 2],
}

/// A posed surface ready to be drawn.
pub(crate) struct PosedSurface<'a> {
    /// In body space.
    pub points: &'a [Vec3],
    /// Unit normals, one per point.
    pub normals: &'a [Vec3],
    /// Whether back faces are drawn too: the inside of open garments shows.
    pub double_sided: bool,
    /// Metres by which the surface is drawn nearer than it is, so that an outer layer never sinks
    /// into an inner one.
    pub depth_bias: f32,
}

impl View {
    /// Direction of view space in body space, the inverse of [`View::direction`].
    pub(crate) fn to_body(self, v: Vec3) -> Vec3 {
        let (sy, cy) = self.yaw.sin_cos();
        let (sp, cp) = self.pitch.sin_cos();
        let (y, z) = (v[1] * cp + v[2] * sp, -v[1] * sp + v[2] * cp);
        [v[0] * cy - z * sy, y, v[0] * sy + z * cy]
    }

    /// Direction of body space in view space, without roll, which the light ignores.
    pub(crate) fn direction(&self, v: Vec3) -> Vec3 {
        let (sy, cy) = self.yaw.sin_cos();
        let (sp, cp) = self.pitch.sin_cos();
        let (x, y, z) = (v[0] * cy + v[2] * sy, v[1], -v[0] * sy + v[2] * cy);
        [x, y * cp - z * sp, y * sp + z * cp]
    }
}

/// Light from a surface with this unit `normal` to the camera: wrapped Lambert, sky and a
/// Blinn-Phong highlight.
pub(crate) fn shade(light: &Light, normal: Vec3, albedo: [f32; 3], gloss: f32) -> [f32; 3] {
    let facing = dot(normal, light.towards);
    // Light wraps around edges, because skies and ceilings are wide.
    let direct = ((facing + 0.25) / 1.25).max(0.0);
    let sky = 0.62 + 0.38 * normal[1];
    let diffuse = light.ambient * sky + (1.0 - light.ambient) * direct;
    let half = normalize(add(light.towards, [0.0, 0.0, 1.0]));
    let shine = gloss * dot(normal, half).max(0.0).powi(14);
    albedo.map(|c| c * diffuse * 1.35 + shine)
}

/// Columns and rows of the pixels that a triangle may cover; `None` off the canvas.
fn pixel_bounds<const N: usize>(
    corners: [&[f32; N]; 3],
    canvas: &Canvas,
) -> Option<(RangeInclusive<usize>, RangeInclusive<usize>)> {
    let [a, b, c] = corners;
    let low = |i: usize| a[i].min(b[i]).min(c[i]).ceil().max(0.0);
    let high = |i: usize, end: usize| a[i].max(b[i]).max(c[i]).floor().min(end as f32 - 1.0);
    let (x0, x1, y0, y1) = (low(0), high(0, canvas.width), low(1), high(1, canvas.height));
    (x0 <= x1 && y0 <= y1).then_some((x0 as usize..=x1 as usize, y0 as usize..=y1 as usize))
}

/// Draws `triangles` of `posed`. `material_at` is called for every visible pixel and returns `None`
/// beyond the hem.
pub(crate) fn draw<'t>(
    canvas: &mut Canvas,
    posed: &PosedSurface<'_>,
    triangles: impl Iterator<Item = &'t Triangle>,
    view: &View,
    light: &Light,
    material_at: impl Fn(BodyRegion, [f32; 4]) -> Option<Material>,
) {
    let pixels: Vec<Vec3> = posed
        .points
        .iter()
        .map(|&point| {
            let (p, _) = view.project(point);
            [(p[0] - canvas.origin[0]) / canvas.step[0] - 0.5, (canvas.origin[1] - p[1]) / canvas.step[1] - 0.5, p[2]]
        })
        .collect();
    let normals: Vec<Vec3> = posed.normals.iter().map(|&n| view.direction(n)).collect();
    let upward = view.direction([0.0, 1.0, 0.0]);
    for triangle in triangles {
        let [a, b, c] = triangle.vertices.map(|v| pixels[v as usize]);
        let area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
        // Rows grow downwards, so front faces turn clockwise here.
        let back = area > 0.0;
        if area.abs() < 1e-6 || (back && !posed.double_sided) {
            continue;
        }
        let Some((columns, rows)) = pixel_bounds([&a, &b, &c], canvas) else { continue };
        let [na, nb, nc] = triangle.vertices.map(|v| normals[v as usize]);
        let inverse = 1.0 / area;
        for py in rows {
            let y = py as f32;
            for px in columns.clone() {
                let x = px as f32;
                let wb = ((x - a[0]) * (c[1] - a[1]) - (y - a[1]) * (c[0] - a[0])) * inverse;
                let wc = ((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])) * inverse;
                let wa = 1.0 - wb - wc;
                if wa < 0.0 || wb < 0.0 || wc < 0.0 {
                    continue;
                }
                let depth = wa * a[2] + wb * b[2] + wc * c[2] + posed.depth_bias;
                let at = py * canvas.width + px;
                if depth <= canvas.depth[at] {
                    continue;
                }
                let [ta, tb, tc] = &triangle.coords;
                let coords = std::array::from_fn(|i| wa * ta[i] + wb * tb[i] + wc * tc[i]);
                let Some(material) = material_at(triangle.region, coords) else { continue };
                let mut normal = add(add(scale(na, wa), scale(nb, wb)), scale(nc, wc));
                if back {
                    normal = scale(normal, -1.0);
                }
                let across = cross(upward, normal);
                let bent = add(normal, add(scale(across, -material.slope[0]), scale(upward, -material.slope[1])));
                let normal = normalize(bent);
                let inside = if back { 0.55 } else { 1.0 };
                let colour = shade(light, normal, material.albedo, material.gloss);
                canvas.depth[at] = depth;
                canvas.rgb[at] = colour.map(|v| v * inside);
            }
        }
    }
}

/// Sets `mask` to 1 where the triangles cast their shadow on the ground (y = 0). A light too low
/// casts none.
pub(crate) fn cast_shadow<'t>(
    canvas: &Canvas,
    mask: &mut [f32],
    points: &[Vec3],
    triangles: impl Iterator<Item = &'t Triangle>,
    view: &View,
    light: &Light,
) {
    let sun = view.to_body(light.towards);
    if sun[1] < 0.2 {
        return;
    }
    let flat: Vec<[f32; 2]> = points
        .iter()
        .map(|&p| {
            let down = p[1].max(0.0) / sun[1];
            let (q, _) = view.project([p[0] - sun[0] * down, 0.0, p[2] - sun[2] * down]);
            [(q[0] - canvas.origin[0]) / canvas.step[0] - 0.5, (canvas.origin[1] - q[1]) / canvas.step[1] - 0.5]
        })
        .collect();
    for triangle in triangles {
        let [a, b, c] = triangle.vertices.map(|v| flat[v as usize]);
        let area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
        if area.abs() < 1e-6 {
            continue;
        }
        let Some((columns, rows)) = pixel_bounds([&a, &b, &c], canvas) else { continue };
        for py in rows {
            for px in columns.clone() {
                let (x, y) = (px as f32, py as f32);
                let wb = ((x - a[0]) * (c[1] - a[1]) - (y - a[1]) * (c[0] - a[0])) / area;
                let wc = ((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])) / area;
                if wb >= 0.0 && wc >= 0.0 && wb + wc <= 1.0 {
                    mask[py * canvas.width + px] = 1.0;
                }
            }
        }
    }
}

/// Darkens the canvas where `mask` is set; a box blur over `radius` pixels softens the edges.
pub(crate) fn darken_shadow(canvas: &mut Canvas, mask: &[f32], radius: usize, strength: f32) {
    let (width, height) = (canvas.width, canvas.height);
    let soft = |from: &[f32], across: bool| -> Vec<f32> {
        let (lines, count, step, stride) = if across { (height, width, 1, width) } else { (width, height, width, 1) };
        let mut out = vec![0.0; from.len()];
        for line in 0..lines {
            let at = |i: usize| from[line * stride + i.min(count - 1) * step];
            let mut sum: f32 = (0..=radius).map(at).sum::<f32>() + radius as f32 * at(0);
            for i in 0..count {
                out[line * stride + i * step] = sum / (2 * radius + 1) as f32;
                sum += at(i + radius + 1) - at(i.saturating_sub(radius));
            }
        }
        out
    };
    let mask = soft(&soft(mask, true), false);
    for (pixel, dark) in canvas.rgb.iter_mut().zip(mask) {
        *pixel = pixel.map(|v| v * (1.0 - strength * dark));
    }
}

/// Ambient occlusion in screen space: darkens what lies behind something within `reach` metres,
/// such as armpits, the space between legs, and skin under hems and hair.
pub(crate) fn ambient_occlusion(canvas: &mut Canvas, reach: f32, strength: f32) {
    let (width, height) = (canvas.width as isize, canvas.height as isize);
    let (rx, ry) = (reach / canvas.step[0], reach / canvas.step[1]);
    let taps: Vec<(isize, isize)> = (0..12)
        .map(|i| {
            let angle = i as f32 * 2.4;
            let far = ((i as f32 + 1.0) / 12.0).sqrt();
            ((angle.cos() * far * rx).round() as isize, (angle.sin() * far * ry).round() as isize)
        })
        .collect();
    for y in 0..height {
        for x in 0..width {
            let at = (y * width + x) as usize;
            let own = canvas.depth[at];
            if own == f32::MIN {
                continue;
            }
            let mut hidden = 0.0;
            for (dx, dy) in &taps {
                let (tx, ty) = (x + dx, y + dy);
                if tx < 0 || ty < 0 || tx >= width || ty >= height {
                    continue;
                }
                let over = canvas.depth[(ty * width + tx) as usize] - own;
                if over > 0.015 && over < 0.4 {
                    hidden += ((over - 0.015) / 0.06).min(1.0) * (1.0 - over / 0.4);
                }
            }
            let kept = 1.0 - strength * (hidden / taps.len() as f32);
            canvas.rgb[at] = canvas.rgb[at].map(|v| v * kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_go_to_the_view_and_back() {
        let view = View { yaw: 0.7, pitch: 0.4, distance: 5.0, roll: 0.0, middle: 0.9, shift: [0.0; 3] };
        let back = view.to_body(view.direction([0.3, -0.5, 0.8]));
        assert!(back.iter().zip([0.3, -0.5, 0.8]).all(|(a, b)| (a - b).abs() < 1e-6), "{back:?}");
    }

    #[test]
    fn a_triangle_covers_its_pixels_and_hides_what_is_behind() {
        let view = View { yaw: 0.0, pitch: 0.0, distance: 10.0, roll: 0.0, middle: 0.0, shift: [0.0; 3] };
        let light = Light { towards: [0.0, 0.0, 1.0], ambient: 0.5 };
        let mut canvas = Canvas::new(8, 8, [-1.0, -1.0, 1.0, 1.0]);
        let triangle =
            Triangle { vertices: [0, 1, 2], region: BodyRegion::Trunk, coords: [[0.0; 4], [1.0; 4], [2.0; 4]] };
        let material_at = |z: f32, albedo: [f32; 3], canvas: &mut Canvas| {
            let points = [[-3.0, -3.0, z], [3.0, -3.0, z], [0.0, 6.0, z]];
            let posed =
                PosedSurface { points: &points, normals: &[[0.0, 0.0, 1.0]; 3], double_sided: false, depth_bias: 0.0 };
            draw(canvas, &posed, [triangle].iter(), &view, &light, |_, _| {
                Some(Material { albedo, gloss: 0.0, slope: [0.0; 2] })
            });
        };
        material_at(0.0, [0.8, 0.0, 0.0], &mut canvas);
        material_at(-1.0, [0.0, 0.8, 0.0], &mut canvas);
        assert!(canvas.rgb.iter().all(|c| c[0] > 0.5 && c[1] == 0.0), "{:?}", canvas.rgb[0]);
    }
}
