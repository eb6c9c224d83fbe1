//! Garment rules of both levels: where garments end, what crosses them and what shows below them.
//!
//! Level 1 ([`texture`](crate::texture)) and level 2 ([`mesh`](crate::mesh)) paint different
//! surfaces with the same clothes. A rule that both follow stands here once. Where the levels
//! differ on purpose (bulges of a mesh need other margins than tapered cylinders), the difference
//! is an argument or stays with the level.
//!
//! Heights are fractions of the body height (0 sole, 1 crown), angles are radians around the body
//! or limb (0 front, pi back).

use crate::colour::{Rgb, mix, scaled};
use crate::person::{BagKind, LowerKind, Person, UpperKind};
use crate::raster::value_noise;
use crate::variation::{slot, variation};

/// Albedo of black tights.
pub(crate) const TIGHTS: Rgb = [0.02, 0.02, 0.022];
/// Albedo of a belt.
pub(crate) const BELT: Rgb = [0.03, 0.025, 0.02];
/// Albedo of the reflecting bands of a high-visibility vest.
pub(crate) const REFLECTIVE_BAND: Rgb = [0.5, 0.51, 0.52];
/// Albedo of the soles of trainers that have white ones.
pub(crate) const WHITE_SOLE: Rgb = [0.72, 0.72, 0.70];

/// Numbers of a person's garments: folds and patterns of two garments must not be the same.
pub(crate) mod garment_id {
    /// Top or dress.
    pub const INNER: u32 = 1;
    pub const OUTER: u32 = 2;
    /// Trousers or skirt.
    pub const LOWER: u32 = 3;
    pub const BAG: u32 = 7;
}

/// Part of a garment, for patterns that differ between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GarmentPart {
    Torso,
    Sleeve,
    Leg,
    Skirt,
}

/// Ends of the garments of one person.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GarmentLengths {
    /// Height of the lower edge of the top.
    pub top_hem: f32,
    /// Height of the lower edge of the outer garment; `top_hem` without one.
    pub outer_hem: f32,
    /// Height of the hem of a skirt or dress.
    pub skirt_hem: Option<f32>,
    /// Depth of the neckline in front, as a fraction of body height.
    pub neckline_depth: f32,
    /// Angle from the front at which an outer garment worn open begins.
    pub opening_angle: f32,
}

impl GarmentLengths {
    /// Lengths of what `person` wears.
    pub fn of(person: &Person) -> Self {
        use UpperKind::*;
        let hem = |kind: UpperKind, u: f32| match kind {
            Coat => 0.40 - 0.17 * u,
            Cardigan => 0.47 - 0.20 * u,
            Puffer | Jacket | Blazer | Hoodie => 0.485 - 0.05 * u,
            LeatherJacket | DenimJacket => 0.52 - 0.03 * u,
            HiVis | Gilet => 0.50 - 0.03 * u,
            ShortShirt | Shirt if u > 0.4 => 0.47,
            Blouse | Shirt | ShortShirt => 0.52,
            _ => 0.51 - 0.05 * u,
        };
        let top_hem = hem(person.top.kind, variation(person, slot::TOP_HEM));
        let outer_hem = person.outer.as_ref().map_or(top_hem, |g| hem(g.kind, variation(person, slot::OUTER_HEM)));
        let skirt_hem = match (&person.dress, person.lower.kind) {
            (Some((_, length)), _) => {
                Some([0.33, 0.27, 0.08][usize::from(*length)] - 0.03 * variation(person, slot::SKIRT_HEM))
            }
            (None, LowerKind::ShortSkirt) => Some(0.35 - 0.08 * variation(person, slot::SKIRT_HEM)),
            (None, LowerKind::LongSkirt) => Some(0.16 - 0.09 * variation(person, slot::SKIRT_HEM)),
            _ => None,
        };
        let neckline_depth = match person.visible_upper().kind {
            Blouse | TankTop => 0.03 + 0.06 * variation(person, slot::NECKLINE),
            TShirt | LongSleeve | Sweater => {
                0.01 + 0.05 * variation(person, slot::NECKLINE) * variation(person, slot::NECKLINE_OF_KNITS)
            }
            _ => 0.015,
        };
        Self {
            top_hem,
            outer_hem,
            skirt_hem,
            neckline_depth,
            opening_angle: 0.25 + 0.5 * variation(person, slot::OPENING),
        }
    }

    /// Depth of the neckline at `angle`: `neckline_depth` in front, nothing from 40 degrees to the
    /// side on.
    pub fn neckline_dip(&self, angle: f32) -> f32 {
        self.neckline_depth * (1.0 - angle.abs() / 0.7).max(0.0)
    }
}

impl UpperKind {
    /// Whether it closes down the front with a zip or buttons.
    pub fn fastens(self) -> bool {
        use UpperKind::*;
        matches!(
            self,
            Jacket
                | Puffer
                | Coat
                | Shirt
                | ShortShirt
                | Hoodie
                | LeatherJacket
                | DenimJacket
                | Blazer
                | Cardigan
                | Gilet
        )
    }

