//! Triangles on the canvas: depth, interpolated places and normals, light; and the soft dark where surfaces meet.

use super::math::{add, cross, dot, scale, unit};
use super::surface::{Region, Triangle};
use crate::synth::raster::{Canvas, Light, V3, View};

/// What a surface looks like at a point.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Linear RGB.
    pub albedo: [f32; 3],
    /// Strength of the highlight.
    pub gloss: f32,
    /// Slope of the folds around and up the body.
    pub slope: [f32; 2],
}

/// A posed surface ready to be drawn.
pub(crate) struct Posed3<'a> {
    /// Corners in body space.
    pub points: &'a [V3],
    /// Unit normals there.
    pub normals: &'a [V3],
    /// Draws back faces too.
    pub double: bool,
    /// Metres by which it is drawn nearer than it is, so that what is worn above never sinks into what is below.
    pub lift: f32,
}

impl View {
    /// A direction of body space in view space (without roll, which light ignores).
    pub(crate) fn direction(&self, v: V3) -> V3 {
        let (sy, cy) = self.yaw.sin_cos();
        let (sp, cp) = self.pitch.sin_cos();
        let (x, y, z) = (v[0] * cy + v[2] * sy, v[1], -v[0] * sy + v[2] * cy);
        [x, y * cp - z * sp, y * sp + z * cp]
    }
}

/// Light that leaves a surface with this unit `normal` towards the camera.
pub(crate) fn lit(light: &Light, normal: V3, albedo: [f32; 3], gloss: f32) -> [f32; 3] {
    let facing = dot(normal, light.towards);
    // Skies and ceilings are wide: light wraps around edges.
    let direct = ((facing + 0.25) / 1.25).max(0.0);
    let sky = 0.62 + 0.38 * normal[1];
    let diffuse = light.ambient * sky + (1.0 - light.ambient) * direct;
    let half = unit(add(light.towards, [0.0, 0.0, 1.0]));
    let shine = gloss * dot(normal, half).max(0.0).powi(14);
    albedo.map(|c| c * diffuse * 1.35 + shine)
}

/// Draws the `triangles` of `posed`; `paint` is asked at every visible pixel and answers nothing where the surface ends.
pub(crate) fn draw<'t>(
    canvas: &mut Canvas,
    posed: &Posed3<'_>,
    triangles: impl Iterator<Item = &'t Triangle>,
    view: &View,
    light: &Light,
    paint: impl Fn(Region, [f32; 4]) -> Option<Look>,
) {
    let pixels: Vec<V3> = posed
        .points
        .iter()
        .map(|&point| {
            let (p, _) = view.project(point);
            [(p[0] - canvas.origin[0]) / canvas.step[0] - 0.5, (canvas.origin[1] - p[1]) / canvas.step[1] - 0.5, p[2]]
        })
        .collect();
    let normals: Vec<V3> = posed.normals.iter().map(|&n| view.direction(n)).collect();
    let upward = view.direction([0.0, 1.0, 0.0]);
    let (width, height) = (canvas.width as f32, canvas.height as f32);
    for triangle in triangles {
        let [a, b, c] = triangle.vertices.map(|v| pixels[v as usize]);
        let area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
        // Rows grow downwards, so front faces turn clockwise here.
        let back = area > 0.0;
        if area.abs() < 1e-6 || (back && !posed.double) {
            continue;
        }
        let low = |i: usize| a[i].min(b[i]).min(c[i]).ceil().max(0.0);
        let high = |i: usize, end: f32| a[i].max(b[i]).max(c[i]).floor().min(end - 1.0);
        let (x0, x1, y0, y1) = (low(0), high(0, width), low(1), high(1, height));
        if x0 > x1 || y0 > y1 {
            continue;
        }
        let [na, nb, nc] = triangle.vertices.map(|v| normals[v as usize]);
        let inverse = 1.0 / area;
        for py in y0 as usize..=y1 as usize {
            let y = py as f32;
            for px in x0 as usize..=x1 as usize {
                let x = px as f32;
                let wb = ((x - a[0]) * (c[1] - a[1]) - (y - a[1]) * (c[0] - a[0])) * inverse;
                let wc = ((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])) * inverse;
                let wa = 1.0 - wb - wc;
                if wa < 0.0 || wb < 0.0 || wc < 0.0 {
                    continue;
                }
                let depth = wa * a[2] + wb * b[2] + wc * c[2] + posed.lift;
                let at = py * canvas.width + px;
                if depth <= canvas.depth[at] {
                    continue;
                }
                let [ta, tb, tc] = &triangle.attributes;
                let place = std::array::from_fn(|i| wa * ta[i] + wb * tb[i] + wc * tc[i]);
                let Some(look) = paint(triangle.region, place) else { continue };
                let mut normal = add(add(scale(na, wa), scale(nb, wb)), scale(nc, wc));
                if back {
                    normal = scale(normal, -1.0);
                }
                let across = cross(upward, normal);
                let bent = add(normal, add(scale(across, -look.slope[0]), scale(upward, -look.slope[1])));
                let normal = unit(bent);
                let inside = if back { 0.55 } else { 1.0 };
                let colour = lit(light, normal, look.albedo, look.gloss);
                canvas.depth[at] = depth;
                canvas.rgb[at] = colour.map(|v| v * inside);
            }
        }
    }
}

/// Darkens what lies behind something near it: armpits, between the legs, under hems and hair. `reach` in metres.
pub(crate) fn occlude(canvas: &mut Canvas, reach: f32, strength: f32) {
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
