//! Photographs of single garments of known kind: `garments:ROOT` of `--data`.
//!
//! A few hundred labelled persons are too few for twenty kinds of clothes. Photographs of garments
//! without a wearer are easier to come by, and what they teach carries over to people. Each
//! photograph is placed where the garment would be worn in a picture of a person, on a plain
//! background. It counts as a person of whom one garment is known and nothing else: texts about
//! other parts are neither true nor false of it.
//!
//! ROOT holds `labels.csv` (`image,label`, more columns are ignored) and `imgs/IMAGE.jpg`, as the
//! clothing dataset of Alexey Grigorev (CC0 1.0) names them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;

use sightline_core::RgbImage;
use sightline_embed::EmbedError;
use sightline_embed::preprocess::{Filter, resize};

use crate::facts::{Description, Facts, Garment};
use crate::gallery::read_picture;
use crate::source::{PictureCache, Source, WeightedDraw};
use crate::{Result, TrainError};

/// File of the labels in ROOT.
const LABELS: &str = "labels.csv";
/// Folder of the pictures in ROOT.
const PICTURES: &str = "imgs";

/// One photograph.
struct Photograph {
    path: PathBuf,
    garment: Garment,
}

/// Garments of a folder. A kind is drawn in proportion to the square root of its number of
/// photographs, so that rare kinds come up more often than their share.
pub struct GarmentSource {
    size: [usize; 2],
    photographs: Vec<Photograph>,
    kept: PictureCache,
    by_weight: WeightedDraw,
}

impl GarmentSource {
    /// Opens the garments in `root` for pictures of `size` (height, width) in pixels. Labels that
    /// are no known kind of garment ("Shoes", "Not sure") are left out. Decoded pictures may take
    /// `memory` bytes.
    ///
    /// # Errors
    /// An unreadable file of labels, a line without two columns, a missing picture, or no garment
    /// at all.
    pub fn open(root: &Path, size: [usize; 2], memory: usize) -> Result<Self> {
        let path = root.join(LABELS);
        let text = std::fs::read_to_string(&path).map_err(TrainError::io(&path))?;
        let mut photographs = Vec::new();
        for (number, line) in text.lines().enumerate().skip(1).filter(|(_, line)| !line.is_empty()) {
            let mut columns = line.split(',').map(str::trim);
            let (Some(image), Some(label)) = (columns.next().filter(|name| !name.is_empty()), columns.next()) else {
                return Err(TrainError::content(&path, format!("line {}: it is not image,label", number + 1)));
            };
            let Some(garment) = Garment::labelled(label) else { continue };
            let picture = root.join(PICTURES).join(format!("{image}.jpg"));
            if !picture.is_file() {
                let message = format!("line {}: there is no {}", number + 1, picture.display());
                return Err(TrainError::content(&path, message));
            }
            photographs.push(Photograph { path: picture, garment });
        }
        if photographs.is_empty() {
            return Err(TrainError::content(&path, "it names no garment"));
        }
        let mut counts: BTreeMap<Garment, usize> = BTreeMap::new();
        for photograph in &photographs {
            *counts.entry(photograph.garment).or_default() += 1;
        }
        let weights = photographs.iter().map(|photograph| 1.0 / (counts[&photograph.garment] as f64).sqrt());
        let by_weight = WeightedDraw::new(weights);
        Ok(Self { size, kept: PictureCache::new(photographs.len(), size, memory), by_weight, photographs })
    }

    /// File of every photograph and the garment in it, in the order of the identities.
    pub fn files(&self) -> impl Iterator<Item = (&Path, Garment)> {
        self.photographs.iter().map(|photograph| (photograph.path.as_path(), photograph.garment))
    }
}

/// Reads the photograph at `path` and places it where `garment` is worn: RGB bytes of `size`, on
/// the mean colour of the photograph's edge.
fn worn(path: &Path, garment: Garment, size: [usize; 2]) -> Result<Vec<u8>> {
    place(&read_picture(path)?, garment.place(), size).map_err(|e| TrainError::content(path, e))
}

