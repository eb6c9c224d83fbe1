//! Searches with a model that judges phrases, and with one that does not, over the same pictures.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sightline_core::config::{ScoreForm, SearchConfig};
use sightline_search::{
    ExactStore, FolderGallery, Gallery, Hit, Point, SearchRequest, SearchResponse, Searcher, VectorStore,
};

use crate::support::{Double, MODEL, WIDTH, judged_gallery_entry, point, turned};

struct World {
    searcher: Searcher,
    _folder: tempfile::TempDir,
}

impl World {
    /// Points with the match logit of their pictures and the log-odds of each phrase.
    fn of(points: &[(Point, &[f32])], encoder: Double) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(ExactStore::new(MODEL, WIDTH));
        let gallery = Arc::new(FolderGallery::open(folder.path(), MODEL).unwrap());
        store.upsert(&points.iter().map(|(p, _)| p.clone()).collect::<Vec<_>>()).unwrap();
        gallery.put(&points.iter().map(|(p, values)| judged_gallery_entry(p, values)).collect::<Vec<_>>()).unwrap();
        let config = SearchConfig {
            rerank: 32,
            max_limit: 50,
            confident_probability: 0.5,
            score: ScoreForm::Calibrated,
            concurrent: 1,
        };
        let searcher = Searcher::new(Arc::new(encoder), store, gallery, config).unwrap();
        Self { searcher, _folder: folder }
    }

    fn ask(&self, query: &str) -> SearchResponse {
        self.searcher.search_blocking(&text(query)).unwrap()
    }
}

fn text(query: &str) -> SearchRequest {
    SearchRequest { query: Some(query.to_owned()), limit: 10, ..SearchRequest::default() }
}

fn judging() -> Double {
    Double { phrases: true, ..Double::new() }
}

/// Picture `crop` of track `born`, near axis 0 in the order of `born`.
fn picture(born: i64, crop: u8) -> Point {
    point("gate", born, crop, born, turned(0, 0.01 * born as f32))
}

fn births(hits: &[Hit]) -> Vec<i64> {
    hits.iter().map(|h| h.track_id.born.as_micros()).collect()
}

