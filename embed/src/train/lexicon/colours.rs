//! Names of colours with what they look like: lines of `name TAB #rrggbb`, the form of the colour survey of xkcd.com (954
//! names by 222,500 people, CC0, <https://xkcd.com/color/rgb.txt>).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::Trained;
use crate::train::vocabulary::is_word;
use crate::train::{Result, TrainError};

/// Distance in CIE L\*a\*b\* over which a likeness falls to a third.
const ALIKE: f32 = 14.0;
/// A colour that is further than this from every trained one is left alone.
const FAR: f32 = 40.0;

/// Single words for colours, with CIE L\*a\*b\* (D65).
pub struct Colours {
    lab: BTreeMap<String, [f32; 3]>,
}

impl Colours {
    /// Reads a list. Names of several words are passed over, and what follows a `#` at the start of a line.
    ///
    /// # Errors
    /// A file that cannot be read, a line of another form, or no name at all.
    pub fn open(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(TrainError::io(path))?;
        Self::parse(&text).map_err(|what| TrainError::content(path, what))
    }

    pub(super) fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut lab = BTreeMap::new();
        let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let wrong = || format!("line {number} is not a name, a tabulator and #rrggbb: {line:?}");
            let (name, code) = line.split_once('\t').ok_or_else(wrong)?;
            let code = code.trim().strip_prefix('#').filter(|c| c.len() == 6).ok_or_else(wrong)?;
            let rgb = u32::from_str_radix(code, 16).map_err(|_| wrong())?;
            if is_word(name) {
                lab.insert(name.to_owned(), to_lab([(rgb >> 16) as u8, (rgb >> 8) as u8, rgb as u8]));
            }
        }
        if lab.is_empty() { Err("there is no name of a colour in it".into()) } else { Ok(Self { lab }) }
    }

    /// All names.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.lab.keys().map(String::as_str)
    }

    /// Trained names with their likeness to the colour `word`, times how often training met them: what it met a hundred times
    /// as often says a hundred times as surely what it says. None for what is no colour or like none.
    pub fn near(&self, word: &str, trained: &Trained) -> Vec<(usize, f32)> {
        let Some(here) = self.lab.get(word) else { return Vec::new() };
        let known = self.lab.iter().filter_map(|(name, lab)| Some((trained.get(name.as_str())?, apart(here, lab))));
        let known: Vec<(&(usize, f32), f32)> = known.collect();
        let nearest = known.iter().map(|(_, far)| *far).fold(f32::INFINITY, f32::min);
        if nearest > FAR {
            return Vec::new();
        }
        // Relative to the nearest, so that no likeness underflows.
        let like = |far: f32| ((nearest * nearest - far * far) / (ALIKE * ALIKE)).exp();
        known.into_iter().map(|((at, often), far)| (*at, often * like(far))).collect()
    }
}

fn apart(a: &[f32; 3], b: &[f32; 3]) -> f32 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum::<f32>().sqrt()
}

/// sRGB bytes to CIE L\*a\*b\*, white point D65 (IEC 61966-2-1, CIE 15).
fn to_lab(rgb: [u8; 3]) -> [f32; 3] {
    let linear = rgb.map(|byte| {
        let v = f32::from(byte) / 255.0;
        if v <= 0.040_45 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
    });
    let row = |m: [f32; 3]| m.iter().zip(&linear).map(|(m, v)| m * v).sum::<f32>();
    let xyz = [
        row([0.412_456, 0.357_576, 0.180_438]) / 0.950_47,
        row([0.212_673, 0.715_152, 0.072_175]),
        row([0.019_334, 0.119_192, 0.950_304]) / 1.088_83,
    ];
    let [x, y, z] = xyz.map(|t| if t > 0.008_856 { t.cbrt() } else { 7.787 * t + 16.0 / 116.0 });
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trained(words: &[&'static str]) -> Trained<'static> {
        words.iter().enumerate().map(|(at, word)| (*word, (at, 1.0))).collect()
    }

    const LIST: &str =
        "#License: CC0\nred\t#e50000\t\ncrimson\t#8c000f\t\nmaroon\t#650021\nblue\t#0343df\nsky blue\t#75bbfd\n";

    #[test]
    fn a_shade_is_made_of_its_neighbours() {
        let colours = Colours::parse(LIST).expect("a list");
        let trained = trained(&["red", "maroon", "blue", "jacket"]);
        let near = colours.near("crimson", &trained);
        let share = |at: usize| near.iter().find(|(i, _)| *i == at).map_or(0.0, |(_, w)| *w);
        assert!(share(1) > 0.99 && share(0) < share(1) && share(2) < 1e-6, "{near:?}");
        assert!(colours.near("jacket", &trained).is_empty());
        assert!(colours.near("blue", &self::trained(&["red"])).is_empty(), "too far from all that is known");
        let often = Trained::from([("red", (0, 1e6)), ("maroon", (1, 1.0))]);
        let near = colours.near("crimson", &often);
        assert!(near[1].1 > near[0].1, "red is what it was most often: {near:?}");
        assert!(!colours.words().any(|w| w.contains(' ')));
    }

    #[test]
    fn lab_of_known_colours() {
        let close = |a: [f32; 3], b: [f32; 3]| assert!(apart(&a, &b) < 0.2, "{a:?} instead of {b:?}");
        close(to_lab([255, 255, 255]), [100.0, 0.0, 0.0]);
        close(to_lab([0, 0, 0]), [0.0, 0.0, 0.0]);
        close(to_lab([255, 0, 0]), [53.24, 80.09, 67.20]);
        close(to_lab([0, 0, 255]), [32.30, 79.19, -107.86]);
    }

    #[test]
    fn other_files_are_refused() {
        let said = |text: &str| Colours::parse(text).err().expect("refused");
        assert!(said("red\t#e50000\nblue = 3").contains("line 2"));
        assert!(said("red\t#e5000").contains("line 1"));
        assert!(said("red\t#gggggg").contains("line 1"));
        assert!(said("# nothing\n").contains("no name"));
    }
}
