//! The embedded store and a server give the same answers to one query set: the same hits in the
//! same order, up to ties; and with int8 vectors, a built graph and filters the server loses no
//! true hits.

use std::time::Instant;

use sightline_core::config::{Quantization, VectorsConfig};
use sightline_search::{EdgeOptions, EdgeStore, ExactStore, Filter, Point, QdrantStore, Scored, VectorStore};

use crate::server::places;
use crate::support::{MODEL, at, camera, point, random, rng};

const WIDTH: usize = 32;
const POINTS: usize = 6000;
/// Below every threshold for a graph: all points are compared, and both answers are exact. A
/// graph's answer may miss a hit now and then; the other test measures how many.
const EXACT: usize = 1900;

/// Largest difference of two cosines that counts as a tie.
const TIE: f32 = 2e-5;

/// People come in groups of similar ones, with two to three pictures per track.
fn population() -> Vec<Point> {
    let mut rng = rng(11);
    let centres: Vec<Vec<f32>> = (0..60).map(|_| random(&mut rng, WIDTH)).collect();
    (0..POINTS)
        .map(|i| {
            let noise = random(&mut rng, WIDTH);
            let vector = centres[i / 3 % 60].iter().zip(noise).map(|(c, n)| c + 0.6 * n).collect();
            let name = if i % 2 == 0 {
                "half"
            } else if i % 20 == 1 {
                "twentieth"
            } else {
                "rest"
            };
            point(name, (i / 3) as i64, (i % 3) as u8, i as i64, vector)
        })
        .collect()
}

fn filters() -> Vec<(&'static str, Filter)> {
    let of = |name| Filter::camera(camera(name));
    vec![
        ("everything", Filter::default()),
        ("50 % (camera)", of("half")),
        ("5 % (camera)", of("twentieth")),
        ("0.5 % (time)", Filter { from: Some(at(1000)), to: Some(at(1029)), ..Filter::default() }),
        ("0.05 % (camera and time)", Filter { from: Some(at(1500)), to: Some(at(1505)), ..of("half") }),
    ]
}

fn queries() -> Vec<Vec<f32>> {
    let mut rng = rng(12);
    let near = population();
    (0..60)
        .map(|i| near[i * 97].vector.iter().zip(random(&mut rng, WIDTH)).map(|(c, n)| c + 0.4 * n).collect())
        .collect()
}

/// Asserts the same ids in the same order, except within a tie.
fn assert_alike(what: &str, a: &[Scored], b: &[Scored]) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        assert!((x.cosine - y.cosine).abs() < TIE, "{what}: place {i} has {} and {}", x.cosine, y.cosine);
        let tied = |list: &[Scored], s: &Scored| {
            list.iter().any(|o| o.id == s.id && (o.cosine - s.cosine).abs() < TIE && o.payload == s.payload)
        };
        // The last hit may tie with one behind it.
        let last = (x.cosine - a[a.len() - 1].cosine).abs() < TIE;
        assert!(x.id == y.id || tied(b, x) || last, "{what}: place {i} is {} and {}", x.id, y.id);
    }
}

#[test]
fn embedded_store_and_server_answer_alike() {
    let (mut points, dir) = (population(), tempfile::tempdir().unwrap());
    points.truncate(EXACT);
    let edge = EdgeStore::open(dir.path(), MODEL, WIDTH, &EdgeOptions::default()).unwrap();
    edge.upsert(&points).unwrap();
    edge.flush().unwrap();
    for place in places() {
        let config = VectorsConfig { quantization: Quantization::None, ..place.config() };
        let server = QdrantStore::open(&config, MODEL, WIDTH).unwrap();
        server.upsert(&points).unwrap();
        let mut compared = 0;
        for (name, filter) in filters() {
            for (n, query) in queries().iter().enumerate() {
                let what = format!("{}, {name}, query {n}", place.name);
                let (a, b) = (edge.search(query, 20, &filter).unwrap(), server.search(query, 20, &filter).unwrap());
                assert_alike(&what, &a, &b);
                let tracks = |store: &dyn VectorStore| -> Vec<Scored> {
                    let found = store.nearest_tracks(query, 10, 3, &filter).unwrap();
                    found.into_iter().map(|mut crops| crops.remove(0)).collect()
                };
                assert_alike(&what, &tracks(&edge), &tracks(&server));
                compared += 1;
            }
            assert_eq!(edge.count(&filter).unwrap(), server.count(&filter).unwrap());
        }
        println!("{}: {compared} queries, same hits and order", place.name);
        server.remove().unwrap();
    }
}

