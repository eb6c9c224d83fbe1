//! The parsers of files from elsewhere, public for the fuzz targets in `embed/fuzz` (feature `fuzzing`). Each takes any
//! bytes and must return, with a result or an error, and quickly.

/// Captions and queries: cleaning, attribute phrases, and what they state.
pub fn captions(bytes: &[u8]) {
    let (text, _) = crate::text::clean(&String::from_utf8_lossy(bytes));
    let words = crate::text::phrases::tag(&text);
    for phrase in crate::text::phrases::phrases(&words) {
        assert!(phrase.end <= words.len());
    }
    let said = crate::text::understand(&text);
    let ranges = said.statements.iter().map(|s| &s.range).chain(said.not_understood.iter().map(|n| &n.range));
    for range in ranges {
        assert!(text.get(range.clone()).is_some_and(|part| !part.is_empty()), "{range:?} of {text:?}");
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
