//! Where a person is seen: floors, ground and walls in metres, in the camera's own perspective, with clutter.
//!
//! Every pixel's ray is followed to the ground or to the wall behind, so planks, tiles, parking lines and shelves shrink
//! and tilt as they would for the camera that sees the person.

use rand::Rng;

use super::raster::{Canvas, Light, View, cell_noise, value_noise};
use crate::random::{between, chance, weighted};

type Rgb = [f32; 3];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ground {
    Asphalt,
    Grass,
    Planks,
    Tiles,
    Carpet,
    Concrete,
    Slabs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wall {
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
pub(super) fn place_colour(rng: &mut impl Rng) -> Rgb {
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
fn joint(x: f32, size: f32, gap: f32) -> bool {
    x.rem_euclid(size) < gap
}

struct Material {
    kind: Ground,
    colour: Rgb,
    second: Rgb,
    size: f32,
    seed: u32,
}

impl Material {
    fn draw(kind: Ground, rng: &mut impl Rng) -> Self {
        let v = between(rng, 0.6, 1.5);
        let colour = match kind {
            Ground::Asphalt => scaled([0.2, 0.2, 0.21], v * between(rng, 0.6, 1.9)),
            Ground::Grass => scaled([0.07, 0.15, 0.03], v),
            Ground::Planks => {
                scaled([[0.32, 0.16, 0.07], [0.42, 0.28, 0.15], [0.2, 0.11, 0.06]][rng.random_range(0..3)], v)
            }
            Ground::Concrete | Ground::Slabs => scaled([0.36, 0.35, 0.33], v),
            Ground::Tiles | Ground::Carpet => place_colour(rng),
        };
        let second = if chance(rng, 0.3) { place_colour(rng) } else { scaled(colour, between(rng, 0.75, 1.1)) };
        let size = match kind {
            Ground::Planks => between(rng, 0.07, 0.18),
            Ground::Tiles => between(rng, 0.2, 0.65),
            _ => between(rng, 0.3, 0.9),
        };
        Self { kind, colour, second, size, seed: rng.random() }
    }

    fn at(&self, x: f32, z: f32) -> Rgb {
        let broad = value_noise(x * 0.9, z * 0.9, self.seed) - 0.5;
        let fine = value_noise(x * 23.0, z * 23.0, self.seed + 1) - 0.5;
        match self.kind {
            Ground::Asphalt | Ground::Concrete => scaled(self.colour, 1.0 + 0.25 * broad + 0.16 * fine),
            Ground::Grass => {
                let blades = value_noise(x * 55.0, z * 40.0, self.seed + 2) - 0.5;
                let dry = mixed(self.colour, [self.colour[1], self.colour[1], self.colour[2]], 0.35 + 0.6 * broad);
                scaled(dry, 1.0 + 0.4 * fine + 0.6 * blades)
            }
            Ground::Planks => {
                let row = (x / self.size).floor();
                let shift = cell_noise(row as i32, 3, self.seed);
                let board = cell_noise(row as i32, (z / 1.1 + shift).floor() as i32, self.seed);
                let grain = value_noise(x * 60.0, z * 4.0, self.seed) - 0.5;
                let gap = joint(x, self.size, 0.006) || joint(z / 1.1 + shift, 1.0, 0.006);
                scaled(self.colour, (0.75 + 0.5 * board + 0.2 * grain) * if gap { 0.5 } else { 1.0 })
            }
            Ground::Tiles | Ground::Slabs => {
                let (i, j) = ((x / self.size).floor(), (z / self.size).floor());
                let own = cell_noise(i as i32, j as i32, self.seed);
                let odd = (i + j).rem_euclid(2.0) > 0.5;
                let base = if odd && self.kind == Ground::Tiles { self.second } else { self.colour };
                let gap = joint(x, self.size, 0.014) || joint(z, self.size, 0.014);
                scaled(base, (0.93 + 0.14 * own + 0.08 * fine) * if gap { 0.65 } else { 1.0 })
            }
            Ground::Carpet => scaled(self.colour, 1.0 + 0.1 * broad + 0.3 * fine),
        }
    }
}

struct Backdrop {
    kind: Wall,
    colour: Rgb,
    second: Rgb,
    pitch: f32,
    seed: u32,
    /// x of a door or board on it, its width and heights.
    opening: Option<([f32; 4], Rgb)>,
}

impl Backdrop {
    fn draw(kind: Wall, rng: &mut impl Rng) -> Self {
        let colour = match kind {
            Wall::Bricks => scaled([0.35, 0.16, 0.1], between(rng, 0.6, 1.6)),
            Wall::Hedge => scaled([0.05, 0.1, 0.03], between(rng, 0.6, 1.6)),
            Wall::Glass => scaled([0.25, 0.3, 0.34], between(rng, 0.4, 2.0)),
            Wall::Paint if chance(rng, 0.6) => scaled([0.72, 0.7, 0.66], between(rng, 0.5, 1.2)),
            _ => place_colour(rng),
        };
        let opening = chance(rng, 0.45).then(|| {
            let x = between(rng, -1.6, 1.2);
            let low = if chance(rng, 0.6) { 0.0 } else { between(rng, 0.7, 1.3) };
            ([x, x + between(rng, 0.5, 1.4), low, between(rng, 1.7, 2.4)], place_colour(rng))
        });
        Self { kind, colour, second: place_colour(rng), pitch: between(rng, 0.25, 1.1), seed: rng.random(), opening }
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
            Wall::None | Wall::Paint => {
                let skirting = y < 0.1;
                scaled(if skirting { self.second } else { self.colour }, soft)
            }
            Wall::Bricks => {
                let row = (y / 0.075).floor();
                let shift = if row as i64 % 2 == 0 { 0.0 } else { 0.11 };
                let own = cell_noise(((x + shift) / 0.22).floor() as i32, row as i32, self.seed);
                let gap = joint(y, 0.075, 0.01) || joint(x + shift, 0.22, 0.01);
                if gap { [0.4, 0.38, 0.35] } else { scaled(self.colour, 0.75 + 0.5 * own) }
            }
            Wall::Panels => {
                let gap = joint(x, self.pitch, 0.025);
                scaled(self.colour, soft * if gap { 0.55 } else { 1.0 })
            }
            Wall::Glass => {
                let bar = joint(x, self.pitch * 1.4, 0.06) || joint(y, 1.15, 0.05);
                let shine = value_noise(x * 1.3 + y * 0.7, y * 1.1, self.seed);
                if bar { self.second } else { mixed(self.colour, [0.8, 0.85, 0.9], 0.6 * shine * shine) }
            }
            Wall::Shelves => {
                let board = 0.28 + 0.2 * self.pitch;
                let row = (y / board).floor() as i32;
                let up = y.rem_euclid(board);
                if up < 0.03 || joint(x, 1.3, 0.04) {
                    return scaled(self.colour, 0.9);
                }
                let size = 0.06 + 0.1 * cell_noise(row, 5, self.seed);
                let item = (x / size).floor() as i32;
                let tall = board * (0.35 + 0.6 * cell_noise(item, row, self.seed));
                if up > tall || joint(x, size, 0.012) {
                    return scaled(self.colour, 0.25);
                }
                let tone = cell_noise(item / 3, row, self.seed + 9);
                let base = mixed(self.second, [0.8, 0.8, 0.78], cell_noise(item, row, self.seed + 3));
                scaled(base, 0.4 + 0.9 * tone)
            }
            Wall::Hedge => {
                let leaf = value_noise(x * 18.0, y * 18.0, self.seed);
                scaled(self.colour, 0.4 + 1.4 * leaf * value_noise(x * 3.0, y * 3.0, self.seed + 1))
            }
            Wall::Facade => {
                let (w, h) = (1.2 + self.pitch, 2.6);
                let window =
                    (0.25..0.75).contains(&(x / w).rem_euclid(1.0)) && (0.3..0.75).contains(&(y / h).rem_euclid(1.0));
                scaled(if window { scaled(self.second, 0.4) } else { self.colour }, soft)
            }
        }
    }
}

/// Paints the place that `view` looks at behind the person.
pub(super) fn surround(canvas: &mut Canvas, view: &View, light: &Light, rng: &mut impl Rng) {
    use Ground::*;
    let outdoors = chance(rng, 0.5);
    let (ground, wall) = if outdoors {
        let ground = [Asphalt, Grass, Concrete, Slabs][weighted(rng, &[0.45, 0.2, 0.15, 0.2])];
        let wall = [Wall::None, Wall::Facade, Wall::Hedge, Wall::Bricks, Wall::Glass]
            [weighted(rng, &[0.3, 0.25, 0.15, 0.15, 0.15])];
        (ground, wall)
    } else {
        let ground = [Planks, Tiles, Carpet, Concrete][weighted(rng, &[0.35, 0.3, 0.2, 0.15])];
        let wall = [Wall::Paint, Wall::Panels, Wall::Shelves, Wall::Glass][weighted(rng, &[0.45, 0.15, 0.25, 0.15])];
        (ground, wall)
    };
    let material = Material::draw(ground, rng);
    let other_kind = if outdoors { [Grass, Asphalt, Slabs][rng.random_range(0..3)] } else { Carpet };
    let other = Material::draw(other_kind, rng);
    let backdrop = Backdrop::draw(wall, rng);
    let sky = if chance(rng, 0.7) { [0.75, 0.8, 0.85] } else { [0.45, 0.55, 0.75] };
    let far = match wall {
        Wall::None => 60.0,
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
                let mut c = if over { other.at(u, v) } else { material.at(u, v) };
                if lines && !over && ((u + line_at).rem_euclid(line_gap)) < 0.1 {
                    c = mixed(c, line_colour, 0.35 + 0.4 * value_noise(u * 9.0, v * 9.0, material.seed));
                }
                let near_wall = (1.0 - (gx * sin + gz * cos + far) / 0.5).clamp(0.0, 1.0);
                let c = scaled(c, 1.0 - 0.35 * near_wall);
                mixed(c, backdrop.colour, shine * (1.0 - sp).max(0.2))
            } else if wall != Wall::None && to_wall < f32::MAX {
                let along = to_wall * ray[0] * cos - (eye[1] + to_wall * ray[2]) * sin;
                backdrop.at(along, eye[0] + to_wall * ray[1] + view.middle)
            } else {
                sky
            };
            canvas.rgb[py * canvas.width + px] = colour.map(|v| v.clamp(0.004, 1.2) * day * (1.0 + shift));
        }
    }
    clutter(canvas, rng);
}

/// Things that stand about: boxes, posts, table tops, rails.
fn clutter(canvas: &mut Canvas, rng: &mut impl Rng) {
    for _ in 0..weighted(rng, &[0.4, 0.3, 0.2, 0.1]) {
        let colour = place_colour(rng);
        let (cx, cy) = (between(rng, -0.1, 1.1), between(rng, 0.0, 1.0));
        let (rx, ry) = match weighted(rng, &[0.45, 0.25, 0.15, 0.15]) {
            0 => (between(rng, 0.05, 0.3), between(rng, 0.04, 0.25)),
            1 => (between(rng, 0.01, 0.05), 1.2),
            2 => (1.2, between(rng, 0.005, 0.04)),
            _ => (between(rng, 0.2, 0.5), between(rng, 0.03, 0.09)),
        };
        block(canvas, [cx - rx, cy - ry, cx + rx, cy + ry], chance(rng, 0.3), colour);
    }
}

/// A flat rectangle or ellipse, in fractions of the picture.
pub(super) fn block(canvas: &mut Canvas, [x0, y0, x1, y1]: [f32; 4], round: bool, colour: Rgb) {
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
