//! Named colours: what people call a colour, and which albedos a camera may see under that name.
//!
//! A caption says "navy"; a garment is one of very many dark blues. Each [`NamedColour`] therefore
//! holds all words in use for it and a centre around which albedos vary widely, so that a model
//! learns the range that a word covers and not one value.

use rand::Rng;

use super::vocabulary::Words;

/// A range of colours that share their words.
#[derive(Debug)]
pub struct NamedColour {
    /// Words for it, the most common first; a caption uses that one about every second time.
    pub words: &'static [&'static str],
    /// Further words, kept out of training captions ([`Words::Seen`]).
    pub held_out: &'static [&'static str],
    /// A vaguer word that is also true ("dark", "light", "bright"), or empty.
    pub vague: &'static str,
    /// Centre of the range as sRGB bytes.
    pub centre: [u8; 3],
    /// Frequency among clothes in the street, relative to the others of its palette.
    pub weight: f32,
}

const fn colour(
    words: &'static [&'static str],
    held_out: &'static [&'static str],
    vague: &'static str,
    centre: [u8; 3],
    weight: f32,
) -> NamedColour {
    NamedColour { words, held_out, vague, centre, weight }
}

/// Colours of clothes, shoes, bags and hats. Positions are class labels of trained models: append,
/// never reorder.
pub static GARMENT_COLOURS: [NamedColour; 31] = [
    colour(&["black"], &["jet black"], "dark", [20, 20, 22], 15.0),
    colour(&["dark grey", "charcoal", "dark gray", "grey"], &["graphite"], "dark", [62, 62, 66], 5.0),
    colour(&["grey", "gray", "medium grey"], &["ash grey"], "", [122, 123, 126], 5.0),
    colour(&["light grey", "pale grey", "light gray", "grey", "silver"], &["dove grey"], "light", [182, 183, 186], 4.5),
    colour(&["white", "bright white"], &["snow white"], "light", [236, 236, 234], 7.0),
    colour(&["cream", "off-white", "white"], &["ivory"], "light", [228, 217, 192], 2.0),
    colour(&["beige", "cream", "light brown"], &["sand"], "light", [204, 184, 152], 2.5),
    colour(&["tan", "light brown", "beige"], &["camel"], "", [178, 138, 94], 2.0),
    colour(&["khaki", "khaki green", "beige", "olive"], &["stone"], "", [156, 145, 106], 2.0),
    colour(&["brown", "medium brown"], &["chestnut"], "", [104, 70, 46], 2.5),
    colour(&["dark brown", "brown"], &["chocolate", "chocolate brown"], "dark", [58, 39, 28], 2.5),
    colour(&["rust", "rust brown", "reddish brown", "brown"], &["copper"], "", [142, 70, 38], 1.3),
    colour(&["olive", "olive green", "green", "khaki"], &["army green"], "", [92, 90, 44], 2.2),
    colour(&["green", "grass green"], &["emerald green", "emerald"], "", [44, 118, 62], 1.8),
    colour(&["dark green", "forest green", "green"], &["bottle green"], "dark", [26, 60, 42], 1.8),
    colour(&["light green", "lime green", "green"], &["mint green", "mint"], "bright", [150, 200, 128], 1.0),
    colour(&["teal", "teal green", "blue green"], &["turquoise"], "", [32, 126, 122], 1.3),
    colour(&["navy", "navy blue", "dark blue", "blue"], &["midnight blue"], "dark", [28, 34, 66], 6.5),
    colour(&["blue", "royal blue", "bright blue"], &["cobalt blue", "azure"], "", [42, 84, 168], 4.5),
    colour(&["steel blue", "blue", "grey blue"], &["slate blue"], "", [82, 108, 142], 2.0),
    colour(
        &["light blue", "pale blue", "sky blue", "blue"],
        &["baby blue", "powder blue"],
        "light",
        [142, 178, 216],
        3.5,
    ),
    colour(&["purple", "dark purple"], &["violet", "plum"], "", [94, 54, 128], 1.5),
    colour(&["lilac", "light purple", "mauve"], &["lavender"], "light", [176, 156, 206], 0.8),
    colour(&["pink", "light pink", "pale pink", "salmon"], &["rose"], "light", [228, 158, 176], 1.8),
    colour(&["bright pink", "hot pink", "magenta", "pink"], &["fuchsia"], "bright", [216, 56, 122], 1.0),
    colour(&["red", "bright red"], &["scarlet", "crimson"], "bright", [188, 34, 38], 3.5),
    colour(&["maroon", "dark red", "wine red", "red"], &["burgundy"], "dark", [96, 24, 36], 2.2),
    colour(&["orange", "bright orange", "neon orange"], &["tangerine"], "bright", [230, 108, 34], 1.4),
    colour(&["coral", "salmon pink", "orange"], &["peach"], "", [230, 138, 112], 0.7),
    colour(&["yellow", "bright yellow"], &["lemon yellow", "canary yellow"], "bright", [234, 200, 50], 1.4),
    colour(&["mustard", "mustard yellow", "dark yellow", "gold"], &["ochre"], "", [192, 146, 44], 0.9),
];

