//! Galleries in a folder, a shared folder and object storage: reads return what was written, and
//! damage is reported.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use object_store::memory::InMemory;
use sightline_core::{Config, PatchFeatures, SightingId, Timestamp};
use sightline_search::{
    CheckError, ExactStore, FolderGallery, Gallery, GalleryCheck, GalleryEntry, GalleryError, GalleryReport,
    ObjectGallery, PictureKey, VectorStore, open_gallery,
};
use uuid::Uuid;

use crate::support::{MODEL, WIDTH, gallery_entry, patches, point, turned};

fn entries(n: u128) -> Vec<GalleryEntry> {
    (0..n)
        .map(|i| {
            let id = Uuid::from_u128(i << 100 | i);
            GalleryEntry { key: id.into(), jpeg: format!("picture {i}").into(), patches: patches(i as f32) }
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

/// Opens the same gallery for a model, as often as it is called.
type Open<'a> = &'a dyn Fn(&str) -> Box<dyn Gallery>;

/// Runs a test against every gallery.
fn on_each(question: impl Fn(Open<'_>)) {
    let dir = tempfile::tempdir().unwrap();
    question(&|model| Box::new(FolderGallery::open(dir.path(), model).unwrap()));
    let dir = tempfile::tempdir().unwrap();
    question(&|model| Box::new(FolderGallery::open_shared(dir.path(), model).unwrap()));
    let store = Arc::new(InMemory::new());
    question(&|model| Box::new(ObjectGallery::new(store.clone(), "some/where", model).unwrap()));
    let store = Arc::new(InMemory::new());
    question(&|model| Box::new(ObjectGallery::new(store.clone(), "", model).unwrap()));
}

#[test]
fn entries_are_read_back_replaced_and_deleted() {
    on_each(|open| {
        let all = entries(20);
        {
            let gallery = open(MODEL);
            gallery.put(&[]).unwrap();
            gallery.put(&all).unwrap();
            gallery.put(&[GalleryEntry { jpeg: "better".into(), ..all[4].clone() }]).unwrap();
        }
        let gallery = open(MODEL);
        let asked: Vec<PictureKey> = all.iter().map(|e| e.key).chain([Uuid::from_u128(999).into()]).rev().collect();
        let together: Vec<_> = gallery.patches_of(&asked).into_iter().map(Result::unwrap).collect();
        let want = std::iter::once(None).chain(all.iter().rev().map(|e| Some(e.patches.clone())));
        assert!(together.into_iter().eq(want), "in the order asked for");
        for e in &all {
            let jpeg = gallery.jpeg(e.key).unwrap().unwrap();
            assert_eq!(jpeg, if e.key == all[4].key { "better".into() } else { e.jpeg.clone() });
            assert_eq!(gallery.patches(e.key).unwrap().as_ref(), Some(&e.patches));
        }
        let mut ids = gallery.ids().unwrap();
        ids.sort();
        assert_eq!(ids, all.iter().map(|e| e.key.id).collect::<Vec<_>>());
        let unknown = Uuid::from_u128(1 << 127);
        assert_eq!((gallery.jpeg(unknown.into()).unwrap(), gallery.patches(unknown.into()).unwrap()), (None, None));
        assert_eq!(gallery.delete(&[all[0].key.id, unknown, all[1].key.id]).unwrap(), 4);
        assert_eq!(gallery.delete(&[all[0].key.id]).unwrap(), 0);
        assert_eq!((gallery.jpeg(all[0].key).unwrap(), gallery.patches(all[1].key).unwrap()), (None, None));
        assert_eq!(gallery.ids().unwrap().len(), 18);
    });
}

#[test]
fn another_model_shares_the_pictures_and_not_the_features() {
    on_each(|open| {
        let all = entries(3);
        open(MODEL).put(&all).unwrap();
        let other = open("other");
        assert_eq!(other.patches(all[0].key).unwrap(), None);
        assert_eq!(other.jpeg(all[0].key).unwrap(), Some(all[0].jpeg.clone()));
        assert!(other.ids().unwrap().is_empty(), "these are the other model's");
        assert_eq!(other.delete(&[all[0].key.id]).unwrap(), 2, "deletion leaves no model's features behind");
    });
}

#[test]
fn features_of_another_model_come_and_go_without_the_pictures() {
    on_each(|open| {
        let all = entries(3);
        open(MODEL).put(&all).unwrap();
        let new = all[0].patches.clone();
        {
            let other = open("other");
            other.put_patches(&[]).unwrap();
            other.put_patches(&[(all[0].key, patches(7.0))]).unwrap();
            other.put_patches(&[(all[0].key, new.clone()), (all[1].key, new.clone())]).unwrap();
            assert_eq!(other.patches(all[0].key).unwrap().as_ref(), Some(&new));
            let wrong = PatchFeatures { rows: 9, ..new };
            assert!(other.put_patches(&[(all[2].key, wrong)]).unwrap_err().is_permanent());
            assert_eq!((other.patches(all[2].key).unwrap(), other.ids().unwrap().len()), (None, 2));
        }
        let gallery = open(MODEL);
        assert!(matches!(gallery.forget_model(MODEL), Err(GalleryError::InUse(_))));
        gallery.forget_model("other").unwrap();
        gallery.forget_model("other").unwrap();
        assert_eq!(gallery.patches(all[0].key).unwrap().as_ref(), Some(&all[0].patches));
        drop(gallery);
        let other = open("other");
        assert_eq!(other.patches(all[0].key).unwrap(), None);
        assert_eq!(other.jpeg(all[0].key).unwrap(), Some(all[0].jpeg.clone()));
    });
}

#[test]
fn contradicting_features_are_refused_before_anything_is_written() {
    on_each(|open| {
        let gallery = open(MODEL);
        let mut all = entries(2);
        all[1].patches = PatchFeatures { rows: 3, ..all[1].patches.clone() };
        all[1].patches.width += 1;
        let error = gallery.put(&all).unwrap_err();
        assert!(error.is_permanent(), "{error}");
        assert!(gallery.ids().unwrap().is_empty());
    });
}

#[test]
fn deletion_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let gallery = FolderGallery::open(dir.path(), MODEL).unwrap();
    let all = entries(3);
    gallery.put(&all).unwrap();
    gallery.delete(&all.iter().map(|e| e.key.id).collect::<Vec<_>>()).unwrap();
    assert_eq!(files_below(dir.path()), [dir.path().join("lock")]);
}

#[test]
fn processes_that_share_a_folder_leave_each_others_halves_alone() {
    let dir = tempfile::tempdir().unwrap();
    let one = FolderGallery::open_shared(dir.path(), MODEL).unwrap();
    let (fresh, old) = (dir.path().join("tmp/fresh"), dir.path().join("tmp/old"));
    std::fs::write(&fresh, b"half a pic").unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(2 * 3600);
    std::fs::File::create(&old).unwrap().set_modified(long_ago).unwrap();
    let two = FolderGallery::open_shared(dir.path(), MODEL).unwrap();
    assert!(fresh.exists(), "another may be writing it");
    assert!(!old.exists(), "nobody is");
    let all = entries(1);
    one.put(&all).unwrap();
    assert_eq!(two.jpeg(all[0].key).unwrap(), Some(all[0].jpeg.clone()));
    assert!(FolderGallery::open(dir.path(), MODEL).is_err(), "nobody can have it alone meanwhile");
    drop((one, two));
    FolderGallery::open(dir.path(), MODEL).unwrap();
    assert!(!fresh.exists());
}

#[test]
fn damaged_objects_are_reported() {
    use object_store::{ObjectStore, ObjectStoreExt};
    let store = Arc::new(InMemory::new());
    let gallery = ObjectGallery::new(store.clone(), "g", MODEL).unwrap();
    let all = entries(1);
    gallery.put(&all).unwrap();
    let id = all[0].key.id.to_string();
    let key = object_store::path::Path::from(format!("g/patches/{MODEL}/{}/{id}.patches", &id[..3]));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let cut = |store: &dyn ObjectStore| {
        runtime.block_on(async { store.put(&key, b"SLPF".to_vec().into()).await.map(|_| ()) })
    };
    cut(&*store).unwrap();
    let error = gallery.patches(all[0].key).unwrap_err();
    assert!(matches!(error, GalleryError::Damaged { .. }) && error.to_string().contains(key.as_ref()), "{error}");
}

#[test]
fn the_configuration_names_the_gallery() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::load(None).unwrap();
    config.data.folder = dir.path().join("data");
    config.gallery.url = String::new();
    let own = open_gallery(&config, MODEL).unwrap();
    own.put(&entries(1)).unwrap();
    assert!(dir.path().join("data/gallery/jpeg/000").is_dir());
    config.gallery.url = format!("file://{}/shared", dir.path().display());
    let (one, two) = (open_gallery(&config, MODEL).unwrap(), open_gallery(&config, MODEL).unwrap());
    one.put(&entries(1)).unwrap();
    assert_eq!(two.ids().unwrap().len(), 1);
    for wrong in ["shared", "file://shared", "ftp://x", "s3://"] {
        config.gallery.url = wrong.to_owned();
        let error = open_gallery(&config, MODEL).err().unwrap();
        assert!(error.to_string().contains(wrong), "{error}");
    }
    // Nothing is asked of the bucket yet; the client and its TLS are there.
    config.gallery.url = "s3://bucket/prefix".to_owned();
    assert_eq!(open_gallery(&config, MODEL).is_ok(), cfg!(feature = "s3"));
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
    let all = entries(2);
    gallery.put(&all).unwrap();
    let path = files_below(dir.path()).into_iter().find(|p| p.extension().is_some_and(|e| e == "patches")).unwrap();
    let id: Uuid = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    let error = gallery.patches(id.into()).unwrap_err();
    assert!(matches!(error, GalleryError::Damaged { .. }));
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    std::fs::write(&path, b"").unwrap();
    assert!(gallery.patches(id.into()).is_err());
    gallery.put(&all).unwrap();
    assert!(gallery.patches(id.into()).unwrap().is_some(), "writing again mends it");
}

#[test]
fn a_failed_write_is_an_error_and_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let gallery = FolderGallery::open(dir.path(), MODEL).unwrap();
    let all = entries(1);
    // A file takes the place of the sub-folder, so nothing can be written there.
    std::fs::write(dir.path().join("jpeg").join("000"), b"in the way").unwrap();
    let error = gallery.put(&all).unwrap_err();
    assert!(matches!(error, GalleryError::File(_)) && !error.is_permanent(), "{error}");
    assert!(files_below(&dir.path().join("tmp")).is_empty());
}

/// Returns everything older than `before` of the first shards.
fn sharded(gallery: &dyn Gallery, before: SystemTime) -> Vec<SightingId> {
    (0..16).flat_map(|shard| gallery.ids_in(shard, before).unwrap()).collect()
}

#[test]
fn files_are_listed_by_shard_and_moved_to_quarantine() {
    on_each(|open| {
        let all = entries(6);
        open("other").put(&all[..1]).unwrap();
        let gallery = open(MODEL);
        gallery.put(&all).unwrap();
        let (later, earlier) =
            (SystemTime::now() + Duration::from_secs(60), SystemTime::now() - Duration::from_secs(60));
        assert_eq!(sharded(&*gallery, later), all.iter().map(|e| e.key.id).collect::<Vec<_>>(), "in ascending order");
        assert!(sharded(&*gallery, earlier).is_empty(), "their points may be on their way");
        let day: Timestamp = "2026-05-01T23:30:00Z".parse().unwrap();
        let unknown = Uuid::from_u128(1 << 127);
        assert_eq!(gallery.quarantine(&[all[0].key.id, unknown, all[2].key.id], day).unwrap(), 3 + 2, "of every model");
        assert_eq!(gallery.jpeg(all[0].key).unwrap(), None);
        drop(gallery);
        assert_eq!(open("other").patches(all[0].key).unwrap(), None);
        let gallery = open(MODEL);
        assert_eq!(sharded(&*gallery, later).len(), 4);
        let days = |n: u64| day + Duration::from_secs(n * 86_400);
        assert_eq!(gallery.expire_quarantine(days(7)).unwrap(), 0, "seven whole days");
        assert_eq!(gallery.expire_quarantine(days(8)).unwrap(), 1);
        assert_eq!(gallery.expire_quarantine(days(9)).unwrap(), 0);
        assert_eq!(sharded(&*gallery, later).len(), 4, "the others stay");
    });
}

#[test]
fn quarantined_files_can_be_moved_back() {
    let dir = tempfile::tempdir().unwrap();
    let gallery = FolderGallery::open(dir.path(), MODEL).unwrap();
    let all = entries(1);
    gallery.put(&all).unwrap();
    gallery.quarantine(&[all[0].key.id], "2026-05-01T00:00:00Z".parse().unwrap()).unwrap();
    let (name, day) = (all[0].key.id.to_string(), dir.path().join("quarantine/2026-05-01"));
    std::fs::rename(
        day.join("jpeg").join(format!("{name}.jpg")),
        dir.path().join(format!("jpeg/{}/{name}.jpg", &name[..3])),
    )
    .unwrap();
    assert_eq!(gallery.jpeg(all[0].key).unwrap(), Some(all[0].jpeg.clone()));
    assert!(day.join("patches").join(MODEL).join(format!("{name}.patches")).exists());
}

#[test]
fn a_check_moves_a_few_unknown_pictures_and_refuses_what_looks_like_another_index() {
    let dir = tempfile::tempdir().unwrap();
    let gallery = FolderGallery::open(dir.path(), MODEL).unwrap();
    let points: Vec<_> = (0..200).map(|i| point("a", i, 0, i, turned(0, 0.1))).collect();
    gallery.put(&points.iter().map(|p| gallery_entry(p, 0.0)).collect::<Vec<_>>()).unwrap();
    let later = SystemTime::now() + Duration::from_secs(2 * 3600);
    let check = |store: &dyn VectorStore, quarantine, accept, now| {
        GalleryCheck { store, gallery: &gallery, quarantine, accept }.run(now, &mut |_| ())
    };
    let empty = ExactStore::new(MODEL, WIDTH);
    let error = check(&empty, true, 1000, later).unwrap_err();
    assert!(matches!(error, CheckError::EmptyIndex { pictures: 200 }), "{error}");
    assert!(error.to_string().contains("vectors.collection"), "it says what to do: {error}");
    // Three unknown ones of two hundred are more than one in a hundred.
    let store = ExactStore::new(MODEL, WIDTH);
    store.upsert(&points[3..]).unwrap();
    let error = check(&store, true, 0, later).unwrap_err();
    assert!(matches!(error, CheckError::TooMany { unknown: 3, pictures: 200 }), "{error}");
    assert!(error.to_string().contains("--accept 3"), "{error}");
    assert_eq!(gallery.ids().unwrap().len(), 200, "nothing was moved");
    store.upsert(&points[2..3]).unwrap();
    let found = GalleryReport { pictures: 200, unknown: 2, quarantined: 0 };
    assert_eq!(check(&store, false, 0, later).unwrap(), found, "only counted");
    assert_eq!(check(&store, true, 0, SystemTime::now()).unwrap(), GalleryReport::default(), "all of the last hour");
    assert_eq!(check(&store, true, 0, later).unwrap(), GalleryReport { quarantined: 4, ..found });
    assert_eq!(check(&store, true, 0, later).unwrap(), GalleryReport { pictures: 198, ..GalleryReport::default() });
    assert!(gallery.jpeg(points[0].key()).unwrap().is_none() && gallery.jpeg(points[2].key()).unwrap().is_some());
}

#[test]
fn a_later_picture_of_a_slot_stands_beside_the_earlier_one_until_it_is_pruned() {
    on_each(|open| {
        let (gallery, id) = (open(MODEL), Uuid::from_u128(9));
        let entry = |jpeg: &'static str, value| {
            let key = PictureKey::new(id, jpeg.as_bytes());
            GalleryEntry { key, jpeg: jpeg.into(), patches: patches(value) }
        };
        let (old, new) = (entry("earlier", 1.0), entry("later", 2.0));
        let former = GalleryEntry { key: id.into(), ..entry("of an earlier version", 3.0) };
        let other = entries(3);
        gallery.put(&[former.clone(), old.clone()]).unwrap();
        gallery.put(&other).unwrap();
        gallery.put(std::slice::from_ref(&new)).unwrap();
        for e in [&former, &old, &new] {
            assert_eq!(gallery.jpeg(e.key).unwrap().as_ref(), Some(&e.jpeg));
            assert_eq!(gallery.patches(e.key).unwrap().as_ref(), Some(&e.patches));
        }
        assert_eq!(gallery.ids().unwrap().len(), 4, "one sighting");
        assert_eq!(gallery.prune(&[new.key]).unwrap(), 4);
        assert_eq!((gallery.jpeg(old.key).unwrap(), gallery.jpeg(former.key).unwrap()), (None, None));
        assert_eq!(gallery.jpeg(new.key).unwrap().as_ref(), Some(&new.jpeg));
        assert_eq!(gallery.prune(&[new.key]).unwrap(), 0);
        gallery.put(std::slice::from_ref(&old)).unwrap();
        assert_eq!(gallery.delete(&[id]).unwrap(), 4, "an erasure deletes all of them");
        assert!(other.iter().all(|e| gallery.jpeg(e.key).unwrap().is_some()), "and nobody else's");
    });
}

