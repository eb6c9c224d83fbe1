//! Whole searches over predictable features: order, groups, both score forms, misses, pages, and
//! bad requests.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, TryRecvError};
use std::time::Duration;

use sightline_core::config::{ScoreForm, SearchConfig};
use sightline_core::ids::sighting_id;
use sightline_core::{PatchFeatures, RgbImage, SightingId};
use sightline_search::{
    EncodeError, ExactStore, Filter, FolderGallery, Gallery, GalleryEntry, Hit, Point, SearchError, SearchRequest,
    SearchResponse, Searcher, Sort, VectorStore,
};
use uuid::Uuid;

use crate::support::{Double, MODEL, WIDTH, at, camera, gallery_entry, point, track, turned};

struct World {
    searcher: Searcher,
    store: Arc<ExactStore>,
    gallery: Arc<FolderGallery>,
    folder: tempfile::TempDir,
}

fn config() -> SearchConfig {
    SearchConfig { rerank: 32, max_limit: 50, confident_probability: 0.5, score: ScoreForm::Probability, concurrent: 1 }
}

impl World {
    /// Points with the match logits of their pictures.
    fn of(points: &[(Point, f32)]) -> Self {
        Self::with(points, points.len())
    }

    /// Only the first `pictured` points have pictures: writing thousands durably takes long.
    fn with(points: &[(Point, f32)], pictured: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(ExactStore::new(MODEL, WIDTH));
        let gallery = Arc::new(FolderGallery::open(folder.path(), MODEL).unwrap());
        store.upsert(&points.iter().map(|(p, _)| p.clone()).collect::<Vec<_>>()).unwrap();
        gallery.put(&points[..pictured].iter().map(|(p, logit)| gallery_entry(p, *logit)).collect::<Vec<_>>()).unwrap();
        let searcher = Searcher::new(Double::shared(), store.clone(), gallery.clone(), config()).unwrap();
        Self { searcher, store, gallery, folder }
    }

    fn ask(&self, request: SearchRequest) -> SearchResponse {
        self.searcher.search_blocking(&request).unwrap()
    }

    fn error(&self, request: SearchRequest) -> SearchError {
        self.searcher.search_blocking(&request).unwrap_err()
    }
}

fn text(query: &str) -> SearchRequest {
    SearchRequest { query: Some(query.to_owned()), limit: 10, ..SearchRequest::default() }
}

/// A point of its own track on camera "gate", `angle` away from axis 0.
fn near(born: i64, angle: f32) -> Point {
    point("gate", born, 0, born, turned(0, angle))
}

fn births(hits: &[Hit]) -> Vec<i64> {
    hits.iter().map(|h| h.track_id.born.as_micros()).collect()
}

#[test]
fn a_match_is_less_likely_among_more_tracks() {
    let odds = |p: f32| p / (1.0 - p);
    // Three tracks count as 25; all 400 are counted, though fewer are ranked.
    for (tracks, counted) in [(3, 25.0), (400, 400.0)] {
        let points: Vec<(Point, f32)> = (0..tracks).map(|i| (near(i + 1, 0.001 * i as f32), 1.0)).collect();
        let world = World::with(&points, 3);
        let plain = world.ask(text("axis 0")).hits[0].probability.unwrap();
        let aware = Arc::new(Double { persons: Some(100.0), ..Double::new() });
        let searcher = Searcher::new(aware, world.store.clone(), world.gallery.clone(), config()).unwrap();
        let moved = searcher.search_blocking(&text("axis 0")).unwrap().hits[0].probability.unwrap();
        assert!((odds(moved) / odds(plain) - 100.0 / counted).abs() < 1e-3, "{tracks} tracks: {plain} -> {moved}");
    }
}