/// Returns the mean fraction of the true nearest ten.
fn recall(server: &QdrantStore, exact: &ExactStore, filter: &Filter) -> f64 {
    let (mut hits, mut wanted) = (0, 0);
    for query in queries() {
        let truth = exact.search(&query, 10, filter).unwrap();
        let found = server.search(&query, 10, filter).unwrap();
        assert!(found.iter().all(|s| filter.matches(s.id, &s.payload)));
        wanted += truth.len();
        hits += truth.iter().filter(|t| found.iter().any(|f| f.id == t.id)).count();
    }
    hits as f64 / wanted as f64
}

/// Returns the recall without rescoring in full precision: that of the int8 vectors alone.
fn recall_of_bytes_alone(server: &QdrantStore, url: &str, exact: &ExactStore) -> f64 {
    use qdrant_client::qdrant::{QuantizationSearchParams, Query, QueryPoints, SearchParams, point_id::PointIdOptions};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = qdrant_client::Qdrant::from_url(url).skip_compatibility_check().build().unwrap();
    let (mut hits, mut wanted) = (0, 0);
    for query in queries() {
        let quantization = QuantizationSearchParams { ignore: Some(false), rescore: Some(false), oversampling: None };
        let request = QueryPoints {
            collection_name: server.collection().to_owned(),
            query: Some(Query::new_nearest(query.clone())),
            params: Some(SearchParams { hnsw_ef: Some(128), quantization: Some(quantization), ..Default::default() }),
            limit: Some(10),
            ..QueryPoints::default()
        };
        let found = runtime.block_on(client.query(request)).unwrap().result;
        let ids: Vec<String> = found
            .into_iter()
            .filter_map(|p| match p.id?.point_id_options? {
                PointIdOptions::Uuid(id) => Some(id),
                PointIdOptions::Num(_) => None,
            })
            .collect();
        let truth = exact.search(&query, 10, &Filter::default()).unwrap();
        wanted += truth.len();
        hits += truth.iter().filter(|t| ids.contains(&t.id.to_string())).count();
    }
    hits as f64 / wanted as f64
}

#[test]
fn int8_with_rescoring_loses_no_true_hits() {
    let points = population();
    let exact = ExactStore::new(MODEL, WIDTH);
    exact.upsert(&points).unwrap();
    for place in places() {
        let server = QdrantStore::open(&place.config(), MODEL, WIDTH).unwrap();
        server.upsert(&points).unwrap();
        let begun = Instant::now();
        // A real server with default settings indexes from 10,000 kB on; it compares so few points
        // exactly.
        while place.name == "double" && server.indexed().unwrap().1 < POINTS as u64 * 8 / 10 {
            assert!(begun.elapsed().as_secs() < 120, "no index: {:?}", server.indexed());
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        println!("{}: {:?} points and indexed after {:.1?}", place.name, server.indexed().unwrap(), begun.elapsed());
        for (name, filter) in filters() {
            let recall = recall(&server, &exact, &filter);
            println!("{}: recall@10 keeping {name}: {recall:.4}", place.name);
            assert!(recall >= 0.97, "{name}: {recall}");
        }
        if place.name == "double" {
            let alone = recall_of_bytes_alone(&server, &place.config().url, &exact);
            println!("{}: recall@10 of everything without rescoring: {alone:.4}", place.name);
        }
        server.remove().unwrap();
    }
}
