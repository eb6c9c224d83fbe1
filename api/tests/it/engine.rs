//! The API over the real searcher, store and gallery; only the model is a test double with
//! predictable results: a text "axis N" points along axis N, and a picture along the axis it was
//! stored with.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use half::f16;
use serde_json::{Value, json};
use sightline_api::engine::{Engine, ModelView};
use sightline_api::local::{LocalEngine, LocalParts};
use sightline_api::state::{NewToken, Role};
use sightline_core::{
    BBox, CameraId, CropQuality, PatchFeatures, RgbImage, SightingId, Timestamp, TrackId, ids::sighting_id,
};
use sightline_embed::text::{NotUnderstood, Reason};
use sightline_search::{
    Coverage, CropHash, EncodeError, EncodedText, Eraser, ExactStore, FolderGallery, Gallery, GalleryEntry, Journals,
    MatchScore, Payload, PhraseAsked, PictureKey, Point, QueryEncoder, Scope, Searcher, VectorStore,
};

use crate::support::{Server, camera};

const WIDTH: usize = 4;
const JPEG: &[u8] = b"\xff\xd8jpeg";

/// Format of a text: `axis N, man, no bag, ?young`. The axis is followed by the phrases, if phrases
/// are judged; a question mark marks a word that is not understood. The patch feature is the
/// log-odds of every phrase.
struct Double {
    phrases: bool,
}

impl QueryEncoder for Double {
    fn model_id(&self) -> &str {
        "double"
    }

    fn width(&self) -> usize {
        WIDTH
    }

    fn patch_shape(&self) -> (u32, u32) {
        (1, 1)
    }

    fn judges_phrases(&self) -> bool {
        self.phrases
    }

    fn encode_text(&self, text: &str) -> Result<EncodedText, EncodeError> {
        let mut parts = text.split(", ");
        let axis = parts.next().and_then(|t| t.strip_prefix("axis ")?.parse().ok()).ok_or(EncodeError::EmptyQuery)?;
        let (mut phrases, mut not_understood) = (Vec::new(), Vec::new());
        for part in parts.filter(|_| self.phrases) {
            if let Some(word) = part.strip_prefix('?') {
                not_understood.push(NotUnderstood { text: word.to_owned(), range: 0..0, why: Reason::Unknown });
            } else {
                let (text, negated) = part.strip_prefix("no ").map_or((part, false), |named| (named, true));
                phrases.push(PhraseAsked { text: text.to_owned(), negated });
            }
        }
        let (feature, text, inner) = (along(axis), text.to_owned(), Arc::new(axis));
        Ok(EncodedText { feature, text, truncated: false, phrases, not_understood, inner })
    }

    fn embed_image(&self, _: &RgbImage) -> Result<Vec<f32>, EncodeError> {
        Err(EncodeError::Failed("no memory left on the device".into()))
    }

    fn match_scores(
        &self,
        text: &EncodedText,
        pictures: Vec<PatchFeatures>,
    ) -> Result<Vec<Option<MatchScore>>, EncodeError> {
        let logit = |p: &PatchFeatures| f16::from_le_bytes([p.data[0], p.data[1]]).to_f32();
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        let score = |l: f32| {
            let phrases = text.phrases.iter().map(|p| sigmoid(if p.negated { -l } else { l })).collect();
            MatchScore { logit: l, hubness: None, probability: sigmoid(l), phrases }
        };
        Ok(pictures.iter().map(|p| Some(score(logit(p)))).collect())
    }
}

fn along(axis: usize) -> Vec<f32> {
    (0..WIDTH).map(|i| if i == axis { 1.0 } else { 0.1 }).collect()
}

/// Returns the point of the only picture of a track with this birth.
fn point(camera: CameraId, born_s: i64, axis: usize) -> (SightingId, Point) {
    let born = Timestamp::from_micros(born_s * 1_000_000);
    let track = TrackId { born, ordinal: 0 };
    let id = sighting_id(&camera, track, 0);
    let payload = Payload {
        camera,
        track,
        crop_no: 0,
        captured_at: born,
        first_seen: born,
        last_seen: born,
        ended: true,
        bbox: BBox { x0: 1.0, y0: 2.0, x1: 3.0, y1: 4.0 },
        frame_size: (10, 10),
        quality: CropQuality::default(),
        model_id: "double".into(),
        trace: uuid::Uuid::nil(),
        crop: Some(CropHash::of(JPEG)),
    };
    (id, Point { id, vector: along(axis), payload })
}

struct Index {
    server: Server,
    store: Arc<dyn VectorStore>,
    gallery: Arc<dyn Gallery>,
    _dir: tempfile::TempDir,
}

