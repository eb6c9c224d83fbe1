//! A search from request body to answer body.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use sightline_core::Timestamp;
use sightline_search::CropHash;

use crate::support::{JPEG, START_TOKEN, Server, camera};

#[test]
fn the_answer_has_the_documented_form() {
    let server = Server::judging();
    server.cameras(&["gate"]);
    let id = server.world.put(&camera("gate"), 1_700_000_000, 1);
    let now = Timestamp::now();
    server.world.progress(&camera("gate"), now, false);
    let (status, mut answer) = server.post("/v1/search", &json!({ "query": "axis 0, man, no bag, ?young" }));
    assert_eq!(status, 200);
    let lag = answer["coverage"][0]["lag_s"].take();
    assert!((0.0..5.0).contains(&lag.as_f64().unwrap()), "{lag}");
    let took = answer["timings_ms"].take();
    assert!(took["total"].as_f64().unwrap() >= took["rerank"].as_f64().unwrap(), "{took}");
    rounded(&mut answer);
    assert_eq!(
        answer,
        json!({
            "results": [{
                "sighting_id": id, "camera": "gate", "track_id": "60a24181e4000-0",
                "first_seen": "2023-11-14T22:13:20.000000Z", "last_seen": "2023-11-14T22:13:29.000000Z",
                "captured_at": "2023-11-14T22:13:21.000000Z", "box": [1.0, 2.0, 31.0, 82.0],
                "similarity": 1.0, "match_logit": 2.0, "hubness": null, "probability": 0.881, "score": 0.881,
                "phrases": [
                    { "text": "man", "probability": 0.881, "negated": false },
                    { "text": "bag", "probability": 0.119, "negated": true },
                ],
                "thumbnail": format!("/v1/sightings/{id}/thumbnail.jpg?crop={}", CropHash::of(JPEG)),
            }],
            "confident": true, "next_cursor": null,
            "not_understood": [{ "text": "young", "why": "the word is not known" }],
            "nobody_fulfils": ["no bag"], "expected_wrong": 0.119,
            "cameras_searched": 1,
            "coverage": [{
                "camera": "gate", "searchable_through": now.to_string(), "lag_s": null, "dropped_fraction": 0.0,
            }],
            "timings_ms": null,
            "degraded": [],
        })
    );
}

/// Rounds every fraction to three digits.
fn rounded(value: &mut Value) {
    match value {
        Value::Number(n) if n.is_f64() => *value = json!((n.as_f64().unwrap() * 1e3).round() / 1e3),
        Value::Array(list) => list.iter_mut().for_each(rounded),
        Value::Object(map) => map.values_mut().for_each(rounded),
        _ => {}
    }
}

/// The keys of every object of an answer are those that the OpenAPI description lists.
#[test]
fn the_description_of_the_api_is_in_step_with_the_answer() {
    let server = Server::judging();
    server.cameras(&["gate"]);
    server.world.put(&camera("gate"), 1_700_000_000, 1);
    let (_, mut answer) = server.post("/v1/search", &json!({ "query": "axis 0, man, ?young" }));
    // Omitted from an answer without it.
    answer["nearest_misses"] = json!([]);
    let (_, api) = server.get("/openapi.json");
    let schemas = &api["components"]["schemas"];
    for (schema, object) in [
        ("SearchView", &answer),
        ("HitView", &answer["results"][0]),
        ("PhraseTruth", &answer["results"][0]["phrases"][0]),
        ("NotUnderstoodView", &answer["not_understood"][0]),
        ("CoverageView", &answer["coverage"][0]),
        ("Timings", &answer["timings_ms"]),
    ] {
        let keys: BTreeSet<String> = object.as_object().unwrap().keys().cloned().collect();
        assert_eq!(described(schemas, &schemas[schema]), keys, "{schema}");
    }
    assert!(schemas["Hit"]["required"].as_array().unwrap().contains(&json!("phrases")), "{}", schemas["Hit"]);
}

/// Returns the names of all properties of a schema, with those of the schemas it is composed of.
fn described(schemas: &Value, schema: &Value) -> BTreeSet<String> {
    if let Some(name) = schema["$ref"].as_str().and_then(|r| r.rsplit('/').next()) {
        return described(schemas, &schemas[name]);
    }
    let own = schema["properties"].as_object().into_iter().flat_map(|p| p.keys().cloned());
    let parts = schema["allOf"].as_array().into_iter().flatten().flat_map(|part| described(schemas, part));
    own.chain(parts).collect()
}