/// Places `photograph` in the middle of a picture of `size`, between the heights `from` and `to` (0
/// to 1), on the mean colour of the photograph's edge.
fn place(
    photograph: &RgbImage,
    [from, to]: [f32; 2],
    [height, width]: [usize; 2],
) -> std::result::Result<Vec<u8>, EmbedError> {
    let (w, h) = (photograph.width() as usize, photograph.height() as usize);
    let room = ((to - from) * height as f32).max(1.0);
    let scale = (room / h as f32).min(width as f32 / w as f32);
    let (sh, sw) = (((h as f32 * scale) as usize).clamp(1, height), ((w as f32 * scale) as usize).clamp(1, width));
    let scaled = resize(photograph, sw, sh, Filter::Bilinear)?;
    let (mut sums, mut count) = ([0u32; 3], 0);
    for (at, pixel) in scaled.as_chunks::<3>().0.iter().enumerate() {
        let (y, x) = (at / sw, at % sw);
        if y == 0 || x == 0 || y + 1 == sh || x + 1 == sw {
            sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += u32::from(*value));
            count += 1;
        }
    }
    let ground = sums.map(|sum| (sum / count) as u8);
    let mut out = ground.repeat(height * width);
    let top = ((from * height as f32 + (room - sh as f32) / 2.0).max(0.0) as usize).min(height - sh);
    let left = (width - sw) / 2;
    for (y, line) in scaled.chunks_exact(sw * 3).enumerate() {
        out[((top + y) * width + left) * 3..][..sw * 3].copy_from_slice(line);
    }
    Ok(out)
}

impl Source for GarmentSource {
    fn size(&self) -> [usize; 2] {
        self.size
    }

    fn identities(&self) -> usize {
        self.photographs.len()
    }

    fn views(&self, _identity: usize) -> usize {
        1
    }

    fn draw(&self, rng: &mut StdRng) -> usize {
        self.by_weight.draw(rng)
    }

