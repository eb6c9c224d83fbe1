//! Sampling of attributes: who wears what, in which colours, how often.
//!
//! The probabilities are estimates of what streets, shops and stations show. Half of the persons
//! draw their colours evenly instead, so that a model sees enough of the rare ones.

use rand::Rng;

use super::colour::index::*;
use super::colour::{DENIM_COLOURS, GARMENT_COLOURS, HAIR_COLOURS, Shade};
use super::person::{BagKind, Garment, HairStyle, HatKind, HeldItem, LowerKind, Pattern, Person, ShoeKind, UpperKind};
use crate::random::{between, chance, weighted};

fn pattern(rng: &mut impl Rng, kind: UpperKind) -> Pattern {
    use UpperKind::*;
    let (stripes, vertical, checks, print, floral, marl, sleeves) = match kind {
        TShirt | LongSleeve | TankTop => (0.12, 0.01, 0.01, 0.25, 0.03, 0.05, 0.06),
        Polo => (0.2, 0.0, 0.02, 0.06, 0.0, 0.02, 0.03),
        Shirt | ShortShirt => (0.03, 0.1, 0.22, 0.0, 0.05, 0.0, 0.0),
        Blouse => (0.05, 0.05, 0.05, 0.0, 0.2, 0.0, 0.0),
        Sweater | Cardigan => (0.13, 0.0, 0.04, 0.03, 0.0, 0.25, 0.02),
        Hoodie => (0.03, 0.0, 0.0, 0.22, 0.0, 0.1, 0.06),
        Jacket | Puffer => (0.02, 0.0, 0.03, 0.04, 0.0, 0.0, 0.14),
        Coat | Blazer => (0.0, 0.02, 0.07, 0.0, 0.0, 0.06, 0.0),
        _ => (0.0, 0.0, 0.0, 0.05, 0.0, 0.0, 0.0),
    };
    let rest = 1.0 - (stripes + vertical + checks + print + floral + marl + sleeves) - 0.01;
    [
        Pattern::HorizontalStripes,
        Pattern::VerticalStripes,
        Pattern::Checks,
        Pattern::Print,
        Pattern::Floral,
        Pattern::Marl,
        Pattern::ContrastSleeves,
        Pattern::SidePanels,
        Pattern::Plain,
    ][weighted(rng, &[stripes, vertical, checks, print, floral, marl, sleeves, 0.01, rest])]
}

/// A second colour that is clearly different from `shade`.
fn second_shade(rng: &mut impl Rng, shade: &Shade) -> Shade {
    loop {
        let other = Shade::sample(&GARMENT_COLOURS, false, rng);
        let far: f32 = other.albedo.iter().zip(shade.albedo).map(|(a, b)| (a.powf(0.45) - b.powf(0.45)).abs()).sum();
        if far > 0.45 {
            return other;
        }
    }
}

fn upper(rng: &mut impl Rng, kind: UpperKind, flat: bool) -> Garment<UpperKind> {
    let shade = match kind {
        UpperKind::DenimJacket => Shade::sample(&DENIM_COLOURS[..3], false, rng),
        UpperKind::HiVis => {
            let colour = [ORANGE, YELLOW, LIGHT_GREEN][weighted(rng, &[0.55, 0.4, 0.05])];
            let mut bright = Shade::sample_of(&GARMENT_COLOURS, colour, rng);
            bright.albedo = bright.albedo.map(|c| (c * 1.15).min(1.0));
            bright
        }
        UpperKind::LeatherJacket => {
            let colour = [BLACK, DARK_BROWN, BROWN][weighted(rng, &[0.75, 0.15, 0.1])];
            Shade::sample_of(&GARMENT_COLOURS, colour, rng)
        }
        _ => Shade::sample(&GARMENT_COLOURS, flat, rng),
    };
    let looseness = match kind {
        UpperKind::Puffer => between(rng, 1.25, 1.45),
        UpperKind::Coat | UpperKind::Jacket | UpperKind::Hoodie => between(rng, 1.12, 1.32),
        UpperKind::TankTop | UpperKind::Blouse => between(rng, 1.0, 1.15),
        _ => between(rng, 1.03, 1.25),
    };
    Garment { kind, shade, pattern: pattern(rng, kind), second_shade: second_shade(rng, &shade), looseness }
}

