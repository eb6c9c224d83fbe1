//! Labelled people as training data: parts of the folder, balance, captions and what they state.

use std::path::Path;

use rand::SeedableRng;
use rand::rngs::StdRng;
use sightline_figures::Corpus;
use sightline_tune::dataset::Entry;
use sightline_tune::facts::RareKind;
use sightline_tune::people::{PeoplePart, PeopleSource, held_out};
use sightline_tune::pool::Pool;
use sightline_tune::source::{MixedSource, Source};

use crate::facts::labels;

const SIZE: [usize; 2] = [32, 16];

/// A folder of people: the persons of the golden labels, and some of the list of those held out
/// with the labels of others. The pictures are drawn.
pub fn folder(root: &Path) {
    std::fs::create_dir_all(root.join("imgs")).unwrap();
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/facts/labels.json"));
    let mut all: Vec<serde_json::Value> = serde_json::from_str(&text.unwrap()).unwrap();
    let held = held_out();
    all.retain(|label| !held.contains(&(label["id"].as_u64().unwrap() as u32)));
    let copies: Vec<serde_json::Value> = all.iter().take(6).cloned().collect();
    for (mut copy, id) in copies.into_iter().zip(held[..4].iter().chain(&held[88..])) {
        copy["id"] = (*id).into();
        all.push(copy);
    }
    let corpus = Corpus::new(12);
    let mut items = Vec::new();
    for (index, label) in all.iter().enumerate() {
        let name = format!("p{index}.png");
        corpus.picture(index as u64, 0).save(root.join("imgs").join(&name)).unwrap();
        let captions = [format!("the first of {index}"), format!("the second of {index}")];
        items.push(serde_json::json!({"split": "train", "id": label["id"], "file_path": name, "captions": captions}));
    }
    std::fs::write(root.join("labels.json"), serde_json::to_string(&all).unwrap()).unwrap();
    std::fs::write(root.join("reid_raw.json"), serde_json::to_string(&items).unwrap()).unwrap();
}

fn source(entries: Vec<Entry>) -> PeopleSource {
    let mut known = labels();
    // Those held out have the label of anybody here.
    for id in held_out() {
        let label = known[&1001].clone();
        known.entry(id).or_insert(label);
    }
    PeopleSource::new(entries, &known, SIZE, 1 << 20).unwrap()
}

#[test]
fn those_held_out_are_learned_from_by_nobody() {
    let root = tempfile::tempdir().unwrap();
    folder(root.path());
    let ids =
        |part: PeoplePart| -> Vec<u32> { part.read(root.path()).unwrap().iter().map(|entry| entry.identity).collect() };
    let (train, stop, calibrate) = (ids(PeoplePart::Train), ids(PeoplePart::Stop), ids(PeoplePart::Calibrate));
    let held = held_out();
    assert_eq!((stop.as_slice(), calibrate.as_slice()), (&held[..4], &held[88..]));
    assert!(!train.is_empty() && train.iter().all(|id| !held.contains(id)));
    let several: Vec<u32> = labels().values().filter(|label| label.several_people).map(|label| label.id).collect();
    assert!(!several.is_empty() && several.iter().all(|id| !train.contains(id)), "{several:?}");
}

#[test]
fn a_folder_that_lacks_something_says_what() {
    let root = tempfile::tempdir().unwrap();
    folder(root.path());
    let file = root.path().join("labels.json");
    let mut all: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let gone = all.remove(3)["id"].clone();
    std::fs::write(&file, serde_json::to_string(&all).unwrap()).unwrap();
    let e = PeoplePart::Train.read(root.path()).unwrap_err().to_string();
    assert!(e.contains("labels.json") && e.contains(&format!("no label of id {gone}")), "{e}");
    std::fs::remove_file(&file).unwrap();
    assert!(PeoplePart::Train.read(root.path()).unwrap_err().to_string().contains("labels.json"));
    let others = tempfile::tempdir().unwrap();
    folder(others.path());
    let entries = PeoplePart::Train.read(others.path()).unwrap();
    let e = PeoplePart::Stop.of(entries, &labels(), others.path()).unwrap_err().to_string();
    assert!(e.contains("nobody is of people-stop"), "{e}");
}

#[test]
fn half_of_the_captions_are_made_and_say_what_they_state() {
    let root = tempfile::tempdir().unwrap();
    folder(root.path());
    let people = source(PeoplePart::Train.read(root.path()).unwrap());
    let (mut made, mut written) = (0, 0);
    for identity in 0..people.identities() {
        let facts = people.facts(identity).expect("known").into_owned();
        assert_eq!(people.captions(identity, 0), 4);
        for which in 0..4 {
            let mut rng = StdRng::seed_from_u64(identity as u64);
            let (text, stated) = people.describe(identity, 0, which, &mut rng);
            assert_eq!(people.caption(identity, 0, which, &mut StdRng::seed_from_u64(identity as u64)), text);
            match stated {
                None => {
                    assert!(text.contains([" first of ", " second of "][which]), "{which}: {text}");
                    written += 1;
                }
                Some(description) => {
                    assert_eq!((description.text(), description.truth(&facts)), (text.as_str(), Some(true)));
                    made += 1;
                }
            }
        }
    }
    assert_eq!((made, written), (2 * people.identities(), 2 * people.identities()));
    assert_eq!(people.picture(0, 0).unwrap().len(), SIZE[0] * SIZE[1] * 3);
}

#[test]
fn persons_with_rare_kinds_are_drawn_more_often() {
    let root = tempfile::tempdir().unwrap();
    folder(root.path());
    let people = source(PeoplePart::Train.read(root.path()).unwrap());
    let weights = people.weights();
    for (identity, weight) in weights.iter().enumerate() {
        let facts = people.facts(identity).expect("known");
        let rare = RareKind::ALL.into_iter().filter(|kind| kind.is_in(&facts)).count();
        assert_eq!(*weight > 1.0, rare > 0, "{weight} with {rare} rare kinds");
    }
    let mut counts = vec![0.0; people.identities()];
    let mut rng = StdRng::seed_from_u64(9);
    const DRAWS: usize = 40_000;
    for _ in 0..DRAWS {
        counts[people.draw(&mut rng)] += 1.0 / DRAWS as f64;
    }
    let total: f64 = weights.iter().sum();
    for (count, weight) in counts.iter().zip(&weights) {
        assert!((count - weight / total).abs() < 0.006, "{count} instead of {}", weight / total);
    }
}

#[test]
fn a_mix_passes_on_what_its_parts_know() {
    let root = tempfile::tempdir().unwrap();
    folder(root.path());
    let people = source(PeoplePart::Train.read(root.path()).unwrap());
    let persons = people.identities();
    let pool = Pool::new(Corpus::new(5), 0, 8, 1, SIZE);
    let drawn = pool.facts(3).expect("drawn").into_owned();
    let mut rng = StdRng::seed_from_u64(2);
    assert!(pool.describe(3, 0, 0, &mut rng).1.is_none(), "the captions of drawn persons state more than phrases");
    let labelled = people.facts(1).expect("labelled").into_owned();
    let mix = MixedSource::new(vec![(Box::new(pool), 1.0), (Box::new(people), 1.0)]).unwrap();
    assert_eq!(mix.identities(), 8 + persons);
    assert_eq!((mix.facts(3).unwrap().into_owned(), mix.facts(9).unwrap().into_owned()), (drawn, labelled));
    assert!(mix.describe(9, 0, 3, &mut rng).1.is_some() && mix.describe(3, 0, 0, &mut rng).1.is_none());
}
