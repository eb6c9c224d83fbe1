//! Where a person is seen: floors, ground and walls in metres, in the camera's tone perspective, with clutter.
//!
//! Every pixel's ray is followed to the ground or to the wall behind, so planks, tiles, parking lines and shelves shrink
//! and tilt as they would for the camera that sees the person.

use rand::Rng;

use super::raster::{Canvas, Light, View, cell_noise, value_noise};
use crate::random::{between, chance, weighted};

type Rgb = [f32; 3];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GroundKind {
    Asphalt,
    Grass,
    Planks,
    Tiles,
    Carpet,
    Concrete,
    Slabs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WallKind {
    None,
    Paint,
    Bricks,
    Panels,
    Glass,
    Shelves,
    Hedge,
    Facade,
}

/// A colour that walls, floors and things have.
fn scenery_colour(rng: &mut impl Rng) -> Rgb {
    let base = between(rng, 0.05, 0.75);
    let tint: Rgb =
        [[1.0, 1.0, 1.0], [1.0, 0.93, 0.82], [0.92, 0.97, 1.0], [1.0, 0.72, 0.5], [0.75, 1.0, 0.6], [0.7, 0.85, 1.0]]
            [weighted(rng, &[4.0, 2.0, 1.5, 1.0, 0.7, 0.6])];
    tint.map(|t| (base * t * between(rng, 0.93, 1.07)).clamp(0.01, 0.95))
}

fn scaled(c: Rgb, s: f32) -> Rgb {
    c.map(|v| v * s)
}

fn mixed(a: Rgb, b: Rgb, t: f32) -> Rgb {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * t)
}

/// Part of a stone or tile that is its joint.
fn in_joint(x: f32, size: f32, gap: f32) -> bool {
    x.rem_euclid(size) < gap
}

struct GroundTexture {
    kind: GroundKind,
    colour: Rgb,
    second_colour: Rgb,
    size: f32,
    seed: u32,
}

impl GroundTexture {
    fn sample(kind: GroundKind, rng: &mut impl Rng) -> Self {
        let v = between(rng, 0.6, 1.5);
        let colour = match kind {
            GroundKind::Asphalt => scaled([0.2, 0.2, 0.21], v * between(rng, 0.6, 1.9)),
            GroundKind::Grass => scaled([0.07, 0.15, 0.03], v),
            GroundKind::Planks => {
                scaled([[0.32, 0.16, 0.07], [0.42, 0.28, 0.15], [0.2, 0.11, 0.06]][rng.random_range(0..3)], v)
            }
            GroundKind::Concrete | GroundKind::Slabs => scaled([0.36, 0.35, 0.33], v),
            GroundKind::Tiles | GroundKind::Carpet => scenery_colour(rng),
        };
        let second_colour =
            if chance(rng, 0.3) { scenery_colour(rng) } else { scaled(colour, between(rng, 0.75, 1.1)) };
        let size = match kind {
            GroundKind::Planks => between(rng, 0.07, 0.18),
            GroundKind::Tiles => between(rng, 0.2, 0.65),
            _ => between(rng, 0.3, 0.9),
        };
        Self { kind, colour, second_colour, size, seed: rng.random() }
    }

    fn at(&self, x: f32, z: f32) -> Rgb {
        let broad = value_noise(x * 0.9, z * 0.9, self.seed) - 0.5;
        let fine = value_noise(x * 23.0, z * 23.0, self.seed + 1) - 0.5;
        match self.kind {
            GroundKind::Asphalt | GroundKind::Concrete => scaled(self.colour, 1.0 + 0.25 * broad + 0.16 * fine),
            GroundKind::Grass => {
                let blades = value_noise(x * 55.0, z * 40.0, self.seed + 2) - 0.5;
                let dry = mixed(self.colour, [self.colour[1], self.colour[1], self.colour[2]], 0.35 + 0.6 * broad);
                scaled(dry, 1.0 + 0.4 * fine + 0.6 * blades)
            }
            GroundKind::Planks => {
                let row = (x / self.size).floor();
                let shift = cell_noise(row as i32, 3, self.seed);
                let board = cell_noise(row as i32, (z / 1.1 + shift).floor() as i32, self.seed);
                let grain = value_noise(x * 60.0, z * 4.0, self.seed) - 0.5;
                let gap = in_joint(x, self.size, 0.006) || in_joint(z / 1.1 + shift, 1.0, 0.006);
                scaled(self.colour, (0.75 + 0.5 * board + 0.2 * grain) * if gap { 0.5 } else { 1.0 })
            }
            GroundKind::Tiles | GroundKind::Slabs => {
                let (i, j) = ((x / self.size).floor(), (z / self.size).floor());
                let tone = cell_noise(i as i32, j as i32, self.seed);
                let odd = (i + j).rem_euclid(2.0) > 0.5;
                let base = if odd && self.kind == GroundKind::Tiles { self.second_colour } else { self.colour };
                let gap = in_joint(x, self.size, 0.014) || in_joint(z, self.size, 0.014);
                scaled(base, (0.93 + 0.14 * tone + 0.08 * fine) * if gap { 0.65 } else { 1.0 })
            }
            GroundKind::Carpet => scaled(self.colour, 1.0 + 0.1 * broad + 0.3 * fine),
        }
    }
}

struct WallTexture {
    kind: WallKind,
    colour: Rgb,
    second_colour: Rgb,
    pitch: f32,
    seed: u32,
    /// x of a door or board on it, its width and heights.
    opening: Option<([f32; 4], Rgb)>,
}