    fn picture(&self, identity: usize, _view: usize) -> Result<Cow<'_, [u8]>> {
        let Photograph { path, garment } = &self.photographs[identity];
        self.kept.get(identity, || worn(path, *garment, self.size))
    }

    fn caption(&self, identity: usize, view: usize, which: usize, rng: &mut StdRng) -> String {
        self.describe(identity, view, which, rng).0
    }

    fn describe(
        &self,
        identity: usize,
        _view: usize,
        _which: usize,
        rng: &mut StdRng,
    ) -> (String, Option<Description>) {
        let garment = self.photographs[identity].garment;
        match Description::of(&Facts::of_garment(garment), rng) {
            Some(description) => (description.text().to_owned(), Some(description)),
            None => (garment.label().to_lowercase(), None),
        }
    }

    fn facts(&self, identity: usize) -> Option<Cow<'_, Facts>> {
        Some(Cow::Owned(Facts::of_garment(self.photographs[identity].garment)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use image::ExtendedColorType;
    use image::codecs::jpeg::JpegEncoder;

    use super::*;
    use crate::facts::Phrase;

    const SIZE: [usize; 2] = [64, 32];
    const MEMORY: usize = 1 << 20;

    /// A folder with a blue photograph of each of `labels`.
    fn folder(labels: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(PICTURES)).unwrap();
        let mut csv = "image,label,sender\n".to_owned();
        for (number, label) in labels.iter().enumerate() {
            let mut jpeg = Vec::new();
            JpegEncoder::new(&mut jpeg)
                .encode(&[10, 20, 200].repeat(48 * 40), 40, 48, ExtendedColorType::Rgb8)
                .unwrap();
            std::fs::write(folder.path().join(PICTURES).join(format!("{number}.jpg")), jpeg).unwrap();
            csv += &format!("{number},{label},7\n");
        }
        std::fs::write(folder.path().join(LABELS), csv).unwrap();
        folder
    }

    #[test]
    fn one_garment_is_known_and_nothing_else() {
        let root = folder(&["Shorts", "Not sure", "Blazer"]);
        let source = GarmentSource::open(root.path(), SIZE, MEMORY).unwrap();
        assert_eq!((source.identities(), source.views(0)), (2, 1), "an unsure label is left out");
        let truth = |identity: usize, word: &str| {
            let facts = source.facts(identity).unwrap();
            Phrase::named(word, None).unwrap().truth(&facts)
        };
        let asked = ["shorts", "jeans", "jacket", "backpack", "woman"].map(|word| truth(0, word));
        assert_eq!(asked, [Some(true), Some(false), None, None, None]);
        assert_eq!(
            ["suit jacket", "jacket", "dress", "skirt"].map(|w| truth(1, w)),
            [Some(true), Some(true), Some(false), None]
        );
        let mut rng = sightline_figures::stream(1, 2, 3);
        for identity in 0..2 {
            let (text, description) = source.describe(identity, 0, 0, &mut rng);
            assert_eq!(description.unwrap().truth(&source.facts(identity).unwrap()), Some(true), "{text}");
        }
    }

    #[test]
    fn every_label_has_words_of_its_own() {
        let mut rng = sightline_figures::stream(4, 5, 6);
        for garment in Garment::all() {
            for _ in 0..50 {
                let description = Description::of(&Facts::of_garment(garment), &mut rng);
                assert!(description.is_some(), "{}", garment.label());
            }
        }
    }

    #[test]
    fn a_garment_lies_where_it_is_worn() {
        let white: Vec<u8> = vec![255; 20 * 20 * 3];
        let mut bytes = white;
        for y in 5..15 {
            bytes[(y * 20 + 5) * 3..][..30].fill(0);
        }
        let picture = place(&RgbImage::new(20, 20, bytes).unwrap(), [0.5, 1.0], SIZE).unwrap();
        assert_eq!(picture.len(), SIZE[0] * SIZE[1] * 3);
        let dark: Vec<usize> = (0..SIZE[0]).filter(|y| picture[(y * SIZE[1] + SIZE[1] / 2) * 3] < 100).collect();
        assert!(dark[0] >= 38 && dark[dark.len() - 1] < 58 && dark.len() >= 14, "{dark:?}");
        assert!(picture[..SIZE[0] / 2 * SIZE[1] * 3].iter().all(|value| *value == 255));
        // A photograph much wider or higher than its place keeps its aspect.
        for (w, h) in [(100, 3), (3, 100), (1, 1)] {
            let flat = RgbImage::new(w, h, vec![9; (w * h * 3) as usize]).unwrap();
            assert!(place(&flat, [0.0, 0.2], SIZE).unwrap().iter().all(|value| *value == 9), "{w}x{h}");
        }
    }

    #[test]
    fn rare_kinds_are_drawn_more_often_than_their_share() {
        let labels: Vec<&str> = ["T-Shirt"; 16].into_iter().chain(["Skirt"]).collect();
        let source = GarmentSource::open(folder(&labels).path(), SIZE, MEMORY).unwrap();
        let mut rng = sightline_figures::stream(7, 8, 9);
        let skirts = (0..3000).filter(|_| source.draw(&mut rng) == 16).count();
        assert!((500..700).contains(&skirts), "{skirts} of 3000; one of five is its share by the root of its count");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let said = |root: &Path| GarmentSource::open(root, SIZE, MEMORY).err().unwrap().to_string();
        let root = folder(&["Shorts", "Skirt"]);
        assert!(said(&root.path().join("nowhere")).contains("labels.csv"));
        std::fs::remove_file(root.path().join("imgs/1.jpg")).unwrap();
        let message = said(root.path());
        assert!(message.contains("line 3") && message.contains("1.jpg"), "{message}");
        std::fs::write(root.path().join(LABELS), "image,label\n0\n").unwrap();
        assert!(said(root.path()).contains("line 2"));
        std::fs::write(root.path().join(LABELS), "image,label\n0,Shoes\n").unwrap();
        assert!(said(root.path()).contains("no garment"));
        std::fs::write(root.path().join(LABELS), "image,label\n0,Shorts\n").unwrap();
        std::fs::write(root.path().join("imgs/0.jpg"), "nothing").unwrap();
        let source = GarmentSource::open(root.path(), SIZE, MEMORY).unwrap();
        assert!(source.picture(0, 0).err().unwrap().to_string().contains("0.jpg"));
    }
}