/// Washes of denim. A palette of its own, because "jeans" alone already says blue. The first three
/// are blue.
pub static DENIM_COLOURS: [NamedColour; 5] = [
    colour(&["blue", "blue denim"], &["mid-blue"], "", [66, 90, 130], 5.0),
    colour(&["dark blue", "navy", "dark denim", "blue"], &["indigo"], "dark", [36, 46, 74], 5.0),
    colour(&["light blue", "faded blue", "pale blue", "blue"], &["stonewashed"], "light", [122, 150, 184], 3.0),
    colour(&["black"], &["jet black"], "dark", [24, 24, 27], 2.5),
    colour(&["grey", "gray"], &["washed grey"], "", [108, 111, 116], 1.0),
];

/// Hair colours; the last two are those of age.
pub static HAIR_COLOURS: [NamedColour; 8] = [
    colour(&["black", "dark"], &["jet black", "raven"], "dark", [16, 14, 14], 7.0),
    colour(&["dark brown", "dark", "brown"], &["brunette"], "dark", [42, 28, 20], 7.0),
    colour(&["brown", "medium brown"], &["chestnut"], "", [82, 54, 34], 4.0),
    colour(&["light brown", "brown", "fair"], &["dark blonde"], "light", [130, 95, 62], 2.0),
    colour(&["blonde", "fair", "blond", "light"], &["golden", "flaxen"], "light", [200, 165, 105], 4.0),
    colour(&["red", "ginger", "reddish"], &["auburn"], "", [140, 62, 28], 1.2),
    colour(&["grey", "gray", "silver", "greying"], &["silvery"], "", [150, 148, 145], 2.0),
    colour(&["white", "silver", "grey"], &["snowy"], "light", [222, 220, 214], 0.8),
];

/// Positions in the palettes, for garments that come in few colours.
pub(crate) mod index {
    pub const BLACK: usize = 0;
    pub const DARK_GREY: usize = 1;
    pub const GREY: usize = 2;
    pub const LIGHT_GREY: usize = 3;
    pub const WHITE: usize = 4;
    pub const BEIGE: usize = 6;
    pub const TAN: usize = 7;
    pub const KHAKI: usize = 8;
    pub const BROWN: usize = 9;
    pub const DARK_BROWN: usize = 10;
    pub const OLIVE: usize = 12;
    pub const GREEN: usize = 13;
    pub const LIGHT_GREEN: usize = 15;
    pub const NAVY: usize = 17;
    pub const BLUE: usize = 18;
    pub const PINK: usize = 23;
    pub const RED: usize = 25;
    pub const ORANGE: usize = 27;
    pub const YELLOW: usize = 29;
    pub const MUSTARD: usize = 30;
    // Positions in `HAIR_COLOURS`.
    pub const BLACK_HAIR: usize = 0;
    pub const GREY_HAIR: usize = 6;
    pub const WHITE_HAIR: usize = 7;
}

/// Linear RGB, 0..1 a channel where it is an albedo.
pub(crate) type Rgb = [f32; 3];

