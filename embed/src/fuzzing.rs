//! Doors to the parsers of files from elsewhere, for the fuzz targets in `embed/fuzz` (feature `fuzzing`): each takes
//! any text and must come back, with a result or an error, and quickly.

use crate::synth::mesh::parse;
use crate::train::dataset::annotations;

/// Body and clothes meshes: `.obj`, `.mhclo`, shape targets, skeleton and weights.
pub fn meshes(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(mesh) = parse::obj(&text) {
        let triangles = mesh.of(|_| true);
        assert!(triangles.iter().flatten().all(|&v| (v as usize) < mesh.vertices.len()), "a corner of nothing");
    }
    let _ = parse::target(&text, 100);
    let _ = parse::mhclo(&text, 100);
    let _ = parse::rig(bytes);
    let _ = parse::weights(bytes);
}

/// Annotation files of datasets.
pub fn annotations(bytes: &[u8]) {
    if let Ok(items) = annotations::parse(&String::from_utf8_lossy(bytes)) {
        let nowhere = std::path::Path::new("/nonexistent");
        assert!(items.iter().all(|item| item.check(nowhere, 2).is_err()), "a picture out of nowhere");
    }
}

/// Captions and queries: cleaning and attribute phrases.
pub fn captions(bytes: &[u8]) {
    let (text, _) = crate::text::clean(&String::from_utf8_lossy(bytes));
    let words = crate::train::tagger::tag(&text);
    for phrase in crate::train::tagger::phrases(&words) {
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

/// Lists of colours and WordNet's files.
pub fn dictionaries(bytes: &[u8]) {
    crate::train::lexicon::read_any(&String::from_utf8_lossy(bytes));
}
