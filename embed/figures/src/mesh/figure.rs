//! Figure: a person of level 2 as posed surfaces, which are body, clothes layer by layer, hair, hat
//! and shoes. Bags and held items are parts of level 1.

use super::assets::Assets;
use super::cloth;
use super::head_wear::add_head_wear;
use super::math::sub;
use super::paint::{CROTCH_HEIGHT, Layer, Painter};
use super::rig::BoneTransforms;
use super::shape::shape;
use super::surface::{BodyRegion, Surface, Triangle};
use super::triangles::{PosedSurface, cast_shadow, darken_shadow, draw};
use super::wardrobe;
use crate::accessories::add_carried;
use crate::body::{PartKind, Pose};
use crate::garments::{GarmentLengths, garment_id, rolls_sleeves};
use crate::person::{HairStyle, HatKind, LowerKind, Person, ShoeKind, UpperKind};
use crate::raster::{Canvas, Light, Part, Vec3, View};
use crate::texture::albedo;
use crate::variation::{slot, variation};

/// One posed surface and the triangles of it that are drawn.
struct Piece<'a> {
    layer: Layer,
    triangles: std::borrow::Cow<'a, [Triangle]>,
    is_worn: fn(&Triangle, f32) -> bool,
    /// Second argument of `is_worn`.
    limit: f32,
    points: Vec<Vec3>,
    normals: Vec<Vec3>,
    depth_bias: f32,
    double_sided: bool,
}

/// A posed person, in body space.
pub(crate) struct Figure<'a> {
    person: &'a Person,
    pieces: Vec<Piece<'a>>,
    parts: Vec<Part<PartKind>>,
}

fn all_of_it(_: &Triangle, _: f32) -> bool {
    true
}

/// Skin that may show; `limit` is 1 with bare arms, 2 with bare legs, 3 with both.
fn bare_skin(triangle: &Triangle, limit: f32) -> bool {
    match triangle.region {
        BodyRegion::Head | BodyRegion::Hand => true,
        BodyRegion::Trunk => triangle.coords[0][1] > 0.72,
        BodyRegion::Arm => limit as u8 & 1 != 0 || triangle.coords[0][0] > 1.6,
        BodyRegion::Leg => limit as u8 & 2 != 0 || triangle.coords[0][0] > 1.5,
        BodyRegion::Foot => true,
    }
}

/// Trunk above the height `limit`, and arms.
fn upper_body(triangle: &Triangle, limit: f32) -> bool {
    match triangle.region {
        BodyRegion::Trunk => triangle.coords.iter().any(|a| a[1] > limit),
        BodyRegion::Arm | BodyRegion::Hand => true,
        _ => false,
    }
}

/// Hips and legs.
fn lower_body(triangle: &Triangle, _: f32) -> bool {
    match triangle.region {
        BodyRegion::Trunk => triangle.coords[0][1] < 0.63,
        BodyRegion::Leg | BodyRegion::Foot => true,
        _ => false,
    }
}

/// Feet, and shins from `limit` along the leg.
fn on_feet(triangle: &Triangle, limit: f32) -> bool {
    triangle.region == BodyRegion::Foot || triangle.region == BodyRegion::Leg && triangle.coords[0][0] > limit
}

/// Head above `limit`, where 0 is its middle and 1 its top.
fn on_head(triangle: &Triangle, limit: f32) -> bool {
    triangle.region == BodyRegion::Head && triangle.coords.iter().any(|a| a[1] > limit)
}

impl<'a> Figure<'a> {
    /// Shapes, dresses and poses `person`; the feet stand on y = 0.
    pub fn new(assets: &'a Assets, person: &'a Person, pose: &Pose) -> Self {
        let body = shape(assets, person);
        let posed = assets.rig.pose(&assets.rig.joints_of(&body), pose);
        let mut figure = Self { person, pieces: Vec::with_capacity(10), parts: Vec::new() };
        figure.add_clothes(assets, &body, &posed);
        figure.add_hair_and_hat(assets, &body, &posed);
        figure.add_carried(assets, &body, &posed);
        figure.stand_on_ground();
        figure
    }

