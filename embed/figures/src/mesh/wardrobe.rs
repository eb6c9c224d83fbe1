//! Wardrobe: which MakeHuman pieces a person wears as hair, clothes and shoes, if the assets have
//! them.
//!
//! Two thirds of the persons wear pieces. The others wear garments cut from the base mesh, so that
//! a model does not learn the cut of a few pieces. The choice is a [`variation`], the same in every
//! view.

use super::assets::Assets;
use super::surface::Surface;
use crate::person::{HairStyle, LowerKind, Person, ShoeKind, UpperKind};
use crate::variation::{slot, variation};

/// Share of the persons whose garments are cut from the base mesh although there are pieces.
const WITHOUT_PIECES: f32 = 0.35;

/// One of the pieces `names`, by `at` in 0..1.
fn choose<'a>(assets: &'a Assets, names: &[&str], at: f32) -> Option<&'a Surface> {
    let at = ((at * names.len() as f32) as usize).min(names.len().checked_sub(1)?);
    assets.pieces.get(names[at])
}

/// Hair; `None` under a hat, which no piece fits.
pub(crate) fn hair<'a>(assets: &'a Assets, person: &Person) -> Option<&'a Surface> {
    if person.hat.is_some() || variation(person, slot::HAIR_HAS_PIECE) < WITHOUT_PIECES {
        return None;
    }
    let names: &[&str] = match person.hair {
        HairStyle::Short => &["short01/0", "short02/0", "short03/0", "short04/0"],
        HairStyle::Chin => &["bob01/0", "bob02/0"],
        HairStyle::Shoulder | HairStyle::Long => &["long01/0"],
        HairStyle::Ponytail => &["ponytail01/0", "ponytail01/0", "braid01/0"],
        HairStyle::Curly => &["afro01/0"],
        _ => &[],
    };
    choose(assets, names, variation(person, slot::HAIR_PIECE))
}

/// Top, the inner upper garment.
pub(crate) fn top<'a>(assets: &'a Assets, person: &Person) -> Option<&'a Surface> {
    use UpperKind::*;
    if variation(person, slot::TOP_HAS_PIECE) < WITHOUT_PIECES || person.dress.is_some() {
        return None;
    }
    let names: &[&str] = match (person.top.kind, person.woman) {
        (TShirt | Blouse, true) => &["female_casualsuit01/0", "female_casualsuit02/1"],
        (TShirt | Polo | ShortShirt, false) => &["male_casualsuit04/1", "male_casualsuit06/0"],
        (LongSleeve | Sweater | Shirt | Hoodie, false) => &["male_casualsuit02/0", "male_casualsuit03/0"],
        _ => &[],
    };
    choose(assets, names, variation(person, slot::TOP_PIECE))
}

/// Outer garment.
pub(crate) fn outer<'a>(assets: &'a Assets, person: &Person) -> Option<&'a Surface> {
    let garment = person.outer.as_ref()?;
    if variation(person, slot::OUTER_HAS_PIECE) < WITHOUT_PIECES {
        return None;
    }
    let names: &[&str] = match (garment.kind, person.woman) {
        (UpperKind::Blazer, true) => &["female_elegantsuit01/0"],
        (UpperKind::Blazer, false) => &["male_elegantsuit01/0"],
        (UpperKind::Jacket | UpperKind::LeatherJacket | UpperKind::DenimJacket, false) => &["male_casualsuit05/0"],
        _ => &[],
    };
    choose(assets, names, 0.0)
}

/// Trousers or shorts.
pub(crate) fn lower<'a>(assets: &'a Assets, person: &Person) -> Option<&'a Surface> {
    if variation(person, slot::LOWER_HAS_PIECE) < WITHOUT_PIECES {
        return None;
    }
    let names: &[&str] = match (person.lower.kind, person.woman) {
        (LowerKind::Jeans | LowerKind::Trousers, true) => &["female_casualsuit01/1"],
        (LowerKind::Jeans | LowerKind::Trousers | LowerKind::Sweatpants, false) => {
            &["male_casualsuit02/1", "male_casualsuit03/1", "male_elegantsuit01/1"]
        }
        (LowerKind::Shorts, true) => &["female_casualsuit02/0"],
        _ => &[],
    };
    choose(assets, names, variation(person, slot::LOWER_PIECE))
}

/// Shoes.
pub(crate) fn shoes<'a>(assets: &'a Assets, person: &Person) -> Option<&'a Surface> {
    if variation(person, slot::SHOES_HAVE_PIECE) < WITHOUT_PIECES {
        return None;
    }
    let names: &[&str] = match person.shoes.0 {
        ShoeKind::Trainers => &["shoes01/0", "shoes03/0", "shoes04/0"],
        ShoeKind::Leather => &["shoes02/0", "shoes05/0", "shoes06/0"],
        _ => &[],
    };
    choose(assets, names, variation(person, slot::SHOES_PIECE))
}
