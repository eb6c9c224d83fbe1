//! Attributes of one drawn person: the single source for both the picture and the captions.

use super::colour::Shade;

/// What covers the upper body next to the skin or over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum UpperKind {
    TShirt,
    Polo,
    Shirt,
    ShortShirt,
    Blouse,
    TankTop,
    LongSleeve,
    Sweater,
    Hoodie,
    Jacket,
    DenimJacket,
    LeatherJacket,
    Puffer,
    Blazer,
    Coat,
    Cardigan,
    Gilet,
    HiVis,
}

/// What covers the legs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LowerKind {
    Jeans,
    Trousers,
    Sweatpants,
    Leggings,
    Capri,
    Shorts,
    ShortSkirt,
    LongSkirt,
}

/// What is printed on or woven into a garment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Pattern {
    Plain,
    HorizontalStripes,
    VerticalStripes,
    Checks,
    Print,
    Floral,
    Marl,
    ContrastSleeves,
    SidePanels,
}

/// One garment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Garment<K> {
    /// What it is.
    pub kind: K,
    /// Main colour.
    pub shade: Shade,
    /// Pattern.
    pub pattern: Pattern,
    /// Second colour, of the pattern.
    pub second_shade: Shade,
    /// Width over the body, 1 = tight.
    pub looseness: f32,
}

/// Hair style.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HairStyle {
    Bald,
    Balding,
    Cropped,
    Short,
    Chin,
    Shoulder,
    Long,
    Ponytail,
    Bun,
    Curly,
}

/// What is on the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HatKind {
    Cap,
    Beanie,
    Brimmed,
    HardHat,
    Hood,
}

/// Bag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BagKind {
    Backpack,
    Shoulder,
    Handbag,
    Suitcase,
}

/// Thing in a hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HeldItem {
    Paper,
    Phone,
    Shopping,
    Box,
    Cup,
}

/// Shoes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ShoeKind {
    Trainers,
    Leather,
    Boots,
    Flats,
}

/// One person and what they wear: an identity.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    /// Drawn and named as a woman (else a man).
    pub woman: bool,
    /// 0 young, 1 middle, 2 old.
    pub age: u8,
    /// Metres.
    pub height: f32,
    /// Girth, 1 = average.
    pub girth: f32,
    /// Linear RGB.
    pub skin: [f32; 3],
    /// Hair style.
    pub hair: HairStyle,
    /// Hair colour (palette [`HAIR_COLOURS`](super::colour::HAIR_COLOURS)).
    pub hair_shade: Shade,
    /// Beard.
    pub beard: bool,
    /// Glasses.
    pub glasses: bool,
    /// Hat or hood with its colour.
    pub hat: Option<(HatKind, Shade)>,
    /// Shirt, sweater, top; under `outer` if there is one. With `dress`, unused.
    pub top: Garment<UpperKind>,
    /// Jacket, coat, cardigan, vest.
    pub outer: Option<Garment<UpperKind>>,
    /// Whether `outer` is worn open.
    pub outer_open: bool,
    /// Trousers, skirt.
    pub lower: Garment<LowerKind>,
    /// A dress instead of top and lower: (garment, hem: 0 above knee, 1 knee, 2 ankle).
    pub dress: Option<(Garment<UpperKind>, u8)>,
    /// Shoes (palette [`GARMENT_COLOURS`](super::colour::GARMENT_COLOURS)).
    pub shoes: (ShoeKind, Shade),
    /// Bag and its colour.
    pub bag: Option<(BagKind, Shade)>,
    /// Thing in hand and its colour.
    pub held_item: Option<(HeldItem, Shade)>,
    /// Folds and prints differ from garment to garment.
    pub texture_seed: u32,
}

impl UpperKind {
    /// Worn over another garment.
    pub fn is_outer(self) -> bool {
        use UpperKind::*;
        matches!(self, Jacket | DenimJacket | LeatherJacket | Puffer | Blazer | Coat | Cardigan | Gilet | HiVis)
    }

    /// Sleeve length: 0 none, 1 to the elbow, 2 to the wrist.
    pub fn sleeve(self) -> f32 {
        use UpperKind::*;
        match self {
            TankTop | Gilet | HiVis => 0.0,
            TShirt | Polo | ShortShirt => 0.75,
            _ => 2.0,
        }
    }
}

impl Person {
    /// The garment seen first on the upper body: dress, outer or top.
    pub fn visible_upper(&self) -> &Garment<UpperKind> {
        match (&self.outer, &self.dress) {
            (Some(outer), _) => outer,
            (None, Some((dress, _))) => dress,
            _ => &self.top,
        }
    }

    /// The garment below an outer one, or the only one: dress or top.
    pub(crate) fn inner_upper(&self) -> &Garment<UpperKind> {
        self.dress.as_ref().map_or(&self.top, |(dress, _)| dress)
    }
}
