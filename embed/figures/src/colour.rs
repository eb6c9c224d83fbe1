//! Colours by perceptual region: what people call them, and what a camera may see of them.
//!
//! A caption says "navy"; a garment is one of very many dark blues. Each [`Region`] therefore holds the words in use for
//! it and a centre around which albedos are drawn with wide variation, so that a model learns regions and not values.

use rand::Rng;

use super::vocabulary::Words;

/// One perceptual colour region.
#[derive(Debug)]
pub struct Region {
    /// Words for it, the most common first; each is drawn with falling probability.
    pub words: &'static [&'static str],
    /// Further words, kept back from [`Words::Seen`].
    pub held_out: &'static [&'static str],
    /// A vaguer word that also fits ("dark", "light", "bright"), or empty.
    pub vague: &'static str,
    /// Centre as sRGB.
    pub centre: [u8; 3],
    /// How often clothes in the street have it, relative.
    pub weight: f32,
}

const fn region(
    words: &'static [&'static str],
    held_out: &'static [&'static str],
    vague: &'static str,
    centre: [u8; 3],
    weight: f32,
) -> Region {
    Region { words, held_out, vague, centre, weight }
}

/// All garment colours.
pub static REGIONS: [Region; 31] = [
    region(&["black"], &["jet black"], "dark", [20, 20, 22], 15.0),
    region(&["dark grey", "charcoal", "dark gray", "grey"], &["graphite"], "dark", [62, 62, 66], 5.0),
    region(&["grey", "gray", "medium grey"], &["ash grey"], "", [122, 123, 126], 5.0),
    region(&["light grey", "pale grey", "light gray", "grey", "silver"], &["dove grey"], "light", [182, 183, 186], 4.5),
    region(&["white", "bright white"], &["snow white"], "light", [236, 236, 234], 7.0),
    region(&["cream", "off-white", "white"], &["ivory"], "light", [228, 217, 192], 2.0),
    region(&["beige", "cream", "light brown"], &["sand"], "light", [204, 184, 152], 2.5),
    region(&["tan", "light brown", "beige"], &["camel"], "", [178, 138, 94], 2.0),
    region(&["khaki", "khaki green", "beige", "olive"], &["stone"], "", [156, 145, 106], 2.0),
    region(&["brown", "medium brown"], &["chestnut"], "", [104, 70, 46], 2.5),
    region(&["dark brown", "brown"], &["chocolate", "chocolate brown"], "dark", [58, 39, 28], 2.5),
    region(&["rust", "rust brown", "reddish brown", "brown"], &["copper"], "", [142, 70, 38], 1.3),
    region(&["olive", "olive green", "green", "khaki"], &["army green"], "", [92, 90, 44], 2.2),
    region(&["green", "grass green"], &["emerald green", "emerald"], "", [44, 118, 62], 1.8),
    region(&["dark green", "forest green", "green"], &["bottle green"], "dark", [26, 60, 42], 1.8),
    region(&["light green", "lime green", "green"], &["mint green", "mint"], "bright", [150, 200, 128], 1.0),
    region(&["teal", "teal green", "blue green"], &["turquoise"], "", [32, 126, 122], 1.3),
    region(&["navy", "navy blue", "dark blue", "blue"], &["midnight blue"], "dark", [28, 34, 66], 6.5),
    region(&["blue", "royal blue", "bright blue"], &["cobalt blue", "azure"], "", [42, 84, 168], 4.5),
    region(&["steel blue", "blue", "grey blue"], &["slate blue"], "", [82, 108, 142], 2.0),
    region(
        &["light blue", "pale blue", "sky blue", "blue"],
        &["baby blue", "powder blue"],
        "light",
        [142, 178, 216],
        3.5,
    ),
    region(&["purple", "dark purple"], &["violet", "plum"], "", [94, 54, 128], 1.5),
    region(&["lilac", "light purple", "mauve"], &["lavender"], "light", [176, 156, 206], 0.8),
    region(&["pink", "light pink", "pale pink", "salmon"], &["rose"], "light", [228, 158, 176], 1.8),
    region(&["bright pink", "hot pink", "magenta", "pink"], &["fuchsia"], "bright", [216, 56, 122], 1.0),
    region(&["red", "bright red"], &["scarlet", "crimson"], "bright", [188, 34, 38], 3.5),
    region(&["maroon", "dark red", "wine red", "red"], &["burgundy"], "dark", [96, 24, 36], 2.2),
    region(&["orange", "bright orange", "neon orange"], &["tangerine"], "bright", [230, 108, 34], 1.4),
    region(&["coral", "salmon pink", "orange"], &["peach"], "", [230, 138, 112], 0.7),
    region(&["yellow", "bright yellow"], &["lemon yellow", "canary yellow"], "bright", [234, 200, 50], 1.4),
    region(&["mustard", "mustard yellow", "dark yellow", "gold"], &["ochre"], "", [192, 146, 44], 0.9),
];