    /// Whether the V of a blazer shows the shirt below at this place.
    pub fn blazer_opening(self, angle: f32, height: f32) -> bool {
        self == UpperKind::Blazer && height > 0.72 && angle.abs() < (height - 0.72) * 6.0
    }

    /// Whether a high-visibility vest has a reflecting band here: two around, one over each
    /// shoulder.
    pub fn reflective_band(self, angle: f32, height: f32) -> bool {
        let around = (height - 0.58).abs() < 0.014 || (height - 0.645).abs() < 0.012;
        let over_shoulder = height > 0.64 && (angle.abs() - 0.52).abs() < 0.13;
        self == UpperKind::HiVis && (around || over_shoulder)
    }
}

/// Albedo of the strap of a backpack or shoulder bag, where one crosses the trunk. `half_width` is
/// that of a backpack's strap, radians.
pub(crate) fn bag_strap(person: &Person, angle: f32, height: f32, half_width: f32) -> Option<Rgb> {
    let (kind, shade) = person.bag?;
    let covers = match kind {
        BagKind::Backpack => height > 0.655 && (angle.abs() - 0.62).abs() < half_width,
        BagKind::Shoulder => {
            // Across the chest from the far shoulder, or straight down from the near one.
            let down = (0.80 - height) / 0.26;
            let across = variation(person, slot::STRAP_ACROSS) > 0.35;
            let x = angle.sin() * bag_side(person);
            let strap = if across { -0.7 + 1.6 * down } else { 0.85 };
            (x - strap).abs() < 0.065 && height > 0.54
        }
        _ => false,
    };
    covers.then(|| scaled(shade.albedo, 0.9))
}

/// Side on which a bag hangs: 1 or -1 on the body's x axis.
pub(crate) fn bag_side(person: &Person) -> f32 {
    if variation(person, slot::BAG_SIDE) > 0.5 { 1.0 } else { -1.0 }
}

/// Whether long sleeves are rolled up, as every sixth person has them.
pub(crate) fn rolls_sleeves(person: &Person) -> bool {
    variation(person, slot::ROLLED_SLEEVES) > 0.82
}

/// Whether tights, and not bare legs, show below a skirt.
pub(crate) fn wears_tights(person: &Person) -> bool {
    variation(person, slot::TIGHTS) > 0.6
}

/// Whether a belt shows between top and trousers.
pub(crate) fn wears_belt(person: &Person) -> bool {
    variation(person, slot::BELT) > 0.6
}

/// Whether trainers have white soles.
pub(crate) fn has_white_soles(person: &Person) -> bool {
    variation(person, slot::WHITE_SOLES) > 0.3
}

/// Whether a hood that is not worn hangs down the back.
pub(crate) fn hood_hangs(person: &Person) -> bool {
    let kind = person.visible_upper().kind;
    kind == UpperKind::Hoodie
        || (variation(person, slot::HOOD_ON_JACKET) > 0.6 && matches!(kind, UpperKind::Puffer | UpperKind::Jacket))
        || (person.outer.is_some() && person.top.kind == UpperKind::Hoodie)
}

/// End of trouser legs along the leg (0 hip, 1 knee, 2 ankle); `trousers` is that of wide ones,
/// which reach over the shoe.
pub(crate) fn leg_end(person: &Person, trousers: f32) -> f32 {
    let length = variation(person, slot::LEG_LENGTH);
    match person.lower.kind {
        LowerKind::Shorts => 0.65 + 0.45 * length,
        LowerKind::Capri => 1.35,
        LowerKind::Leggings | LowerKind::Jeans => 1.86 + 0.2 * length,
        _ => trousers,
    }
}

/// Jeans of `colour` where they fade (the front of the thighs), and the light and dark of their
/// weave.
pub(crate) fn jeans(person: &Person, colour: Rgb, angle: f32, height: f32) -> (Rgb, f32) {
    let (thigh, front) = ((1.0 - ((height - 0.38) / 0.12).powi(2)).max(0.0), angle.cos().max(0.0));
    let fade = variation(person, slot::JEANS_FADE) * thigh * front;
    let weave = 0.93 + 0.14 * value_noise(angle * 12.0, height * 120.0, person.texture_seed + 9);
    (mix(colour, [0.45, 0.52, 0.62], 0.28 * fade), weave)
}

/// Light and dark of the stitches of a knitted garment, around 1.
pub(crate) fn knit(person: &Person, angle: f32, height: f32) -> f32 {
    0.92 + 0.16 * value_noise(angle * 22.0, height * 170.0, person.texture_seed)
}

/// Light and dark of the wash of a denim jacket, around 1.
pub(crate) fn denim_wash(person: &Person, angle: f32, height: f32) -> f32 {
    0.85 + 0.3 * value_noise(angle * 2.0, height * 14.0, person.texture_seed + 2)
}