fn lower(rng: &mut impl Rng, woman: bool, flat: bool) -> Garment<LowerKind> {
    use LowerKind::*;
    let weights: [f32; 8] = if woman {
        [0.38, 0.18, 0.04, 0.16, 0.05, 0.07, 0.07, 0.05]
    } else {
        [0.48, 0.32, 0.07, 0.0, 0.01, 0.12, 0.0, 0.0]
    };
    let kind = [Jeans, Trousers, Sweatpants, Leggings, Capri, Shorts, ShortSkirt, LongSkirt][weighted(rng, &weights)];
    let shade = match kind {
        Jeans => Shade::sample(&DENIM_COLOURS, flat, rng),
        Leggings | Capri if chance(rng, 0.7) => Shade::sample_of(&GARMENT_COLOURS, BLACK, rng),
        Trousers | Sweatpants if !flat || chance(rng, 0.6) => {
            let colour = [BLACK, DARK_GREY, GREY, NAVY, BEIGE, TAN, KHAKI, DARK_BROWN, OLIVE, LIGHT_GREY]
                [weighted(rng, &[6.0, 3.0, 2.0, 3.0, 1.5, 1.0, 1.5, 1.0, 1.0, 1.0])];
            Shade::sample_of(&GARMENT_COLOURS, colour, rng)
        }
        _ => Shade::sample(&GARMENT_COLOURS, flat, rng),
    };
    let pattern = match kind {
        Jeans | Leggings | Capri => Pattern::Plain,
        Sweatpants if chance(rng, 0.2) => Pattern::SidePanels,
        ShortSkirt | LongSkirt => [Pattern::Plain, Pattern::Floral, Pattern::VerticalStripes, Pattern::Checks]
            [weighted(rng, &[0.7, 0.12, 0.08, 0.1])],
        Shorts | Trousers if chance(rng, 0.07) => Pattern::Checks,
        _ => Pattern::Plain,
    };
    let looseness = match kind {
        Leggings | Capri => 1.0,
        Sweatpants => between(rng, 1.2, 1.5),
        Jeans if woman => between(rng, 1.0, 1.25),
        _ => between(rng, 1.08, 1.5),
    };
    Garment { kind, shade, pattern, second_shade: second_shade(rng, &shade), looseness }
}

impl Person {
    /// Draws a person. Half of them have the colours of the street (much black, grey, denim), half
    /// have all colours about equally often.
    pub fn sample(rng: &mut impl Rng) -> Self {
        let flat = chance(rng, 0.5);
        let woman = chance(rng, 0.48);
        let age = weighted(rng, &[0.45, 0.4, 0.15]) as u8;
        let skin_level = rng.random::<f32>().powf(2.2);
        let light = [0.74, 0.50, 0.38];
        let deep = [0.075, 0.04, 0.025];
        let skin = std::array::from_fn(|c| {
            f32::powf(light[c], 1.0 - skin_level) * f32::powf(deep[c], skin_level) * between(rng, 0.92, 1.08)
        });
        let mut person = Self {
            woman,
            age,
            height: if woman { between(rng, 1.52, 1.78) } else { between(rng, 1.64, 1.95) },
            girth: [between(rng, 0.84, 0.95), between(rng, 0.95, 1.1), between(rng, 1.15, 1.42)]
                [weighted(rng, &[0.3, 0.5, 0.2])],
            skin,
            hair: HairStyle::Short,
            hair_shade: Shade::sample(&HAIR_COLOURS, flat, rng),
            beard: !woman && chance(rng, 0.25),
            glasses: chance(rng, 0.2),
            hat: None,
            top: upper(rng, UpperKind::TShirt, flat),
            outer: None,
            outer_open: false,
            lower: lower(rng, woman, flat),
            dress: None,
            shoes: (ShoeKind::Trainers, Shade::sample(&GARMENT_COLOURS, false, rng)),
            bag: None,
            held_item: None,
            texture_seed: rng.random(),
        };
        if age == 2 && chance(rng, 0.75) {
            let colour = if chance(rng, 0.3) { WHITE_HAIR } else { GREY_HAIR };
            person.hair_shade = Shade::sample_of(&HAIR_COLOURS, colour, rng);
        } else if skin_level > 0.6 && chance(rng, 0.85) {
            person.hair_shade = Shade::sample_of(&HAIR_COLOURS, BLACK_HAIR, rng);
        }
        person.draw_hair(rng);
        person.draw_hat(rng);
        person.draw_upper(rng, flat);
        person.draw_dress(rng, flat);
        person.draw_shoes(rng);
        person.draw_carried(rng);
        person
    }

