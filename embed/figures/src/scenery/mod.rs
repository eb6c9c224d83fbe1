//! Scenery: where a person is seen, with what stands about and in the way.
//!
//! The ray of every pixel is followed to the ground or to the wall behind. Planks, tiles, parking
//! lines and shelves therefore shrink and tilt as the camera that sees the person would show them.

mod textures;

use rand::Rng;

use crate::colour::{Rgb, mix, scaled};
use crate::random::{between, chance, weighted};
use crate::raster::{Canvas, Light, View, cell_noise, value_noise};
use textures::{GroundKind, GroundTexture, WallKind, WallTexture};

/// A colour of walls, floors and things: mostly grey, sometimes tinted towards wood, brick, plants
/// or glass.
fn scenery_colour(rng: &mut impl Rng) -> Rgb {
    let base = between(rng, 0.05, 0.75);
    let tint: Rgb =
        [[1.0, 1.0, 1.0], [1.0, 0.93, 0.82], [0.92, 0.97, 1.0], [1.0, 0.72, 0.5], [0.75, 1.0, 0.6], [0.7, 0.85, 1.0]]
            [weighted(rng, &[4.0, 2.0, 1.5, 1.0, 0.7, 0.6])];
    tint.map(|t| (base * t * between(rng, 0.93, 1.07)).clamp(0.01, 0.95))
}

/// Draws floor or ground and wall in the perspective of `view`, indoors or outdoors, with clutter.
pub(super) fn draw_surroundings(canvas: &mut Canvas, view: &View, light: &Light, rng: &mut impl Rng) {
    use GroundKind::*;
    let outdoors = chance(rng, 0.5);
    let (ground, wall) = if outdoors {
        let ground = [Asphalt, Grass, Concrete, Slabs][weighted(rng, &[0.45, 0.2, 0.15, 0.2])];
        let wall = [WallKind::None, WallKind::Facade, WallKind::Hedge, WallKind::Bricks, WallKind::Glass]
            [weighted(rng, &[0.3, 0.25, 0.15, 0.15, 0.15])];
        (ground, wall)
    } else {
        let ground = [Planks, Tiles, Carpet, Concrete][weighted(rng, &[0.35, 0.3, 0.2, 0.15])];
        let wall = [WallKind::Paint, WallKind::Panels, WallKind::Shelves, WallKind::Glass]
            [weighted(rng, &[0.45, 0.15, 0.25, 0.15])];
        (ground, wall)
    };
    let ground_texture = GroundTexture::sample(ground, rng);
    let other_kind = if outdoors { [Grass, Asphalt, Slabs][rng.random_range(0..3)] } else { Carpet };
    let other_ground = GroundTexture::sample(other_kind, rng);
    let wall_texture = WallTexture::sample(wall, rng);
    let sky = if chance(rng, 0.7) { [0.75, 0.8, 0.85] } else { [0.45, 0.55, 0.75] };
    let far = match wall {
        WallKind::None => 60.0,
        _ if outdoors => between(rng, 1.5, 14.0),
        _ => between(rng, 0.5, 5.0),
    };
    let (sin, cos) = between(rng, -0.7, 0.7).sin_cos();
    let (tsin, tcos) = between(rng, 0.0, std::f32::consts::PI).sin_cos();
    let edge = chance(rng, if outdoors { 0.4 } else { 0.12 })
        .then(|| (between(rng, -2.5, 2.5), between(rng, 0.0, std::f32::consts::TAU)));
    let lines = outdoors && chance(rng, 0.35);
    let (line_gap, line_at) = (between(rng, 1.2, 3.0), between(rng, 0.0, 3.0));
    let line_colour = if chance(rng, 0.75) { [0.7, 0.7, 0.68] } else { [0.6, 0.5, 0.12] };
    let day = 0.55 + 0.45 * light.ambient;
    let slope = between(rng, -0.35, 0.35);
    let shine = if outdoors { 0.0 } else { between(rng, 0.0, 0.25) };
    let (sp, cp) = view.pitch.sin_cos();
    let (sr, cr) = view.roll.sin_cos();
    let eye = [view.distance * sp, view.distance * cp];
    for py in 0..canvas.height {
        let sy = canvas.origin[1] - (py as f32 + 0.5) * canvas.step[1];
        for px in 0..canvas.width {
            let sx = canvas.origin[0] + (px as f32 + 0.5) * canvas.step[0];
            let (x, y) = (sx * cr + sy * sr, -sx * sr + sy * cr);
            let ray = [x, y * cp - view.distance * sp, -y * sp - view.distance * cp];
            let to_ground = if ray[1] < -1e-4 { (-view.middle - eye[0]) / ray[1] } else { f32::MAX };
            let towards = ray[0] * sin + ray[2] * cos;
            let to_wall = if towards < -1e-4 { (-far - eye[1] * cos) / towards } else { f32::MAX };
            let shift = slope * (px as f32 / canvas.width as f32 - 0.5);
            let colour = if to_ground < to_wall && to_ground < 1e4 {
                let (gx, gz) = (to_ground * ray[0], eye[1] + to_ground * ray[2]);
                let (u, v) = (gx * tcos - gz * tsin, gx * tsin + gz * tcos);
                let over = edge.is_some_and(|(at, turn)| gx * turn.cos() + gz * turn.sin() > at);
                let mut c = if over { other_ground.at(u, v) } else { ground_texture.at(u, v) };
                if lines && !over && ((u + line_at).rem_euclid(line_gap)) < 0.1 {
                    c = mix(c, line_colour, 0.35 + 0.4 * value_noise(u * 9.0, v * 9.0, ground_texture.seed));
                }
                let near_wall = (1.0 - (gx * sin + gz * cos + far) / 0.5).clamp(0.0, 1.0);
                let c = scaled(c, 1.0 - 0.35 * near_wall);
                mix(c, wall_texture.colour, shine * (1.0 - sp).max(0.2))
            } else if wall != WallKind::None && to_wall < f32::MAX {
                let along = to_wall * ray[0] * cos - (eye[1] + to_wall * ray[2]) * sin;
                wall_texture.at(along, eye[0] + to_wall * ray[1] + view.middle)
            } else {
                sky
            };
            canvas.rgb[py * canvas.width + px] = colour.map(|v| v.clamp(0.004, 1.2) * day * (1.0 + shift));
        }
    }
    draw_clutter(canvas, rng);
}