    /// Adds `surface`, whose points `at_rest` are posed. See [`PosedSurface`] for bias and sides.
    #[allow(clippy::too_many_arguments)]
    fn add_surface(
        &mut self,
        layer: Layer,
        surface: &'a Surface,
        at_rest: &[Vec3],
        posed: &BoneTransforms,
        depth_bias: f32,
        double_sided: bool,
        (is_worn, limit): (fn(&Triangle, f32) -> bool, f32),
    ) {
        let points = posed.skin_points(at_rest, &surface.bone_weights);
        let normals = surface.normals(&points);
        self.pieces.push(Piece {
            layer,
            triangles: (&surface.triangles[..]).into(),
            is_worn,
            limit,
            points,
            normals,
            depth_bias,
            double_sided,
        });
    }

    fn add_clothes(&mut self, assets: &'a Assets, body: &[Vec3], posed: &BoneTransforms) {
        let person = self.person;
        let lengths = GarmentLengths::of(person);
        let tights = &assets.tights;
        let sleeveless = person.visible_upper().kind.sleeve() < 2.0 || rolls_sleeves(person);
        let legs = lengths.skirt_hem.is_some() || matches!(person.lower.kind, LowerKind::Shorts | LowerKind::Capri);
        let limit = f32::from(u8::from(sleeveless) + 2 * u8::from(legs));
        self.add_surface(Layer::Skin, &assets.body, &assets.body.at_rest(body), posed, 0.0, false, (bare_skin, limit));
        let slack = |loose: f32| 0.03 * (loose - 1.0).max(0.0);
        let shoe = if person.shoes.0 == ShoeKind::Boots { 1.5 } else { 1.9 };
        self.add_surface(
            Layer::Shoes,
            tights,
            &cloth::shoes(tights, body, person),
            posed,
            0.002,
            false,
            (on_feet, shoe),
        );
        if let Some(piece) = wardrobe::shoes(assets, person) {
            let points = cloth::piece(piece, body, person, 0.001);
            self.add_surface(Layer::Shoes, piece, &points, posed, 0.004, false, (all_of_it, 0.0));
        }
        let skirt = &assets.skirt;
        if lengths.skirt_hem.is_some() {
            let width = 0.15 + 0.85 * variation(person, slot::SKIRT_WIDTH);
            let points = cloth::skirt(skirt, body, person, width, 0.008, garment_id::LOWER);
            self.add_surface(Layer::Skirt, skirt, &points, posed, 0.03, true, (all_of_it, 0.0));
        } else if let Some(piece) = wardrobe::lower(assets, person) {
            let points = cloth::piece(piece, body, person, slack(person.lower.looseness));
            self.add_surface(Layer::Lower, piece, &points, posed, 0.004, true, (all_of_it, 0.0));
        } else {
            let points = cloth::lower(tights, body, person);
            self.add_surface(Layer::Lower, tights, &points, posed, 0.004, true, (lower_body, 0.0));
        }
        let inner = person.inner_upper();
        let covered = person.outer.as_ref().is_some_and(|outer| {
            !person.outer_open
                && outer.kind.sleeve() > 1.0
                && !matches!(outer.kind, UpperKind::Blazer)
                && lengths.top_hem >= lengths.outer_hem - 0.005
        });
        if !covered || person.dress.is_some() {
            let makehuman_piece = wardrobe::top(assets, person).filter(|_| person.outer.is_none());
            let surface = makehuman_piece.unwrap_or(tights);
            let points = match makehuman_piece {
                Some(piece) => cloth::piece(piece, body, person, 0.004 + slack(inner.looseness)),
                None => cloth::upper(tights, body, person, inner, garment_id::INNER, 0.0),
            };
            let hem = if person.dress.is_some() { 0.48 } else { lengths.top_hem - 0.03 };
            let open = makehuman_piece.is_some();
            self.add_surface(Layer::Top, surface, &points, posed, 0.008, open, (upper_body, hem));
        }
        if let Some(outer) = &person.outer {
            let makehuman_piece = wardrobe::outer(assets, person);
            let points = match makehuman_piece {
                Some(piece) => cloth::piece(piece, body, person, 0.01 + slack(outer.looseness)),
                None => cloth::upper(tights, body, person, outer, garment_id::OUTER, 0.006),
            };
            self.add_surface(
                Layer::Outer,
                makehuman_piece.unwrap_or(tights),
                &points,
                posed,
                0.013,
                person.outer_open || makehuman_piece.is_some(),
                (upper_body, lengths.outer_hem - 0.03),
            );
        }
        let long = person.outer.as_ref().is_some_and(|_| lengths.outer_hem < CROTCH_HEIGHT);
        if long {
            let garment = person.visible_upper();
            let off = 0.022 + (garment.looseness - 1.0).max(0.0) * 0.09;
            let width = 0.1 + 0.35 * variation(person, slot::COAT_SKIRT_WIDTH);
            let points = cloth::skirt(skirt, body, person, width, off, garment_id::OUTER);
            self.add_surface(Layer::CoatSkirt, skirt, &points, posed, 0.04, true, (all_of_it, 0.0));
        }
    }

