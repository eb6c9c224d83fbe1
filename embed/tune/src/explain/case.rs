//! Test cases of a drawn picture: phrases about visible parts, and where those parts are.

use rand::Rng;

use crate::facts::{Facts, Part, Phrase};
use sightline_embed::model::Grid;
use sightline_figures::{Corpus, Person, PersonPart};

/// Smallest share of the picture that a part must have to be tested: a smaller part fills too
/// little of any patch.
const SMALLEST: f32 = 0.005;
/// Share of the phrases that name only the part and not the kind: "red top".
const WIDE: f32 = 0.1;

/// A phrase that is true of the person, about a visible part.
pub(super) struct Case {
    /// Part that the phrase is about.
    pub part: Part,
    /// Byte range of the phrase in [`Drawn::query`].
    pub bytes: std::ops::Range<usize>,
    /// Share of each patch that shows the part, row by row.
    pub shares: Vec<f32>,
}

impl Case {
    /// Share of the picture that shows the part, which is also the mean share over patches.
    pub fn area(&self) -> f64 {
        self.shares.iter().copied().map(f64::from).sum::<f64>() / self.shares.len() as f64
    }
}

/// The query and test cases of a drawn picture.
pub(super) struct Drawn {
    /// The phrases as an operator types them: "red jacket, blue jeans, black backpack".
    pub query: String,
    /// One case for each phrase.
    pub cases: Vec<Case>,
}

impl Drawn {
    /// Draws phrases about picture `view` of person `identity`, whose patches form `grid`.
    pub fn of(corpus: &Corpus, (identity, view): (u64, u64), grid: Grid, rng: &mut impl Rng) -> Self {
        let person = corpus.person(identity);
        let facts = Facts::of_drawn(&person);
        let mut asked: Vec<(Phrase, PersonPart)> = Vec::new();
        for &part in Part::ALL {
            for (layer, item) in facts.seen(part).items.iter().enumerate() {
                let Some(drawn) = drawn_part(&person, part, layer) else { continue };
                asked.extend(Phrase::about(part, item, 1.0, WIDE, rng).map(|phrase| (phrase, drawn)));
            }
        }
        let parts: Vec<PersonPart> = asked.iter().map(|(_, part)| *part).collect();
        let masks = corpus.part_masks(identity, view, &parts);
        let mut drawn = Self { query: String::new(), cases: Vec::new() };
        for ((phrase, _), mask) in asked.iter().zip(&masks).filter(|(_, mask)| mask.share() >= SMALLEST) {
            if !drawn.query.is_empty() {
                drawn.query += ", ";
            }
            let from = drawn.query.len();
            drawn.query += phrase.noun();
            let bytes = from..drawn.query.len();
            drawn.cases.push(Case { part: phrase.part(), bytes, shares: mask.shares(grid.rows, grid.cols) });
        }
        drawn
    }
}

/// Drawn part that shows item number `layer` of `part`; `None` if it has no area of its own.
fn drawn_part(person: &Person, part: Part, layer: usize) -> Option<PersonPart> {
    Some(match part {
        Part::Hair => PersonPart::Hair,
        Part::Hat => PersonPart::Hat,
        Part::Upper if layer == 0 && person.outer.is_some() => PersonPart::Outer,
        Part::Upper => PersonPart::Inner,
        Part::Lower if person.dress.is_some() => PersonPart::Inner,
        Part::Lower => PersonPart::Lower,
        Part::Shoes => PersonPart::Shoes,
        Part::Bag if layer == 0 && person.bag.is_some() => PersonPart::Bag,
        Part::Bag | Part::Held => PersonPart::HeldItem,
        // Sex and sleeves have no area of their own, and glasses are smaller than any patch.
        Part::Sex | Part::Sleeves | Part::Glasses | Part::Extra => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sightline_figures::stream;

    #[test]
    fn phrases_are_about_what_shows() {
        let (corpus, grid) = (Corpus::new(8), Grid { rows: 8, cols: 4 });
        let mut parts = std::collections::BTreeSet::new();
        for identity in 0..40 {
            let drawn = Drawn::of(&corpus, (identity, 0), grid, &mut stream(1, 2, identity));
            for case in &drawn.cases {
                let words = &drawn.query[case.bytes.clone()];
                assert!(!words.is_empty() && !words.contains(','), "{words:?} in {:?}", drawn.query);
                let share = case.shares.iter().sum::<f32>() / grid.len() as f32;
                assert!(case.shares.len() == 32 && (0.003..0.9).contains(&share), "{words:?}: {share}");
                parts.insert(case.part);
            }
        }
        for part in [Part::Hair, Part::Upper, Part::Lower, Part::Shoes, Part::Bag, Part::Hat] {
            assert!(parts.contains(&part), "{part:?} is never asked about");
        }
    }
}
