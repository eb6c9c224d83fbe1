//! Cache of backbone tokens on disk: a frozen backbone computes the same tokens for the same
//! picture every time.
//!
//! Each picture has a fixed number of augmented variants, and each variant passes through the
//! backbone once, at its first use. From then on a training step costs only what the transformers
//! cost. A record holds the map at stride 16, the pixels' means and the map at stride 32 once per
//! cell, as f16: 64 KiB for a picture of 256 x 128. The file name is a hash of everything that
//! determines the content, so that runs with the same data share the file and other runs never read
//! it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use half::f16;
use sha2::{Digest, Sha256};

use super::{Result, TrainError};
use sightline_embed::model::Backbone;

/// Cached tokens of pictures by record number. A record is one variant of one picture.
pub struct TokenCache {
    path: PathBuf,
    file: File,
    layout: Layout,
    /// Whether each record is complete.
    present: Vec<AtomicBool>,
}

/// Shape of one picture's tokens.
#[derive(Clone, Copy, Debug)]
struct Layout {
    backbone: Backbone,
    /// Rows and columns of tokens.
    grid: [usize; 2],
}

impl Layout {
    fn tokens(self) -> usize {
        self.grid[0] * self.grid[1]
    }

    /// Count of numbers in one record.
    fn numbers(self) -> usize {
        let [fine, coarse] = self.backbone.map_channels();
        self.tokens() * (fine + Backbone::PIXELS) + self.tokens() / 4 * coarse
    }

    /// Size of one record in bytes: its numbers, and a last one that marks the record as complete.
    fn bytes(self) -> usize {
        2 * self.numbers() + 2
    }
}

/// Last number of a complete record.
const COMPLETE: u16 = 0x7a31;

impl TokenCache {
    /// Opens or creates the cache of `records` records in `folder`. `content` names everything that
    /// determines the tokens: data, seed, size, augmentation, variants.
    ///
    /// # Errors
    /// A folder or file that cannot be written.
    pub fn open(folder: &Path, content: &str, backbone: Backbone, grid: [usize; 2], records: usize) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(TrainError::io(folder))?;
        let layout = Layout { backbone, grid };
        let digest = Sha256::digest(format!("{content} {backbone} {grid:?} {records}"));
        let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let path = folder.join(format!("{name}.tokens"));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(TrainError::io(&path))?;
        let length = file.metadata().map_err(TrainError::io(&path))?.len();
        let complete = |record: usize| {
            let (mut last, end) = ([0; 2], (record as u64 + 1) * layout.bytes() as u64);
            end <= length && file.read_exact_at(&mut last, end - 2).is_ok() && u16::from_le_bytes(last) == COMPLETE
        };
        let present = (0..records).map(|record| AtomicBool::new(complete(record))).collect();
        Ok(Self { path, file, layout, present })
    }

    /// Number of complete records.
    pub fn complete(&self) -> usize {
        self.present.iter().filter(|present| present.load(Ordering::Relaxed)).count()
    }

    /// Writes the tokens `[tokens, token width]` of a record to `out`, from the file or, at their
    /// first use, from `make`. Threads that request the same record at the same time both compute
    /// it.
    ///
    /// # Errors
    /// The error of `make`, or a file that cannot be read or written.
    pub fn tokens(&self, record: usize, out: &mut [f32], make: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<()> {
        let at = (record * self.layout.bytes()) as u64;
        let mut bytes = vec![0; self.layout.bytes()];
        if self.present[record].load(Ordering::Acquire) {
            self.file.read_exact_at(&mut bytes, at).map_err(TrainError::io(&self.path))?;
            unpack(self.layout, &bytes, out);
            return Ok(());
        }
        make(out)?;
        pack(self.layout, out, &mut bytes);
        self.file.write_all_at(&bytes, at).map_err(TrainError::io(&self.path))?;
        self.present[record].store(true, Ordering::Release);
        // The first use returns the same values as later uses, rounded to f16.
        unpack(self.layout, &bytes, out);
        Ok(())
    }
}

/// Order of the numbers in a record, as (token, channels): each token's map at stride 16 and
/// pixels, then the map at stride 32 of each cell.
fn places(layout: Layout) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
    let [fine, coarse] = layout.backbone.map_channels();
    let (width, columns) = (layout.backbone.token_width(), layout.grid[1]);
    let own = (0..layout.tokens()).flat_map(move |token| [(token, 0..fine), (token, fine + coarse..width)]);
    let first = move |cell: usize| cell / (columns / 2) * 2 * columns + cell % (columns / 2) * 2;
    own.chain((0..layout.tokens() / 4).map(move |cell| (first(cell), fine..fine + coarse)))
}