    fn add_hair_and_hat(&mut self, assets: &'a Assets, body: &[Vec3], posed: &BoneTransforms) {
        use HairStyle::*;
        let person = self.person;
        let skin = &assets.body;
        let seed = person.texture_seed;
        let lump = move |coords: &[f32; 4], f: f32| {
            crate::raster::value_noise(coords[0].atan2(coords[2]) * f, coords[1] * f, seed) - 0.5
        };
        let hooded = matches!(person.hat, Some((HatKind::Hood, _)));
        let volume = 0.7 + 0.6 * variation(person, slot::HAIR_VOLUME);
        let up = if person.hat.is_some() { 0.004 } else { 1.0 };
        if !hooded {
            let (thick, rough) = match person.hair {
                Bald => (0.0, 0.0),
                Balding => (0.004, 0.0),
                Cropped => (0.006, 0.002),
                Short => (0.017, 0.010),
                Curly => (0.045, 0.03),
                Ponytail | Bun => (0.012, 0.003),
                _ => (0.018, 0.005),
            };
            if thick > 0.0 {
                let top = thick * volume;
                let points = cloth::scalp(skin, body, person, |coords| {
                    let crown = (0.55 + 0.45 * coords[1].max(0.0)).min(1.0);
                    (top * crown).min(up * 2.0) + rough * lump(coords, 5.0) * up.min(1.0)
                });
                self.add_surface(Layer::Scalp, skin, &points, posed, 0.002, false, (on_head, -1.2));
            }
            if let Some(piece) = wardrobe::hair(assets, person) {
                let points = cloth::piece(piece, body, person, 0.0);
                self.add_surface(Layer::HairPiece, piece, &points, posed, 0.004, true, (all_of_it, 0.0));
            } else if matches!(person.hair, Chin | Shoulder | Long) {
                self.add_surface(
                    Layer::HairCurtain,
                    &assets.hair_curtain,
                    &assets.hair_curtain.at_rest(body),
                    posed,
                    0.004,
                    true,
                    (all_of_it, 0.0),
                );
            }
        }
        let Some((kind, _)) = person.hat else { return };
        let off = match kind {
            HatKind::Cap => 0.02,
            HatKind::Beanie => 0.022,
            HatKind::Brimmed => 0.032,
            HatKind::HardHat => 0.042,
            HatKind::Hood => 0.03,
        };
        let points = cloth::scalp(skin, body, person, |coords| match kind {
            HatKind::Hood => off + 0.015 * (-coords[2]).max(0.0) + 0.006 * lump(coords, 3.0),
            HatKind::Beanie => off + 0.02 * (coords[1] - 0.5).max(0.0),
            _ => off,
        });
        self.add_surface(
            Layer::Hat,
            skin,
            &points,
            posed,
            0.006,
            true,
            (on_head, if kind == HatKind::Hood { -1.6 } else { -0.2 }),
        );
    }

    /// Moves the figure so that the lowest point of the shoes is at y = 0.
    fn stand_on_ground(&mut self) {
        let low = self.pieces.iter().filter(|p| p.layer == Layer::Shoes).flat_map(|p| {
            p.triangles
                .iter()
                .filter(|t| t.region == BodyRegion::Foot)
                .flat_map(|t| t.vertices.map(|v| p.points[v as usize][1]))
        });
        let low = low.fold(f32::MAX, f32::min);
        let shift = [0.0, if low < f32::MAX { low } else { 0.0 }, 0.0];
        for piece in &mut self.pieces {
            piece.points.iter_mut().for_each(|p| *p = sub(*p, shift));
        }
        for part in &mut self.parts {
            part.a = sub(part.a, shift);
            part.b = sub(part.b, shift);
        }
    }

