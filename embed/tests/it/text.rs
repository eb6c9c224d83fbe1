//! Caption cleaning and tokenizer against the slow tokenizer of the reference.

use sightline_embed::EmbedError;
use sightline_embed::model::Architecture;
use sightline_embed::text::{CaptionTokenizer, clean};

use crate::golden;

fn tokenizer() -> CaptionTokenizer {
    CaptionTokenizer::load(&golden::path("tokenizer.json"), &Architecture::cada_base()).unwrap()
}

#[test]
fn all_stored_cases_are_equal() {
    let (tokenizer, cases) = (tokenizer(), golden::json("tokenizer_cases.json"));
    let cases = cases["cases"].as_array().unwrap();
    for case in cases {
        let raw = case["raw"].as_str().unwrap();
        let caption = tokenizer.encode(raw).unwrap();
        assert_eq!(caption.text, case["pre_caption"].as_str().unwrap(), "cleaning of {raw:?}");
        let want: Vec<u32> =
            case["input_ids_unpadded"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
        assert_eq!(caption.ids, want, "ids of {raw:?}");
        // A cut by word count shows in the text, not in the stored flag, which is about word pieces
        // alone.
        let cut = case["truncated"].as_bool().unwrap();
        assert_eq!(caption.truncated, cut || clean(raw).1, "{raw:?}");
    }
    println!("{} texts: cleaning and ids equal", cases.len());
    assert_eq!(cases.len(), 55);
}

#[test]
fn queries_without_a_word_are_refused() {
    let t = tokenizer();
    for raw in ["", "   ", "!!!", "?, -", "\u{1f600}\u{1f3c3}\u{200d}\u{2642}", ". . ."] {
        assert!(matches!(t.encode_query(raw), Err(EmbedError::EmptyQuery)), "{raw:?}");
    }
    assert!(t.encode_query("a red \u{1f9e5}").is_ok());
}

#[test]
fn ten_thousand_words_are_cut_and_told() {
    let q = tokenizer().encode_query(&"red jacket ".repeat(5_000)).unwrap();
    assert!(q.truncated && q.ids.len() == 73);
    assert_eq!((q.ids[0], q.ids[72]), (101, 102));
    assert!(!tokenizer().encode_query("a red jacket").unwrap().truncated);
}

#[test]
fn special_tokens_cannot_be_typed() {
    let q = tokenizer().encode_query("[MASK] red [ENC] [SEP] [PAD] jacket").unwrap();
    assert!(q.ids[1..q.ids.len() - 1].iter().all(|id| ![0, 101, 102, 103, 30_522, 30_523].contains(id)), "{q:?}");
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let mut arch = Architecture::cada_base();
    arch.enc_token_id = 30_520;
    let e = CaptionTokenizer::load(&golden::path("tokenizer.json"), &arch).unwrap_err().to_string();
    assert!(e.contains("[ENC]") && e.contains("30520") && e.contains("30523"), "{e}");
    let e = CaptionTokenizer::load(&golden::path("tokenizer.json"), &golden::arch()).unwrap_err().to_string();
    assert!(e.contains("tokenizer.json"), "{e}");
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("tokenizer.json");
    std::fs::write(&broken, "{").unwrap();
    assert!(matches!(CaptionTokenizer::load(&broken, &arch), Err(EmbedError::Tokenizer { .. })));
}
