//! A search from request body to answer body.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sightline_api::engine::{Sort, Watermark};
use sightline_core::Timestamp;

use crate::support::{Server, camera};

#[test]
fn the_answer_has_the_documented_form() {
    let server = Server::start();
    server.cameras(&["gate"]);
    let id = server.engine.put(&camera("gate"), 1_700_000_000, 1);
    let now = Timestamp::now();
    let mark = Watermark { connection: Some(0), through: now, ended: false, arrived: now, indexed: 0, rejected: 0 };
    server.engine.marks.lock().unwrap().insert(camera("gate"), mark);
    let (status, mut answer) = server.post("/v1/search", &json!({ "query": "a man" }));
    assert_eq!(status, 200);
    let lag = answer["coverage"][0]["lag_s"].take();
    assert!((0.0..5.0).contains(&lag.as_f64().unwrap()), "{lag}");
    assert_eq!(
        answer,
        json!({
            "results": [{
                "sighting_id": id, "camera": "gate", "track_id": "60a24181e4000-0",
                "first_seen": "2023-11-14T22:13:20.000000Z", "last_seen": "2023-11-14T22:13:29.000000Z",
                "captured_at": "2023-11-14T22:13:21.000000Z", "box": [1.0, 2.0, 31.0, 82.0],
                "similarity": 0.5, "match_logit": 2.0, "hubness": 0.25, "probability": 0.875, "score": 1.375,
                "phrases": [
                    { "text": "man", "probability": 0.75, "negated": false },
                    { "text": "bag", "probability": 0.25, "negated": true },
                ],
                "thumbnail": format!("/v1/sightings/{id}/thumbnail.jpg"),
            }],
            "confident": true, "next_cursor": null,
            "not_understood": [{ "text": "young", "why": "age is not judged" }],
            "nobody_fulfils": ["no bag"], "expected_wrong": 0.125,
            "coverage": [{
                "camera": "gate", "searchable_through": now.to_string(), "lag_s": null, "dropped_fraction": 0.0,
            }],
            "timings_ms": { "encode": 1.0, "search": 2.0, "fetch": 3.0, "rerank": 4.0, "total": 10.0 },
            "degraded": [],
        })
    );
}

/// The keys of every object of an answer are those that the OpenAPI description lists.
#[test]
fn the_description_of_the_api_is_in_step_with_the_answer() {
    let server = Server::start();
    server.cameras(&["gate"]);
    server.engine.put(&camera("gate"), 1_700_000_000, 1);
    let (_, mut answer) = server.post("/v1/search", &json!({ "query": "a man" }));
    // Omitted from an answer without it.
    answer["nearest_misses"] = json!([]);
    let (_, api) = server.get("/openapi.json");
    let keys = |object: &Value| object.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    for (schema, object) in [
        ("SearchView", &answer),
        ("HitView", &answer["results"][0]),
        ("PhraseView", &answer["results"][0]["phrases"][0]),
        ("NotUnderstoodView", &answer["not_understood"][0]),
        ("CoverageView", &answer["coverage"][0]),
        ("Timings", &answer["timings_ms"]),
    ] {
        let described = &api["components"]["schemas"][schema]["properties"];
        assert_eq!(keys(described), keys(object), "{schema}");
    }
    let hit = &api["components"]["schemas"]["HitView"];
    assert!(hit["required"].as_array().unwrap().contains(&json!("phrases")), "{hit}");
}

#[test]
fn every_part_of_the_request_reaches_the_engine() {
    let server = Server::start();
    server.cameras(&["gate", "yard"]);
    let like = server.engine.put(&camera("gate"), 100, 0);
    let (status, _) = server.post(
        "/v1/search",
        &json!({
            "query": "a man", "like": like, "cameras": ["yard", "gate"], "from": "2026-05-01T08:00:00+02:00",
            "to": "2026-05-01T09:00:00Z", "limit": 7, "cursor": "c", "rerank": 3, "min_probability": 0.25,
            "sort": "time", "purpose": "test",
        }),
    );
    assert_eq!(status, 200);
    let queries = server.engine.queries.lock().unwrap();
    let q = &queries[0];
    assert_eq!((q.text.as_deref(), q.like, q.image.is_some()), (Some("a man"), Some(like), false));
    assert_eq!(q.cameras, Some([camera("gate"), camera("yard")].into()));
    assert_eq!(q.from.unwrap().to_string(), "2026-05-01T06:00:00.000000Z");
    assert_eq!(q.to.unwrap().to_string(), "2026-05-01T09:00:00.000000Z");
    assert_eq!((q.limit, q.cursor.as_deref(), q.rerank), (7, Some("c"), 3));
    assert_eq!((q.min_probability, q.sort), (Some(0.25), Sort::Time));
}

/// A phone held upright stores its picture rotated and says so in EXIF.
#[test]
fn an_example_image_is_turned_upright() {
    let server = Server::start();
    let mut jpeg = std::io::Cursor::new(Vec::new());
    let lying = image::RgbImage::from_fn(40, 16, |x, _| image::Rgb(if x < 20 { [255, 0, 0] } else { [0, 0, 255] }));
    lying.write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
    let exif = b"\xFF\xE1\0\x22Exif\0\0II\x2A\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let jpeg = jpeg.into_inner();
    let bytes = [&jpeg[..2], exif, &jpeg[2..]].concat();
    let image = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
    assert_eq!(server.post("/v1/search", &json!({ "image": image })).0, 200);
    let queries = server.engine.queries.lock().unwrap();
    let upright = queries[0].image.as_ref().unwrap();
    assert_eq!((upright.width(), upright.height()), (16, 40));
    assert!(upright.row(0)[0] > 200 && upright.row(39)[2] > 200, "the stored left side is on top");
}

#[test]
fn an_example_image_is_decoded() {
    let server = Server::start();
    let mut png = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(5, 9, image::Rgb([200, 10, 20])).write_to(&mut png, image::ImageFormat::Png).unwrap();
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, png.into_inner());
    for image in [encoded.clone(), format!("data:image/png;base64,{encoded}")] {
        assert_eq!(server.post("/v1/search", &json!({ "image": image })).0, 200);
    }
    let queries = server.engine.queries.lock().unwrap();
    let decoded = queries[1].image.as_ref().unwrap();
    assert_eq!((decoded.width(), decoded.height(), &decoded.data()[..3]), (5, 9, &[200, 10, 20][..]));
}
