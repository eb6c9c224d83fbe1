//! Attributes of one drawn person: the single source of both pictures and captions.
//!
//! Everything that a caption may say is here. What no caption says (how low a hem is) is in
//! `variation.rs`.

use super::colour::Shade;

/// Kind of a garment for the upper body, worn next to the skin or over another.
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

/// Kind of a garment for the legs.
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

/// Pattern printed on or woven into a garment.
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

/// One garment; `K` is [`UpperKind`] or [`LowerKind`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Garment<K> {
    /// Decides its cut, thickness and names.
    pub kind: K,
    /// Main colour, from [`DENIM_COLOURS`](crate::colour::DENIM_COLOURS) for jeans and denim
    /// jackets, else from [`GARMENT_COLOURS`](crate::colour::GARMENT_COLOURS).
    pub shade: Shade,
    /// [`Pattern::Plain`] leaves `second_shade` unused.
    pub pattern: Pattern,
    /// Colour of the pattern, clearly different from `shade`.
    pub second_shade: Shade,
    /// Width relative to the body: 1 tight, 1.5 very wide.
    pub looseness: f32,
}

/// Hair style; the length is part of it.
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

/// Headwear; a hood that is not worn is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HatKind {
    Cap,
    Beanie,
    Brimmed,
    HardHat,
    Hood,
}

/// Bag, worn or carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BagKind {
    Backpack,
    Shoulder,
    Handbag,
    Suitcase,
}

/// Item held in the hand that carries no bag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HeldItem {
    Paper,
    Phone,
    Shopping,
    Box,
    Cup,
}

/// Kind of shoes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ShoeKind {
    Trainers,
    Leather,
    Boots,
    Flats,
}

/// An identity: one person and what they wear. Pictures of it differ in pose, place and camera
/// only.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    /// Drawn and described as a woman, else as a man.
    pub woman: bool,
    /// 0 young, 1 middle, 2 old.
    pub age: u8,
    /// Body height in metres, 1.45 to 2.05.
    pub height: f32,
    /// Girth relative to the average of that height, 0.84 to 1.42.
    pub girth: f32,
    /// Linear RGB albedo.
    pub skin: [f32; 3],
    /// May be hidden by `hat`.
    pub hair: HairStyle,
    /// Hair colour, from [`HAIR_COLOURS`](super::colour::HAIR_COLOURS).
    pub hair_shade: Shade,
    /// Only men have one.
    pub beard: bool,
    /// A dark frame is drawn.
    pub glasses: bool,
    /// Headwear with its colour; a hood has that of its garment.
    pub hat: Option<(HatKind, Shade)>,
    /// Shirt, sweater or top, below `outer` if there is one; unused with `dress`.
    pub top: Garment<UpperKind>,
    /// Jacket, coat, cardigan or vest.
    pub outer: Option<Garment<UpperKind>>,
    /// Whether `outer` is worn open, so that the garment below shows.
    pub outer_open: bool,
    /// Trousers, shorts or skirt; unused with `dress`.
    pub lower: Garment<LowerKind>,
    /// Dress instead of `top` and `lower`, with its hem: 0 above the knee, 1 at the knee, 2 at the
    /// ankle.
    pub dress: Option<(Garment<UpperKind>, u8)>,
    /// Shoes with their colour, from [`GARMENT_COLOURS`](super::colour::GARMENT_COLOURS).
    pub shoes: (ShoeKind, Shade),
    /// Bag with its colour.
    pub bag: Option<(BagKind, Shade)>,
    /// Held item with its colour.
    pub held_item: Option<(HeldItem, Shade)>,
    /// Seed of folds, prints and everything in `variation.rs`, the same in all views.
    pub texture_seed: u32,
}

impl UpperKind {
    /// Whether it is worn over another garment.
    pub fn is_outer(self) -> bool {
        use UpperKind::*;
        matches!(self, Jacket | DenimJacket | LeatherJacket | Puffer | Blazer | Coat | Cardigan | Gilet | HiVis)
    }

    /// Sleeve length along the arm: 0 none, 1 to the elbow, 2 to the wrist.
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
    /// Outermost garment of the upper body: outer garment, else dress, else top.
    pub fn visible_upper(&self) -> &Garment<UpperKind> {
        match (&self.outer, &self.dress) {
            (Some(outer), _) => outer,
            (None, Some((dress, _))) => dress,
            _ => &self.top,
        }
    }

    /// Innermost garment of the upper body: dress, else top.
    pub(crate) fn inner_upper(&self) -> &Garment<UpperKind> {
        self.dress.as_ref().map_or(&self.top, |(dress, _)| dress)
    }
}