/// Draws what stands about behind the person: boxes, posts, table tops, rails.
fn draw_clutter(canvas: &mut Canvas, rng: &mut impl Rng) {
    for _ in 0..weighted(rng, &[0.4, 0.3, 0.2, 0.1]) {
        let colour = scenery_colour(rng);
        let (cx, cy) = (between(rng, -0.1, 1.1), between(rng, 0.0, 1.0));
        let (rx, ry) = match weighted(rng, &[0.45, 0.25, 0.15, 0.15]) {
            0 => (between(rng, 0.05, 0.3), between(rng, 0.04, 0.25)),
            1 => (between(rng, 0.01, 0.05), 1.2),
            2 => (1.2, between(rng, 0.005, 0.04)),
            _ => (between(rng, 0.2, 0.5), between(rng, 0.03, 0.09)),
        };
        draw_block(canvas, [cx - rx, cy - ry, cx + rx, cy + ry], chance(rng, 0.3), colour);
    }
}

/// Draws a flat rectangle or ellipse; x0, y0, x1, y1 are fractions of the picture.
fn draw_block(canvas: &mut Canvas, [x0, y0, x1, y1]: [f32; 4], round: bool, colour: Rgb) {
    let (w, h) = (canvas.width as f32, canvas.height as f32);
    let span = |lo: f32, hi: f32, n: f32| ((lo * n).clamp(0.0, n) as usize, (hi * n).clamp(0.0, n) as usize);
    let ((px0, px1), (py0, py1)) = (span(x0, x1, w), span(y0, y1, h));
    for py in py0..py1 {
        let fy = (py as f32 / h - y0) / (y1 - y0) * 2.0 - 1.0;
        for px in px0..px1 {
            let fx = (px as f32 / w - x0) / (x1 - x0) * 2.0 - 1.0;
            if !round || fx * fx + fy * fy < 1.0 {
                canvas.rgb[py * canvas.width + px] = colour.map(|v| v * (1.0 - 0.2 * fy));
            }
        }
    }
}