/// Linear interpolation: `a` for `t` = 0, `b` for 1.
pub(crate) fn mix(a: Rgb, b: Rgb, t: f32) -> Rgb {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * t)
}

/// `a` with every channel multiplied by `s`.
pub(crate) fn scaled(a: Rgb, s: f32) -> Rgb {
    a.map(|c| c * s)
}

/// The colour of one thing: a position in a palette, and an albedo within that named colour.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shade {
    /// Position in the palette it was drawn from.
    pub colour: usize,
    /// Linear RGB albedo, 0.02^2.2 to 0.97^2.2 a channel.
    pub albedo: [f32; 3],
}

impl Shade {
    /// Draws an albedo of `palette[colour]`: up to 21 % lighter or darker as a whole, and each
    /// channel up to 6 % by itself.
    pub fn sample_of(palette: &[NamedColour], colour: usize, rng: &mut impl Rng) -> Self {
        let lightness = (rng.random::<f32>() - 0.5) * 0.42;
        let albedo = palette[colour].centre.map(|byte| {
            let value = f32::from(byte) / 255.0;
            let moved = value * (1.0 + lightness) * (1.0 + (rng.random::<f32>() - 0.5) * 0.12)
                + (rng.random::<f32>() - 0.5) * 0.03;
            moved.clamp(0.02, 0.97).powf(2.2)
        });
        Self { colour, albedo }
    }

    /// Draws a colour by weight (`flat` makes all colours about equally likely), then an albedo of
    /// it.
    pub fn sample(palette: &[NamedColour], flat: bool, rng: &mut impl Rng) -> Self {
        let weight = |named: &NamedColour| if flat { named.weight.powf(0.25) } else { named.weight };
        let total: f32 = palette.iter().map(weight).sum();
        let mut at = rng.random::<f32>() * total;
        let mut chosen = palette.len() - 1;
        for (position, named) in palette.iter().enumerate() {
            at -= weight(named);
            if at <= 0.0 {
                chosen = position;
                break;
            }
        }
        Self::sample_of(palette, chosen, rng)
    }

    /// One of its words in `palette`, the palette it was drawn from; 8 times in 100 the vague one.
    pub fn word(&self, palette: &'static [NamedColour], words: Words, rng: &mut impl Rng) -> &'static str {
        let named = &palette[self.colour];
        if words == Words::HeldOut && !named.held_out.is_empty() {
            return named.held_out[rng.random_range(0..named.held_out.len())];
        }
        if !named.vague.is_empty() && rng.random::<f32>() < 0.08 {
            return named.vague;
        }
        let others = named.words.len() - 1 + if words == Words::All { named.held_out.len() } else { 0 };
        if others == 0 || rng.random::<f32>() < 0.55 {
            return named.words[0];
        }
        let at = rng.random_range(1..=others);
        if at < named.words.len() { named.words[at] } else { named.held_out[at - named.words.len()] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::StdRng};

    #[test]
    fn positions_have_the_names_of_their_colours() {
        use index::*;
        for (position, name) in [(BLACK, "black"), (TAN, "tan"), (NAVY, "navy"), (RED, "red"), (MUSTARD, "mustard")] {
            assert_eq!(GARMENT_COLOURS[position].words[0], name);
        }
        assert_eq!(HAIR_COLOURS[GREY_HAIR].words[0], "grey");
        assert_eq!(HAIR_COLOURS[WHITE_HAIR].words[0], "white");
    }

    #[test]
    fn draws_stay_nearest_to_dark_or_light_as_named() {
        let mut rng = StdRng::seed_from_u64(3);
        for _ in 0..200 {
            let black = Shade::sample_of(&GARMENT_COLOURS, index::BLACK, &mut rng);
            let white = Shade::sample_of(&GARMENT_COLOURS, index::WHITE, &mut rng);
            assert!(black.albedo.iter().all(|&c| c < 0.05), "{black:?}");
            assert!(white.albedo.iter().all(|&c| c > 0.3), "{white:?}");
        }
    }
}