#[test]
fn score_forms_follow_the_method() {
    // Cosines cos(0.1), cos(0.9), cos(0.5).
    let world = World::of(&[(near(1, 0.1), 1.0), (near(2, 0.9), 2.0), (near(3, 0.5), 0.1)]);
    let paper = world.ask(text("axis 0"));
    assert_eq!(births(&paper.hits), [1, 2, 3]);
    for (hit, (angle, logit)) in paper.hits.iter().zip([(0.1f32, 1.0f32), (0.9, 2.0), (0.5, 0.1)]) {
        let logit = half::f16::from_f32(logit).to_f32();
        let p = 1.0 / (1.0 + (-logit).exp());
        assert!((hit.similarity - angle.cos()).abs() < 1e-5);
        assert_eq!((hit.match_logit, hit.hubness, hit.probability), (Some(logit), Some(logit / 8.0), Some(p)));
        assert!((hit.score - (angle.cos() + p)).abs() < 1e-5);
    }
    assert!(paper.confident == Some(true) && paper.degraded.is_empty() && paper.next_cursor.is_none());
    assert_eq!(paper.model_id, MODEL);
    let t = paper.timings;
    assert!(t.total >= t.encode + t.search + t.fetch + t.rerank && t.total < 5000.0, "{t:?}");

    let calibrated = world.ask(SearchRequest { score: Some(ScoreForm::Calibrated), ..text("axis 0") });
    assert_eq!(births(&calibrated.hits), [2, 1, 3]);
    assert!(calibrated.hits.iter().all(|hit| Some(hit.score) == hit.probability));

    let code = world.ask(SearchRequest { score: Some(ScoreForm::Raw), ..text("axis 0") });
    assert_eq!(births(&code.hits), [2, 1, 3]);
    assert!((code.hits[0].score - (0.9f32.cos() + 2.0)).abs() < 1e-3);
}

#[test]
fn what_was_not_judged_is_always_behind() {
    // Raw scores of the re-ranked pictures are far below every cosine.
    let points: Vec<(Point, f32)> = (0..6).map(|i| (near(i, 0.1 * i as f32), -5.0 - i as f32)).collect();
    let world = World::of(&points);
    let mut request = SearchRequest { rerank: Some(2), score: Some(ScoreForm::Raw), ..text("axis 0") };
    let answer = world.ask(request.clone());
    assert!(answer.confident == Some(false) && answer.nearest_misses.is_empty());
    assert_eq!(births(&answer.hits), [0, 1, 2, 3, 4, 5]);
    let judged: Vec<bool> = answer.hits.iter().map(|h| h.probability.is_some()).collect();
    assert_eq!(judged, [true, true, false, false, false, false]);
    assert!(answer.hits[1].score < answer.hits[2].score);

    request.rerank = Some(0);
    let cosine = world.ask(request);
    assert_eq!(cosine.confident, None, "nothing was judged");
    assert!(cosine.hits.iter().all(|h| h.match_logit.is_none() && h.score == h.similarity));
}

#[test]
fn a_track_is_one_hit_and_the_best_picture_counts() {
    let mut points = vec![
        (point("gate", 5, 0, 10, turned(0, 0.2)), 0.0),
        (point("gate", 5, 1, 20, turned(0, 0.4)), 3.0),
        (point("gate", 5, 2, 30, turned(4, 0.0)), -3.0),
        (point("door", 5, 0, 15, turned(0, 0.3)), 1.0),
    ];
    // Enough nearer tracks that the third picture, at cosine 0, is far beyond the limit of the
    // vector search.
    points.extend((0..450).map(|i| (point("crowd", i, 0, 40, turned(0, 0.5)), -9.0)));
    let world = World::with(&points, 4);
    world.store.end_track(&camera("gate"), track(5), at(5), at(99), true).unwrap();
    let answer = world.ask(text("axis 0"));
    let hit = &answer.hits[0];
    let crops: Vec<SightingId> = [1, 0, 2].map(|n| sighting_id(&camera("gate"), track(5), n)).to_vec();
    assert_eq!((hit.sighting_id, &hit.crops), (crops[0], &crops));
    assert_eq!((hit.first_seen, hit.last_seen, hit.captured_at, hit.ended), (at(5), at(99), at(20), true));
    assert_eq!(hit.frame_size, (640, 480));
    assert_eq!(answer.hits[1].camera, camera("door"));

    let filter = Filter { to: Some(at(20)), ..Filter::camera(camera("gate")) };
    let narrow = world.ask(SearchRequest { filter, ..text("axis 0") });
    assert_eq!(narrow.hits.len(), 1);
    assert_eq!(narrow.hits[0].crops, crops[..2], "what the filter leaves out is no picture of the hit");
}

