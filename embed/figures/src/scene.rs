//! Scene: one view of a person with scenery, light, passers-by and obstacles, cut out as a detector
//! would and seen by a camera.

use image::RgbImage;
use rand::Rng;

use super::body::{PartKind, Pose, build_parts};
use super::camera;
use super::garments::GarmentLengths;
use super::mesh::Assets;
use super::mesh::figure::Figure;
use super::mesh::triangles::ambient_occlusion;
use super::person::Person;
use super::raster::{Canvas, Light, Part, View};
use super::scenery::{draw_flat_backdrop, draw_obstacle, draw_surroundings};
use super::texture::albedo;
use crate::random::{between, chance, weighted};

/// A posed person of either level.
enum PosedPerson<'a> {
    Parts(&'a Person, GarmentLengths, Vec<Part<PartKind>>),
    Mesh(Box<Figure<'a>>),
}

impl<'a> PosedPerson<'a> {
    fn new(person: &'a Person, assets: Option<&'a Assets>, pose: &Pose) -> Self {
        match assets {
            Some(assets) => Self::Mesh(Box::new(Figure::new(assets, person, pose))),
            None => Self::Parts(person, GarmentLengths::of(person), build_parts(person, pose)),
        }
    }

    /// Tight box around the person in view space: x0, y0, x1, y1 in metres.
    fn bounds(&self, view: &View) -> [f32; 4] {
        let mut bounds = [f32::MAX, f32::MAX, f32::MIN, f32::MIN];
        match self {
            Self::Mesh(figure) => bounds = figure.bounds(view),
            Self::Parts(_, _, parts) => {
                for part in parts {
                    for (end, radii) in [(part.a, part.radii_a), (part.b, part.radii_b)] {
                        let (p, scale) = view.project(end);
                        let r = radii[0].max(radii[1]) * scale * 0.85;
                        bounds = [
                            bounds[0].min(p[0] - r),
                            bounds[1].min(p[1] - r),
                            bounds[2].max(p[0] + r),
                            bounds[3].max(p[1] + r),
                        ];
                    }
                }
            }
        }
        bounds
    }

    /// Darkens the ground on the canvas where the person's shadow falls; level 1 casts none.
    fn cast_shadow(&self, canvas: &mut Canvas, view: &View, light: &Light) {
        if let Self::Mesh(figure) = self {
            figure.cast_shadow(canvas, view, light);
        }
    }

    /// Draws the person over what is on the canvas.
    fn draw(&self, canvas: &mut Canvas, view: &View, light: &Light, crease_depth: f32) {
        canvas.clear_depth();
        match self {
            Self::Parts(person, lengths, parts) => {
                for part in parts {
                    canvas.draw(part, view, light, |kind, hit| albedo(person, lengths, kind, hit));
                }
            }
            Self::Mesh(figure) => {
                figure.draw(canvas, view, light, crease_depth);
                ambient_occlusion(canvas, 0.07, 0.75);
            }
        }
    }
}

/// Draws `person` once; pose, view, scenery and camera come from `rng`. The picture has the size of
/// a detector's crop, 60 to 400 pixels high and at least 20 wide. With `assets` all persons in it
/// are meshes (level 2), else parts (level 1).
pub fn draw(person: &Person, assets: Option<&Assets>, rng: &mut impl Rng) -> RgbImage {
    let Scene { canvas, width, height } = compose(person, assets, rng);
    camera::expose(&canvas, width, height, rng)
}

/// A drawn scene, before the camera takes it.
pub(crate) struct Scene {
    /// Linear light, with more pixels than the crop for soft edges.
    pub canvas: Canvas,
    /// Width of the crop in pixels.
    pub width: usize,
    /// Height of the crop in pixels.
    pub height: usize,
}

/// Draws everything except the camera.
pub(crate) fn compose(person: &Person, assets: Option<&Assets>, rng: &mut impl Rng) -> Scene {
    let pose = Pose::sample(rng);
    let posed = PosedPerson::new(person, assets, &pose);
    let crease_depth = between(rng, 0.6, 1.4);
    let view = sample_view(person, rng);
    let [x0, y0, x1, y1] = detector_box(posed.bounds(&view), rng);
    // Log-uniform in height.
    let height = (60.0 * (between(rng, 0.0, 1.0) * (400.0f32 / 60.0).ln()).exp()) as usize;
    let width = ((height as f32 * (x1 - x0) / (y1 - y0)) as usize).clamp(20, height);
    let oversampling = if height < 130 { 2.0 } else { (260.0 / height as f32).max(1.25) };
    let pixels = |n: usize| (n as f32 * oversampling) as usize;
    let mut canvas = Canvas::new(pixels(width), pixels(height), [x0, y0, x1, y1]);
    let light = sample_light(rng);
    let in_perspective = chance(rng, 0.75);
    if in_perspective {
        draw_surroundings(&mut canvas, &view, &light, rng);
    } else {
        draw_flat_backdrop(&mut canvas, view.pitch, &light, rng);
    }
    posed.cast_shadow(&mut canvas, &view, &light);
    // From back to front: passers-by behind, the person, passers-by and obstacles in front.
    if chance(rng, 0.28) {
        let other = Person::sample(rng);
        draw_passer_by(&mut canvas, (&other, assets), &view, &light, x1 - x0, false, rng);
    }
    posed.draw(&mut canvas, &view, &light, crease_depth);
    if chance(rng, 0.12) {
        let other = Person::sample(rng);
        draw_passer_by(&mut canvas, (&other, assets), &view, &light, x1 - x0, true, rng);
    }
    if chance(rng, 0.16) {
        draw_obstacle(&mut canvas, rng);
    }
    Scene { canvas, width, height }
}

/// Draws a view: a third of the cameras are high, 2 to 14 m away, mostly level; persons are seen
/// from the front, from behind and from any side.
fn sample_view(person: &Person, rng: &mut impl Rng) -> View {
    let high = chance(rng, 0.35);
    let pitch = if high { between(rng, 0.35, 0.85) } else { between(rng, -0.05, 0.4) };
    let distance = if chance(rng, 0.3) { between(rng, 1.9, 3.5) } else { between(rng, 3.5, 14.0) };
    let roll = between(rng, -0.07, 0.07) + if chance(rng, 0.08) { between(rng, -0.25, 0.25) } else { 0.0 };
    let yaw = match weighted(rng, &[0.3, 0.28, 0.42]) {
        0 => between(rng, -0.6, 0.6),
        1 => std::f32::consts::PI + between(rng, -0.6, 0.6),
        _ => between(rng, -std::f32::consts::PI, std::f32::consts::PI),
    };
    View { yaw, pitch, distance, roll, middle: 0.5 * person.height, shift: [0.0; 3] }
}

/// The box of a detector around tight `bounds`: loose or a little too tight, for a fifth of the
/// pictures without the legs, and never very narrow.
fn detector_box(bounds: [f32; 4], rng: &mut impl Rng) -> [f32; 4] {
    let [mut x0, mut y0, mut x1, mut y1] = bounds;
    let (wide, tall) = (x1 - x0, y1 - y0);
    let margin = if chance(rng, 0.25) { 0.16 } else { 0.07 };
    x0 -= wide * between(rng, -0.06, margin * 1.6);
    x1 += wide * between(rng, -0.06, margin * 1.6);
    y1 += tall * between(rng, -0.004, margin * 0.7);
    y0 -= tall * between(rng, -0.02, margin * 0.7);
    if chance(rng, 0.22) {
        y0 += tall * between(rng, 0.15, 0.52);
    }
    if (x1 - x0) < 0.26 * (y1 - y0) {
        let more = 0.13 * (y1 - y0) - 0.5 * (x1 - x0);
        x0 -= more;
        x1 += more;
    }
    [x0, y0, x1, y1]
}

/// A light above the camera's horizon, hard to soft.
fn sample_light(rng: &mut impl Rng) -> Light {
    let side = between(rng, -1.0, 1.0);
    let up = between(rng, 0.2, 1.0);
    let toward = between(rng, 0.1, 1.0);
    let length = (side * side + up * up + toward * toward).sqrt();
    Light { towards: [side / length, up / length, toward / length], ambient: between(rng, 0.35, 0.9) }
}

/// Draws another person at the left or right edge, behind or in `front`; `wide` is the width of the
/// box in metres.
fn draw_passer_by(
    canvas: &mut Canvas,
    (other, assets): (&Person, Option<&Assets>),
    view: &View,
    light: &Light,
    wide: f32,
    front: bool,
    rng: &mut impl Rng,
) {
    let side = if chance(rng, 0.5) { 1.0 } else { -1.0 };
    let distance = if front { between(rng, 0.62, 0.85) } else { between(rng, 0.4, 0.9) };
    let other_view = View {
        yaw: between(rng, -3.1, 3.1),
        distance: view.distance * if front { 1.0 } else { between(rng, 1.0, 1.3) },
        shift: [side * wide * distance, between(rng, -0.25, 0.25), 0.0],
        middle: 0.5 * other.height,
        ..*view
    };
    PosedPerson::new(other, assets, &Pose::sample(rng)).draw(canvas, &other_view, light, 1.0);
}