/// Draws wall and floor as two flat areas with a horizon anywhere, stripes or squares, and a shadow
/// at the feet.
///
/// A quarter of the pictures have it instead of [`draw_surroundings`]. The two are not merged,
/// because every seed's pictures would change.
pub(super) fn draw_flat_backdrop(canvas: &mut Canvas, pitch: f32, light: &Light, rng: &mut impl Rng) {
    let (w, h) = (canvas.width as f32, canvas.height as f32);
    let (wall, floor) = (scenery_colour(rng), scenery_colour(rng));
    let grass = chance(rng, 0.14);
    let floor = if grass { [0.06, 0.14, 0.03].map(|c| c * between(rng, 0.7, 1.8)) } else { floor };
    let horizon = if pitch > 0.45 { between(rng, -0.6, 0.45) } else { between(rng, 0.1, 1.05) };
    let seed: u32 = rng.random();
    let style = weighted(rng, &[0.35, 0.25, 0.2, 0.2]);
    let second_colour = scenery_colour(rng);
    let rough = between(rng, 0.02, 0.25);
    let (scale, slant) = (between(rng, 3.0, 16.0), between(rng, -1.2, 1.2));
    let shade_x = between(rng, -0.4, 0.4);
    let day = 0.55 + 0.45 * light.ambient;
    for py in 0..canvas.height {
        let y = py as f32 / h;
        let below = y - horizon;
        for px in 0..canvas.width {
            let x = px as f32 / w;
            let grain = value_noise(x * scale * 2.0, y * scale * 4.0, seed) - 0.5;
            let mut colour = if below > 0.0 {
                let depth = 1.0 / (below + 0.25);
                let (u, v) = ((x - 0.5) * depth * scale * 0.5 + slant * y, depth * scale);
                let mut c = floor;
                match style {
                    0 if grass => {}
                    1 if u.rem_euclid(1.0) < 0.06 => c = c.map(|v| v * 0.55),
                    2 if (u.rem_euclid(1.0) < 0.5) != (v.rem_euclid(1.0) < 0.5) => c = second_colour,
                    3 if (u * 0.3 + v * 0.1).rem_euclid(3.0) < 0.12 => c = second_colour,
                    _ => {}
                }
                let fine = if grass { cell_noise(px as i32, py as i32, seed) - 0.5 } else { 0.0 };
                c.map(|v| v * (1.0 + grain * rough * 2.0 + 0.4 * fine + 0.25 * below))
            } else {
                let mut c = wall;
                match style {
                    1 if (x * scale * 0.4).rem_euclid(1.0) < 0.1 => c = second_colour,
                    2 if (y * scale).rem_euclid(1.0) < 0.08 => c = second_colour.map(|v| v * 0.6),
                    3 => {
                        let cell = cell_noise((x * scale * 0.7) as i32, (y * scale * 1.4) as i32, seed);
                        c = std::array::from_fn(|i| wall[i] * (1.0 - cell) + second_colour[i] * cell);
                    }
                    _ => {}
                }
                c.map(|v| v * (1.0 + grain * rough))
            };
            colour = colour.map(|v| v.max(0.0) * day * (1.0 + shade_x * (x - 0.5)));
            canvas.rgb[py * canvas.width + px] = colour;
        }
    }
    for _ in 0..weighted(rng, &[0.35, 0.3, 0.2, 0.15]) {
        let colour = scenery_colour(rng);
        let (cx, cy) = (between(rng, -0.1, 1.1), between(rng, 0.0, 1.0));
        let (rx, ry) = match weighted(rng, &[0.5, 0.25, 0.25]) {
            0 => (between(rng, 0.08, 0.4), between(rng, 0.05, 0.35)),
            1 => (between(rng, 0.01, 0.05), 1.2),
            _ => (1.2, between(rng, 0.005, 0.05)),
        };
        draw_block(canvas, [cx - rx, cy - ry, cx + rx, cy + ry], chance(rng, 0.25), colour);
    }
    // Shadow on the ground at the feet.
    let (cx, strength) = (0.5 + between(rng, -0.3, 0.3), between(rng, 0.2, 0.75));
    if chance(rng, 0.7) {
        let (rx, ry) = (between(rng, 0.25, 0.7), between(rng, 0.02, 0.09));
        for py in (canvas.height * 4 / 5)..canvas.height {
            for px in 0..canvas.width {
                let d = ((px as f32 / w - cx) / rx).powi(2) + ((py as f32 / h - 0.95) / ry).powi(2);
                if d < 1.0 {
                    let k = 1.0 - strength * (1.0 - d);
                    let at = py * canvas.width + px;
                    canvas.rgb[at] = canvas.rgb[at].map(|v| v * k);
                }
            }
        }
    }
}

/// Draws what stands before the person: a table edge, a post or wall at one side, a rail.
pub(super) fn draw_obstacle(canvas: &mut Canvas, rng: &mut impl Rng) {
    let colour = scenery_colour(rng).map(|v| v * 0.9);
    let round = chance(rng, 0.3);
    let area = match weighted(rng, &[0.4, 0.35, 0.25]) {
        0 => [between(rng, -0.4, 0.4), between(rng, 0.62, 0.9), between(rng, 0.6, 1.4), 1.3],
        1 => {
            let left = chance(rng, 0.5);
            let reach = between(rng, 0.05, 0.28);
            if left {
                [-0.2, between(rng, -0.2, 0.6), reach, 1.2]
            } else {
                [1.0 - reach, between(rng, -0.2, 0.6), 1.2, 1.2]
            }
        }
        _ => {
            let y = between(rng, 0.45, 0.9);
            [-0.1, y, 1.1, y + between(rng, 0.01, 0.04)]
        }
    };
    draw_block(canvas, area, round, colour);
}
