//! Writes drawn persons in the CUHK-PEDES layout: `imgs/` and `reid_raw.json`.

use std::fs;
use std::io;
use std::path::Path;

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use serde_json::json;

use super::Corpus;

/// Writes `identities` persons with `views` pictures each under `out`. The last tenth is split `test`, the tenth before
/// it `val`. `progress` hears the number of pictures written.
///
/// # Errors
/// A folder or file that cannot be written.
pub fn write(out: &Path, corpus: Corpus, identities: u64, views: u64, mut progress: impl FnMut(u64)) -> io::Result<()> {
    let mut entries = Vec::new();
    for index in 0..identities {
        let split = match index * 10 / identities.max(1) {
            9 => "test",
            8 => "val",
            _ => "train",
        };
        let folder = format!("synth/{:03}", index / 1000);
        fs::create_dir_all(out.join("imgs").join(&folder))?;
        for view in 0..views {
            let name = format!("{folder}/{index:06}_{view:02}.jpg");
            let picture = corpus.picture(index, view);
            let mut bytes = Vec::new();
            JpegEncoder::new_with_quality(&mut bytes, 95)
                .encode(picture.as_raw(), picture.width(), picture.height(), ExtendedColorType::Rgb8)
                .map_err(io::Error::other)?;
            fs::write(out.join("imgs").join(&name), bytes)?;
            entries.push(json!({
                "split": split,
                "captions": [corpus.caption(index, 2 * view), corpus.caption(index, 2 * view + 1)],
                "file_path": name,
                "id": index + 1,
            }));
            progress(index * views + view + 1);
        }
    }
    fs::write(out.join("reid_raw.json"), serde_json::to_vec_pretty(&entries)?)
}
