//! Parts of a person's appearance, and the finest kinds of things that are seen there.
//!
//! A label or a phrase that is less fine ("jacket") is a set of kinds. Synonyms and general or
//! special words are therefore handled by set operations.

use super::sets::bit_set;

/// Declares the parts with their kinds.
macro_rules! parts {
    ($($part:ident: $($kind:ident)+;)+) => {
        /// A part of a person's appearance. Facts about one part say nothing about another.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs)]
        pub enum Part { $($part),+ }

        /// The finest kinds, by part. [`Part::Lower`] includes a dress too, since a dress covers
        /// the legs as well.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs)]
        pub enum Kind { $($($kind),+),+ }

        impl Part {
            /// All parts.
            pub const ALL: &[Self] = &[$(Self::$part),+];

            /// Every kind of the part.
            pub const fn kinds(self) -> KindSet {
                match self { $(Self::$part => KindSet::of(&[$(Kind::$kind),+])),+ }
            }
        }

        impl Kind {
            /// All kinds, part by part.
            pub const ALL: &[Self] = &[$($(Self::$kind),+),+];
        }
    };
}

parts! {
    Sex: Man Woman;
    Hair: Bald ShortHair LongHair TiedUp Ponytail;
    Sleeves: Sleeveless ShortSleeves LongSleeves;
    Upper: TShirt Polo Jersey TankTop Shirt Blouse LongSleeveTop Tunic Sweater Sweatshirt Fleece Hoodie Cardigan
        Jacket DenimJacket LeatherJacket Puffer SkiJacket RainJacket Blazer Parka Coat Gilet Waistcoat HiVis Uniform
        ChefsJacket Wetsuit RacingSuit Overalls Robe Dress Protector BikiniTop;
    Lower: Jeans Trousers SuitTrousers TrackTrousers SkiTrousers BaseballTrousers Breeches Leggings Capri Shorts
        DenimShorts SportsShorts Skirt LongDress SuitLegs SwimBottoms;
    Shoes: Trainers LeatherShoes Heels Flats Cleats Boots SkiBoots Sandals Barefoot;
    Bag: Backpack ShoulderBag Handbag Tote ShoppingBag WaistBag Briefcase Suitcase BikeBag;
    Hat: Cap FlatCap Visor Beanie BrimmedHat OtherHat Headscarf Headband Helmet HardHat Hood;
    Glasses: Spectacles Sunglasses Goggles;
    Held: Phone Racket Umbrella Bicycle Motorbike Skateboard Surfboard Snowboard Skis Frisbee BaseballBat BaseballGlove
        Ball Horse Dog Paper Cup DrinkingGlass Bottle Camera Laptop Stick Carton;
    Extra: Scarf Tie Gloves Watch Lanyard FaceMask Apron;
}

bit_set! {
    /// Kinds, usually of one part.
    KindSet of Kind
}

impl KindSet {
    /// The part that its kinds belong to; the first one if they belong to several.
    pub fn part(self) -> Option<Part> {
        Part::ALL.iter().copied().find(|part| self.meets(part.kinds()))
    }
}

/// Garments worn over another one that may show.
pub const OUTERWEAR: KindSet = JACKETS.or(KindSet::of(&[Kind::Parka, Kind::Coat]));

/// Jackets in the everyday sense.
pub const JACKETS: KindSet = KindSet::of(&[
    Kind::Jacket,
    Kind::DenimJacket,
    Kind::LeatherJacket,
    Kind::Puffer,
    Kind::SkiJacket,
    Kind::RainJacket,
    Kind::Blazer,
]);

/// Vests of all kinds, worn over another garment.
pub const VESTS: KindSet = KindSet::of(&[Kind::Gilet, Kind::Waistcoat, Kind::HiVis]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_fit_into_a_set_and_belong_to_one_part_each() {
        assert!(Kind::ALL.len() <= 128, "{}", Kind::ALL.len());
        for kind in Kind::ALL {
            let parts = Part::ALL.iter().filter(|part| KindSet::of(&[*kind]).meets(part.kinds()));
            assert_eq!(parts.count(), 1, "{kind:?}");
        }
        assert_eq!(KindSet::of(&[Kind::Cap]).part(), Some(Part::Hat));
        assert_eq!(KindSet::NONE.part(), None);
    }

    #[test]
    fn sets_compare_as_sets() {
        let jacket = KindSet::of(&[Kind::Jacket]);
        assert!(jacket.within(JACKETS) && JACKETS.within(OUTERWEAR) && !OUTERWEAR.within(JACKETS));
        assert!(!KindSet::NONE.within(JACKETS) && !KindSet::NONE.meets(JACKETS), "nothing is no kind of jacket");
        assert!(!jacket.meets(VESTS) && jacket.or(VESTS).meets(VESTS) && jacket.and(VESTS).is_empty());
        assert_eq!(format!("{jacket:?}"), "{Jacket}");
    }
}
