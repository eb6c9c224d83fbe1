//! What a search answers, over the real index: doubt, phrases, pages, and errors of the search side.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sightline_api::state::{NewToken, Role};
use sightline_core::{CameraId, SightingId, Timestamp};
use sightline_search::PictureKey;

use crate::support::{JPEG, Server, camera};

/// A server that knows the cameras `gate` and `yard`.
struct World {
    server: Server,
}

impl World {
    fn new() -> Self {
        Self::of(Server::start())
    }

    fn judging() -> Self {
        Self::of(Server::judging())
    }

    fn of(server: Server) -> Self {
        server.cameras(&["gate", "yard"]);
        Self { server }
    }

    fn put(&self, id: &str, born_s: i64, axis: usize, logit: f32) -> SightingId {
        self.server.world.put_like(&camera(id), born_s, 0, axis, logit)
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
fn no_confident_match_is_said_and_the_nearest_misses_are_shown() {
    let index = World::new();
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
    let index = World::judging();
    let (likely, unlikely) = (index.put("gate", 1, 0, 2.0), index.put("gate", 2, 0, 1.0));
    let (status, found) = index.search(&index.token(None), &json!({ "query": "axis 0, man, no bag, ?young" }));
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
    assert_eq!((&found["confident"], &found["expected_wrong"]), (&Value::Null, &Value::Null));
    assert_eq!(found["not_understood"][0]["text"], "jung");
    assert!(found["degraded"][0].as_str().unwrap().contains("by similarity"), "{found}");
    assert!(
        found["results"].as_array().unwrap().iter().all(|h| h["probability"].is_null() && h["phrases"] == json!([]))
    );
}

#[test]
fn doubt_is_about_the_hits_that_are_left() {
    let index = World::judging();
    // In this order: the only likely one, two of the camera that is erased, and one that stays.
    for (camera, logit) in [("gate", 2.0), ("gate", -1.0), ("yard", -2.0), ("gate", -3.0), ("yard", -4.0)] {
        index.put(camera, (100.0 + 10.0 * logit) as i64, 0, logit);
    }
    let token = index.token(None);
    let (_, first) = index.search(&token, &json!({ "query": "axis 0, man", "limit": 2 }));
    let second = json!({ "cursor": first["next_cursor"] });
    let close = |value: &Value, want: f64| (value.as_f64().unwrap_or(-1.0) - want).abs() < 1e-3;
    let (_, page) = index.search(&token, &second);
    assert!(page["confident"] == json!(true) && close(&page["expected_wrong"], 0.881 + 0.953), "{page}");
    let _hold = index.server.world.store.hold.lock().unwrap();
    let (status, job) = index.server.post("/v1/erasures", &json!({ "camera": "gate" }));
    assert_eq!(status, 202, "{job}");
    let (_, page) = index.search(&token, &second);
    assert_eq!(page["results"].as_array().unwrap().len(), 1, "{page}");
    assert_eq!(page["confident"], json!(false), "the only likely one is erased, though of another page");
    assert!(close(&page["expected_wrong"], 0.881), "of the one that is returned: {page}");
    let (_, again) = index.search(&token, &json!({ "query": "axis 0, man" }));
    assert!(again["confident"] == json!(false) && close(&again["expected_wrong"], 0.881 + 0.982), "{again}");
}

#[test]
fn a_model_that_judges_no_phrases_answers_with_empty_lists() {
    let index = World::new();
    index.put("gate", 1, 0, 2.0);
    let (status, found) = index.search(&index.token(None), &json!({ "query": "axis 0, man, no bag, ?young" }));
    assert_eq!((status, &found["results"][0]["phrases"]), (200, &json!([])));
    assert_eq!((&found["not_understood"], &found["nobody_fulfils"]), (&json!([]), &json!([])));
    assert_eq!(found["expected_wrong"], Value::Null);
    assert!(found["results"][0]["probability"].as_f64().unwrap() > 0.88 && found["confident"] == json!(true));
}

#[test]
fn pages_belong_to_the_token_that_asked() {
    let index = World::new();
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
        body = json!({ "cursor": cursor });
        let (status, refused) = index.search(&other, &body);
        assert_eq!((status, &refused["code"]), (400, &json!("invalid_cursor")));
    }
    assert_eq!((pages, all.len()), (3, 0));
}

#[test]
fn errors_of_the_search_side_have_their_own_codes() {
    let index = World::new();
    let token = index.token(None);
    let (status, e) = index.search(&token, &json!({ "query": "unknown words alone" }));
    assert_eq!((status, &e["code"]), (400, &json!("empty_query")));
    let (status, e) = index.search(&token, &json!({ "cursor": "made-up" }));
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
    let index = World::new();
    let gone = index.put("gate", 1, 0, 2.0);
    let stays = index.put("yard", 2, 0, 2.0);
    let job = index.server.remove("gate");
    assert_eq!(job["erased"], json!({ "sightings": 1, "files": 2 }));
    assert_eq!(job["receipt"]["vectors_by_model"], json!({ "double": 1 }));
    let picture = |id| index.server.world.index.gallery().jpeg(PictureKey::new(id, JPEG)).unwrap();
    assert!(picture(gone).is_none() && picture(stays).is_some());
    let (_, found) = index.search(&index.token(None), &json!({ "query": "axis 0" }));
    assert_eq!(ids(&found["results"]), [stays.to_string()]);
}

#[test]
fn an_expired_token_is_refused() {
    let index = World::new();
    let cameras: Option<BTreeSet<CameraId>> = None;
    let past = Some(Timestamp::from_micros(1));
    let new = NewToken { name: "old".into(), role: Role::Admin, cameras, expires_at: past };
    let (_, secret) = index.server.app.state().create_token(&new).unwrap();
    assert_eq!(index.search(&secret, &json!({ "query": "axis 0" })).0, 401);
}
