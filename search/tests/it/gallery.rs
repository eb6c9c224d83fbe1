//! The gallery in a folder: what goes in comes out, and what is damaged is told.

use sightline_core::PatchFeatures;
use sightline_search::{Exhibit, FolderGallery, Gallery, GalleryError};
use uuid::Uuid;

use crate::support::{MODEL, patches};

fn exhibits(n: u128) -> Vec<Exhibit> {
    (0..n)
        .map(|i| {
            let id = Uuid::from_u128(i << 100 | i);
            Exhibit { id, jpeg: format!("picture {i}").into(), patches: patches(i as f32) }
        })
        .collect()
}

fn files_below(root: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn exhibits_come_back_replaced_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let all = exhibits(20);
    {
        let gallery = FolderGallery::open(dir.path(), MODEL).unwrap();
        gallery.put(&all).unwrap();
        gallery.put(&[Exhibit { jpeg: "better".into(), ..all[4].clone() }]).unwrap();
    }
    let gallery = FolderGallery::open(dir.path(), MODEL).unwrap();
    for e in &all {
        let jpeg = gallery.jpeg(e.id).unwrap().unwrap();
        assert_eq!(jpeg, if e.id == all[4].id { "better".into() } else { e.jpeg.clone() });
        assert_eq!(gallery.patches(e.id).unwrap().as_ref(), Some(&e.patches));
    }
    let mut ids = gallery.ids().unwrap();
    ids.sort();
    assert_eq!(ids, all.iter().map(|e| e.id).collect::<Vec<_>>());
    let unknown = Uuid::from_u128(1 << 127);
    assert_eq!((gallery.jpeg(unknown).unwrap(), gallery.patches(unknown).unwrap()), (None, None));
    assert_eq!(gallery.delete(&[all[0].id, unknown, all[1].id]).unwrap(), 4);
    assert_eq!(gallery.delete(&[all[0].id]).unwrap(), 0);
    assert_eq!((gallery.jpeg(all[0].id).unwrap(), gallery.patches(all[1].id).unwrap()), (None, None));
    assert_eq!(files_below(dir.path()).len(), 18 * 2 + 1, "two files each, and the lock");
}

#[test]
fn another_model_shares_the_pictures_and_not_the_features() {
    let dir = tempfile::tempdir().unwrap();
    let all = exhibits(3);
    FolderGallery::open(dir.path(), MODEL).unwrap().put(&all).unwrap();
    let other = FolderGallery::open(dir.path(), "other").unwrap();
    assert_eq!(other.patches(all[0].id).unwrap(), None);
    assert_eq!(other.jpeg(all[0].id).unwrap(), Some(all[0].jpeg.clone()));
    assert!(other.ids().unwrap().is_empty(), "these are the other model's");
    assert_eq!(other.delete(&[all[0].id]).unwrap(), 2, "deletion leaves no model's features behind");
}

#[test]
fn a_folder_is_opened_once_and_leftovers_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let gallery = FolderGallery::open(dir.path(), MODEL).unwrap();
    let error = FolderGallery::open(dir.path(), MODEL).unwrap_err();
    assert!(error.to_string().contains("another running Sightline"), "{error}");
    let leftover = dir.path().join("tmp").join("unfinished");
    std::fs::write(&leftover, b"half a pic").unwrap();
    drop(gallery);
    let gallery = FolderGallery::open(dir.path(), MODEL).unwrap();
    assert!(!leftover.exists());
    assert!(gallery.ids().unwrap().is_empty());
}

#[test]
fn damaged_features_are_an_error_that_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let gallery = FolderGallery::open(dir.path(), MODEL).unwrap();
    let all = exhibits(2);
    gallery.put(&all).unwrap();
    let path = files_below(dir.path()).into_iter().find(|p| p.extension().is_some_and(|e| e == "patches")).unwrap();
    let id: Uuid = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    let error = gallery.patches(id).unwrap_err();
    assert!(matches!(error, GalleryError::Damaged { .. }));
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    std::fs::write(&path, b"").unwrap();
    assert!(gallery.patches(id).is_err());
    gallery.put(&all).unwrap();
    assert!(gallery.patches(id).unwrap().is_some(), "writing again mends it");
}

#[test]
fn contradicting_features_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let gallery = FolderGallery::open(dir.path(), MODEL).unwrap();
    let mut all = exhibits(2);
    all[1].patches = PatchFeatures { rows: 3, ..all[1].patches.clone() };
    all[1].patches.width += 1;
    let error = gallery.put(&all).unwrap_err();
    assert!(error.is_permanent(), "{error}");
    assert!(gallery.ids().unwrap().is_empty());
}

#[test]
fn a_failed_write_is_an_error_and_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let gallery = FolderGallery::open(dir.path(), MODEL).unwrap();
    let all = exhibits(1);
    // The place of the sub-folder is taken by a file, so nothing can be written there.
    std::fs::write(dir.path().join("jpeg").join("000"), b"in the way").unwrap();
    let error = gallery.put(&all).unwrap_err();
    assert!(matches!(error, GalleryError::File(_)) && !error.is_permanent(), "{error}");
    assert!(files_below(&dir.path().join("tmp")).is_empty());
}