    /// A person who is easily confused with `self`: all but one or two attributes are the same.
    /// These are the hard negatives of a batch.
    pub fn sibling(&self, rng: &mut impl Rng) -> Self {
        let mut other = self.clone();
        let flat = chance(rng, 0.7);
        for _ in 0..rng.random_range(1..=2) {
            match weighted(rng, &[2.5, 2.5, 1.2, 1.0, 1.5, 1.0, 0.8, 0.6]) {
                0 => other.recolour_upper(rng),
                1 => other.lower = lower(rng, other.woman, flat),
                2 => other.draw_upper(rng, flat),
                3 => other.draw_hair(rng),
                4 => {
                    let before = other.bag;
                    while other.bag == before {
                        other.draw_carried(rng);
                        if other.bag.is_none() && before.is_none() && chance(rng, 0.7) {
                            continue;
                        }
                        break;
                    }
                }
                5 => {
                    other.woman = !other.woman;
                    other.beard = false;
                    other.draw_hair(rng);
                    if !other.woman {
                        other.dress = None;
                        other.lower = lower(rng, false, flat);
                    }
                }
                6 => other.draw_shoes(rng),
                _ => {
                    other.hat = None;
                    if chance(rng, 0.7) {
                        other.force_hat(rng);
                    }
                }
            }
        }
        other.texture_seed = rng.random();
        other.height = self.height * between(rng, 0.95, 1.05);
        other
    }

    fn recolour_upper(&mut self, rng: &mut impl Rng) {
        let shade = Shade::sample(&GARMENT_COLOURS, true, rng);
        match (&mut self.outer, &mut self.dress) {
            (Some(g), _) if !matches!(g.kind, UpperKind::DenimJacket | UpperKind::HiVis) => g.shade = shade,
            (None, Some((g, _))) => g.shade = shade,
            _ => self.top.shade = shade,
        }
    }

    fn draw_hair(&mut self, rng: &mut impl Rng) {
        use HairStyle::*;
        self.hair = if self.woman {
            [Cropped, Short, Chin, Shoulder, Long, Ponytail, Bun, Curly]
                [weighted(rng, &[0.01, 0.08, 0.13, 0.22, 0.28, 0.14, 0.09, 0.05])]
        } else {
            let bald = if self.age == 2 { 0.15 } else { 0.07 };
            [Bald, Balding, Cropped, Short, Chin, Shoulder, Long, Ponytail, Bun, Curly]
                [weighted(rng, &[bald, bald, 0.25, 0.5, 0.04, 0.02, 0.01, 0.012, 0.008, 0.05])]
        };
    }

    fn draw_hat(&mut self, rng: &mut impl Rng) {
        self.hat = None;
        if chance(rng, 0.17) {
            self.force_hat(rng);
        }
    }

    fn force_hat(&mut self, rng: &mut impl Rng) {
        use HatKind::*;
        let kind = [Cap, Beanie, Brimmed, HardHat][weighted(rng, &[0.45, 0.25, 0.17, 0.13])];
        let shade = match kind {
            HardHat => {
                let colour = [YELLOW, WHITE, ORANGE, BLUE][weighted(rng, &[0.5, 0.3, 0.1, 0.1])];
                Shade::sample_of(&GARMENT_COLOURS, colour, rng)
            }
            Brimmed if chance(rng, 0.5) => {
                let colour = [BEIGE, TAN, MUSTARD][rng.random_range(0..3)];
                Shade::sample_of(&GARMENT_COLOURS, colour, rng)
            }
            _ => Shade::sample(&GARMENT_COLOURS, false, rng),
        };
        self.hat = Some((kind, shade));
    }