#[test]
fn many_pictures_a_track_do_not_use_up_the_search() {
    let mut points = Vec::new();
    for born in 0..250 {
        for crop in 0..10 {
            points.push((point("gate", born, crop, born, turned(0, 0.001 * born as f32)), -9.0));
        }
    }
    let world = World::with(&points, 0);
    let mut page = world.ask(SearchRequest { rerank: Some(0), limit: 50, ..text("axis 0") });
    let mut seen = births(&page.hits);
    while let Some(cursor) = page.next_cursor {
        page = world.searcher.next_page_blocking(&cursor, "", None).unwrap();
        assert!(page.hits.iter().all(|h| h.crops.len() == 3), "at most three pictures of a track");
        seen.extend(births(&page.hits));
    }
    assert_eq!(seen, (0..200).collect::<Vec<_>>());
}

#[test]
fn nothing_confident_is_said_beside_the_hits() {
    let world = World::of(&[(near(1, 0.1), -2.0), (near(2, 0.2), -0.1)]);
    let answer = world.ask(text("axis 0"));
    assert!(answer.confident == Some(false) && answer.nearest_misses.is_empty() && answer.next_cursor.is_none());
    assert_eq!(births(&answer.hits), [2, 1]);
    let first = world.ask(SearchRequest { limit: 1, ..text("axis 0") });
    let second = world.searcher.next_page_blocking(&first.next_cursor.expect("a second page"), "", None).unwrap();
    assert_eq!((births(&second.hits), second.confident), (vec![1], Some(false)), "doubt hides no page");
    let none = world.ask(text("axis 0").also(Filter::camera(camera("elsewhere"))));
    assert!(none.confident == Some(false) && none.hits.is_empty() && none.nearest_misses.is_empty());
}

trait Also {
    fn also(self, filter: Filter) -> Self;
}

impl Also for SearchRequest {
    fn also(self, filter: Filter) -> Self {
        Self { filter, ..self }
    }
}

#[test]
fn missing_and_damaged_features_are_reported_and_ranked_behind() {
    let points: Vec<(Point, f32)> = (0..5).map(|i| (near(i, 0.1 * i as f32), 2.0)).collect();
    let world = World::of(&points);
    let of = |i: usize| {
        let name = points[i].0.id.to_string();
        world.folder.path().join("patches").join(MODEL).join(&name[..3]).join(format!("{name}.patches"))
    };
    std::fs::remove_file(of(0)).unwrap();
    std::fs::write(of(1), b"nonsense").unwrap();
    let narrow = PatchFeatures { rows: 1, width: 4, data: vec![0; 8].into() };
    world.gallery.put(&[GalleryEntry { patches: narrow, ..gallery_entry(&points[2].0, 0.0) }]).unwrap();
    let answer = world.ask(text("axis 0"));
    assert_eq!(births(&answer.hits), [3, 4, 0, 1, 2]);
    assert!(answer.hits[2].match_logit.is_none() && answer.hits[2].score == answer.hits[2].similarity);
    assert_eq!(answer.degraded.len(), 1);
    let said = &answer.degraded[0];
    assert!(said.contains("3 of 5") && said.contains("1 missing, 1 unreadable, 1 of the wrong shape"), "{said}");
}

#[test]
fn a_picture_without_a_score_is_reported_and_ranked_behind() {
    let mut points: Vec<(Point, f32)> = (0..4).map(|i| (near(i, 0.1 * i as f32), 2.0)).collect();
    points[1].1 = f32::NAN;
    points[0].1 = f32::INFINITY;
    // A second picture of the nearest track has a score, so the track has one.
    points.push((point("gate", 0, 1, 0, turned(0, 0.6)), 1.0));
    let world = World::of(&points);
    let answer = world.ask(text("axis 0"));
    assert_eq!(births(&answer.hits), [2, 3, 0, 1]);
    let judged: Vec<bool> = answer.hits.iter().map(|h| h.probability.is_some()).collect();
    assert_eq!(judged, [true, true, true, false]);
    assert_eq!(answer.hits[2].crops, [points[4].0.id, points[0].0.id]);
    assert_eq!(answer.hits[3].score, answer.hits[3].similarity);
    assert!(answer.degraded.len() == 1 && answer.degraded[0].contains("2 of 5"), "{:?}", answer.degraded);
    assert!(answer.degraded[0].contains("2 not finite"), "{:?}", answer.degraded);
}

