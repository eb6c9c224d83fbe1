//! Stored pictures: metadata, neighbours, and the JPEG with its cache headers.

use serde_json::json;

use crate::support::{Server, camera};

const AUTH: (&str, &str) = ("authorization", "Bearer start-token");

#[test]
fn details_name_the_other_pictures_of_the_track() {
    let server = Server::start();
    server.cameras(&["gate"]);
    let second = server.world.put(&camera("gate"), 100, 2);
    let first = server.world.put(&camera("gate"), 100, 0);
    server.world.put(&camera("gate"), 500, 0);
    let (status, view) = server.get(&format!("/v1/sightings/{second}"));
    assert_eq!(status, 200);
    assert_eq!(view["camera"], "gate");
    let track: Vec<_> = view["track"].as_array().unwrap().iter().map(|n| n["sighting_id"].clone()).collect();
    assert_eq!(track, [json!(first), json!(second)]);
}

#[test]
fn a_picture_stays_in_no_browser() {
    let server = Server::start();
    server.cameras(&["gate"]);
    let id = server.world.put(&camera("gate"), 100, 0);
    let path = format!("/v1/sightings/{id}/thumbnail.jpg");
    let first = server.raw("GET", &path, &[AUTH], b"");
    assert_eq!((first.status, first.header("content-type")), (200, "image/jpeg"));
    assert_eq!(first.header("cache-control"), "no-store", "a cached copy would outlive an erasure");
    assert!(first.body.starts_with(b"\xff\xd8"));
}
