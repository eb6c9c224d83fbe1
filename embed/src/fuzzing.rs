//! Entry points for the fuzz targets in `embed/fuzz` (feature `fuzzing`): parsers of untrusted
//! input. Each takes any bytes and must return quickly, with a result or an error.

/// Parses `bytes` as a caption or query: cleaning, attribute phrases, statements.
pub fn captions(bytes: &[u8]) {
    let (text, _) = crate::text::clean(&String::from_utf8_lossy(bytes));
    let words = crate::text::phrases::tag(&text);
    for phrase in crate::text::phrases::phrases(&words) {
        assert!(phrase.end <= words.len());
    }
    let understanding = crate::text::understand(&text);
    let ranges =
        understanding.statements.iter().map(|s| &s.range).chain(understanding.not_understood.iter().map(|n| &n.range));
    for range in ranges {
        assert!(text.get(range.clone()).is_some_and(|part| !part.is_empty()), "{range:?} of {text:?}");
    }
}

/// Parses `bytes` as a model folder's `config.json`.
pub fn model_config(bytes: &[u8]) {
    let _ = crate::model::ModelConfig::parse(&String::from_utf8_lossy(bytes));
}

/// Decodes `bytes` as a picture from a camera or user.
pub fn pictures(bytes: &[u8]) {
    if let Ok(picture) = crate::decode_image(bytes) {
        assert!(picture.width() > 0 && picture.height() > 0);
    }
}
