//! Writes drawn persons as a dataset in the CUHK-PEDES layout: `imgs/` and `reid_raw.json`.
//!
//! The layout is that of the public benchmark, so that whatever reads the real data reads these.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::Corpus;

/// Size of a written dataset, and the time that drawing took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DatasetSummary {
    /// Files under `imgs/`.
    pub pictures: u64,
    /// Processor time of drawing, summed over all threads, without JPEG encoding and writing.
    pub drawing: Duration,
}

/// Processor time of this thread; the clock on the wall would count other threads' work.
fn thread_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Writes `identities` persons with `views` pictures each under `out`, on every core. Each picture
/// has two captions. The last tenth of the identities is split `test`, the tenth before it `val`.
/// `progress` is called with the number of pictures written so far, from any thread.
///
/// # Errors
/// A folder or file that cannot be written.
pub fn write_dataset(
    out: &Path,
    corpus: &Corpus,
    identities: u64,
    views: u64,
    progress: impl Fn(u64) + Sync,
) -> io::Result<DatasetSummary> {
    let done = AtomicU64::new(0);
    let nanoseconds = AtomicU64::new(0);
    let entries: Vec<Vec<Value>> = (0..identities)
        .into_par_iter()
        .map(|index| {
            let split = match index * 10 / identities.max(1) {
                9 => "test",
                8 => "val",
                _ => "train",
            };
            let folder = format!("synth/{:03}", index / 1000);
            fs::create_dir_all(out.join("imgs").join(&folder))?;
            (0..views)
                .map(|view| {
                    let name = format!("{folder}/{index:06}_{view:02}.jpg");
                    let start = thread_time();
                    let picture = corpus.picture(index, view);
                    let took = thread_time().saturating_sub(start);
                    nanoseconds.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
                    let mut bytes = Vec::new();
                    JpegEncoder::new_with_quality(&mut bytes, 95)
                        .encode(picture.as_raw(), picture.width(), picture.height(), ExtendedColorType::Rgb8)
                        .map_err(io::Error::other)?;
                    fs::write(out.join("imgs").join(&name), bytes)?;
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1);
                    Ok(json!({
                        "split": split,
                        "captions": [corpus.caption(index, 2 * view), corpus.caption(index, 2 * view + 1)],
                        "file_path": name,
                        "id": index + 1,
                    }))
                })
                .collect::<io::Result<Vec<Value>>>()
        })
        .collect::<io::Result<_>>()?;
    let all: Vec<&Value> = entries.iter().flatten().collect();
    fs::write(out.join("reid_raw.json"), serde_json::to_vec_pretty(&all)?)?;
    Ok(DatasetSummary { pictures: all.len() as u64, drawing: Duration::from_nanos(nanoseconds.into_inner()) })
}
