//! Cameras for the drills: recordings of real people, played as fast as the machine analyses them or at their own pace.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The repository's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The recordings that `docker/setup.sh footage` brings and that the repository holds.
pub fn samples() -> Vec<PathBuf> {
    vec![root().join("cache/vtest.avi"), root().join("docker/demo/one-by-one-person-detection.mp4")]
}

/// `count` cameras over `videos` in turn, as TOML. Every camera has its own hour, so that ids differ and times are fixed.
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