fn close(a: f32, b: f32) -> bool {
    (a - b).abs() < 1e-3
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

#[test]
fn the_pictures_of_a_track_agree_and_the_best_is_shown() {
    // One lucky picture of three, against a track of mediocre pictures.
    let lucky: [&[f32]; 3] = [&[3.0, 3.0, 1.0], &[-3.0, -3.0, 1.0], &[-3.0, -3.0, 1.0]];
    let mut points: Vec<(Point, &[f32])> = (0..3).map(|n| (picture(1, n), lucky[usize::from(n)])).collect();
    points.push((picture(2, 0), &[0.5, 2.0, -2.0]));
    let world = World::of(&points, judging());
    let answer = world.ask("axis 0, red jacket, no bag");
    assert_eq!(births(&answer.hits), [2, 1]);
    let (steady, lucky) = (&answer.hits[0], &answer.hits[1]);
    assert!(close(steady.probability.unwrap(), sigmoid(0.5)) && close(lucky.probability.unwrap(), sigmoid(-1.0)));
    assert!(
        close(lucky.phrases[0].probability, sigmoid(-1.0)) && close(lucky.phrases[1].probability, sigmoid(-1.0)),
        "{:?}",
        lucky.phrases
    );
    assert!(close(steady.phrases[0].probability, sigmoid(2.0)), "{:?}", steady.phrases);
    assert!(
        close(steady.phrases[1].probability, sigmoid(2.0)),
        "nobody sees a bag, and none was asked for: {:?}",
        steady.phrases
    );
    assert!(answer.hits.iter().all(|hit| Some(hit.score) == hit.probability));
    assert_eq!((lucky.sighting_id, lucky.match_logit), (points[0].0.id, Some(3.0)), "the best picture is shown");
    assert_eq!(lucky.crops.len(), 3);
    let asked: Vec<String> = answer.phrases.iter().map(ToString::to_string).collect();
    assert_eq!(asked, ["red jacket", "no bag"]);
    assert!(close(answer.expected_wrong.unwrap(), 2.0 - sigmoid(0.5) - sigmoid(-1.0)));
}

/// Between two requests the model would take crops, and the search would wait for them.
#[test]
fn all_pictures_of_a_search_are_scored_in_one_request() {
    let values: [f32; 2] = [1.0, 1.0];
    let pictures = (1..33).flat_map(|born| (0..3).map(move |crop| picture(born, crop)));
    let points: Vec<(Point, &[f32])> = pictures.map(|point| (point, &values[..])).collect();
    let encoder = judging();
    let asked = Arc::clone(&encoder.match_questions);
    let answer = World::of(&points, encoder).ask("axis 0, red jacket");
    assert!(answer.hits.len() == 10 && answer.hits.iter().all(|hit| hit.crops.len() == 3 && hit.probability.is_some()));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[test]
fn nobody_fulfils_covers_all_judged_tracks_on_every_page() {
    // The jacket is true of the last track alone, which the first page does not show; everybody has
    // a bag.
    let values = |born: i64| -> &[f32] { if born == 8 { &[0.0, 2.0, 4.0, -4.0] } else { &[1.0, -2.0, 4.0, -4.0] } };
    let points: Vec<(Point, &[f32])> = (1..9).map(|born| (picture(born, 0), values(born))).collect();
    let world = World::of(&points, judging());
    let request = SearchRequest { limit: 3, ..text("axis 0, red jacket, no bag, green hat, ?young") };
    let first = world.searcher.search_blocking(&request).unwrap();
    assert_eq!(first.nobody_fulfils, ["no bag", "green hat"]);
    assert!(close(first.expected_wrong.unwrap(), 3.0 * (1.0 - sigmoid(1.0))));
    let lost: Vec<String> = first.not_understood.iter().map(|n| format!("{}: {}", n.text, n.why)).collect();
    assert_eq!(lost, ["young: the word is not known"]);
    let (mut page, mut pages) = (first.clone(), 1);
    while let Some(cursor) = &page.next_cursor {
        page = world.searcher.next_page_blocking(cursor, "", None).unwrap();
        pages += 1;
        assert_eq!(
            (&page.phrases, &page.not_understood, &page.nobody_fulfils),
            (&first.phrases, &first.not_understood, &first.nobody_fulfils)
        );
    }
    // The last page holds two tracks and counts those alone.
    assert_eq!((pages, page.hits.len()), (3, 2));
    assert!(close(page.expected_wrong.unwrap(), 2.0 - sigmoid(1.0) - sigmoid(0.0)));

    // Tracks below the minimum probability were judged all the same.
    let floor = SearchRequest { min_probability: Some(0.99), ..request };
    let nobody = world.searcher.search_blocking(&floor).unwrap();
    assert_eq!((nobody.hits.len(), nobody.nearest_misses.len(), nobody.expected_wrong), (0, 3, None));
    assert_eq!(nobody.nobody_fulfils, ["no bag", "green hat"]);
}

#[test]
fn a_description_without_a_phrase_is_searched_by_similarity_and_says_so() {
    let points: Vec<(Point, &[f32])> = (1..15).map(|born| (picture(born, 0), &[9.0f32][..])).collect();
    let world = World::of(&points, judging());
    let answer = world.ask("axis 0, ?mann, ?rucksack");
    assert_eq!(births(&answer.hits), (1..11).collect::<Vec<_>>(), "by cosine");
    assert!(answer.hits.iter().all(|hit| hit.probability.is_none() && hit.phrases.is_empty()));
    assert!(answer.confident.is_none() && answer.nobody_fulfils.is_empty() && answer.expected_wrong.is_none());
    assert_eq!(answer.not_understood.len(), 2);
    assert!(answer.degraded[0].contains("states nothing that the model judges"), "{:?}", answer.degraded);
}

#[test]
fn without_the_decoder_nothing_is_said_of_anybody() {
    let world = World::of(&[(picture(1, 0), &[-3.0, -3.0])], judging());
    let request = SearchRequest { rerank: Some(0), ..text("axis 0, red jacket, ?young") };
    let answer = world.searcher.search_blocking(&request).unwrap();
    assert!(answer.confident.is_none() && answer.nobody_fulfils.is_empty() && answer.expected_wrong.is_none());
    assert_eq!((answer.phrases.len(), answer.not_understood.len()), (1, 1), "what was understood is told all the same");
    assert!(answer.hits[0].phrases.is_empty());
}

#[test]
fn a_model_that_judges_no_phrases_answers_as_before() {
    let lucky: [&[f32]; 3] = [&[3.0], &[-3.0], &[-3.0]];
    let points: Vec<(Point, &[f32])> = (0..3).map(|n| (picture(1, n), lucky[usize::from(n)])).collect();
    let world = World::of(&points, Double::new());
    let answer = world.ask("axis 0, red jacket, no bag, ?young");
    let hit = &answer.hits[0];
    assert_eq!((hit.sighting_id, hit.probability), (points[0].0.id, Some(sigmoid(3.0))), "the best picture counts");
    assert!(hit.phrases.is_empty() && answer.phrases.is_empty() && answer.not_understood.is_empty());
    assert!(answer.nobody_fulfils.is_empty() && answer.expected_wrong.is_none() && answer.degraded.is_empty());
}