impl Index {
    /// Starts a server over an empty index that knows the cameras `gate` and `yard`.
    fn new() -> Self {
        Self::of(Double { phrases: false })
    }

    fn of(encoder: Double) -> Self {
        let server = Server::with(false, |_| ());
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn VectorStore> = Arc::new(ExactStore::new("double", WIDTH));
        let gallery: Arc<dyn Gallery> = Arc::new(FolderGallery::open(&dir.path().join("gallery"), "double").unwrap());
        let config = server.app.search_config().clone();
        let searcher = Searcher::new(Arc::new(encoder), Arc::clone(&store), Arc::clone(&gallery), config).unwrap();
        let engine: Arc<dyn Engine> = Arc::new(LocalEngine::new(LocalParts {
            model: ModelView {
                id: "double".into(),
                name: "double".into(),
                device: "cpu".into(),
                dtype: "f32".into(),
                image_size: [1, 1],
                feature_dim: WIDTH,
                provenance: Value::Null,
                self_test: "not run".into(),
            },
            searcher,
            store: Arc::clone(&store),
            gallery: Arc::clone(&gallery),
            coverage: Coverage::default(),
            eraser: Eraser::new(store.clone(), gallery.clone(), Arc::new(Journals::open(dir.path()).unwrap())),
        }));
        server.app.set_engine(engine);
        server.app.set_cameras(server.node.clone());
        server.cameras(&["gate", "yard"]);
        Self { server, store, gallery, _dir: dir }
    }

    fn put(&self, id: &str, born_s: i64, axis: usize, logit: f32) -> SightingId {
        let (id, point) = point(camera(id), born_s, axis);
        let data = Bytes::copy_from_slice(&f16::from_f32(logit).to_le_bytes());
        let patches = PatchFeatures { rows: 1, width: 1, data };
        let entry = GalleryEntry { key: point.key(), jpeg: Bytes::from_static(JPEG), patches };
        self.gallery.put(&[entry]).unwrap();
        self.store.upsert(&[point]).unwrap();
        id
    }

    fn token(&self, cameras: Option<&[&str]>) -> String {
        self.server.token(Role::Operator, cameras)
    }

    fn search(&self, token: &str, body: &Value) -> (u16, Value) {
        self.server.call("POST", "/v1/search", Some(token), Some(body))
    }
}

