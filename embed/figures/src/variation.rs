//! Variation: numbers in 0..1 that belong to one person and are the same in every view.
//!
//! Attributes say "t-shirt" and "backpack"; how low the hem is or on which side the bag hangs is in
//! no caption, yet it must not change between two pictures of one person. Each such number is a
//! hash of the person's texture seed and a slot. Slots are fixed for good: another number is
//! another picture.

use crate::person::Person;
use crate::raster::cell_noise;

/// Slots of [`variation`].
pub(crate) mod slot {
    // Cut of the garments.
    pub const TOP_HEM: u32 = 1;
    pub const OUTER_HEM: u32 = 2;
    pub const SKIRT_HEM: u32 = 3;
    pub const NECKLINE: u32 = 4;
    /// Multiplied with [`NECKLINE`], so that most t-shirts have a shallow neckline.
    pub const NECKLINE_OF_KNITS: u32 = 5;
    pub const OPENING: u32 = 6;
    pub const SKIRT_WIDTH: u32 = 8;
    pub const FLARED_LEGS: u32 = 9;
    pub const COAT_SKIRT_WIDTH: u32 = 17;
    pub const JEANS_FADE: u32 = 21;
    pub const BELT: u32 = 22;
    pub const ROLLED_SLEEVES: u32 = 23;
    pub const TIGHTS: u32 = 24;
    pub const LEG_LENGTH: u32 = 25;
    pub const WHITE_SOLES: u32 = 26;
    // Hair, hoods and bags.
    /// End of long hair, and height of a ponytail or bun.
    pub const HAIR_HEIGHT: u32 = 11;
    pub const HOOD_ON_JACKET: u32 = 12;
    pub const BAG_SIDE: u32 = 13;
    pub const BAG_SIZE: u32 = 14;
    pub const SHOULDER_BAG_DROP: u32 = 15;
    pub const STRAP_ACROSS: u32 = 16;
    // Level 2 only: body shape.
    pub const ORIGIN: u32 = 201;
    pub const MUSCLE: u32 = 202;
    // Level 2 only: cloth. The number of the garment is added to the two of pleats.
    pub const PLEAT_COUNT: u32 = 210;
    pub const PLEAT_DEPTH: u32 = 220;
    pub const HOODIE_ZIP: u32 = 230;
    pub const SHORT_SLEEVE_LENGTH: u32 = 231;
    pub const TROUSER_CREASE: u32 = 232;
    pub const BOOT_HEIGHT: u32 = 233;
    pub const TRAINER_STRIPE: u32 = 234;
    // Level 2 only: hair.
    pub const LIGHT_HAIR_TIPS: u32 = 235;
    pub const HAIR_IN_FRONT_SHARE: u32 = 236;
    pub const FRINGE: u32 = 237;
    pub const HAIR_IN_FRONT: u32 = 238;
    pub const HAIR_VOLUME: u32 = 240;
    // Level 2 only: whether and which MakeHuman piece is worn.
    pub const HAIR_HAS_PIECE: u32 = 241;
    pub const HAIR_PIECE: u32 = 242;
    pub const TOP_HAS_PIECE: u32 = 243;
    pub const TOP_PIECE: u32 = 244;
    pub const OUTER_HAS_PIECE: u32 = 245;
    pub const LOWER_HAS_PIECE: u32 = 246;
    pub const LOWER_PIECE: u32 = 247;
    pub const SHOES_HAVE_PIECE: u32 = 248;
    pub const SHOES_PIECE: u32 = 249;
}

/// Number 0..1 of `person` in `slot`, uniform over persons.
pub(crate) fn variation(person: &Person, slot: u32) -> f32 {
    // 7 is the row of the noise that these numbers lie in; its value does not matter, but is fixed.
    cell_noise(slot as i32, 7, person.texture_seed)
}