impl WallTexture {
    fn sample(kind: WallKind, rng: &mut impl Rng) -> Self {
        let colour = match kind {
            WallKind::Bricks => scaled([0.35, 0.16, 0.1], between(rng, 0.6, 1.6)),
            WallKind::Hedge => scaled([0.05, 0.1, 0.03], between(rng, 0.6, 1.6)),
            WallKind::Glass => scaled([0.25, 0.3, 0.34], between(rng, 0.4, 2.0)),
            WallKind::Paint if chance(rng, 0.6) => scaled([0.72, 0.7, 0.66], between(rng, 0.5, 1.2)),
            _ => scenery_colour(rng),
        };
        let opening = chance(rng, 0.45).then(|| {
            let x = between(rng, -1.6, 1.2);
            let low = if chance(rng, 0.6) { 0.0 } else { between(rng, 0.7, 1.3) };
            ([x, x + between(rng, 0.5, 1.4), low, between(rng, 1.7, 2.4)], scenery_colour(rng))
        });
        Self {
            kind,
            colour,
            second_colour: scenery_colour(rng),
            pitch: between(rng, 0.25, 1.1),
            seed: rng.random(),
            opening,
        }
    }

    fn at(&self, x: f32, y: f32) -> Rgb {
        if let Some(([x0, x1, y0, y1], colour)) = self.opening
            && (x0..x1).contains(&x)
            && (y0..y1).contains(&y)
        {
            let frame = (x - x0).min(x1 - x).min(y1 - y) < 0.05;
            return scaled(colour, if frame { 0.6 } else { 0.9 + 0.1 * y });
        }
        let soft = 1.0 + 0.12 * (value_noise(x * 0.8, y * 0.8, self.seed) - 0.5);
        match self.kind {
            WallKind::None | WallKind::Paint => {
                let skirting = y < 0.1;
                scaled(if skirting { self.second_colour } else { self.colour }, soft)
            }
            WallKind::Bricks => {
                let row = (y / 0.075).floor();
                let shift = if row as i64 % 2 == 0 { 0.0 } else { 0.11 };
                let tone = cell_noise(((x + shift) / 0.22).floor() as i32, row as i32, self.seed);
                let gap = in_joint(y, 0.075, 0.01) || in_joint(x + shift, 0.22, 0.01);
                if gap { [0.4, 0.38, 0.35] } else { scaled(self.colour, 0.75 + 0.5 * tone) }
            }
            WallKind::Panels => {
                let gap = in_joint(x, self.pitch, 0.025);
                scaled(self.colour, soft * if gap { 0.55 } else { 1.0 })
            }
            WallKind::Glass => {
                let bar = in_joint(x, self.pitch * 1.4, 0.06) || in_joint(y, 1.15, 0.05);
                let shine = value_noise(x * 1.3 + y * 0.7, y * 1.1, self.seed);
                if bar { self.second_colour } else { mixed(self.colour, [0.8, 0.85, 0.9], 0.6 * shine * shine) }
            }
            WallKind::Shelves => {
                let board = 0.28 + 0.2 * self.pitch;
                let row = (y / board).floor() as i32;
                let up = y.rem_euclid(board);
                if up < 0.03 || in_joint(x, 1.3, 0.04) {
                    return scaled(self.colour, 0.9);
                }
                let size = 0.06 + 0.1 * cell_noise(row, 5, self.seed);
                let item = (x / size).floor() as i32;
                let tall = board * (0.35 + 0.6 * cell_noise(item, row, self.seed));
                if up > tall || in_joint(x, size, 0.012) {
                    return scaled(self.colour, 0.25);
                }
                let stripe = cell_noise(item / 3, row, self.seed + 9);
                let base = mixed(self.second_colour, [0.8, 0.8, 0.78], cell_noise(item, row, self.seed + 3));
                scaled(base, 0.4 + 0.9 * stripe)
            }
            WallKind::Hedge => {
                let leaf = value_noise(x * 18.0, y * 18.0, self.seed);
                scaled(self.colour, 0.4 + 1.4 * leaf * value_noise(x * 3.0, y * 3.0, self.seed + 1))
            }
            WallKind::Facade => {
                let (w, h) = (1.2 + self.pitch, 2.6);
                let window =
                    (0.25..0.75).contains(&(x / w).rem_euclid(1.0)) && (0.3..0.75).contains(&(y / h).rem_euclid(1.0));
                scaled(if window { scaled(self.second_colour, 0.4) } else { self.colour }, soft)
            }
        }
    }
}

/// Paints the place that `view` looks at behind the person.
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
                    c = mixed(c, line_colour, 0.35 + 0.4 * value_noise(u * 9.0, v * 9.0, ground_texture.seed));
                }
                let near_wall = (1.0 - (gx * sin + gz * cos + far) / 0.5).clamp(0.0, 1.0);
                let c = scaled(c, 1.0 - 0.35 * near_wall);
                mixed(c, wall_texture.colour, shine * (1.0 - sp).max(0.2))
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

/// Things that stand about: boxes, posts, table tops, rails.
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

/// A flat rectangle or ellipse, in fractions of the picture.
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

/// Draws wall and floor as two flat areas with a horizon anywhere, stripes or squares, and a shadow at
/// the feet.
///
/// A quarter of the pictures have it instead of [`draw_surroundings`]: its perspective is wrong on
/// purpose cheaply, and its bytes are part of what a seed means, so the two are not merged.
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
