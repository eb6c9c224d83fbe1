//! The attribute tagger against phrases marked by hand, and through the tokenizer.

use proptest::prelude::*;
use sightline_embed::text::CaptionTokenizer;
use sightline_embed::text::phrases::{TaggedCaption, phrases, tag};

use super::golden;

fn found(text: &str) -> Vec<String> {
    let words = tag(text);
    phrases(&words).iter().map(|p| text[words[p.start].range.start..words[p.end - 1].range.end].to_owned()).collect()
}

#[test]
fn recall_and_precision_against_phrases_marked_by_hand() {
    let file = golden::json("attributes/attr_phrases.json");
    let (mut right, mut ours, mut theirs) = (0, 0, 0);
    for item in file["items"].as_array().unwrap() {
        let Some(hand) = item["phrases_by_hand"].as_array() else { continue };
        let hand: Vec<&str> = hand.iter().map(|p| p.as_str().unwrap()).collect();
        let text = item["pre_caption"].as_str().unwrap();
        let found = found(text);
        let mut left = hand.clone();
        for phrase in &found {
            if let Some(at) = left.iter().position(|h| h == phrase) {
                left.remove(at);
                right += 1;
            } else {
                println!("  {phrase:?} is not marked in {text:?}");
            }
        }
        left.iter().for_each(|phrase| println!("  {phrase:?} is missed in {text:?}"));
        (ours, theirs) = (ours + found.len(), theirs + hand.len());
    }
    let (recall, precision) = (f64::from(right) / theirs as f64, f64::from(right) / ours as f64);
    println!(
        "attribute phrases: recall {recall:.4} (above 0.806), precision {precision:.4} (at least 0.949): {right} of {theirs} marked, {ours} found"
    );
    assert!(recall > 0.806 && precision >= 0.949);
}

fn texts() -> CaptionTokenizer {
    CaptionTokenizer::load(&golden::path("tokenizer.json"), &sightline_embed::model::Architecture::cada_base()).unwrap()
}

#[test]
fn phrases_become_positions_of_word_pieces() {
    let texts = texts();
    let tagged =
        TaggedCaption::new(&texts, "She wears a knee-length DENIM skirt, and (two) Nike-branded sneakers!").unwrap();
    let pieces: Vec<String> = tagged.ids.iter().map(|id| texts.piece(*id).unwrap()).collect();
    let phrases: Vec<String> = tagged.spans.phrases.iter().map(|p| pieces[p.clone()].join(" ")).collect();
    assert_eq!(phrases, ["knee - length denim skirt", "nike - branded sneakers"]);
    let words: Vec<&str> = tagged.spans.words.iter().map(|i| pieces[*i].as_str()).collect();
    assert_eq!(words, ["knee", "-", "length", "denim", "skirt", "nike", "-", "branded", "sneakers"]);
}

/// A run of characters that the vocabulary knows nothing of is one piece, whatever the words in it.
#[test]
fn a_piece_belongs_to_one_phrase_only() {
    let tagged = TaggedCaption::new(&texts(), "black M\u{1fb2c}black ed ").unwrap();
    assert!(tagged.spans.phrases.windows(2).all(|p| p[0].end <= p[1].start), "{:?}", tagged.spans);
}

#[test]
fn what_truncation_cuts_off_is_not_masked() {
    let texts = texts();
    let tagged = TaggedCaption::new(&texts, &"a red-striped turtleneck ".repeat(30)).unwrap();
    assert_eq!(tagged.ids.len(), 73);
    assert!(tagged.spans.phrases.iter().all(|p| p.end <= 72));
    assert!(tagged.spans.words.iter().all(|i| (1..72).contains(i)));
    assert!(tagged.spans.phrases.len() > 5);
}

proptest! {
    #[test]
    fn any_text_gives_positions_within_its_ids(text in "(\\PC|[a-z ,.'-]|black |ed |coats? |[MASK]|[CLS]){0,80}") {
        static TEXTS: std::sync::OnceLock<CaptionTokenizer> = std::sync::OnceLock::new();
        let texts = TEXTS.get_or_init(texts);
        let tagged = TaggedCaption::new(texts, &text).unwrap();
        prop_assert_eq!(&tagged.ids, &texts.encode(&text).unwrap().ids);
        let last = tagged.ids.len() - 1;
        prop_assert!(tagged.spans.words.windows(2).all(|p| p[0] < p[1]));
        prop_assert!(tagged.spans.words.iter().all(|&i| i > 0 && i < last));
        prop_assert!(tagged.spans.phrases.windows(2).all(|p| p[0].end <= p[1].start));
        prop_assert!(tagged.spans.phrases.iter().all(|p| p.start > 0 && p.start < p.end && p.end <= last));
    }
}
