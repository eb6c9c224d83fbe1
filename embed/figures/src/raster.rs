//! Rasteriser of level 1: rounded, tapered, elliptic cylinders with a depth buffer; and the noise
//! of all textures.
//!
//! A person of a hundred pixels needs outlines, folds and colours, not meshes. Every body part and
//! garment is therefore an ellipse swept between two points, with a normal for shading and surface
//! coordinates for textures.
//!
//! Body space: x to the person's left, y up, z where the person faces. View space: x to the right,
//! y up, z towards the camera. Both in metres.

/// A point or direction in body or view space.
pub(crate) type Vec3 = [f32; 3];

/// Point between `a` (`t` = 0) and `b` (`t` = 1).
pub(crate) fn lerp3(a: Vec3, b: Vec3, t: f32) -> Vec3 {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * t)
}

/// An ellipse swept from `a` to `b`, both in body space.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<P> {
    pub a: Vec3,
    pub b: Vec3,
    /// Radii at `a` in metres: lateral, front to back.
    pub radii_a: [f32; 2],
    pub radii_b: [f32; 2],
    /// Roundness of the ends: 1 is a half sphere, near 0 is flat.
    pub cap: f32,
    /// Heights of the ends as fractions of the body height, for textures that run over several
    /// parts.
    pub height_a: f32,
    pub height_b: f32,
    /// Handed to the texture.
    pub kind: P,
}

/// Position of the camera relative to the person.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    /// Turn of the person, radians: 0 faces the camera, pi shows the back.
    pub yaw: f32,
    /// Angle by which the camera looks down, radians.
    pub pitch: f32,
    /// Metres from the camera to the body's middle; sets the perspective.
    pub distance: f32,
    /// Rotation of the picture, radians.
    pub roll: f32,
    /// Height of the point that projects to the origin, metres: half the body height.
    pub middle: f32,
    /// Moves the person in view space, metres.
    pub shift: Vec3,
}

impl View {
    /// Projects from body space to view space; the second value is the perspective scale there.
    pub fn project(&self, p: Vec3) -> (Vec3, f32) {
        let (sy, cy) = self.yaw.sin_cos();
        let (sp, cp) = self.pitch.sin_cos();
        let (x, y, z) = (p[0] * cy + p[2] * sy, p[1] - self.middle, -p[0] * sy + p[2] * cy);
        let (y, z) = (y * cp - z * sp, y * sp + z * cp);
        let scale = self.distance / (self.distance - z).max(0.3);
        let (x, y) = ((x + self.shift[0]) * scale, (y + self.shift[1]) * scale);
        let (sr, cr) = self.roll.sin_cos();
        ([x * cr - y * sr, x * sr + y * cr, z + self.shift[2]], scale)
    }
}

/// Surface coordinates of the point of a part that a pixel shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hit {
    /// 0 at `a`, 1 at `b`.
    pub along: f32,
    /// Height as a fraction of the body height.
    pub height: f32,
    /// Angle around the part: 0 in front, positive towards +x, pi or -pi at the back.
    pub angle: f32,
    /// Normal in body space, without the pose; on a head the point on a unit sphere.
    pub local: Vec3,
}

/// One light, in view space.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Light {
    /// Unit vector towards the light.
    pub towards: Vec3,
    /// Share of the light that comes from all directions, 0..1.
    pub ambient: f32,
}

/// Picture being drawn: linear light and depth, row by row.
pub(crate) struct Canvas {
    pub width: usize,
    pub height: usize,
    /// Linear RGB.
    pub rgb: Vec<[f32; 3]>,
    /// View-space z of what is drawn; larger is nearer.
    pub depth: Vec<f32>,
    /// View-space x of the left edge and y of the top edge.
    pub origin: [f32; 2],
    /// Width and height of a pixel in metres.
    pub step: [f32; 2],
}

impl Canvas {
    /// A black picture of the box x0, y0, x1, y1 of view space.
    pub fn new(width: usize, height: usize, bounds: [f32; 4]) -> Self {
        let [x0, y0, x1, y1] = bounds;
        Self {
            width,
            height,
            rgb: vec![[0.0; 3]; width * height],
            depth: vec![f32::MIN; width * height],
            origin: [x0, y1],
            step: [(x1 - x0) / width as f32, (y1 - y0) / height as f32],
        }
    }

    /// Clears the depth, so that what comes next is drawn over everything.
    pub fn clear_depth(&mut self) {
        self.depth.fill(f32::MIN);
    }