    fn draw_upper(&mut self, rng: &mut impl Rng, flat: bool) {
        use UpperKind::*;
        let women: [f32; 9] = [0.25, 0.02, 0.1, 0.03, 0.16, 0.08, 0.14, 0.16, 0.06];
        let men: [f32; 9] = [0.32, 0.08, 0.17, 0.07, 0.0, 0.03, 0.08, 0.13, 0.12];
        let kinds = [TShirt, Polo, Shirt, ShortShirt, Blouse, TankTop, LongSleeve, Sweater, Hoodie];
        let kind = kinds[weighted(rng, if self.woman { &women } else { &men })];
        self.top = upper(rng, kind, flat);
        self.outer = None;
        self.outer_open = false;
        if chance(rng, 0.48) {
            let women: [f32; 9] = [0.26, 0.06, 0.07, 0.13, 0.06, 0.2, 0.17, 0.02, 0.03];
            let men: [f32; 9] = [0.38, 0.05, 0.08, 0.16, 0.1, 0.1, 0.04, 0.03, 0.06];
            let kinds = [Jacket, DenimJacket, LeatherJacket, Puffer, Blazer, Coat, Cardigan, Gilet, HiVis];
            let kind = kinds[weighted(rng, if self.woman { &women } else { &men })];
            let garment = upper(rng, kind, flat);
            self.outer_open = chance(rng, if kind == Cardigan { 0.75 } else { 0.4 });
            self.outer = Some(garment);
        }
        let hooded = matches!(self.outer.as_ref().map_or(self.top.kind, |g| g.kind), Hoodie | Puffer | Jacket);
        if hooded && self.hat.is_none() && chance(rng, 0.08) {
            self.hat = Some((HatKind::Hood, self.outer.as_ref().map_or(self.top.shade, |g| g.shade)));
        }
    }

    fn draw_dress(&mut self, rng: &mut impl Rng, flat: bool) {
        self.dress = None;
        if self.woman && chance(rng, 0.13) {
            let kind =
                [UpperKind::TankTop, UpperKind::TShirt, UpperKind::LongSleeve][weighted(rng, &[0.4, 0.35, 0.25])];
            let even = flat || chance(rng, 0.5);
            let mut garment = upper(rng, kind, even);
            garment.pattern = [Pattern::Plain, Pattern::Floral, Pattern::HorizontalStripes, Pattern::Checks]
                [weighted(rng, &[0.6, 0.25, 0.09, 0.06])];
            self.dress = Some((garment, weighted(rng, &[0.4, 0.4, 0.2]) as u8));
        }
    }

    fn draw_shoes(&mut self, rng: &mut impl Rng) {
        use ShoeKind::*;
        let kind = [Trainers, Leather, Boots, Flats]
            [weighted(rng, if self.woman { &[0.42, 0.12, 0.24, 0.22] } else { &[0.55, 0.3, 0.13, 0.02] })];
        let colour =
            match kind {
                Trainers => [WHITE, BLACK, LIGHT_GREY, GREY, NAVY, RED, BLUE]
                    [weighted(rng, &[5.0, 4.0, 1.5, 1.5, 1.0, 0.7, 0.6])],
                Flats => [BLACK, LIGHT_GREY, TAN, WHITE, PINK, RED, BEIGE]
                    [weighted(rng, &[3.0, 1.0, 1.0, 1.5, 0.6, 0.6, 1.0])],
                _ => [BLACK, DARK_BROWN, BROWN, TAN, GREY][weighted(rng, &[5.0, 1.5, 1.5, 0.8, 0.4])],
            };
        self.shoes = (kind, Shade::sample_of(&GARMENT_COLOURS, colour, rng));
    }

    fn draw_carried(&mut self, rng: &mut impl Rng) {
        use BagKind::*;
        self.bag = None;
        self.held_item = None;
        if chance(rng, 0.42) {
            let kind = [Backpack, Shoulder, Handbag, Suitcase]
                [weighted(rng, if self.woman { &[0.3, 0.38, 0.24, 0.08] } else { &[0.52, 0.28, 0.1, 0.1] })];
            let colour = if chance(rng, 0.55) {
                [BLACK, DARK_BROWN, BROWN, NAVY, DARK_GREY, GREY][weighted(rng, &[5.0, 1.0, 1.5, 1.0, 1.0, 1.0])]
            } else {
                rng.random_range(0..GARMENT_COLOURS.len())
            };
            self.bag = Some((kind, Shade::sample_of(&GARMENT_COLOURS, colour, rng)));
        }
        if chance(rng, 0.17) {
            use HeldItem::*;
            let kind = [Paper, Phone, Shopping, Box, Cup][weighted(rng, &[0.25, 0.25, 0.3, 0.12, 0.08])];
            let colour = match kind {
                Paper | Cup => WHITE,
                Phone => BLACK,
                Box => TAN,
                Shopping => [WHITE, RED, BEIGE, YELLOW, BLACK, GREEN, BLUE][rng.random_range(0..7)],
            };
            self.held_item = Some((kind, Shade::sample_of(&GARMENT_COLOURS, colour, rng)));
        }
    }
}
