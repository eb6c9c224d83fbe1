//! The parsers of files from elsewhere, public for the fuzz targets in `embed/fuzz` (feature `fuzzing`). Each takes any
//! bytes and must return, with a result or an error, and quickly.

/// Captions and queries: cleaning and attribute phrases.
pub fn captions(bytes: &[u8]) {
    let (text, _) = crate::text::clean(&String::from_utf8_lossy(bytes));
    let words = crate::text::phrases::tag(&text);
    for phrase in crate::text::phrases::phrases(&words) {
        assert!(phrase.end <= words.len());
    }
}

/// A model folder's config.json.
pub fn model_config(bytes: &[u8]) {
    let _ = crate::model::ModelConfig::parse(&String::from_utf8_lossy(bytes));
}

/// Pictures as cameras and users send them.
pub fn pictures(bytes: &[u8]) {
    if let Ok(picture) = crate::decode_image(bytes) {
        assert!(picture.width() > 0 && picture.height() > 0);
    }
}