fn pack(layout: Layout, tokens: &[f32], bytes: &mut [u8]) {
    let width = layout.backbone.token_width();
    let values = places(layout).flat_map(|(token, range)| &tokens[token * width..][range]);
    let (numbers, last) = bytes.split_at_mut(2 * layout.numbers());
    for (to, value) in numbers.as_chunks_mut::<2>().0.iter_mut().zip(values) {
        // Standardised features have no meaningful values beyond the range of f16.
        *to = f16::from_f32(value.clamp(-65_504.0, 65_504.0)).to_le_bytes();
    }
    last.copy_from_slice(&COMPLETE.to_le_bytes());
}

fn unpack(layout: Layout, bytes: &[u8], tokens: &mut [f32]) {
    let (width, columns) = (layout.backbone.token_width(), layout.grid[1]);
    let mut rest = bytes.as_chunks::<2>().0;
    for (token, range) in places(layout) {
        let (own, behind) = rest.split_at(range.len());
        for (to, bytes) in tokens[token * width..][range.clone()].iter_mut().zip(own) {
            *to = f16::from_le_bytes(*bytes).to_f32();
        }
        if range.start > 0 && range.end < width {
            for other in [token + 1, token + columns, token + columns + 1] {
                tokens.copy_within(token * width + range.start..token * width + range.end, other * width + range.start);
            }
        }
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Backbone = Backbone::EfficientNetLite0;
    const GRID: [usize; 2] = [4, 2];

    /// Tokens whose map at stride 32 is the same in the four tokens of a cell.
    fn tokens(seed: usize) -> Vec<f32> {
        let [fine, coarse] = KIND.map_channels();
        let width = KIND.token_width();
        let number = |i: usize| ((i * 37 + seed * 11) % 200) as f32 / 8.0 - 10.0;
        (0..8 * width)
            .map(|i| {
                let (token, column) = (i / width, i % width);
                let cell = token / 2 / 2 * 1000 + token % 2 / 2;
                if (fine..fine + coarse).contains(&column) { number(cell * width + column) } else { number(i) }
            })
            .collect()
    }

    fn put(out: &mut [f32], seed: usize) -> Result<()> {
        out.copy_from_slice(&tokens(seed));
        Ok(())
    }

    #[test]
    fn tokens_come_back_and_survive_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = |content: &str| TokenCache::open(folder.path(), content, KIND, GRID, 6).expect("opens");
        let mut out = vec![0.0; 8 * KIND.token_width()];
        {
            let cache = open("a");
            cache.tokens(5, &mut out, |out| put(out, 5)).expect("made");
            assert_eq!(out, tokens(5));
            assert_eq!(cache.complete(), 1);
        }
        let cache = open("a");
        assert_eq!(cache.complete(), 1);
        out.fill(0.0);
        cache.tokens(5, &mut out, |_| unreachable!("it is there")).expect("read");
        assert_eq!(out, tokens(5));
        cache.tokens(0, &mut out, |out| put(out, 6)).expect("made");
        cache.tokens(5, &mut out, |_| unreachable!("it is there")).expect("read");
        assert_eq!(out, tokens(5), "records do not overlap");
        assert_eq!(open("b").complete(), 0, "other content is another file");
    }

    #[test]
    fn a_record_cut_short_is_made_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = TokenCache::open(folder.path(), "a", KIND, GRID, 1).expect("opens");
        let mut out = vec![0.0; 8 * KIND.token_width()];
        cache.tokens(0, &mut out, |out| put(out, 1)).expect("made");
        let length = cache.file.metadata().expect("there").len();
        cache.file.set_len(length - 1).expect("cut");
        let again = TokenCache::open(folder.path(), "a", KIND, GRID, 1).expect("opens");
        assert_eq!(again.complete(), 0);
    }

    #[test]
    fn what_cannot_be_made_is_an_error_and_not_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = TokenCache::open(folder.path(), "a", KIND, GRID, 1).expect("opens");
        let mut out = vec![0.0; 8 * KIND.token_width()];
        let failed = cache.tokens(0, &mut out, |_| Err(TrainError::Usage("gone".into())));
        assert!(failed.is_err() && cache.complete() == 0);
    }
}
