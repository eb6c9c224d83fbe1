//! Cameras for the drills: recordings of real people, played as fast as the machine analyses them
//! or at recording speed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Returns the root folder of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Returns the recordings of `docker/setup.sh footage` and of the repository.
pub fn samples() -> Vec<PathBuf> {
    vec![root().join("cache/vtest.avi"), root().join("docker/demo/one-by-one-person-detection.mp4")]
}

/// Returns `count` cameras that play `videos` in turn, as TOML. Each camera has an hour of its own,
/// so that ids differ and times are fixed.
pub fn file_cameras(count: usize, videos: &[PathBuf], realtime: bool) -> anyhow::Result<String> {
    let mut toml = String::new();
    for n in 0..count {
        let video = videos[n % videos.len()].canonicalize()?;
        writeln!(
            toml,
            "[[cameras]]\nid = \"cam-{n:02}\"\nurl = \"file://{}\"\nstart_time = \"2026-05-01T{:02}:00:00Z\"\nrealtime = {realtime}\n",
            video.display(),
            n % 24
        )?;
    }
    Ok(toml)
}
