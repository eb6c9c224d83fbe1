//! `sightline-api` over a test double of a Qdrant server and a shared gallery that others write: it
//! waits for the server at the start, reports what is down during an outage, and recovers by
//! itself.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use sightline_api::state::State;
use sightline_core::config::Config;
use sightline_core::ids::sighting_id;
use sightline_core::message::Origin;
use sightline_core::{BBox, CropQuality, NodeReport, PatchFeatures, SightingId, Timestamp, TrackId};
use sightline_double::DoubleThread;
use sightline_embed::ModelFolder;
use sightline_search::{
    CameraCoverage, CoverageLedger, EdgeOptions, Filter, GalleryEntry, Payload, Point, QdrantStore, ServerCoverage,
    VectorStore, open_gallery,
};
use sightline_testing::{binary, free_address, until_some};

use crate::support::{camera, report, tiny_model};

/// Time limit of every wait, for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const PROGRAM: &str = "sightline-api";

fn serve(folder: &Path, address: SocketAddr) -> DoubleThread {
    DoubleThread::start(folder, address, None, EdgeOptions::default()).unwrap()
}

/// A folder with model, configuration and gallery, and the running program.
struct Api {
    child: Child,
    base: String,
    monitor: String,
    token: String,
}

impl Api {
    fn start(dir: &Path, config: &Path, listen: SocketAddr, monitor: SocketAddr) -> Self {
        let child = Command::new(binary(PROGRAM))
            .arg("--config")
            .arg(config)
            .current_dir(dir)
            .env("SIGHTLINE_LOG", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut api = Self {
            child,
            base: format!("http://{listen}"),
            monitor: format!("http://{monitor}"),
            token: String::new(),
        };
        let file = dir.join("data/client.json");
        until("the client file", || file.exists().then_some(()));
        let client: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        assert_eq!(client["server"], json!(api.base));
        api.token = client["token"].as_str().unwrap().to_owned();
        api
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().into();
        let base = if path == "/metrics" { &self.monitor } else { &self.base };
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{base}{path}"));
        request = request.header("authorization", format!("Bearer {}", self.token));
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let sent = agent.run(request.body(body.map(Value::to_string).unwrap_or_default().into_bytes()).unwrap());
        let mut response = sent.unwrap();
        let status = response.status().as_u16();
        let bytes = response.body_mut().read_to_vec().unwrap();
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| text()))
    }

    fn search(&self) -> (u16, Value) {
        self.call("POST", "/v1/search", Some(&json!({ "query": "a man in a white shirt" })))
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until<T>(what: &str, there: impl FnMut() -> Option<T>) -> T {
    until_some(PATIENCE, what, there)
}

/// Writes what index workers write: a picture of `gate`, and a report of its node.
fn fill(config: &Config) -> SightingId {
    let model = ModelFolder::open(&config.model.folder).unwrap();
    let width = model.config.architecture.embed_dim;
    let store = QdrantStore::open(&config.vectors, &model.id, width).unwrap();
    let gallery = open_gallery(config, &model.id).unwrap();
    let (gate, born) = (camera("gate"), Timestamp::from_micros(1_000_000));
    let track = TrackId { born, ordinal: 0 };
    let id = sighting_id(&gate, track, 0);
    let patches = PatchFeatures { rows: 1, width: 1, data: Bytes::from_static(&[0, 0]) };
    gallery
        .put(&[GalleryEntry { key: id.into(), jpeg: Bytes::from_static(b"\xff\xd8 a picture \xff\xd9"), patches }])
        .unwrap();
    let payload = Payload {
        camera: gate.clone(),
        track,
        crop_no: 0,
        captured_at: born,
        first_seen: born,
        last_seen: born,
        ended: true,
        bbox: BBox { x0: 1.0, y0: 2.0, x1: 3.0, y1: 4.0 },
        frame_size: (10, 10),
        quality: CropQuality::default(),
        model_id: model.id,
        trace: uuid::Uuid::nil(),
        crop: None,
    };
    store.upsert(&[Point { id, vector: vec![1.0; width], payload }]).unwrap();
    tell(config, 0);
    id
}

/// Width of the model's vectors.
fn width(config: &Config) -> usize {
    ModelFolder::open(&config.model.folder).unwrap().config.architecture.embed_dim
}

/// Writes the node's report number `seq`, with one picture in ten dropped.
fn tell(config: &Config, seq: u64) {
    let gate = camera("gate");
    let dropped = NodeReport { frames_analysed: 90, crops: 9, crops_dropped: 1, ..report(&gate) };
    let report = NodeReport { origin: Origin::of_camera("ingest@one", seq, &gate), ..dropped };
    let entry = CameraCoverage {
        connection: Some(0),
        producer: Some("ingest@one".into()),
        searchable_through: Some(Timestamp::now()),
        indexed: 1,
        report: Some(report),
        ..CameraCoverage::default()
    };
    ServerCoverage::open(&config.vectors).unwrap().write(&[(gate, entry)].into()).unwrap();
}

/// Creates model, shared gallery and configuration in a folder of their own.
fn place(dir: &Path, qdrant: SocketAddr, listen: SocketAddr, monitor: SocketAddr) -> PathBuf {
    let model = dir.join("model");
    tiny_model(&model);
    let text = format!(
        "[server]\nlisten = \"{listen}\"\n[monitor]\nlisten = \"{monitor}\"\n[model]\nfolder = {model:?}\n\
         [embed]\nthreads = 1\n[vectors]\nstore = \"server\"\nurl = \"http://{qdrant}\"\ntimeout_seconds = 5.0\n\
         [gallery]\nurl = \"file://{}\"\n",
        dir.join("gallery").display()
    );
    let path = dir.join("api.toml");
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn it_waits_for_the_server_and_outlives_its_absence() {
    let dir = tempfile::tempdir().unwrap();
    let (qdrant, listen, monitor) = (free_address(), free_address(), free_address());
    let file = place(dir.path(), qdrant, listen, monitor);
    let config = Config::layered(Some(&file), []).unwrap();
    let mut api = Api::start(dir.path(), &file, listen, monitor);

    // Alive and not ready, with the reason.
    let waits = until("the reason", || {
        let (status, answer) = api.call("GET", "/readyz", None);
        answer["checks"][0]["detail"]
            .as_str()
            .filter(|d| d.contains("waiting for the index"))
            .map(|d| (status, d.to_owned()))
    });
    assert!(waits.0 == 503 && waits.1.contains(&qdrant.to_string()), "{waits:?}");
    assert_eq!(api.call("GET", "/healthz", None).0, 200);
    assert_eq!(api.search().0, 503);

    let server = serve(&dir.path().join("qdrant"), qdrant);
    let mut line = String::new();
    BufReader::new(api.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), format!("Sightline is ready: {}/#token={}", api.base, api.token));
    assert_eq!(api.call("GET", "/readyz", None).0, 200);

    // Pictures written by others are found, and their cameras are known from the reports.
    let id = fill(&config);
    let gate = until("the camera", || {
        let (status, gate) = api.call("GET", "/v1/cameras/gate", None);
        (status == 200 && gate["state"] == "searchable").then_some(gate)
    });
    assert_eq!((&gate["source"], &gate["url"]), (&json!("node"), &Value::Null));
    let (status, found) = api.search();
    assert_eq!((status, &found["results"][0]["sighting_id"]), (200, &json!(id)), "{found}");
    let dropped = found["coverage"][0]["dropped_fraction"].as_f64().unwrap();
    assert!((dropped - 0.1).abs() < 1e-9, "drops of the node are in the coverage: {found}");
    let picture = found["results"][0]["thumbnail"].as_str().unwrap().to_owned();
    assert_eq!(api.call("GET", &picture, None).0, 200);
    assert!(until("the gauges", || {
        let text = api.call("GET", "/metrics", None).1;
        text.as_str().filter(|t| t.contains("sightline_api_camera_searchable{camera=\"gate\"} 1")).map(|_| true)
    }));

    // Without Kafka it adds and removes no cameras, and never one of a node's own configuration.
    let (status, refused) = api.call("POST", "/v1/cameras", Some(&json!({ "id": "yard", "url": "rtsp://yard/1" })));
    if cfg!(feature = "kafka") {
        assert_eq!((status, &refused["code"]), (503, &json!("unavailable")), "{refused}");
    } else {
        assert_eq!((status, &refused["code"]), (501, &json!("not_supported")), "{refused}");
    }
    // With Kafka unreachable the attempt took longer than the report timeout.
    tell(&config, 1);
    until("the node", || (api.call("GET", "/v1/cameras/gate", None).1["state"] == "searchable").then_some(()));
    let (status, refused) = api.call("DELETE", "/v1/cameras/gate", None);
    assert_eq!(status, 409, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("ingest@one"), "{refused}");

    // The server goes down: every answer says so.
    drop(server);
    let (status, answer) = api.search();
    assert_eq!(status, 503, "{answer}");
    assert!(answer["message"].as_str().unwrap().contains(&qdrant.to_string()), "{answer}");
    assert_eq!(api.call("GET", &picture, None).0, 503);
    let (status, answer) = api.call("GET", "/readyz", None);
    assert_eq!(status, 503);
    assert!(answer.to_string().contains(&qdrant.to_string()), "{answer}");
    assert_eq!(api.call("GET", "/v1/cameras", None).0, 200, "what was known is still shown");

    // The server is back: it recovers by itself.
    let _server = serve(&dir.path().join("qdrant"), qdrant);
    until("the search", || (api.search().0 == 200).then_some(()));
    assert_eq!(api.call("GET", &picture, None).0, 200);
    until("ready", || (api.call("GET", "/readyz", None).0 == 200).then_some(()));

    // The node stops reporting, which is shown; then its footage may be erased.
    tell(&config, 2);
    let silent = until("the silence", || {
        let gate = api.call("GET", "/v1/cameras/gate", None).1;
        (gate["state"] == "retrying").then_some(gate)
    });
    assert!(silent["reason"].as_str().unwrap().starts_with("its node has not reported for 1"), "{silent}");
    let (status, removal) = api.call("DELETE", "/v1/cameras/gate", None);
    assert_eq!((status, &removal["watched"]), (202, &json!(true)), "{removal}");
    assert_eq!(api.search().1["results"], json!([]), "hidden from the answer on");
    let path = format!("/v1/erasures/{}", removal["erasure"]["id"].as_str().unwrap());
    // With Kafka unreachable the removal cannot be published and is retried; the footage is erased
    // all the same.
    let wanted = if cfg!(feature = "kafka") { "failed" } else { "done" };
    let job = until("the erasure", || Some(api.call("GET", &path, None).1).filter(|job| job["state"] == wanted));
    assert_eq!(job["erased"]["sightings"], 1, "{job}");
    assert!(wanted == "done" || job["error"].as_str().unwrap().contains("topic of cameras"), "{job}");
    let store =
        QdrantStore::open(&config.vectors, &ModelFolder::open(&config.model.folder).unwrap().id, width(&config));
    assert_eq!(store.unwrap().count(&Filter::default()).unwrap(), 0);
    assert_eq!(api.call("GET", "/v1/cameras/gate", None).0, 404);
}

#[test]
fn what_no_waiting_mends_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = place(dir.path(), free_address(), free_address(), free_address());
    let text = std::fs::read_to_string(&file).unwrap();
    for (wrong, part) in [
        (text.replace("store = \"server\"", "store = \"embedded\""), "vectors.store"),
        (text.replace("/model\"", "/nothing\""), "nothing"),
    ] {
        std::fs::write(&file, wrong).unwrap();
        let out = Command::new(binary(PROGRAM))
            .arg("--config")
            .arg(&file)
            .current_dir(dir.path())
            .env("SIGHTLINE_LOG", "off")
            .output()
            .unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.starts_with("error: ") && said.trim_end().lines().count() == 1 && said.contains(part), "{said}");
    }
}

#[test]
fn tokens_are_made_with_the_same_program() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| Command::new(binary(PROGRAM)).args(args).current_dir(dir.path()).output().unwrap();
    let refused = run(&["token", "create", "desk", "--data", "."]);
    assert!(!refused.status.success() && !dir.path().join("state.db").exists(), "a wrong folder gets no database");
    drop(State::open(dir.path()).unwrap());
    let made = run(&["token", "create", "desk", "--role", "admin", "--data", "."]);
    assert!(made.status.success() && made.stdout.starts_with(b"slt_"), "{made:?}");
    let listed = String::from_utf8(run(&["token", "list", "--data", "."]).stdout).unwrap();
    assert!(listed.contains("desk") && listed.contains("admin"), "{listed}");
    let verified = run(&["audit", "verify", "--data", "."]);
    assert_eq!(String::from_utf8(verified.stdout).unwrap(), "intact: 1 records\n");
}
