//! Free space of the disks that an index writes to, as a metric: a full disk keeps new footage out,
//! so somebody should know before it is full.

use std::path::PathBuf;

use sightline_core::Config;

use crate::files;

/// Folders whose disks are watched, each with its name in the metric: `data`, and `gallery` where
/// that is a folder elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedFolders(Vec<(&'static str, PathBuf)>);

impl WatchedFolders {
    /// Returns the folders of this configuration.
    pub fn of(config: &Config) -> Self {
        let gallery = config.gallery.url.strip_prefix("file://").map(|path| ("gallery", PathBuf::from(path)));
        Self(std::iter::once(("data", config.data.folder.clone())).chain(gallery).collect())
    }

    /// Sets `sightline_index_disk_free_bytes` of each folder that is there.
    pub fn record(&self) {
        for (name, folder) in &self.0 {
            if let Ok(free) = files::available(folder) {
                metrics::gauge!("sightline_index_disk_free_bytes", "folder" => *name).set(free as f64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gallery_elsewhere_has_a_disk_of_its_own() {
        let named = |url: &str| {
            let mut config = Config::load(None).expect("the defaults");
            config.gallery.url = url.to_owned();
            WatchedFolders::of(&config).0.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(named(""), ["data"]);
        assert_eq!(named("s3://bucket/pictures"), ["data"]);
        assert_eq!(named("file:///srv/pictures"), ["data", "gallery"]);
    }
}