#[test]
fn pictures_search_without_a_match_and_compose_with_text() {
    let world = World::of(&[
        (point("gate", 1, 0, 1, turned(0, 0.0)), 1.0),
        (point("gate", 1, 1, 2, turned(0, 0.1)), 1.0),
        (point("gate", 2, 0, 3, turned(0, 0.7)), 1.0),
        (point("gate", 3, 0, 4, turned(1, 0.0)), 1.0),
    ]);
    let image = RgbImage::new(1, 1, vec![1u8, 0, 0]).unwrap();
    let by_image = world.ask(SearchRequest { image: Some(image.clone()), limit: 9, ..SearchRequest::default() });
    assert_eq!(births(&by_image.hits), [3, 2, 1]);
    assert!(by_image.confident.is_none() && by_image.hits.iter().all(|h| h.probability.is_none()));

    let like = Some(sighting_id(&camera("gate"), track(1), 0));
    let by_like = world.ask(SearchRequest { like, limit: 9, ..SearchRequest::default() });
    assert_eq!(births(&by_like.hits), [2, 3], "its own track is left out");

    // Half-way between axis 0 and axis 1: pi/4 = 0.785 lies next to track 2.
    let both = world.ask(SearchRequest { image: Some(image), ..text("axis 0") });
    assert_eq!(births(&both.hits), [2, 1, 3]);
    assert!((both.hits[0].similarity - (std::f32::consts::FRAC_PI_4 - 0.7).cos()).abs() < 1e-4);
    assert!(both.hits[0].probability.is_some(), "the text judges");
}

#[test]
fn pages_are_frozen_and_forget_what_was_deleted() {
    let points: Vec<(Point, f32)> = (0..23).map(|i| (near(i, 0.01 * i as f32), 2.0)).collect();
    let world = World::of(&points);
    let first = world.ask(SearchRequest { limit: 7, owner: "me".to_owned(), ..text("axis 0") });
    assert_eq!(births(&first.hits), (0..7).collect::<Vec<_>>());
    world.store.upsert(&[near(100, 0.0)]).unwrap();
    world.store.delete(&Filter::ids(vec![points[8].0.id])).unwrap();
    let cursor = first.next_cursor.unwrap();
    assert!(matches!(world.searcher.next_page_blocking(&cursor, "you", None), Err(SearchError::UnknownCursor)));
    let (mut seen, mut next) = (Vec::new(), Some(cursor));
    while let Some(cursor) = next {
        let page = world.searcher.next_page_blocking(&cursor, "me", None).unwrap();
        assert!(page.confident == Some(true) && page.hits.iter().all(|h| h.probability.is_some()));
        seen.extend(births(&page.hits));
        next = page.next_cursor;
    }
    assert_eq!(seen, (7..23).filter(|i| *i != 8).collect::<Vec<_>>());
}

#[test]
fn probability_floor_and_order_by_time() {
    let world = World::of(&[(near(1, 0.1), 3.0), (near(2, 0.2), -3.0), (near(3, 0.3), 2.0), (near(4, 0.4), 1.0)]);
    let floor = |p| SearchRequest { min_probability: Some(p), ..text("axis 0") };
    assert_eq!(births(&world.ask(floor(0.6)).hits), [1, 3, 4]);
    assert_eq!(births(&world.ask(floor(0.85)).hits), [1, 3]);
    let none = world.ask(floor(0.99));
    assert!(none.confident == Some(false) && none.hits.is_empty());
    assert_eq!(births(&none.nearest_misses), [1, 3, 4, 2]);
    let by_time = world.ask(SearchRequest { sort: Sort::Time, ..floor(0.6) });
    assert_eq!(births(&by_time.hits), [4, 3, 1]);
    let behind = world.ask(SearchRequest { sort: Sort::Time, rerank: Some(2), ..text("axis 0") });
    assert_eq!(births(&behind.hits), [2, 1, 4, 3], "those not judged stay behind");
}