/// Washes of denim; kept apart because "jeans" alone already says blue.
pub static DENIMS: [Region; 5] = [
    region(&["blue", "blue denim"], &["mid-blue"], "", [66, 90, 130], 5.0),
    region(&["dark blue", "navy", "dark denim", "blue"], &["indigo"], "dark", [36, 46, 74], 5.0),
    region(&["light blue", "faded blue", "pale blue", "blue"], &["stonewashed"], "light", [122, 150, 184], 3.0),
    region(&["black"], &["jet black"], "dark", [24, 24, 27], 2.5),
    region(&["grey", "gray"], &["washed grey"], "", [108, 111, 116], 1.0),
];

/// Hair colours.
pub static HAIRS: [Region; 8] = [
    region(&["black", "dark"], &["jet black", "raven"], "dark", [16, 14, 14], 7.0),
    region(&["dark brown", "dark", "brown"], &["brunette"], "dark", [42, 28, 20], 7.0),
    region(&["brown", "medium brown"], &["chestnut"], "", [82, 54, 34], 4.0),
    region(&["light brown", "brown", "fair"], &["dark blonde"], "light", [130, 95, 62], 2.0),
    region(&["blonde", "fair", "blond", "light"], &["golden", "flaxen"], "light", [200, 165, 105], 4.0),
    region(&["red", "ginger", "reddish"], &["auburn"], "", [140, 62, 28], 1.2),
    region(&["grey", "gray", "silver", "greying"], &["silvery"], "", [150, 148, 145], 2.0),
    region(&["white", "silver", "grey"], &["snowy"], "light", [222, 220, 214], 0.8),
];

/// sRGB byte to linear light 0..1.
pub fn to_linear(byte: u8) -> f32 {
    (f32::from(byte) / 255.0).powf(2.2)
}

/// One drawn colour: a region and an albedo within it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shade {
    /// Index into the palette it was drawn from.
    pub region: usize,
    /// Linear RGB albedo, 0..1.
    pub albedo: [f32; 3],
}

impl Shade {
    /// Draws an albedo of `palette[region]`: the whole moves in lightness, each channel a little by itself.
    pub fn within(palette: &[Region], region: usize, rng: &mut impl Rng) -> Self {
        let lightness = (rng.random::<f32>() - 0.5) * 0.42;
        let albedo = palette[region].centre.map(|byte| {
            let value = f32::from(byte) / 255.0;
            let moved = value * (1.0 + lightness) * (1.0 + (rng.random::<f32>() - 0.5) * 0.12)
                + (rng.random::<f32>() - 0.5) * 0.03;
            moved.clamp(0.02, 0.97).powf(2.2)
        });
        Self { region, albedo }
    }

    /// Draws a region by weight (`flat` makes all regions about equally likely), then an albedo in it.
    pub fn draw(palette: &[Region], flat: bool, rng: &mut impl Rng) -> Self {
        let weight = |r: &Region| if flat { r.weight.powf(0.25) } else { r.weight };
        let total: f32 = palette.iter().map(weight).sum();
        let mut at = rng.random::<f32>() * total;
        let mut chosen = palette.len() - 1;
        for (index, entry) in palette.iter().enumerate() {
            at -= weight(entry);
            if at <= 0.0 {
                chosen = index;
                break;
            }
        }
        Self::within(palette, chosen, rng)
    }

    /// A word for it out of `palette`; now and then the vague one.
    pub fn word(&self, palette: &'static [Region], words: Words, rng: &mut impl Rng) -> &'static str {
        let entry = &palette[self.region];
        if words == Words::HeldOut && !entry.held_out.is_empty() {
            return entry.held_out[rng.random_range(0..entry.held_out.len())];
        }
        if !entry.vague.is_empty() && rng.random::<f32>() < 0.08 {
            return entry.vague;
        }
        let others = entry.words.len() - 1 + if words == Words::All { entry.held_out.len() } else { 0 };
        if others == 0 || rng.random::<f32>() < 0.55 {
            return entry.words[0];
        }
        let at = rng.random_range(1..=others);
        if at < entry.words.len() { entry.words[at] } else { entry.held_out[at - entry.words.len()] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::StdRng};

    #[test]
    fn draws_stay_nearest_to_dark_or_light_as_named() {
        let mut rng = StdRng::seed_from_u64(3);
        for _ in 0..200 {
            let black = Shade::within(&REGIONS, 0, &mut rng);
            let white = Shade::within(&REGIONS, 4, &mut rng);
            assert!(black.albedo.iter().all(|&c| c < 0.05), "{black:?}");
            assert!(white.albedo.iter().all(|&c| c > 0.3), "{white:?}");
        }
    }
}