    /// Tight box in view space: x0, y0, x1, y1 in metres.
    pub fn bounds(&self, view: &View) -> [f32; 4] {
        let mut bounds = [f32::MAX, f32::MAX, f32::MIN, f32::MIN];
        let mut meet = |p: Vec3, r: f32| {
            let (p, scale) = view.project(p);
            let r = r * scale;
            bounds =
                [bounds[0].min(p[0] - r), bounds[1].min(p[1] - r), bounds[2].max(p[0] + r), bounds[3].max(p[1] + r)];
        };
        for piece in self.pieces.iter().filter(|p| matches!(p.layer, Layer::Skin | Layer::Scalp | Layer::Hat)) {
            // Every eighth vertex is dense enough for a box.
            piece.points.iter().step_by(8).for_each(|&p| meet(p, 0.01));
        }
        for part in &self.parts {
            for (end, radii) in [(part.a, part.radii_a), (part.b, part.radii_b)] {
                meet(end, radii[0].max(radii[1]) * 0.85);
            }
        }
        bounds
    }

    /// Darkens the ground where the shadow falls; less ambient light makes it harder.
    pub fn cast_shadow(&self, canvas: &mut Canvas, view: &View, light: &Light) {
        let mut mask = vec![0.0; canvas.width * canvas.height];
        for piece in &self.pieces {
            if !matches!(piece.layer, Layer::Scalp | Layer::HairCurtain | Layer::HairPiece | Layer::Hat) {
                let kept =
                    piece.triangles.iter().filter(|t| (piece.is_worn)(t, piece.limit) && t.region != BodyRegion::Hand);
                cast_shadow(canvas, &mut mask, &piece.points, kept, view, light);
            }
        }
        let hard = 1.0 - light.ambient;
        let radius = (canvas.height as f32 * (0.004 + 0.03 * light.ambient)) as usize + 1;
        darken_shadow(canvas, &mask, radius, 0.25 + 0.5 * hard);
    }

    /// Draws the figure; `crease_depth` scales the folds of the clothes.
    pub fn draw(&self, canvas: &mut Canvas, view: &View, light: &Light, crease_depth: f32) {
        let painter = Painter::new(self.person, crease_depth);
        for piece in &self.pieces {
            let posed = PosedSurface {
                points: &piece.points,
                normals: &piece.normals,
                double_sided: piece.double_sided,
                depth_bias: piece.depth_bias,
            };
            let shown = piece.triangles.iter().filter(|t| (piece.is_worn)(t, piece.limit));
            draw(canvas, &posed, shown, view, light, |region, coords| painter.material_at(piece.layer, region, coords));
        }
        let measures = &painter.lengths;
        for part in &self.parts {
            canvas.draw(part, view, light, |kind, hit| albedo(self.person, measures, kind, hit));
        }
    }

    fn add_carried(&mut self, assets: &'a Assets, body: &[Vec3], posed: &BoneTransforms) {
        let person = self.person;
        let tall = person.height;
        let rig = &assets.rig;
        let spine = rig.named.chest();
        let at = |x: f32, y: f32, z: f32| posed.transform_point(spine, [x * tall, y * tall, z * tall]);
        let hands = [0, 1].map(|side| posed.transform_point(rig.named.hand(side), rig.palm(body, side)));
        let parts = &mut self.parts;
        let mut add = |a: Vec3, b: Vec3, radii_a: [f32; 2], radii_b: [f32; 2], cap: f32, kind: PartKind| {
            parts.push(Part { a, b, radii_a, radii_b, cap, height_a: a[1] / tall, height_b: b[1] / tall, kind });
        };
        let chest = [0.105 * tall * person.girth.sqrt(), 0.072 * tall * person.girth];
        add_carried(person, tall, &at, &hands, chest, &mut add);
        let tied = wardrobe::hair(assets, person).is_none();
        add_head_wear(person, posed, rig, body, tied, &mut add);
    }
}
