//! What labels and drawn persons tell, and what is true of them. `golden/facts/labels.json` are
//! labels of our own, of 46 persons: every value of every group is among them.

use std::collections::BTreeMap;
use std::path::Path;

use rand::SeedableRng;
use rand::rngs::StdRng;
use sightline_figures::Corpus;
use sightline_tune::facts::{Description, Facts, Label, Part, Phrase, RareKind, read_labels, yardstick};

pub fn labels() -> BTreeMap<u32, Label> {
    read_labels(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/facts/labels.json")).expect("labels")
}

/// Facts of all labels, and of as many drawn persons as make 300.
fn everybody() -> Vec<Facts> {
    let corpus = Corpus::new(77);
    let labelled = labels();
    let labelled = labelled.values().map(Facts::of_label);
    labelled.chain((0..254).map(|index| Facts::of_drawn(&corpus.person(index)))).collect()
}

const YES: Option<bool> = Some(true);
const NO: Option<bool> = Some(false);

#[test]
fn labels_tell_what_is_true_and_what_is_not_known() {
    let labels = labels();
    for (id, word, colour, want) in [
        // "cardigan over turquoise top", "black over turquoise"
        (3001, "cardigan", Some("black"), YES),
        (3001, "top", Some("teal"), YES),
        (3001, "cardigan", Some("teal"), NO),
        (3001, "top", Some("red"), NO),
        (3001, "jeans", None, None),
        (3001, "long hair", None, YES),
        (3001, "shoulder bag", Some("tan"), None), // a strap is seen, which kind of bag is not
        (3001, "backpack", None, NO),
        (3001, "woman", None, YES),
        (3001, "glasses", None, None),
        // "hooded jacket" of the group of hoodies, "light grey over white and blue"
        (3050, "hoodie", Some("light grey"), YES),
        (3050, "top", Some("blue"), YES),
        (3050, "motorbike", Some("red"), YES),
        (3050, "helmet", None, YES),
        (3050, "long hair", None, None),
        (3050, "man", None, None),
        // "hooded jacket" of the group of jackets
        (3046, "jacket", Some("red"), YES),
        (3046, "hoodie", None, None),
        (3046, "hood", Some("red"), YES),
        // "hi-vis vest over jacket"
        (3073, "hi-vis vest", Some("orange"), YES),
        (3073, "jacket", Some("dark green"), YES),
        (3073, "beanie", Some("dark grey"), YES),
        (3073, "cap", None, NO),
        // "suit jacket with dark waistcoat, white shirt and blue tie", "dark grey"
        (3238, "suit jacket", Some("dark grey"), YES),
        (3238, "waistcoat", Some("dark"), YES),
        (3238, "shirt", Some("white"), YES),
        (3238, "tie", Some("blue"), YES),
        // "riding shirt under a black harness vest", "red and green"
        (3503, "shirt", Some("green"), YES),
        (3503, "horse", Some("brown"), YES),
        // "jacket or sweater" is one of both
        (3436, "jacket", None, None),
        (3436, "t-shirt", None, NO),
        (3436, "bag", None, None),
        // Nothing above, board shorts "red and orange with black waist panel"
        (3519, "t-shirt", None, NO),
        (3519, "shorts", Some("red"), YES),
        (3519, "shorts", Some("black"), None),
        (3519, "shorts", Some("green"), NO),
        // A dress is worn on the legs, too.
        (3037, "dress", Some("black"), YES),
        (3037, "skirt or dress", None, YES),
        (3037, "trousers", None, NO),
        (1125, "tote bag", Some("red"), YES),
        (1125, "backpack", Some("black"), YES),
        (1125, "backpack", Some("red"), NO),
        // An orange suitcase is carried; is that a bag?
        (1120, "suitcase", Some("orange"), YES),
        (1120, "bag", None, None),
        // "worn open, white tee underneath" says the caption.
        (1143, "t-shirt", None, None),
        (1143, "dress", None, NO),
        (1143, "bald head", None, YES),
        // A scarf would have been noted if someone had looked for it.
        (3259, "scarf", Some("green"), YES),
        (3021, "scarf", None, None),
        (3021, "hat", None, None),
        (3241, "racket", None, YES),
        (3241, "tied-back hair", None, YES),
        (3241, "long hair", None, None),
        (3162, "cap", Some("red"), YES),
        (1012, "vest", Some("yellow"), YES),
        (1012, "boots", Some("black"), YES),
    ] {
        let phrase = Phrase::named(word, colour).unwrap_or_else(|| panic!("no word {colour:?} {word}"));
        let facts = Facts::of_label(&labels[&id]);
        assert_eq!(phrase.truth(&facts), want, "{id}: {}: {:?}", phrase.text(), facts.seen(phrase.part()));
    }
}

#[test]
fn groups_that_say_unknown_leave_everything_open() {
    let label = &labels()[&3021];
    let facts = Facts::of_label(label);
    for (word, part) in [("man", Part::Sex), ("long hair", Part::Hair), ("cap", Part::Hat), ("glasses", Part::Glasses)]
    {
        let phrase = Phrase::named(word, None).expect("a word");
        assert_eq!((phrase.part(), phrase.truth(&facts)), (part, None), "{word}");
    }
    let nothing = Facts::unknown();
    let mut rng = StdRng::seed_from_u64(1);
    assert!(Description::of(&nothing, &mut rng).is_none());
    assert!(Phrase::true_of(&nothing, &mut rng).is_empty() && Phrase::false_of(&nothing, &mut rng).is_empty());
}

#[test]
fn phrases_and_descriptions_are_true_and_changed_ones_false() {
    let mut rng = StdRng::seed_from_u64(3);
    let (mut changed, mut negated) = (0, 0);
    let all = everybody();
    for facts in &all {
        for phrase in Phrase::true_of(facts, &mut rng) {
            assert_eq!(phrase.truth(facts), YES, "{}", phrase.text());
            negated += usize::from(["no ", "not ", "without "].iter().any(|word| phrase.text().starts_with(word)));
        }
        for phrase in Phrase::false_of(facts, &mut rng) {
            assert_eq!(phrase.truth(facts), NO, "{}", phrase.text());
        }
        let description = Description::of(facts, &mut rng).expect("something is known");
        assert_eq!(description.truth(facts), YES, "{}", description.text());
        if let Some(wrong) = description.changed(facts, &mut rng) {
            assert_eq!(wrong.truth(facts), NO, "{}", wrong.text());
            assert_eq!(wrong.phrases().len(), description.phrases().len());
            let same = wrong.phrases().iter().zip(description.phrases()).filter(|(a, b)| a.claim() == b.claim());
            assert_eq!(same.count() + 1, wrong.phrases().len(), "one phrase differs: {}", wrong.text());
            changed += 1;
        }
    }
    assert!(changed > all.len() * 9 / 10 && negated > all.len(), "{changed} changed, {negated} negated");
}

/// A description of one person is true, false or open of another as its phrases are.
#[test]
fn a_description_is_as_true_of_others_as_its_phrases() {
    let mut rng = StdRng::seed_from_u64(4);
    let all = everybody();
    let mut counts = [0; 3];
    for (index, other) in all.iter().cycle().take(20 * all.len()).enumerate() {
        let description = Description::of(&all[index / 20], &mut rng).expect("something is known");
        let truths: Vec<Option<bool>> = description.phrases().iter().map(|phrase| phrase.truth(other)).collect();
        let truth = description.truth(other);
        match truth {
            Some(true) => assert!(truths.iter().all(|truth| *truth == YES)),
            Some(false) => assert!(truths.contains(&NO)),
            None => assert!(truths.contains(&None) && !truths.contains(&NO)),
        }
        counts[truth.map_or(2, usize::from)] += 1;
    }
    assert!(counts[0] > 3000 && counts[1] > 30 && counts[2] > 60, "false, true, open: {counts:?}");
}

#[test]
fn descriptions_are_clean_and_of_several_forms() {
    let mut rng = StdRng::seed_from_u64(5);
    let (mut lists, mut sentences, mut pairs) = (0, 0, 0);
    for facts in everybody() {
        let description = Description::of(&facts, &mut rng).expect("something is known");
        let text = description.text();
        assert!(!text.contains("  ") && !text.contains(" ,") && !text.contains(" ."), "{text}");
        for wrong in [" a a", " an a ", " a o", " a i", " a e", " a jeans", " a no ", "with with", "and and"] {
            assert!(!format!(" {text}").contains(wrong), "{text}");
        }
        match text.matches('.').count() {
            2 => pairs += 1,
            _ if text.to_lowercase().starts_with("a ") => sentences += 1,
            _ => lists += 1,
        }
    }
    assert!(lists > 60 && sentences > 60 && pairs > 30, "{lists} lists, {sentences} sentences, {pairs} pairs");
}

#[test]
fn rare_things_are_mentioned_more_often_than_common_ones() {
    let corpus = Corpus::new(78);
    let mut rng = StdRng::seed_from_u64(6);
    let mut mentioned = |word: &str| {
        let (mut having, mut told) = (0, 0);
        let phrase = Phrase::named(word, None).expect("a word");
        for index in 0..800 {
            let facts = Facts::of_drawn(&corpus.person(index));
            if phrase.truth(&facts) == YES {
                having += 1;
                let description = Description::of(&facts, &mut rng).expect("known");
                told += usize::from(description.phrases().iter().any(|told| told.part() == phrase.part()));
            }
        }
        assert!(having > 20, "{word}: {having}");
        f64::from(told as u32) / f64::from(having)
    };
    for rare in ["backpack", "skirt", "shorts", "cap", "long hair"] {
        let share = mentioned(rare);
        assert!(share > 0.75, "{rare}: {share}");
    }
    for common in ["jeans", "trousers", "short hair", "long sleeves"] {
        let share = mentioned(common);
        assert!(share < 0.75, "{common}: {share}");
    }
}

#[test]
fn the_yardstick_follows_the_groups_and_the_last_word_of_a_colour() {
    let (labels, entries) = (labels(), yardstick::entries());
    let kinds = entries.iter().filter(|entry| entry.asks == yardstick::Asks::Kind).count();
    assert_eq!((kinds, entries.len()), (17, 23));
    for (text, id, want) in [
        ("a man", 3050, None),
        ("a woman", 3001, YES),
        ("a person with long hair", 3241, None),     // tied up
        ("wearing a short-sleeved top", 1040, None), // none
        ("wearing a long-sleeved top", 1040, NO),
        ("wearing a long-sleeved top", 1120, None), // three-quarter
        ("wearing a jacket or coat", 1012, YES),
        ("wearing jeans", 3001, None),
        ("carrying a bag", 3024, YES), // a top box is of the group of suitcases
        ("carrying a bag", 3004, None),
        ("carrying a bag", 3046, NO),
        ("wearing a hat", 3050, YES), // a helmet
        ("wearing a hat", 3046, NO),  // a hood
        ("wearing a hat", 3021, None),
        ("wearing glasses", 1004, YES),    // sunglasses
        ("wearing a blue top", 3008, NO),  // "dark navy with yellow reflective stripes"
        ("wearing a blue top", 1004, YES), // "navy"
        ("wearing a red top", 1024, YES),  // "crimson"
        ("wearing blue trousers", 3001, None),
        ("wearing black trousers", 3046, NO),
    ] {
        let entry = entries.iter().find(|entry| entry.text == text).unwrap_or_else(|| panic!("no phrase {text:?}"));
        assert_eq!((entry.of_label)(&labels[&id]), want, "{text} of {id}");
    }
}

/// Facts are finer than the rules of the yardstick, but where both are sure they agree, apart from
/// colours: rules look at one word of them.
#[test]
fn facts_and_yardstick_do_not_contradict_each_other() {
    let mut sure = 0;
    for label in labels().values() {
        let facts = Facts::of_label(label);
        for entry in yardstick::entries().iter().filter(|entry| entry.asks == yardstick::Asks::Kind) {
            if let (Some(rule), Some(truth)) = ((entry.of_label)(label), entry.claim.truth(&facts)) {
                // Garments below an outermost one and second bags are facts, too.
                let several = [Part::Upper, Part::Bag].iter().any(|part| facts.seen(*part).items.len() > 1);
                let more = several || label.carried.contains("suitcase");
                assert!(rule == truth || more, "{} of {}: {rule}, {truth}", entry.text, label.id);
                sure += 1;
            }
        }
    }
    assert!(sure > 400, "{sure}");
}

#[test]
fn rare_kinds_are_found_in_labels() {
    let labels = labels();
    let of = |id: u32| {
        let facts = Facts::of_label(&labels[&id]);
        RareKind::ALL.into_iter().filter(|kind| kind.is_in(&facts)).map(RareKind::name).collect::<Vec<_>>()
    };
    assert_eq!(of(1125), ["backpack", "handbag", "short-sleeves"]);
    assert_eq!(of(3037), ["handbag", "skirt"]);
    assert_eq!(of(3162), ["shorts", "cap", "short-sleeves"]);
    assert_eq!(of(3203), ["hat", "long-hair"]);
    assert_eq!(of(3033), ["backpack", "shorts", "helmet"]);
    assert!(of(3021).is_empty());
}
