//! Tests of layouts, bad items and arbitrary text.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn write(root: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(root.join("imgs")).expect("a folder");
    std::fs::write(root.join(name), text).expect("written");
}

fn picture(root: &Path, name: &str) {
    let path = root.join("imgs").join(name);
    std::fs::create_dir_all(path.parent().expect("below imgs")).expect("a folder");
    image::RgbImage::from_fn(8, 20, |x, y| image::Rgb([x as u8 * 9, y as u8 * 9, 60])).save(path).expect("written");
}

#[test]
fn each_layout_in_its_own_form() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path();
    for name in ["cam_a/1.png", "test/0001/2.jpg", "0000_c1_1.jpg"] {
        picture(root, name);
    }
    let item = |path: &str, split: &str, id: u32, captions: &[&str]| {
        json!([{"split": split, "captions": captions, "file_path": path, "id": id, "processed_tokens": [["a"]]}])
            .to_string()
    };
    write(root, "reid_raw.json", &item("cam_a/1.png", "val", 11_004, &["A man in red.", "A red shirt.", "Third."]));
    write(root, "ICFG_PEDES.json", &item("test/0001/2.jpg", "test", 3, &["A woman."]));
    let rstp = json!([{"id": 0, "img_path": "0000_c1_1.jpg", "captions": ["One.", "Two."], "split": "train"}]);
    write(root, "data_captions.json", &rstp.to_string());
    let read = |dataset: Dataset, split: &str| dataset.read(root, split).expect("a good dataset").remove(0);
    let cuhk = read(Dataset::CuhkPedes, "val");
    assert_eq!((cuhk.identity, cuhk.captions.len()), (11_004, 2));
    assert_eq!(cuhk.pixels([6, 4]).expect("decodes").len(), 6 * 4 * 3);
    assert_eq!(read(Dataset::IcfgPedes, "test").captions, ["A woman."]);
    let rstp = read(Dataset::RstpReid, "train");
    assert_eq!((rstp.identity, rstp.path), (0, root.join("imgs/0000_c1_1.jpg")));
}

#[test]
fn lists_by_split_are_read_too() {
    let root = tempfile::tempdir().expect("a folder");
    picture(root.path(), "train/a.png");
    let text = json!({"train": [{"captions": "Only one.", "file_path": "train/a.png", "id": 1}], "test": []});
    write(root.path(), "ICFG-PEDES.json", &text.to_string());
    assert_eq!(Dataset::IcfgPedes.read(root.path(), "train").expect("good")[0].captions, ["Only one."]);
    let e = Dataset::IcfgPedes.read(root.path(), "val").expect_err("no such split").to_string();
    assert!(e.contains("ICFG-PEDES.json") && e.contains("\"val\"") && e.contains("\"train\" (1 items)"), "{e}");
    let present = |split: &str| Dataset::IcfgPedes.read_if_present(root.path(), split);
    assert_eq!(present("val").expect("no error"), None);
    assert_eq!(present("train").expect("good").map(|entries| entries.len()), Some(1));
    std::fs::remove_file(root.path().join("imgs/train/a.png")).expect("removed");
    assert!(present("train").expect_err("a picture is missing").to_string().contains("a.png"));
    std::fs::remove_file(root.path().join("ICFG-PEDES.json")).expect("removed");
    assert!(present("val").expect_err("the file is missing").to_string().contains("ICFG-PEDES.json"));
}