    /// Draws one part with Lambert shading and a highlight. `paint` gives albedo and gloss, or
    /// `None` where the part is open and what lies behind shows.
    pub fn draw<P: Copy>(
        &mut self,
        part: &Part<P>,
        view: &View,
        light: &Light,
        paint: impl Fn(P, &Hit) -> Option<([f32; 3], f32)>,
    ) {
        let (a, fa) = view.project(part.a);
        let (b, fb) = view.project(part.b);
        let (sy, cy) = view.yaw.sin_cos();
        let across = |r: [f32; 2], f: f32| f * ((r[0] * cy).powi(2) + (r[1] * sy).powi(2)).sqrt();
        let deep = |r: [f32; 2], f: f32| f * ((r[0] * sy).powi(2) + (r[1] * cy).powi(2)).sqrt();
        let (ra, rb, da, db) =
            (across(part.radii_a, fa), across(part.radii_b, fb), deep(part.radii_a, fa), deep(part.radii_b, fb));
        let (dx, dy, dz) = (b[0] - a[0], b[1] - a[1], b[2] - a[2]);
        let flat_len = (dx * dx + dy * dy).sqrt();
        let full_len = (flat_len * flat_len + dz * dz).sqrt().max(1e-6);
        let (ux, uy) = if flat_len > 1e-5 { (dx / flat_len, dy / flat_len) } else { (0.0, -1.0) };
        let foreshortened = (dz / full_len).abs();
        let cap = ((part.cap * flat_len / full_len).powi(2)
            + (foreshortened * (da + db) / (ra + rb).max(1e-6)).powi(2))
        .sqrt()
        .max(0.02);
        let reach = ra.max(rb) * cap.max(1.0);
        let column = |x: f32| (x - self.origin[0]) / self.step[0];
        let row = |y: f32| (self.origin[1] - y) / self.step[1];
        let x0 = column(a[0].min(b[0]) - reach).floor().max(0.0) as usize;
        let x1 = (column(a[0].max(b[0]) + reach).ceil().max(0.0) as usize).min(self.width);
        let y0 = row(a[1].max(b[1]) + reach).floor().max(0.0) as usize;
        let y1 = (row(a[1].min(b[1]) - reach).ceil().max(0.0) as usize).min(self.height);
        let (sp, cp) = view.pitch.sin_cos();
        for py in y0..y1 {
            let y = self.origin[1] - (py as f32 + 0.5) * self.step[1] - a[1];
            for px in x0..x1 {
                let x = self.origin[0] + (px as f32 + 0.5) * self.step[0] - a[0];
                let on_axis = x * ux + y * uy;
                let along = if flat_len > 1e-5 { (on_axis / flat_len).clamp(0.0, 1.0) } else { 0.5 };
                let radius = ra + (rb - ra) * along;
                let side = (-uy * x + ux * y) / radius;
                let beyond = (on_axis - along * flat_len) / (radius * cap);
                let square = side * side + beyond * beyond;
                if square >= 1.0 {
                    continue;
                }
                let out = (1.0 - square).sqrt();
                let depth = a[2] + dz * along + (da + (db - da) * along) * out;
                let at = py * self.width + px;
                if depth <= self.depth[at] {
                    continue;
                }
                let normal = [-uy * side + ux * beyond, ux * side + uy * beyond, out];
                let back_y = normal[1] * cp + normal[2] * sp;
                let back_z = -normal[1] * sp + normal[2] * cp;
                let local = [normal[0] * cy - back_z * sy, back_y, normal[0] * sy + back_z * cy];
                let mut angle = side.clamp(-1.0, 1.0).asin() - view.yaw;
                angle -= (angle / std::f32::consts::TAU).round() * std::f32::consts::TAU;
                let hit = Hit { along, height: part.height_a + (part.height_b - part.height_a) * along, angle, local };
                if let Some((albedo, gloss)) = paint(part.kind, &hit) {
                    let facing =
                        normal[0] * light.towards[0] + normal[1] * light.towards[1] + normal[2] * light.towards[2];
                    let diffuse = light.ambient * (0.75 + 0.25 * normal[1]) + (1.0 - light.ambient) * facing.max(0.0);
                    let shine = gloss * facing.max(0.0).powi(12);
                    let rim = 0.85 + 0.15 * out;
                    self.depth[at] = depth;
                    self.rgb[at] = albedo.map(|c| (c * diffuse * 1.35 + shine) * rim);
                }
            }
        }
    }
}

/// Integer hash as a number in 0..1: multipliers of xxHash32, then a mix of two rounds found by
/// hash-prospector (15 2c1b3c6d 12 297a2d39 15).
fn hash(x: i32, y: i32, seed: u32) -> f32 {
    let mut h =
        (x as u32).wrapping_mul(0x9E37_79B1) ^ (y as u32).wrapping_mul(0x85EB_CA77) ^ seed.wrapping_mul(0xC2B2_AE3D);
    h ^= h >> 15;
    h = h.wrapping_mul(0x2C1B_3C6D);
    h ^= h >> 12;
    h = h.wrapping_mul(0x297A_2D39);
    h ^= h >> 15;
    (h >> 8) as f32 / 16_777_216.0
}

/// Value noise: smooth, 0..1, one feature per unit.
pub(crate) fn value_noise(x: f32, y: f32, seed: u32) -> f32 {
    let (fx, fy) = (x.floor(), y.floor());
    let (ix, iy) = (fx as i32, fy as i32);
    let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
    let (tx, ty) = (smooth(x - fx), smooth(y - fy));
    let top = hash(ix, iy, seed) * (1.0 - tx) + hash(ix + 1, iy, seed) * tx;
    let bottom = hash(ix, iy + 1, seed) * (1.0 - tx) + hash(ix + 1, iy + 1, seed) * tx;
    top * (1.0 - ty) + bottom * ty
}

/// Cell noise: 0..1, independent for each integer cell.
pub(crate) fn cell_noise(x: i32, y: i32, seed: u32) -> f32 {
    hash(x, y, seed)
}
