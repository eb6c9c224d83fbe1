//! Masks of the parts of a drawn person in a picture: the ground truth for maps from words to
//! regions.
//!
//! A part covers the pixels that change when that part alone is dyed another colour. The two levels
//! then need no second set of painters that know of parts, and whatever hides a part (another
//! garment, a passer-by, the edge of the box) is left out by itself. A part's areas of fixed colour
//! (white soles, the bands of a high-visibility vest) are left out as well.

use super::person::Person;
use super::raster::Canvas;

/// A part of a drawn person that has a colour of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PersonPart {
    /// Hair on the head; no beard.
    Hair,
    /// Headwear.
    Hat,
    /// Jacket, coat, cardigan or vest.
    Outer,
    /// Garment below the outer one: shirt, sweater, top or dress.
    Inner,
    /// Trousers, shorts or skirt; nothing below a dress.
    Lower,
    /// Both shoes, without soles of a fixed colour.
    Shoes,
    /// Bag with its straps.
    Bag,
    /// Item in the hand.
    HeldItem,
}

impl PersonPart {
    /// All parts.
    pub const ALL: [Self; 8] =
        [Self::Hair, Self::Hat, Self::Outer, Self::Inner, Self::Lower, Self::Shoes, Self::Bag, Self::HeldItem];

    /// `person` with this part in a colour that nothing else has; everything else stays the same.
    fn dyed(self, person: &Person) -> Person {
        let mut person = person.clone();
        let dye = |albedo: &mut [f32; 3]| *albedo = albedo.map(|channel| channel + 1.0);
        match self {
            Self::Hair => dye(&mut person.hair_shade.albedo),
            Self::Hat => person.hat.iter_mut().for_each(|(_, shade)| dye(&mut shade.albedo)),
            Self::Outer | Self::Inner => {
                let garment = match (self, &mut person.dress) {
                    (Self::Outer, _) => person.outer.as_mut(),
                    (_, Some((dress, _))) => Some(dress),
                    (_, None) => Some(&mut person.top),
                };
                if let Some(garment) = garment {
                    dye(&mut garment.shade.albedo);
                    dye(&mut garment.second_shade.albedo);
                }
            }
            Self::Lower => {
                dye(&mut person.lower.shade.albedo);
                dye(&mut person.lower.second_shade.albedo);
            }
            Self::Shoes => dye(&mut person.shoes.1.albedo),
            Self::Bag => person.bag.iter_mut().for_each(|(_, shade)| dye(&mut shade.albedo)),
            Self::HeldItem => person.held_item.iter_mut().for_each(|(_, shade)| dye(&mut shade.albedo)),
        }
        person
    }
}

/// Mask of the pixels that show a part. It has the picture's aspect, and more pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartMask {
    width: usize,
    shown: Vec<bool>,
}

impl PartMask {
    /// Masks of `parts` in the picture that `compose` draws of a person; it must draw the person in
    /// the same place at every call.
    pub(crate) fn of(person: &Person, parts: &[PersonPart], compose: impl Fn(&Person) -> Canvas) -> Vec<Self> {
        // A beard has the colour of the hair.
        let person = Person { beard: false, ..person.clone() };
        let plain = compose(&person);
        let mask = |part: &PersonPart| {
            let dyed = compose(&part.dyed(&person));
            let shown = plain.rgb.iter().zip(&dyed.rgb).map(|(before, after)| before != after).collect();
            Self { width: plain.width, shown }
        };
        parts.iter().map(mask).collect()
    }

    /// Share of the picture that shows the part, 0 to 1.
    pub fn share(&self) -> f32 {
        self.shown.iter().filter(|shown| **shown).count() as f32 / self.shown.len().max(1) as f32
    }

    /// Share of each cell that shows the part, 0 to 1, row by row, when the picture is cut into
    /// `rows` x `cols` cells of one size. 0 in a cell without a pixel.
    pub fn shares(&self, rows: usize, cols: usize) -> Vec<f32> {
        let height = self.shown.len() / self.width.max(1);
        let (mut counts, mut sums) = (vec![0u32; rows * cols], vec![0u32; rows * cols]);
        for (at, shown) in self.shown.iter().enumerate() {
            let (x, y) = (at % self.width, at / self.width);
            let cell = (y * rows / height) * cols + x * cols / self.width;
            counts[cell] += 1;
            sums[cell] += u32::from(*shown);
        }
        sums.iter().zip(&counts).map(|(sum, count)| *sum as f32 / (*count).max(1) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Corpus;

    #[test]
    fn cells_have_the_shares_of_their_own_pixels() {
        let shown = [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]];
        let mask = PartMask { width: 4, shown: shown.concat().iter().map(|bit| *bit == 1).collect() };
        assert_eq!(mask.share(), 5.0 / 16.0);
        assert_eq!(mask.shares(2, 2), [0.75, 0.0, 0.0, 0.5]);
        assert_eq!(mask.shares(1, 1), [5.0 / 16.0]);
        assert_eq!(mask.shares(8, 1).len(), 8, "more cells than pixels");
    }

    /// No pixel of a picture shows two parts, and parts lie where they are worn.
    #[test]
    fn masks_do_not_overlap_and_lie_where_parts_are_worn() {
        let corpus = Corpus::new(6);
        let mut seen = [0; PersonPart::ALL.len()];
        let height_of = |mask: &PartMask| {
            let shares = mask.shares(8, 1);
            let sum: f32 = shares.iter().sum();
            shares.iter().enumerate().map(|(row, share)| row as f32 * share).sum::<f32>() / sum
        };
        for index in 0..40 {
            let person = corpus.person(index);
            let masks = corpus.part_masks(index, 1, &PersonPart::ALL);
            for at in 0..masks[0].shown.len() {
                assert!(masks.iter().filter(|mask| mask.shown[at]).count() <= 1, "identity {index}, pixel {at}");
            }
            let [hair, hat, outer, _, lower, shoes, bag, held] = &masks[..] else { panic!("a mask for each part") };
            assert!(person.hat.is_some() || hat.share() == 0.0);
            assert!(person.outer.is_some() || outer.share() == 0.0);
            assert!(person.bag.is_some() || bag.share() == 0.0);
            assert!(person.held_item.is_some() || held.share() == 0.0);
            assert!(person.dress.is_none() || lower.share() == 0.0);
            if hair.share() > 0.002 && lower.share() > 0.01 {
                assert!(height_of(hair) < height_of(lower), "identity {index}");
            }
            if lower.share() > 0.01 && shoes.share() > 0.002 {
                assert!(height_of(lower) < height_of(shoes), "identity {index}");
            }
            for (count, mask) in seen.iter_mut().zip(&masks) {
                *count += usize::from(mask.share() > 0.002);
            }
        }
        assert!(seen.iter().all(|count| *count > 0), "every part is seen of somebody: {seen:?}");
    }
}
