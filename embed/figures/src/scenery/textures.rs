//! Textures of floors, ground and walls, in metres, so that planks and bricks have their real size
//! at any distance.

use rand::Rng;

use super::scenery_colour;
use crate::colour::{Rgb, mix, scaled};
use crate::random::{between, chance};
use crate::raster::{cell_noise, value_noise};

/// Floor or ground that people stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GroundKind {
    Asphalt,
    Grass,
    Planks,
    Tiles,
    Carpet,
    Concrete,
    Slabs,
}

/// Wall behind people; `None` is open sky.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WallKind {
    None,
    Paint,
    Bricks,
    Panels,
    Glass,
    Shelves,
    Hedge,
    Facade,
}

/// Whether `x` lies in a joint between stones, tiles or boards, `gap` wide every `size`.
fn in_joint(x: f32, size: f32, gap: f32) -> bool {
    x.rem_euclid(size) < gap
}

/// One floor or ground, by metres.
pub(super) struct GroundTexture {
    kind: GroundKind,
    colour: Rgb,
    second_colour: Rgb,
    /// Edge of a tile or width of a plank, metres.
    size: f32,
    pub seed: u32,
}

impl GroundTexture {
    pub fn sample(kind: GroundKind, rng: &mut impl Rng) -> Self {
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

    /// Albedo at a point of the ground, metres.
    pub fn at(&self, x: f32, z: f32) -> Rgb {
        let broad = value_noise(x * 0.9, z * 0.9, self.seed) - 0.5;
        let fine = value_noise(x * 23.0, z * 23.0, self.seed + 1) - 0.5;
        match self.kind {
            GroundKind::Asphalt | GroundKind::Concrete => scaled(self.colour, 1.0 + 0.25 * broad + 0.16 * fine),
            GroundKind::Grass => {
                let blades = value_noise(x * 55.0, z * 40.0, self.seed + 2) - 0.5;
                let dry = mix(self.colour, [self.colour[1], self.colour[1], self.colour[2]], 0.35 + 0.6 * broad);
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

/// One wall, by metres.
pub(super) struct WallTexture {
    kind: WallKind,
    pub colour: Rgb,
    second_colour: Rgb,
    /// Width of panels and window panes, metres; shelves and facades scale with it.
    pitch: f32,
    seed: u32,
    /// A door or board: x0, x1, y0, y1 in metres, and its colour.
    opening: Option<([f32; 4], Rgb)>,
}

impl WallTexture {
    pub fn sample(kind: WallKind, rng: &mut impl Rng) -> Self {
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

    /// Albedo at a point of the wall: `x` metres along it, `y` above the ground.
    pub fn at(&self, x: f32, y: f32) -> Rgb {
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
                if bar { self.second_colour } else { mix(self.colour, [0.8, 0.85, 0.9], 0.6 * shine * shine) }
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
                let base = mix(self.second_colour, [0.8, 0.8, 0.78], cell_noise(item, row, self.seed + 3));
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
