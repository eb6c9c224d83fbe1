//! The training pictures in memory, at the model's size, with the captions of each.
//!
//! Drawing a person costs a few milliseconds and a training step reads tens of them, so all pictures are drawn once, by
//! every core, and kept as bytes (55 KB each at 192 x 96); captions of drawn persons are written afresh for every use.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use image::RgbImage;
use image::imageops::{FilterType, resize};
use rayon::prelude::*;

use crate::synth::Corpus;

/// Drawn identities with `views` pictures each.
pub struct Pool {
    /// Where identities and captions come from.
    pub corpus: Corpus,
    /// First identity.
    pub first: u64,
    /// Number of identities.
    pub identities: u64,
    /// Pictures of each.
    pub views: u64,
    /// Pixels down and across.
    pub size: [usize; 2],
    pixels: Vec<u8>,
}

/// A picture squashed to `[height, width]`, as the model's own preparation does it to within a rounding.
pub fn squash(picture: &RgbImage, [height, width]: [usize; 2]) -> RgbImage {
    resize(picture, width as u32, height as u32, FilterType::Triangle)
}

impl Pool {
    /// Draws identities `first..first + identities`; `progress` hears how many are done.
    pub fn draw(corpus: Corpus, first: u64, identities: u64, views: u64, size: [usize; 2], progress: impl Fn(u64) + Sync) -> Self {
        let bytes = size[0] * size[1] * 3;
        let mut pixels = vec![0u8; (identities * views) as usize * bytes];
        let done = std::sync::atomic::AtomicU64::new(0);
        pixels.par_chunks_mut(bytes * views as usize).enumerate().for_each(|(index, chunk)| {
            for (view, slot) in chunk.chunks_exact_mut(bytes).enumerate() {
                let picture = squash(&corpus.picture(first + index as u64, view as u64), size);
                slot.copy_from_slice(picture.as_raw());
            }
            progress(done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1);
        });
        Self { corpus, first, identities, views, size, pixels }
    }

    /// Bytes of picture `view` of the `index`th identity, row-major RGB.
    pub fn picture(&self, index: u64, view: u64) -> &[u8] {
        let bytes = self.size[0] * self.size[1] * 3;
        let at = ((index * self.views + view) as usize) * bytes;
        &self.pixels[at..at + bytes]
    }

    fn header(&self, seed: u64) -> [u64; 7] {
        [0x5357_504F_4F4C_0001, seed, self.first, self.identities, self.views, self.size[0] as u64, self.size[1] as u64]
    }

    /// Writes the pictures to `path`, whole or not at all.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: &Path, seed: u64) -> io::Result<()> {
        let part = path.with_extension("part");
        let mut file = BufWriter::new(File::create(&part)?);
        for word in self.header(seed) {
            file.write_all(&word.to_le_bytes())?;
        }
        file.write_all(&self.pixels)?;
        file.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        std::fs::rename(part, path)
    }

    /// Reads back what [`Pool::save`] wrote for the same `seed`, range and size; `None` when it is of another.
    ///
    /// # Errors
    /// An unreadable or short file.
    pub fn load(path: &Path, seed: u64, first: u64, identities: u64, views: u64, size: [usize; 2]) -> io::Result<Option<Self>> {
        let mut file = BufReader::new(File::open(path)?);
        let mut pool = Self { corpus: Corpus::new(seed), first, identities, views, size, pixels: Vec::new() };
        for expected in pool.header(seed) {
            let mut word = [0u8; 8];
            file.read_exact(&mut word)?;
            if u64::from_le_bytes(word) != expected {
                return Ok(None);
            }
        }
        pool.pixels = vec![0u8; (identities * views) as usize * size[0] * size[1] * 3];
        file.read_exact(&mut pool.pixels)?;
        Ok(Some(pool))
    }
}