#[test]
fn every_part_of_the_request_counts() {
    let server = Server::start();
    server.cameras(&["gate", "yard"]);
    let put = |name: &str, born: i64, logit: f32| server.world.put_like(&camera(name), born, 0, 0, logit);
    let (early, late, yard) = (put("gate", 100, 2.0), put("gate", 200, 1.0), put("yard", 100, -1.0));
    let found = |body: Value| {
        let (status, answer) = server.post("/v1/search", &body);
        assert_eq!(status, 200, "{answer}");
        let ids = answer["results"].as_array().unwrap().iter().map(|h| h["sighting_id"].clone()).collect::<Vec<_>>();
        (ids, answer)
    };
    assert_eq!(found(json!({ "query": "axis 0" })).0, [json!(early), json!(late), json!(yard)]);
    assert_eq!(found(json!({ "query": "axis 0", "cameras": ["yard"] })).0, [json!(yard)]);
    assert_eq!(found(json!({ "query": "axis 0", "min_probability": 0.5 })).0, [json!(early), json!(late)]);
    let (_, unjudged) = found(json!({ "query": "axis 0", "rerank": 0 }));
    assert!(unjudged["confident"].is_null() && unjudged["results"][0]["probability"].is_null(), "{unjudged}");
    let by_time = json!({ "query": "axis 0", "sort": "time", "cameras": ["gate"] });
    assert_eq!(found(by_time).0, [json!(late), json!(early)]);
    assert_eq!(found(json!({ "like": early })).0.len(), 2, "its own track is left out");
    let (page, answer) = found(json!({ "query": "axis 0", "limit": 1 }));
    assert_eq!(page, [json!(early)]);
    assert_eq!(found(json!({ "cursor": answer["next_cursor"] })).0, [json!(late)]);
    // In view from second 100 to 109, though its picture is of second 100: any time of it finds it.
    let between = |from: &str, to: &str| json!({ "query": "axis 0", "cameras": ["gate"], "from": from, "to": to });
    let (t105, t106, t110) = ("1970-01-01T00:01:45Z", "1970-01-01T01:01:46+01:00", "1970-01-01T00:01:50Z");
    assert_eq!(found(between(t105, t106)).0, [json!(early)]);
    assert_eq!(found(between(t110, "1970-01-01T00:03:19Z")).0, Vec::<Value>::new());
}

#[test]
fn a_further_page_is_recorded_with_the_query_of_its_search() {
    let server = Server::start();
    server.cameras(&["gate"]);
    for i in 1..4 {
        server.world.put(&camera("gate"), 100 * i, 0);
    }
    let (_, first) = server.post("/v1/search", &json!({ "query": "axis 0", "limit": 1 }));
    let body = json!({ "cursor": first["next_cursor"], "purpose": "lost child" });
    assert_eq!(server.post("/v1/search", &body).0, 200);
    let record = server.get("/v1/audit").1["records"][0].clone();
    assert_eq!((&record["detail"]["query"], &record["purpose"]), (&json!("axis 0"), &json!("lost child")), "{record}");
}

/// Two searches run; the others wait, and are told to come back when that takes too long.
#[test]
fn searches_beyond_the_permits_wait_their_turn() {
    let server = Server::with(true, |c| c.search.concurrent = 2);
    server.cameras(&["gate"]);
    server.world.put(&camera("gate"), 100, 0);
    let hold = server.world.encoder.hold.lock().unwrap();
    std::thread::scope(|scope| {
        let search = || server.post("/v1/search", &json!({ "query": "axis 0" })).0;
        let running = [scope.spawn(search), scope.spawn(search)];
        // Each is recorded once it has its permit.
        while server.app.state().audit(None, 10).unwrap().len() < 3 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let started = std::time::Instant::now();
        let authorization = format!("Bearer {START_TOKEN}");
        let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
        let refused = server.raw("POST", "/v1/search", &headers, b"{\"query\":\"axis 0\"}");
        assert_eq!((refused.status, refused.header("retry-after")), (503, "10"));
        assert!(started.elapsed() >= Duration::from_secs(10), "it waited first");
        let body: Value = serde_json::from_slice(&refused.body).unwrap();
        assert_eq!(body["code"], "busy");
        drop(hold);
        assert_eq!(running.map(|r| r.join().unwrap()), [200, 200]);
    });
    assert_eq!(server.post("/v1/search", &json!({ "query": "axis 0" })).0, 200, "the permits are back");
}

#[test]
fn an_answer_lists_the_worst_covered_of_many_cameras() {
    let server = Server::start();
    let cameras: Vec<_> = (0..130).map(|i| format!("cam-{i:03}")).collect();
    let now = Timestamp::now();
    for (i, id) in cameras.iter().enumerate() {
        let row = serde_json::from_value(json!({ "id": id, "url": "rtsp://cam/1" })).unwrap();
        server.app.state().add_camera(&row).unwrap();
        server.world.progress(&camera(id), now - Duration::from_secs(i as u64), false);
    }
    let (_, answer) = server.post("/v1/search", &json!({ "query": "axis 0" }));
    let listed = answer["coverage"].as_array().unwrap();
    assert_eq!((&answer["cameras_searched"], listed.len()), (&json!(130), 100));
    assert_eq!(listed[0]["camera"], "cam-129", "the longest lag first");
    let (_, answer) = server.post("/v1/search", &json!({ "query": "axis 0", "cameras": ["cam-000", "cam-001"] }));
    assert_eq!(answer["coverage"].as_array().unwrap().len(), 2);
}

#[test]
fn an_example_of_too_many_pixels_is_refused_by_its_header() {
    let server = Server::with(true, |c| c.server.max_body_bytes = 8 << 20);
    let mut png = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(2001, 2000).write_to(&mut png, image::ImageFormat::Png).unwrap();
    let image = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, png.into_inner());
    let (status, answer) = server.post("/v1/search", &json!({ "image": image }));
    assert_eq!((status, &answer["code"]), (400, &json!("invalid_image")));
    assert!(answer["message"].as_str().unwrap().contains("2001 x 2000"), "{answer}");
    assert!(server.world.encoder.examples.lock().unwrap().is_empty());
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
    let examples = server.world.encoder.examples.lock().unwrap();
    let upright = &examples[0];
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
    let examples = server.world.encoder.examples.lock().unwrap();
    let decoded = &examples[1];
    assert_eq!((decoded.width(), decoded.height(), &decoded.data()[..3]), (5, 9, &[200, 10, 20][..]));
}