fn ids(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|h| h["sighting_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_limited_token_finds_its_cameras_only_even_behind_a_thousand_better_ones() {
    let index = Index::new();
    let better: Vec<Point> = (0..1000).map(|i| point(camera("yard"), 1000 + i, 0).1).collect();
    index.store.upsert(&better).unwrap();
    let only = index.put("gate", 1, 1, 2.0);
    let limited = index.token(Some(&["gate"]));
    let (status, found) = index.search(&limited, &json!({ "query": "axis 0" }));
    assert_eq!((status, ids(&found["results"])), (200, vec![only.to_string()]), "the filter is inside the search");
    let (_, found) = index.search(&index.token(None), &json!({ "query": "axis 0", "cameras": ["gate"] }));
    assert_eq!(ids(&found["results"]), [only.to_string()]);
}

#[test]
fn no_confident_match_is_said_and_the_nearest_misses_are_shown() {
    let index = Index::new();
    let near = index.put("gate", 1, 0, -2.0);
    let (_, found) = index.search(&index.token(None), &json!({ "query": "axis 0" }));
    assert_eq!((&found["confident"], ids(&found["results"])), (&json!(false), vec![near.to_string()]));
    let body = json!({ "query": "axis 0", "min_probability": 0.5 });
    let (status, found) = index.search(&index.token(None), &body);
    assert_eq!((status, &found["confident"], &found["results"]), (200, &json!(false), &json!([])));
    assert_eq!(ids(&found["nearest_misses"]), [near.to_string()]);
    let p = found["nearest_misses"][0]["probability"].as_f64().unwrap();
    assert!((p - 0.119).abs() < 1e-3, "{p}");
}

#[test]
fn phrases_and_what_nobody_fulfils_are_told() {
    let index = Index::of(Double { phrases: true });
    let (likely, unlikely) = (index.put("gate", 1, 0, 2.0), index.put("gate", 2, 0, 1.0));
    let (status, found) = index.search(&index.token(None), &json!({ "query": "axis 0, man, no bag, ?young" }));
    println!("{found:#}");
    assert_eq!((status, ids(&found["results"])), (200, vec![likely.to_string(), unlikely.to_string()]));
    let close = |value: &Value, want: f64| (value.as_f64().unwrap() - want).abs() < 1e-3;
    let phrases = found["results"][0]["phrases"].as_array().unwrap();
    let said: Vec<_> = phrases.iter().map(|p| (&p["text"], &p["negated"])).collect();
    assert_eq!(said, [(&json!("man"), &json!(false)), (&json!("bag"), &json!(true))]);
    assert!(close(&phrases[0]["probability"], 0.881) && close(&phrases[1]["probability"], 0.119), "{phrases:?}");
    assert_eq!(found["nobody_fulfils"], json!(["no bag"]));
    assert_eq!(found["not_understood"], json!([{ "text": "young", "why": "the word is not known" }]));
    assert!(close(&found["expected_wrong"], 0.119 + 0.269), "{found}");

    let (status, found) = index.search(&index.token(None), &json!({ "query": "axis 0, ?jung" }));
    assert_eq!((status, found["results"].as_array().unwrap().len()), (200, 2), "it is searched for all the same");
    assert_eq!((&found["confident"], &found["expected_wrong"]), (&json!(false), &Value::Null));
    assert_eq!(found["not_understood"][0]["text"], "jung");
    assert!(found["degraded"][0].as_str().unwrap().contains("by similarity"), "{found}");
    assert!(
        found["results"].as_array().unwrap().iter().all(|h| h["probability"].is_null() && h["phrases"] == json!([]))
    );
}

#[test]
fn a_model_that_judges_no_phrases_answers_with_empty_lists() {
    let index = Index::new();
    index.put("gate", 1, 0, 2.0);
    let (status, found) = index.search(&index.token(None), &json!({ "query": "axis 0, man, no bag, ?young" }));
    assert_eq!((status, &found["results"][0]["phrases"]), (200, &json!([])));
    assert_eq!((&found["not_understood"], &found["nobody_fulfils"]), (&json!([]), &json!([])));
    assert_eq!(found["expected_wrong"], Value::Null);
    assert!(found["results"][0]["probability"].as_f64().unwrap() > 0.88 && found["confident"] == json!(true));
}

#[test]
fn pages_belong_to_the_token_that_asked() {
    let index = Index::new();
    let mut all: BTreeSet<String> = (0..5).map(|i| index.put("gate", i, 0, 1.0 + i as f32 * 0.1).to_string()).collect();
    let (mine, other) = (index.token(None), index.token(None));
    let mut body = json!({ "query": "axis 0", "limit": 2 });
    let mut pages = 0;
    loop {
        let (status, page) = index.search(&mine, &body);
        assert_eq!(status, 200, "{page}");
        for id in ids(&page["results"]) {
            assert!(all.remove(&id), "{id} came twice");
        }
        pages += 1;
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        body["cursor"] = json!(cursor);
        let (status, refused) = index.search(&other, &body);
        assert_eq!((status, &refused["code"]), (400, &json!("invalid_cursor")));
    }
    assert_eq!((pages, all.len()), (3, 0));
}

#[test]
fn errors_of_the_search_side_have_their_own_codes() {
    let index = Index::new();
    let token = index.token(None);
    let (status, e) = index.search(&token, &json!({ "query": "the model knows no word of this" }));
    assert_eq!((status, &e["code"]), (400, &json!("empty_query")));
    let (status, e) = index.search(&token, &json!({ "query": "axis 0", "cursor": "made-up" }));
    assert_eq!((status, &e["code"]), (400, &json!("invalid_cursor")));
    let mut png = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(2, 2).write_to(&mut png, image::ImageFormat::Png).unwrap();
    let image = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, png.into_inner());
    let (status, e) = index.search(&token, &json!({ "image": image }));
    assert_eq!((status, &e["code"]), (503, &json!("unavailable")));
    let message = e["message"].as_str().unwrap();
    assert!(message.contains("the model") && message.contains("no memory left"), "{message}");
    assert_eq!(index.server.get("/healthz").0, 200);
}

#[test]
fn erased_people_are_gone_from_store_and_gallery() {
    let index = Index::new();
    let gone = index.put("gate", 1, 0, 2.0);
    let stays = index.put("yard", 2, 0, 2.0);
    let job = index.server.remove("gate");
    assert_eq!(job["erased"], json!({ "sightings": 1, "files": 2 }));
    assert_eq!(job["receipt"]["vectors_by_model"], json!({ "double": 1 }));
    let picture = |id| index.gallery.jpeg(PictureKey::new(id, JPEG)).unwrap();
    assert!(picture(gone).is_none() && picture(stays).is_some());
    let (_, found) = index.search(&index.token(None), &json!({ "query": "axis 0" }));
    assert_eq!(ids(&found["results"]), [stays.to_string()]);
}

