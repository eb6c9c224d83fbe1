//! The parsers of files from elsewhere, public for the fuzz targets in `embed/fuzz` (feature
//! `fuzzing`). Each takes any bytes and must return, with a result or an error, and quickly.

use crate::dataset::annotations;

/// Annotation files of datasets.
pub fn annotations(bytes: &[u8]) {
    if let Ok(items) = annotations::parse(&String::from_utf8_lossy(bytes)) {
        let nowhere = std::path::Path::new("/nonexistent");
        assert!(items.iter().all(|item| item.check(nowhere, 2).is_err()), "a picture out of nowhere");
    }
}