#[test]
fn every_bad_item_is_named_and_the_good_ones_are_kept() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path();
    (0..2).for_each(|i| picture(root, &format!("{i}.jpg")));
    let whole = std::fs::read(root.join("imgs/0.jpg")).expect("written above");
    std::fs::write(root.join("imgs/cut.jpg"), &whole[..whole.len() - 9]).expect("written");
    let item = |path: &str, caption: &str| json!({"split": "train", "captions": [caption], "file_path": path, "id": 7});
    let mut items = vec![
        item("0.jpg", "Good."),
        item("gone.jpg", "A man."),
        item("cut.jpg", "A man."),
        item("1.jpg", " . "),
        item("../../etc/passwd", "A man."),
        json!({"split": "train", "captions": [], "file_path": "1.jpg", "id": 1}),
        json!({"split": "train", "captions": ["A man."], "file_path": "1.jpg", "id": -1}),
        json!({"split": "train", "captions": ["A man."], "id": 1}),
        item("1.jpg", "Good too."),
    ];
    write(root, "reid_raw.json", &json!(items).to_string());
    let survey = Dataset::CuhkPedes.survey(root, "train").expect("some are good");
    assert_eq!((survey.items, survey.entries.len(), survey.problems.len()), (9, 2, 7));
    let e = survey.strict().expect_err("strict").to_string();
    for part in [
        "reid_raw.json: 7 of 9 items",
        "item 1 (gone.jpg): the picture is missing",
        "item 2 (cut.jpg): the picture is cut short",
        "item 3 (1.jpg): caption 0 is empty",
        "item 4 (../../etc/passwd): the path leads out",
        "item 5 (1.jpg): no captions",
        "item 6 (1.jpg): the id -1",
        "item 7: no file_path",
        "--skip-bad",
    ] {
        assert!(e.contains(part), "{part:?} is not in: {e}");
    }
    items.extend((0..30).map(|i| item(&format!("gone{i}.jpg"), "A man.")));
    write(root, "reid_raw.json", &json!(items).to_string());
    let e = Dataset::CuhkPedes.read(root, "train").expect_err("strict").to_string();
    assert!(e.contains("37 of 39 items") && e.contains("and 17 more") && e.lines().count() < 26, "{e}");
}

#[test]
fn identities_with_one_picture_are_found() {
    let root = tempfile::tempdir().expect("a folder");
    (0..3).for_each(|i| picture(root.path(), &format!("{i}.png")));
    let items: Vec<_> = (0..3)
        .map(|i| json!({"split": "train", "captions": ["A man."], "file_path": format!("{i}.png"), "id": i / 2}))
        .collect();
    write(root.path(), "reid_raw.json", &json!(items).to_string());
    assert_eq!(Dataset::CuhkPedes.survey(root.path(), "train").expect("good").lone(), [1]);
}

#[test]
fn a_tenth_of_the_identities_is_held_out_with_all_their_pictures() {
    let entry = |n: u32| Entry { path: n.to_string().into(), identity: n / 3, captions: vec!["A man.".into()] };
    let (rest, taken) = hold_out((0..300).map(entry).collect());
    assert_eq!((rest.len(), taken.len()), (270, 30));
    let of = |some: &[Entry]| some.iter().map(|e| e.identity).collect::<std::collections::BTreeSet<_>>();
    assert!(of(&rest).is_disjoint(&of(&taken)));
}

#[test]
fn names_of_layouts() {
    for dataset in Dataset::ALL {
        assert_eq!(dataset.to_string().parse(), Ok(dataset));
    }
    assert!("market".parse::<Dataset>().expect_err("unknown").contains("icfg-pedes"));
}

proptest! {
    #[test]
    fn any_text_is_judged_without_a_panic(text: String, keys in proptest::collection::vec("[a-z_\":,\\[\\]{}0-9 -]{0,12}", 0..20)) {
        let _ = annotations::parse(&text);
        let _ = annotations::parse(&format!("[{{{}}}]", keys.join(",")));
    }

    #[test]
    fn any_item_is_judged_without_a_panic(split: String, caption: String, path: String, id: i64, form in 0usize..5) {
        let captions = [json!(caption), json!([caption]), json!([[caption]]), json!(null), json!({"a": caption})];
        let item = json!({"split": split, "captions": captions[form], "img_path": path, "id": id});
        for text in [json!([item, 3, null, "x"]).to_string(), json!({"train": [item]}).to_string()] {
            for item in annotations::parse(&text).expect("valid JSON") {
                prop_assert!(item.check(Path::new("no such folder"), 2).is_err());
            }
        }
    }
}