#[test]
fn an_expired_token_is_refused() {
    let index = Index::new();
    let cameras: Option<BTreeSet<CameraId>> = None;
    let past = Some(Timestamp::from_micros(1));
    let new = NewToken { name: "old".into(), role: Role::Admin, cameras, expires_at: past };
    let (_, secret) = index.server.app.state().create_token(&new).unwrap();
    assert_eq!(index.search(&secret, &json!({ "query": "axis 0" })).0, 401);
}

#[test]
fn what_is_being_erased_is_not_found_and_not_shown_for_a_moment() {
    let index = Index::new();
    let stays = index.put("gate", 3, 0, 1.0);
    let all: Vec<SightingId> = [1, 2].map(|s| index.put("yard", s, 0, 2.0)).to_vec();
    let token = index.token(None);
    let (_, first) = index.search(&token, &json!({ "query": "axis 0", "limit": 1 }));
    let frozen = json!({ "cursor": first["next_cursor"] });
    // The tombstone alone, as at the moment in which the request is answered: nothing is deleted
    // yet.
    let engine = index.server.app.engine().unwrap().clone();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let scopes = vec![Scope::camera(camera("yard"))];
    runtime.block_on(engine.begin_erasure(uuid::Uuid::nil(), scopes)).unwrap();
    assert_eq!(index.store.count(&sightline_search::Filter::default()).unwrap(), 3);
    let (_, found) = index.search(&token, &json!({ "query": "axis 0" }));
    assert_eq!(ids(&found["results"]), [stays.to_string()], "an unscoped token, all cameras");
    let (status, page) = index.search(&token, &frozen);
    let shown = ids(&page["results"]);
    assert!(status == 200 && all.iter().all(|id| !shown.contains(&id.to_string())), "{page}");
    for path in [format!("/v1/sightings/{}", all[0]), format!("/v1/sightings/{}/thumbnail.jpg", all[1])] {
        assert_eq!(index.server.get(&path).0, 404, "{path}");
    }
    let (status, _) = index.search(&token, &json!({ "like": all[0] }));
    assert_eq!(status, 400, "nor does it serve as an example");
}

#[test]
fn a_span_of_time_and_the_tracks_of_sightings_are_erased() {
    let index = Index::new();
    let put: Vec<SightingId> = (1..=6).map(|s| index.put("gate", s, 0, 2.0)).collect();
    let span = json!({ "camera": "gate", "from": "1970-01-01T00:00:02Z", "to": "1970-01-01T00:00:03Z" });
    let (status, job) = index.server.post("/v1/erasures", &span);
    assert_eq!(status, 202, "{job}");
    let job = index.server.erased(&job);
    assert_eq!((&job["receipt"]["sightings"], &job["receipt"]["files"]), (&json!(2), &json!(4)));
    let (status, job) = index.server.post("/v1/erasures", &json!({ "sightings": [put[5]], "purpose": "request 17" }));
    assert_eq!(status, 202, "{job}");
    assert_eq!(index.server.erased(&job)["scopes"][0]["camera"], "gate");
    let (_, found) = index.search(&index.token(None), &json!({ "query": "axis 0" }));
    let mut left = ids(&found["results"]);
    left.sort();
    let mut wanted = [put[0], put[3], put[4]].map(|id| id.to_string());
    wanted.sort();
    assert_eq!(left, wanted);
}

#[test]
fn a_later_picture_never_stands_for_the_one_that_was_judged() {
    let index = Index::new();
    let id = index.put("gate", 1, 0, 2.0);
    let (_, found) = index.search(&index.token(None), &json!({ "query": "axis 0" }));
    let judged = found["results"][0]["thumbnail"].as_str().unwrap().to_owned();
    assert!(judged.ends_with(&format!("?crop={}", CropHash::of(JPEG))), "{judged}");
    let auth = [("authorization", "Bearer start-token")];
    assert_eq!(index.server.raw("GET", &judged, &auth, b"").body, JPEG);
    // A better picture takes the slot.
    let (_, mut better) = point(camera("gate"), 1, 0);
    better.payload.crop = Some(CropHash::of(b"\xff\xd8better"));
    let patches = PatchFeatures { rows: 1, width: 1, data: Bytes::from_static(&[0, 0]) };
    let jpeg = Bytes::from_static(b"\xff\xd8better");
    index.gallery.put(&[GalleryEntry { key: better.key(), jpeg, patches }]).unwrap();
    index.store.upsert(&[better]).unwrap();
    let answer = index.server.raw("GET", &judged, &auth, b"");
    assert_eq!(answer.status, 404, "not the other one in its place");
    let bare = format!("/v1/sightings/{id}/thumbnail.jpg");
    assert_eq!(index.server.raw("GET", &bare, &auth, b"").body, b"\xff\xd8better");
    assert_eq!(index.server.raw("GET", &format!("{bare}?crop=xyz"), &auth, b"").status, 400);
}