#[test]
fn a_replaced_picture_is_kept_for_its_hour_and_the_next_one() {
    on_each(|open| {
        let now: Timestamp = "2026-05-01T10:59:00Z".parse().unwrap();
        let minutes = |n: u64| now + Duration::from_secs(60 * n);
        let entry = |n: u128, jpeg: &'static str| {
            let key = PictureKey::new(Uuid::from_u128(n << 100), jpeg.as_bytes());
            GalleryEntry { key, jpeg: jpeg.into(), patches: patches(1.0) }
        };
        let all = [entry(1, "one"), entry(2, "two"), entry(3, "three")];
        open("former").put_patches(&[(all[0].key, patches(2.0))]).unwrap();
        let gallery = open(MODEL);
        gallery.put(&all).unwrap();
        let better = entry(1, "a better one");
        gallery.put(std::slice::from_ref(&better)).unwrap();
        let unknown = entry(9, "of nobody").key;
        assert_eq!(gallery.retire(&[all[0].key, unknown], now).unwrap(), 1);
        assert_eq!(gallery.retire(&[all[0].key], now).unwrap(), 0, "moved already");
        assert_eq!(gallery.prune(&[better.key]).unwrap(), 2, "its features, of every model");
        assert_eq!(gallery.jpeg(all[0].key).unwrap(), None);
        assert_eq!(gallery.replaced(all[0].key).unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(gallery.replaced(better.key).unwrap(), None, "that is the present one");
        assert_eq!(gallery.jpeg(better.key).unwrap().as_deref(), Some(&b"a better one"[..]));
        assert_eq!(gallery.ids().unwrap().len(), 3, "a replaced picture counts as none");
        // Another hour; then the first is over.
        assert_eq!(gallery.retire(&[all[1].key], minutes(2)).unwrap(), 1);
        assert_eq!(gallery.expire_replaced(minutes(60)).unwrap(), 0);
        assert_eq!(gallery.expire_replaced(minutes(61)).unwrap(), 1);
        assert_eq!(gallery.replaced(all[0].key).unwrap(), None);
        assert_eq!(gallery.replaced(all[1].key).unwrap().as_deref(), Some(&b"two"[..]));
        // An erasure and a retention reach it by the id of its sighting.
        assert_eq!(gallery.delete_replaced(&[all[0].key.id, all[1].key.id]).unwrap(), 1);
        assert_eq!(gallery.retire(&[all[2].key], minutes(3)).unwrap(), 1);
        assert_eq!(gallery.delete(&[all[2].key.id]).unwrap(), 2, "picture and features");
        assert_eq!(gallery.replaced(all[2].key).unwrap(), None);
    });
}