#[test]
fn bad_requests_have_distinct_errors() {
    let world = World::of(&[(near(1, 0.1), 1.0)]);
    let bad = [
        SearchRequest { limit: 5, ..SearchRequest::default() },
        SearchRequest { limit: 0, ..text("axis 0") },
        SearchRequest { limit: 51, ..text("axis 0") },
        SearchRequest { rerank: Some(100_000), ..text("axis 0") },
        SearchRequest { min_probability: Some(1.5), ..text("axis 0") },
        SearchRequest { min_probability: Some(f32::NAN), ..text("axis 0") },
        SearchRequest { min_probability: Some(0.5), like: Some(Uuid::nil()), limit: 5, ..SearchRequest::default() },
        SearchRequest { like: Some(Uuid::nil()), limit: 5, ..SearchRequest::default() },
        text("axis 0").also(Filter { from: Some(at(2)), to: Some(at(1)), ..Filter::default() }),
        text("nothing-known"),
    ];
    for request in bad {
        let error = world.error(request.clone());
        assert!(error.is_bad_request(), "{request:?}: {error}");
    }
    assert!(matches!(world.error(text("x")), SearchError::Encode(EncodeError::EmptyQuery)));
    for cursor in ["", "nonsense", "00000000000000000000000000000000.3"] {
        assert!(matches!(world.searcher.next_page_blocking(cursor, "", None), Err(SearchError::UnknownCursor)));
    }
    let long = world.ask(text(&format!("axis 0 {}", "word ".repeat(40))));
    assert!(long.degraded[0].contains("longer than the model reads"), "{:?}", long.degraded);

    let other = Arc::new(Double { model_id: "another".to_owned(), ..Double::new() });
    let error = Searcher::new(other, world.store.clone(), world.gallery.clone(), config()).unwrap_err();
    assert!(matches!(error, SearchError::OtherModel { .. }) && !error.is_bad_request(), "{error}");
}

#[tokio::test]
async fn a_search_that_nobody_waits_for_ends_before_the_decoder() {
    let points: Vec<(Point, f32)> = (0..3).map(|i| (near(i, 0.01 * i as f32), 2.0)).collect();
    let world = World::of(&points);
    let encoder = Arc::new(Double { encoding_takes: Duration::from_millis(300), ..Double::new() });
    let questions = Arc::clone(&encoder.match_questions);
    let searcher = Searcher::new(encoder, world.store.clone(), world.gallery.clone(), config()).unwrap();
    let (permit, permits) = std::sync::mpsc::channel::<()>();
    let gone = tokio::time::timeout(Duration::from_millis(50), searcher.search(text("axis 0"), permit)).await;
    assert!(gone.is_err(), "the caller has left");
    assert_eq!(permits.try_recv(), Err(TryRecvError::Empty), "the permit is held while the work goes on");
    let ended = tokio::task::spawn_blocking(move || permits.recv_timeout(Duration::from_secs(10))).await.unwrap();
    assert_eq!(ended, Err(RecvTimeoutError::Disconnected), "and given back when it ends");
    assert_eq!(questions.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn searches_run_beside_each_other() {
    let points: Vec<(Point, f32)> = (0..40).map(|i| (near(i, 0.01 * i as f32), 2.0)).collect();
    let world = World::of(&points);
    let asked: Vec<_> = (0..16)
        .map(|_| {
            let searcher = world.searcher.clone();
            tokio::spawn(async move { searcher.search(text("axis 0"), ()).await })
        })
        .collect();
    for answer in asked {
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(births(&answer.hits), (0..10).collect::<Vec<_>>());
        let next = world.searcher.next_page(&answer.next_cursor.unwrap(), "", None).await.unwrap();
        assert_eq!(births(&next.hits), (10..20).collect::<Vec<_>>());
    }
}

/// The page of figures must say what a search asks the store for, so that nobody takes the time of
/// a smaller question for that of a search.
#[test]
fn the_published_figures_say_how_much_a_search_asks_for() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/BENCH-million.md");
    let page = std::fs::read_to_string(page).unwrap();
    let asked = sightline_search::searcher::MIN_RANKED_TRACKS;
    assert!(page.contains(&format!("nearest {asked} tracks")), "BENCH-million.md does not say {asked} tracks");
    // Asking for fewer pictures is no search.
    assert!(!page.contains("asks the store for the nearest 64 pictures first"));
}
