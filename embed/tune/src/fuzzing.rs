//! Parsers of untrusted files, made public for the fuzz targets in `embed/fuzz` (feature
//! `fuzzing`). Each function takes any bytes and must return quickly, with a result or an error.

use crate::dataset::annotations;

/// Parses an annotation file of a dataset.
pub fn annotations(bytes: &[u8]) {
    if let Ok(items) = annotations::parse(&String::from_utf8_lossy(bytes)) {
        let nowhere = std::path::Path::new("/nonexistent");
        assert!(items.iter().all(|item| item.check(nowhere, 2).is_err()), "a picture out of nowhere");
    }
}
